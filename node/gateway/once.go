package gateway

import (
	"bytes"
	"context"
	"crypto/rand"

	"github.com/talosprotocol/talos/anchor"
	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/node/call"
	"github.com/talosprotocol/talos/node/execution"
	"github.com/talosprotocol/talos/node/gate"
)

// begin begins the record of a call that changes something. If the caller has made it
// before, it gives what became of that instead. Both are nil for a call of which no
// record is kept.
func (g *Gateway) begin(ctx context.Context, h *call.Header, r *gate.Request, salt []byte) (*execution.Execution, *execution.Prior, error) {
	access := g.cfg.Gate.Registry().Surface(r.Surface).Access
	if access == "read" || g.cfg.Executions == nil {
		return nil, nil, nil
	}
	var random [10]byte
	_, _ = rand.Read(random[:]) // never fails
	return g.cfg.Executions.Begin(ctx, &execution.Ask{
		ID: anchor.NewID(g.cfg.Now(), random), Caller: r.Who.DID, Executor: g.cfg.DID, Surface: r.Surface, Access: access, Service: h.Service, Method: h.Method,
		Key: h.IdempotencyKey, Request: r.RequestDigest, Salt: salt, Body: r.Body,
	})
}

// again answers a call that was made before: with the same answer while it is in memory,
// else with what is known of it. It costs nothing, but the caller must still be allowed
// to make the call.
func (g *Gateway) again(ctx context.Context, who gate.Principal, h *call.Header, p *Plan, r *gate.Request, prior *execution.Prior, reply *Reply) (*contracts.CallReceipt, error) {
	if err := g.cfg.Gate.May(ctx, r); err != nil {
		return nil, call.NotBegun(err) // by this try
	}
	t, ok := prior.Answer.(*tape)
	if !ok || prior.State != execution.Completed {
		return nil, prior.Err()
	}
	if err := t.play(reply); err != nil {
		return nil, err
	}
	rec := g.receipt(who, h, p, &Usage{}, r.RequestDigest, reply, nil)
	rec.Execution = prior.ID
	return rec, nil
}

// tape is an answer as it was given, unless it is too long to be kept.
type tape struct {
	head call.ResponseHeader
	body bytes.Buffer
	over bool
}

func (t *tape) write(p []byte) {
	if t == nil || t.over {
		return
	}
	if t.body.Len()+len(p) > execution.MaxKept {
		t.over = true
		t.body = bytes.Buffer{}
		return
	}
	t.body.Write(p)
}

// size is more than is kept of an answer that is too long.
func (t *tape) size() int {
	if t.over {
		return execution.MaxKept + 1
	}
	return t.body.Len() + len(t.head.Meta)
}

func (t *tape) play(r *Reply) error {
	r.headed = true
	if err := r.out.Header(t.head); err != nil {
		return err
	}
	_, err := r.Write(t.body.Bytes())
	return err
}
