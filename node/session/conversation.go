package session

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"sync"
	"time"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/ratchet"
	"github.com/talosprotocol/talos/ratchet/handshake"
)

// Times and limits of sessions (spec/session.md).
const (
	drainFor     = 10 * time.Minute // how long a replaced session still receives
	rotateAfter  = 24 * time.Hour
	maxOutbox    = 4096 // messages that may wait for one peer
	maxSessions  = 8    // of one conversation, draining ones included
	controlClose = 2    // first byte of a control message; 1 is the VOID of the ratchet
)

// conversation is one peer's conversation in memory. mu spans each change from
// reading the state to the end of its commit; nothing under it waits for the network.
type conversation struct {
	m  *Manager
	id [16]byte

	mu     sync.Mutex
	row    *conversationRow
	loaded uint64 // row.next when the row was loaded: later numbers were made by this run
	synced bool   // the peer's count was compared with loaded
	states map[ratchet.SessionID]*ratchet.State
	wake   chan struct{} // the outbox has something new
}

// conversationID gives the id that two DIDs agree on without a word, so that both
// starting at once is one conversation.
func conversationID(a, b string) (id [16]byte) {
	low, high := min(a, b), max(a, b)
	sum := sha256.Sum256([]byte("talos/conversation/v1\n" + low + "\n" + high))
	copy(id[:], sum[:])
	return id
}

// sessionID is the name of a session: a UUIDv8 (RFC 9562) of its transcript, which
// both sides know.
func sessionID(transcript [32]byte) (id ratchet.SessionID) {
	copy(id[:], transcript[:])
	id[6] = id[6]&0x0f | 0x80
	id[8] = id[8]&0x3f | 0x80
	return id
}

// load reads the conversation and its states. An unclean end of the last program is
// seen by the ratchet, which goes on behind its reserve; the numbers between are
// closed by a VOID.
func (c *conversation) load() error {
	if c.row != nil {
		return nil
	}
	b, err := c.m.store.Get(key(rowConversation, c.id))
	if err != nil {
		return err
	}
	if b == nil {
		return nil
	}
	row, err := decodeConversation(b)
	if err != nil {
		return err
	}
	states := map[ratchet.SessionID]*ratchet.State{}
	for _, ref := range row.sessions {
		b, err := c.m.store.Get(key(rowSession, ref.id))
		if err != nil {
			return err
		}
		if b == nil {
			return contracts.Errorf(contracts.StorageCorrupt, "the state of session %x is missing", ref.id)
		}
		if states[ref.id], err = ratchet.DecodeState(b); err != nil {
			return contracts.Errorf(contracts.StorageCorrupt, "session %x: %w", ref.id, err)
		}
	}
	// The outbox knows which numbers were used: the row's own count is written with
	// the reserve only.
	used := row.acked
	err = c.m.store.Scan(key(rowOutbox, c.id), nil, func(k, _ []byte) bool {
		used = max(used, binary.BigEndian.Uint64(k[17:])+1)
		return true
	})
	if err != nil {
		return err
	}
	row.next = used
	c.row, c.states, c.loaded, c.synced = row, states, used, false
	return nil
}

// drop forgets what is in memory, after a commit whose outcome is unknown.
func (c *conversation) drop() { c.row, c.states = nil, nil }

// active gives the session to send on, nil if there is none.
func (c *conversation) active() (*sessionRef, *ratchet.State) {
	if c.row == nil {
		return nil, nil
	}
	for i := range c.row.sessions {
		if ref := &c.row.sessions[i]; !ref.draining {
			return ref, c.states[ref.id]
		}
	}
	return nil, nil
}

// commit makes the row and rows durable; on failure memory is dropped.
func (c *conversation) commit(ctx context.Context, f func(Tx) error) error {
	err := c.m.store.Update(ctx, func(tx Tx) error {
		tx.Put(key(rowConversation, c.id), c.row.encode())
		return f(tx)
	})
	if err != nil {
		c.drop()
	}
	return err
}

// seal seals one message on the active session and makes it durable. The caller
// holds mu and has loaded.
func (c *conversation) seal(ctx context.Context, kind ratchet.Kind, body []byte) (Sent, error) {
	ref, st := c.active()
	if st == nil {
		return Sent{}, contracts.Errorf(contracts.SessionState, "no session to send on")
	}
	now := c.m.now()
	if gap := st.Info().NextSeq; gap > c.row.next && kind != ratchet.KindControl {
		// A crash has burnt the numbers between: say so before anything else.
		if _, err := c.seal(ctx, ratchet.KindControl, ratchet.Hole{A: c.row.next, B: gap}.Append(nil)); err != nil {
			return Sent{}, err
		}
		if ref, st = c.active(); st == nil {
			return Sent{}, contracts.Errorf(contracts.SessionState, "no session to send on")
		}
	}
	store := st.Reserved() == 0
	if store {
		if err := st.Reserve(now, rand.Reader); err != nil {
			return Sent{}, err
		}
	}
	frame, receipt, err := st.AppendSeal(nil, ratchet.Outgoing{Kind: kind, Body: body, RecipientSeq: c.row.window.Next()}, now, rand.Reader)
	if err != nil {
		return Sent{}, err
	}
	out := outboxRow{session: ref.id, kind: kind, made: now, body: body, frame: frame}
	sent := Sent{Session: ref.id, Conversation: c.id, Seq: receipt.Seq, CiphertextHash: sha256.Sum256(frame)}
	if kind == ratchet.KindData {
		if err := c.m.record(ctx, "message_out", c.row.peer, sent.Session, sent.Seq, sent.CiphertextHash); err != nil {
			// The number is used up in memory: the state must come from the disk again.
			c.drop()
			return Sent{}, err
		}
	}
	id := ref.id
	c.row.next = receipt.Seq + 1
	err = c.commit(ctx, func(tx Tx) error {
		if store || receipt.Store {
			tx.Put(key(rowSession, id), st.AppendState(nil))
		}
		tx.Put(seqKey(rowOutbox, c.id, receipt.Seq), out.encode())
		return nil
	})
	if err == nil {
		c.nudge()
	}
	return sent, err
}

func (c *conversation) nudge() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
	c.m.deliver(c)
}

// adopt puts a new session first. A session that was active drains; where both
// sides began at once, the one with the smaller transcript stays.
func (c *conversation) adopt(st *ratchet.State, glare bool) ratchet.SessionID {
	now, id := c.m.now(), sessionID(st.Transcript())
	ref := sessionRef{id: id, created: now}
	if old, oldState := c.active(); old != nil {
		if glare && !oldState.Confirmed() && handshake.Wins(oldState.Transcript(), st.Transcript()) {
			ref.draining, ref.changed = true, now
		} else {
			old.draining, old.changed = true, now
		}
	}
	c.row.sessions = append([]sessionRef{ref}, c.row.sessions...)
	c.states[id] = st
	return id
}

// prune removes sessions that have drained, and gives their ids.
func (c *conversation) prune() []ratchet.SessionID {
	var gone []ratchet.SessionID
	now := c.m.now()
	c.row.sessions = slices.DeleteFunc(c.row.sessions, func(s sessionRef) bool {
		old := s.draining && (now.Sub(s.changed) > drainFor || len(c.row.sessions)-len(gone) > maxSessions)
		if old {
			gone = append(gone, s.id)
			delete(c.states, s.id)
		}
		return old
	})
	return gone
}

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
	return msgs, c.answer(ctx, id, st)
}

// answer sends an empty message where the ratchet owes one: the confirmation of a
// handshake, or a fresh key for a one-way conversation.
func (c *conversation) answer(ctx context.Context, id ratchet.SessionID, st *ratchet.State) error {
	ref, _ := c.active()
	if ref == nil || ref.id != id || !st.OwesAck() {
		return nil
	}
	_, err := c.seal(ctx, ratchet.KindAck, nil)
	return err
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
	old := c.row.window
	oldSessions := slices.Clone(c.row.sessions)
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
		for _, g := range gone {
			tx.Delete(key(rowSession, g))
		}
		tx.Put(seqKey(rowAhead, c.id, m.Seq), encodeMessage(m.Kind, &msg))
		return c.release(tx, from, to, &released)
	})
	if err != nil {
		if c.row != nil {
			c.row.window, c.row.sessions = old, oldSessions
		}
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

// acknowledged notes that the peer has everything below seq.
func (c *conversation) acknowledged(seq uint64) {
	if seq > c.row.acked && seq <= c.row.next {
		c.row.acked = seq
	}
}
