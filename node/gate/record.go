package gate

import (
	"context"
	"crypto/rand"
	"errors"
	"time"

	"github.com/talosprotocol/talos/anchor"
	"github.com/talosprotocol/talos/contracts"
)

// end settles and records. A result that cannot be recorded is an error of the call: an
// intent without a result stays visible in the log.
func (g *Gate) end(ctx context.Context, r *Request, s *contracts.Surface, p *Pass, intent string, res Result, failed error, took time.Duration) error {
	rows := p.reservation.Settle(res.Used)
	g.ledger.Outcome(p.Payers, failed != nil)
	if s.Record == "none" || s.Record == "own" {
		return nil
	}
	e := g.event("result", r, s, p.Decision)
	e.Intent, e.Outcome, e.Code = intent, outcome(failed), contracts.CodeOf(failed)
	if res.Peer != "" && mayAudit(s, "peer") {
		e.Peer = res.Peer
	}
	if res.RequestDigest != "" && mayAudit(s, "request_digest") {
		e.RequestDigest = res.RequestDigest
	}
	e.UnitsIn, e.UnitsOut, e.CostMicro, e.ResultDigest, e.Duration = res.UnitsIn, res.UnitsOut, res.Used[Micro], res.ResultDigest, took
	ctx = context.WithoutCancel(ctx)
	if r.Execution != nil && intent != "" {
		more, err := r.Execution.End(failed, !res.NotBegun, res.ResultDigest)
		return errors.Join(err, g.book.Enter(ctx, e, rows, more))
	}
	if (s.Record == "later" || s.Record == "intent-later") && g.enterLater(ctx, e, rows) {
		return nil
	}
	return g.book.Enter(ctx, e, rows, nil)
}

// enterLater records beside the call, so that nobody waits for the disk; false if too much
// waits already.
func (g *Gate) enterLater(ctx context.Context, e Event, rows []Spent) bool {
	select {
	case g.slots <- struct{}{}:
	default:
		return false
	}
	g.later.Go(func() {
		defer func() { <-g.slots }()
		if err := g.book.Enter(ctx, e, rows, nil); err != nil {
			g.log.Error("the result of a call was not recorded", "surface", e.Surface, "err", err)
		}
	})
	return true
}

// Wait returns when all that was to be recorded later is recorded. No call may run.
func (g *Gate) Wait() { g.later.Wait() }

func outcome(err error) string {
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, context.Canceled):
		return "cancelled"
	case errors.Is(err, context.DeadlineExceeded):
		return "timeout"
	}
	return "error"
}

// event fills what the surface allows.
func (g *Gate) event(typ string, r *Request, s *contracts.Surface, d Decision) Event {
	var random [10]byte
	_, _ = rand.Read(random[:]) // never fails
	e := Event{ID: anchor.NewID(g.now(), random), Type: typ, Surface: s.ID, Subject: r.Who.Subject(), HighRisk: s.Access == "destructive"}
	if mayAudit(s, "peer") {
		e.Peer = r.Peer
	}
	if mayAudit(s, "session") {
		e.Session = r.Session
	}
	if mayAudit(s, "scope") {
		e.Scope = d.Scope
	}
	if mayAudit(s, "capability") {
		e.Capability = d.Capability
	}
	if mayAudit(s, "reason") {
		e.Reason = r.Reason
	}
	if mayAudit(s, "request_digest") {
		e.RequestDigest = r.RequestDigest
	}
	return e
}

// denied records a refusal of somebody who proved who it is, as often as the log's
// limit allows: strangers must not be able to fill the log.
func (g *Gate) denied(ctx context.Context, r *Request, s *contracts.Surface, why error) {
	if r.Who.Proof == Nobody || s.Record == "none" {
		return
	}
	if g.limits.Allow(g.now(), []string{"d:" + r.Who.Subject()}, []Rate{{Burst: 10, Every: 6 * time.Second}}) != nil {
		return
	}
	e := g.event("denied", r, s, Decision{})
	e.Outcome, e.Code = "denied", contracts.CodeOf(why)
	if err := g.book.Enter(ctx, e, nil, nil); err != nil {
		g.log.Warn("a denial was not recorded", "surface", s.ID, "err", err)
	}
}
