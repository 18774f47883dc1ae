package session

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
	"github.com/talosprotocol/talos/ratchet"
	"github.com/talosprotocol/talos/ratchet/handshake"
)

// Times and limits of sessions (spec/session.md).
const (
	drainFor    = 10 * time.Minute // how long a replaced session still receives
	rotateAfter = 24 * time.Hour
	// maxOutbox is how many numbers may wait for one peer. It stays below the
	// peer's window, so that the flight of a replacement is never too far ahead.
	maxOutbox    = ratchet.WindowSize - 128
	maxSessions  = 8 // of one conversation, draining ones included
	controlClose = 2 // first byte of a control message; 1 is the VOID of the ratchet
)

// conversation is one peer's conversation in memory. mu spans each change from
// reading the state to the end of its commit; nothing under it waits for the network.
type conversation struct {
	m    *Manager
	peer identity.DID
	id   [16]byte

	turn     chan struct{}  // held by the one stream that is served
	incoming network.Stream // the newest stream of the peer; guarded by m.mu
	starting chan struct{}  // held by the one handshake that is begun

	mu     sync.Mutex
	row    *conversationRow
	begun  bool   // loaded is set
	loaded uint64 // row.next when this run first saw the row: later numbers were made by this run
	synced bool   // the peer's count was compared with loaded
	// suspect: the peer acknowledges what this store does not know of. Its count is
	// asked for even if nothing waits.
	suspect bool
	states  map[ratchet.SessionID]*ratchet.State
	wake    chan struct{} // the outbox has something new
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
		c.begun = true
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
	c.row, c.states = row, states
	// A later load of the same run, after a failed commit, must not move the mark:
	// what this run made stays known as such.
	if !c.begun {
		c.begun, c.loaded = true, row.next
	}
	return nil
}

// create makes the row of a conversation that there is none of yet.
func (c *conversation) create() {
	c.row = &conversationRow{peer: string(c.peer), opened: c.m.now()}
	c.states = map[ratchet.SessionID]*ratchet.State{}
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
	_, st := c.active()
	if st == nil {
		return Sent{}, contracts.Errorf(contracts.SessionState, "no session to send on")
	}
	b := batch{c: c, rows: map[string][]byte{}}
	if err := b.hole(); err != nil {
		return Sent{}, err
	}
	sent, err := b.add(kind, body)
	if err != nil {
		return Sent{}, err
	}
	if kind == ratchet.KindData {
		if err := c.m.record(ctx, "message_out", c.row.peer, sent.Session, sent.Seq, sent.CiphertextHash); err != nil {
			// The number is used up in memory: the state must come from the disk again.
			c.drop()
			return Sent{}, err
		}
	}
	return sent, b.commit(ctx)
}

// batch is frames of the active session that become durable in one transaction,
// with the state where the reserve asks for it. After an error memory is dropped:
// what it has used up must never be used again.
type batch struct {
	c     *conversation
	rows  map[string][]byte // nil: deleted
	store bool
}

// hole closes the numbers that a crash has burnt, before anything else is sealed.
func (b *batch) hole() error {
	c := b.c
	_, st := c.active()
	if gap := st.Info().NextSeq; gap > c.row.next {
		_, err := b.add(ratchet.KindControl, ratchet.Hole{A: c.row.next, B: gap}.Append(nil))
		return err
	}
	return nil
}

// add seals a message; again gives one that was accepted before its place among the
// others.
func (b *batch) add(kind ratchet.Kind, body []byte, again ...uint64) (Sent, error) {
	c, now := b.c, b.c.m.now()
	ref, st := c.active()
	if st.Reserved() == 0 {
		if err := st.Reserve(now, rand.Reader); err != nil {
			c.drop()
			return Sent{}, err
		}
		b.store = true
	}
	frame, receipt, err := st.AppendSeal(nil, ratchet.Outgoing{Kind: kind, Body: body, RecipientSeq: c.row.window.Next()}, now, rand.Reader)
	if err != nil {
		c.drop() // the reserve may be in memory only
		return Sent{}, err
	}
	b.store = b.store || receipt.Store
	c.row.next = receipt.Seq + 1
	out := outboxRow{session: ref.id, kind: kind, made: now, order: receipt.Seq, body: body, frame: frame}
	if len(again) > 0 {
		out.order = again[0]
	}
	b.rows[string(seqKey(rowOutbox, c.id, receipt.Seq))] = out.encode()
	return Sent{Session: ref.id, Conversation: c.id, Seq: receipt.Seq, CiphertextHash: sha256.Sum256(frame)}, nil
}

func (b *batch) commit(ctx context.Context) error {
	c := b.c
	ref, st := c.active()
	id := ref.id
	err := c.commit(ctx, func(tx Tx) error {
		if b.store {
			tx.Put(key(rowSession, id), st.AppendState(nil))
		}
		put(tx, b.rows)
		return nil
	})
	if err == nil {
		c.nudge()
	}
	return err
}

// put writes rows; a nil value deletes.
func put(tx Tx, rows map[string][]byte) {
	for k, v := range rows {
		if v == nil {
			tx.Delete([]byte(k))
		} else {
			tx.Put([]byte(k), v)
		}
	}
}

func (c *conversation) nudge() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
	c.m.deliver(c)
}

// adopt puts a new session first. A session that was active drains. Where both
// sides began at once, which the active one being ours and unanswered tells, the one
// with the smaller transcript stays.
func (c *conversation) adopt(st *ratchet.State, ours bool) ratchet.SessionID {
	now, id := c.m.now(), sessionID(st.Transcript())
	ref := sessionRef{id: id, created: now, ours: ours}
	if old, oldState := c.active(); old != nil {
		if !ours && old.ours && !oldState.Confirmed() && handshake.Wins(oldState.Transcript(), st.Transcript()) {
			ref.draining, ref.changed = true, now
		} else {
			old.draining, old.changed = true, now
		}
	}
	c.row.sessions = append([]sessionRef{ref}, c.row.sessions...)
	c.states[id] = st
	return id
}

// prune removes sessions that have drained, and the oldest above maxSessions; it
// gives their rows, to be deleted.
func (c *conversation) prune() map[string][]byte {
	gone, now := map[string][]byte{}, c.m.now()
	var keep []sessionRef
	for _, s := range c.row.sessions { // newest first
		if s.draining && (now.Sub(s.changed) > drainFor || len(keep) >= maxSessions) {
			gone[string(key(rowSession, s.id))] = nil
			delete(c.states, s.id)
			continue
		}
		keep = append(keep, s)
	}
	c.row.sessions = keep
	return gone
}

// acknowledged notes that the peer has everything below seq.
func (c *conversation) acknowledged(seq uint64) {
	if seq > c.row.acked && seq <= c.row.next {
		c.row.acked = seq
	}
}
