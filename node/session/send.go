package session

import (
	"context"
	"sync"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/ratchet"
)

// What became of a message that waits to be sealed.
type sendState byte

const (
	waiting sendState = iota
	decided           // sent or err says how
	needsSession
)

// outgoing is a message whose caller waits. It is the caller's again once state is no
// longer waiting, which only who holds the conversation changes.
type outgoing struct {
	ctx   context.Context
	body  []byte
	state sendState
	sent  Sent
	err   error
}

// sending is the messages that wait for the conversation. Whoever gets it next seals
// them all, and all share one commit: callers that send at once do not pay a sync each.
type sending struct {
	mu   sync.Mutex
	list []*outgoing
}

func (s *sending) add(w *outgoing) {
	s.mu.Lock()
	s.list = append(s.list, w)
	s.mu.Unlock()
}

// take gives what waits, up to what fits one transaction.
func (s *sending) take() []*outgoing {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, size := 0, 0
	for n < len(s.list) && n < resealRows && size < resealBytes {
		size += len(s.list[n].body)
		n++
	}
	out := s.list[:n:n]
	s.list = s.list[n:]
	return out
}

// trySend has a message sealed on the active session, by this goroutine or another.
func (c *conversation) trySend(ctx context.Context, body []byte) *outgoing {
	w := &outgoing{ctx: ctx, body: body}
	c.queue.add(w)
	c.mu.Lock()
	defer c.mu.Unlock()
	for w.state == waiting { // those before it may fill a transaction of their own
		c.sendAll(c.queue.take())
	}
	return w
}

// sendAll seals messages and makes them durable in one transaction with their audit
// events. The caller holds mu.
func (c *conversation) sendAll(list []*outgoing) {
	all := func(state sendState, err error) {
		for _, w := range list {
			if w.state == waiting {
				w.state, w.err = state, err
			}
		}
	}
	if c.m.ctx.Err() != nil {
		all(decided, contracts.Errorf(contracts.Unavailable, "the node is stopping"))
		return
	}
	if err := c.load(); err != nil {
		all(decided, err)
		return
	}
	if _, st := c.active(); st == nil {
		all(needsSession, nil)
		return
	}
	if c.row.redo > 0 { // what was accepted before goes first
		if err := c.reseal(c.m.ctx, true); err != nil {
			all(decided, err)
			return
		}
	}
	b := c.newBatch()
	err := b.hole()
	for i := 0; i < len(list) && err == nil; i++ {
		err = list[i].seal(b)
	}
	if err == nil && len(b.rows) > 0 {
		err = b.commit(c.m.ctx)
	}
	all(decided, err)
}

// seal adds the message to a batch, unless it is refused by itself.
func (w *outgoing) seal(b *batch) (err error) {
	c := b.c
	switch {
	case w.ctx.Err() != nil: // its caller has given up
		w.state, w.err = decided, w.ctx.Err()
	case c.row.next-c.row.acked >= maxOutbox:
		w.state, w.err = decided, contracts.Errorf(contracts.OutboxFull, "%d messages wait for this peer", maxOutbox)
	default:
		if w.sent, err = b.add(ratchet.KindData, w.body); err == nil {
			b.event("message_out", w.sent.Seq, w.sent.CiphertextHash)
		}
	}
	return err
}
