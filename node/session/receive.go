package session

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"time"

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

// receive takes one frame: verified, durable, and what it releases, in one
// transaction. The caller holds mu.
func (c *conversation) receive(ctx context.Context, frame []byte) ([]Message, error) {
	if err := c.load(); err != nil {
		return nil, err
	}
	if c.row == nil {
		return nil, contracts.Errorf(contracts.SessionNotFound, "no session with this peer")
	}
	st, id, m, err := c.open(frame, c.m.now())
	if err != nil {
		return nil, err
	}
	msgs, err := c.take(ctx, id, m, sha256.Sum256(frame), func(tx Tx) { tx.Put(key(rowSession, id), st.AppendPending(nil)) })
	if err != nil {
		if c.states != nil {
			st.Discard()
		}
		return nil, err
	}
	st.Commit()
	c.answer(ctx, id, st)
	return msgs, nil
}

// answer sends an empty message where the ratchet owes one: the confirmation of a
// handshake, or a fresh key for a one-way conversation. What was received stays
// received if that fails; the next frame asks again.
func (c *conversation) answer(ctx context.Context, id ratchet.SessionID, st *ratchet.State) {
	if ref, _ := c.active(); ref != nil && ref.id == id && st.OwesAck() {
		c.ack(ctx)
	}
}

func (c *conversation) ack(ctx context.Context) {
	if c.row.next-c.row.acked >= ratchet.WindowSize-16 || c.row.redo > 0 {
		return // the peer could not take it now
	}
	if _, err := c.seal(ctx, ratchet.KindAck, nil); err != nil {
		c.m.log.Warn("an answer was not sealed", "peer", c.peer, "err", err)
	}
}

// take accepts an opened message into the window and the rows.
func (c *conversation) take(ctx context.Context, id ratchet.SessionID, m ratchet.Message, hash [32]byte, more func(Tx)) ([]Message, error) {
	w := c.row.window
	if err := w.Check(m.Seq); err != nil {
		return nil, err
	}
	msg := Message{Peer: c.row.peer, Session: id, Conversation: c.id, Seq: m.Seq, Received: c.m.now(), CiphertextHash: hash, Body: m.Body}
	if m.Kind == ratchet.KindData {
		if err := c.m.record(ctx, "message_in", c.row.peer, id, m.Seq, hash); err != nil {
			return nil, err
		}
	}
	from, to, err := w.Accept(m.Seq)
	if err != nil {
		return nil, err
	}
	closing := false
	if m.Kind == ratchet.KindControl {
		switch {
		case len(m.Body) == 1 && m.Body[0] == controlClose:
			closing = true
		default:
			hole, err := ratchet.DecodeHole(m.Body)
			if err != nil {
				return nil, err
			}
			f, t, err := w.Void(hole.A, hole.B, m.Seq)
			if err != nil {
				return nil, err
			}
			if t > f { // the hole came first, and released what was behind it
				from, to = min(f, pick(from, to, f)), t
			}
		}
	}
	c.row.window = w
	if closing {
		for i := range c.row.sessions {
			if c.row.sessions[i].id == id && !c.row.sessions[i].draining {
				c.row.sessions[i].draining, c.row.sessions[i].changed = true, c.m.now()
			}
		}
	}
	c.acknowledged(m.RecipientSeq)
	gone := c.prune()
	var released []Message
	err = c.commit(ctx, func(tx Tx) error {
		released = released[:0]
		more(tx)
		put(tx, gone) // after more, which may have stored one of them
		tx.Put(seqKey(rowAhead, c.id, m.Seq), encodeMessage(m.Kind, &msg))
		return c.release(tx, from, to, &released)
	})
	if err != nil {
		return nil, err
	}
	return released, nil
}

// pick gives from if [from, to) is not empty, else other.
func pick(from, to, other uint64) uint64 {
	if to > from {
		return from
	}
	return other
}

// release moves the messages [from, to) from ahead to the inbox.
func (c *conversation) release(tx Tx, from, to uint64, out *[]Message) error {
	b, err := tx.Get([]byte{rowNextIndex})
	if err != nil {
		return err
	}
	next := uint64(1)
	if len(b) == 8 {
		next = binary.BigEndian.Uint64(b)
	}
	for seq := from; seq < to; seq++ {
		k := seqKey(rowAhead, c.id, seq)
		b, err := tx.Get(k)
		if err != nil {
			return err
		}
		if b == nil {
			continue // void
		}
		kind, msg, err := decodeMessage(b)
		if err != nil {
			return err
		}
		tx.Delete(k)
		if kind != ratchet.KindData {
			continue
		}
		msg.Index = next
		next++
		tx.Put(indexKey(msg.Index), encodeMessage(kind, &msg))
		*out = append(*out, msg)
	}
	tx.Put([]byte{rowNextIndex}, binary.BigEndian.AppendUint64(nil, next))
	return nil
}
