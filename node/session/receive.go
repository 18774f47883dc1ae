package session

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/ratchet"
)

// open finds the session that a frame belongs to: one whose header key opens it.
// Nothing changes for a frame that none opens.
func (c *conversation) open(frame []byte, now time.Time) (*ratchet.State, ratchet.SessionID, ratchet.Message, error) {
	err := error(contracts.Errorf(contracts.SessionNotFound, "no session with this peer"))
	for _, ref := range c.row.sessions {
		st := c.states[ref.id]
		m, e := st.Open(nil, frame, now)
		if e == nil {
			return st, ref.id, m, nil
		}
		if err == nil || contracts.CodeOf(err) == contracts.SessionNotFound || contracts.CodeOf(err) == contracts.RatchetAuthFailed {
			err = e
		}
	}
	return nil, ratchet.SessionID{}, ratchet.Message{}, err
}

// receive takes frames in their order: verified, durable with what they release and
// their audit events in one transaction. taken is how many; err is the fault of the
// one after them. The caller holds mu.
func (c *conversation) receive(ctx context.Context, from peer.ID, frames [][]byte) (taken int, msgs []Message, err error) {
	if err := c.load(); err != nil {
		return 0, nil, err
	}
	if c.row == nil {
		return 0, nil, contracts.Errorf(contracts.SessionNotFound, "no session with this peer")
	}
	in := intake{c: c, now: c.m.now(), admit: func() error { return c.m.door.Admit(ctx, c.peer, from, receiveSurface) }}
	var fault error
	for _, frame := range frames {
		if fault = in.frame(frame); fault != nil && contracts.CodeOf(fault) != contracts.FrameReplay {
			break
		}
		fault = nil
		taken++
	}
	if len(in.items) > 0 {
		if msgs, err = in.commit(ctx); err != nil {
			return 0, nil, err
		}
		c.answer(ctx)
	}
	return taken, msgs, fault
}

// answer sends an empty message where the ratchet owes one: the confirmation of a
// handshake, or a fresh key for a one-way conversation. What was received stays
// received if that fails; the next frame asks again.
func (c *conversation) answer(ctx context.Context) {
	if _, st := c.active(); st != nil && st.OwesAck() {
		c.ack(ctx)
	}
}

func (c *conversation) ack(ctx context.Context) {
	if c.row.next-c.row.acked >= ratchet.WindowSize-16 || c.row.redo > 0 {
		return // the peer could not take it now
	}
	b := c.newBatch()
	err := b.hole()
	if err == nil {
		_, err = b.add(ratchet.KindAck, nil)
	}
	if err == nil {
		err = b.commit(ctx)
	}
	if err != nil {
		c.m.log.Warn("an answer was not sealed", "peer", c.peer, "err", err)
	}
}

// intake is messages that were opened and wait for one transaction. What it has
// changed in memory counts only once that is durable; else memory is dropped.
type intake struct {
	c       *conversation
	now     time.Time
	items   []taken
	events  []Event
	touched []ratchet.SessionID
	rows    []write
	bytes   int
	// admit asks the door, for each message for the application, since each may be counted:
	// answers of the protocol need no leave, or nobody could talk to whom may not talk first.
	admit func() error
}

// taken is an opened message and the range of numbers that it releases.
type taken struct {
	kind     ratchet.Kind
	msg      Message
	from, to uint64
}

// frame opens a frame. On an error nothing has changed.
func (in *intake) frame(frame []byte) error {
	st, id, m, err := in.c.open(frame, in.now)
	if err != nil {
		return err
	}
	if m.Kind == ratchet.KindData {
		// What was received already, or comes too early, is refused before it is counted.
		if err = in.c.row.window.Check(m.Seq); err == nil {
			err = in.admit()
		}
	}
	if err == nil {
		err = in.take(id, m, sha256.Sum256(frame))
	}
	if err != nil {
		st.Discard()
		return err
	}
	st.Commit()
	if !slices.Contains(in.touched, id) {
		in.touched = append(in.touched, id)
	}
	return nil
}

// take accepts an opened message into the window.
func (in *intake) take(id ratchet.SessionID, m ratchet.Message, hash [32]byte) error {
	c := in.c
	w := c.row.window
	if err := w.Check(m.Seq); err != nil {
		return err
	}
	from, to, err := w.Accept(m.Seq)
	if err != nil {
		return err
	}
	closing := false
	if m.Kind == ratchet.KindControl {
		switch {
		case len(m.Body) == 1 && m.Body[0] == controlClose:
			closing = true
		default:
			hole, err := ratchet.DecodeHole(m.Body)
			if err != nil {
				return err
			}
			f, t, err := w.Void(hole.A, hole.B, m.Seq)
			if err != nil {
				return err
			}
			if t > f { // the hole came first, and released what was behind it
				from, to = min(f, pick(from, to, f)), t
			}
		}
	}
	c.row.window = w
	for i := range c.row.sessions {
		if closing && c.row.sessions[i].id == id && !c.row.sessions[i].draining {
			c.row.sessions[i].draining, c.row.sessions[i].changed = true, in.now
		}
	}
	c.acknowledged(m.RecipientSeq)
	msg := Message{Peer: c.row.peer, Session: id, Conversation: c.id, Seq: m.Seq, Received: in.now, CiphertextHash: hash, Body: m.Body}
	in.items = append(in.items, taken{m.Kind, msg, from, to})
	in.bytes += len(m.Body) + 256
	if m.Kind == ratchet.KindData {
		in.events = append(in.events, Event{Type: "message_in", Peer: c.row.peer, Session: id, Seq: m.Seq, CiphertextHash: hash})
	}
	return nil
}

// commit makes what was taken durable and gives what it released.
func (in *intake) commit(ctx context.Context) (released []Message, err error) {
	c := in.c
	for _, id := range in.touched {
		state := c.states[id].AppendState(nil)
		in.rows = append(in.rows, write{key(rowSession, id), state})
		in.bytes += len(state)
	}
	in.rows = append(in.rows, c.prune()...) // after the states, of which it may end one
	err = c.commit(ctx, in.bytes, func(tx Tx) error {
		put(tx, in.rows)
		released, err = in.release(tx)
		return err
	}, in.events...)
	return released, err
}

// pick gives from if [from, to) is not empty, else other.
func pick(from, to, other uint64) uint64 {
	if to > from {
		return from
	}
	return other
}

// release puts messages into the inbox in their turn, and keeps those that came ahead
// of it.
func (in *intake) release(tx Tx) (out []Message, err error) {
	b, err := tx.Get([]byte{rowNextIndex})
	if err != nil {
		return nil, err
	}
	first := uint64(1)
	if len(b) == 8 {
		first = binary.BigEndian.Uint64(b)
	}
	next := first
	deliver := func(kind ratchet.Kind, msg Message) {
		if kind == ratchet.KindData {
			msg.Index = next
			next++
			tx.Put(indexKey(msg.Index), encodeMessage(kind, &msg))
			out = append(out, msg)
		}
	}
	for i := range in.items {
		it := &in.items[i]
		if it.from == it.msg.Seq && it.to == it.from+1 { // in its turn, and alone
			deliver(it.kind, it.msg)
			continue
		}
		tx.Put(seqKey(rowAhead, in.c.id, it.msg.Seq), encodeMessage(it.kind, &it.msg))
		for seq := it.from; seq < it.to; seq++ {
			k := seqKey(rowAhead, in.c.id, seq)
			b, err := tx.Get(k)
			if err != nil {
				return nil, err
			}
			if b == nil {
				continue // void
			}
			kind, msg, err := decodeMessage(b)
			if err != nil {
				return nil, err
			}
			tx.Delete(k)
			deliver(kind, msg)
		}
	}
	if next > first {
		tx.Put([]byte{rowNextIndex}, binary.BigEndian.AppendUint64(nil, next))
	}
	return out, nil
}
