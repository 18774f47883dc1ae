package auditlog

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	"github.com/talosprotocol/talos/anchor"
	"github.com/talosprotocol/talos/contracts"
)

// Run commits what is appended until ctx ends, then makes a last checkpoint and
// returns nil. It returns an error when the log must stop: a *[Quarantine], or a
// write after which disk and memory may disagree. Everything appended after it
// returned is refused.
func (l *Log) Run(ctx context.Context) error {
	if err := l.Err(); err != nil {
		return err
	}
	err := l.run(ctx)
	if err == nil {
		l.stop(contracts.Errorf(contracts.Unavailable, "audit log: closed"))
		return nil
	}
	l.stop(err)
	return err
}

func (l *Log) run(ctx context.Context) error {
	// A write that has begun is finished, whatever happens to ctx: half a write is
	// what the log cannot judge.
	work := context.WithoutCancel(ctx)
	if err := l.begin(work); err != nil {
		return err
	}
	next := l.o.Clock.After(l.o.Interval)
	last := l.o.Clock.Now()
	var soon <-chan time.Time
	for {
		due := false
		select {
		case <-ctx.Done():
			return l.end(work)
		case r := <-l.queue:
			high, err := l.write(work, r)
			if err != nil {
				return err
			}
			due = high
			if !high && soon == nil && l.tip.Size()-l.signed.Size() >= l.o.Events {
				soon = l.o.Clock.After(max(0, l.o.MinInterval-l.o.Clock.Now().Sub(last)))
			}
		case <-soon:
			due = true
		case <-next:
			due, next = true, l.o.Clock.After(l.o.Interval)
		case c := <-l.asking:
			if err := l.judge(work, c); err != nil {
				return err
			}
			due = l.confirmed
		case c := <-l.asked:
			err := l.checkpoint(work)
			c <- answer{head: l.Head(), err: ordinary(err)}
			if fatal(err) {
				return err
			}
		}
		if due {
			soon, last = nil, l.o.Clock.Now()
			if err := l.checkpoint(work); fatal(err) {
				return err
			}
		}
	}
}

// deferred is an error after which the log goes on: nothing was written, or a
// checkpoint must wait.
type deferred struct{ err error }

// Error gives the cause.
func (d deferred) Error() string { return d.err.Error() }

// Unwrap gives the cause.
func (d deferred) Unwrap() error { return d.err }

func fatal(err error) bool {
	var d deferred
	return err != nil && !errors.As(err, &d)
}

func ordinary(err error) error {
	var d deferred
	if errors.As(err, &d) {
		return d.err
	}
	return err
}

// begin writes the entries that a new or damaged log starts with.
func (l *Log) begin(ctx context.Context) error {
	var evs []*contracts.AuditEvent
	if l.tip.Size() == 0 && l.o.Begin != nil {
		evs = append(evs, l.succession())
	}
	if l.torn {
		ev := l.event("recovered")
		ev.Reason = "torn"
		evs = append(evs, ev)
	}
	for _, ev := range evs {
		r, err := l.own(ev)
		if err != nil {
			return err
		}
		if _, err := l.commit(ctx, []*request{r}); err != nil {
			return err
		}
		if a := <-r.done; a.err != nil {
			return fmt.Errorf("audit log: first entry: %w", a.err)
		}
	}
	l.torn = false
	if l.o.Confirm != nil {
		l.ask(ctx)
	}
	if len(evs) == 0 {
		return nil
	}
	if err := l.checkpoint(ctx); fatal(err) {
		return err
	}
	return nil
}

func (l *Log) succession() *contracts.AuditEvent {
	s := l.o.Begin
	typ := "recovered"
	if s.Reason == "rotated" {
		typ = "key_rotate"
	}
	ev := l.event(typ)
	high := true
	ev.Reason, ev.HighRisk = s.Reason, &high
	if s.Last.Origin != "" {
		size := int64(s.Last.Size)
		ev.HeadOrigin, ev.HeadSize, ev.HeadRoot = s.Last.Origin, &size, anchor.EncodeHash(s.Last.Root)
	}
	if s.Lost > 0 {
		lost := int64(s.Lost)
		ev.Count = &lost
	}
	return ev
}

// event begins an event of the log's own.
func (l *Log) event(typ string) *contracts.AuditEvent {
	var random [10]byte
	_, _ = l.o.Rand.Read(random[:]) // an id with less randomness is still an id
	return anchor.NewEvent(typ, l.o.Origin.DID, l.o.Clock.Now(), random)
}

// own makes a request of an event of the log's own.
func (l *Log) own(ev *contracts.AuditEvent) (*request, error) {
	r := l.pool.New().(*request)
	return r, l.add(r, ev)
}

// gather takes what else is waiting, up to a batch. A request that does not fit any
// more is the first of the next batch.
func (l *Log) gather(first *request) []*request {
	rs, events, bytes := []*request{first}, len(first.items), first.bytes
	for yields := 0; events < l.o.MaxBatch; {
		select {
		case r := <-l.queue:
			if bytes += r.bytes; bytes > l.o.MaxBytes {
				l.held = r
				return rs
			}
			rs, events = append(rs, r), events+len(r.items)
		default:
			// Those whom the last batch has woken are about to come back: one turn for
			// them saves a sync that only the fastest would share.
			if yields++; yields > 2 {
				return rs
			}
			runtime.Gosched()
		}
	}
	return rs
}

// write commits a request with what waits behind it, batch after batch while one is
// held over.
func (l *Log) write(ctx context.Context, first *request) (highRisk bool, err error) {
	for r := first; r != nil; r = l.held {
		l.held = nil
		high, err := l.commit(ctx, l.gather(r))
		if err != nil {
			return false, err
		}
		highRisk = highRisk || high
	}
	return highRisk, nil
}

// end commits what is waiting and signs a last head.
func (l *Log) end(ctx context.Context) error {
	for {
		select {
		case r := <-l.queue:
			if _, err := l.write(ctx, r); err != nil {
				return err
			}
			continue
		default:
		}
		if err := l.checkpoint(ctx); fatal(err) {
			return err
		}
		return nil
	}
}
