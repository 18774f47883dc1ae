package session

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"sync"
	"sync/atomic"
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
	unseen   atomic.Bool    // the peer says that it has seen no capability of ours

	mu     sync.Mutex
	row    *conversationRow
	begun  bool   // loaded is set
	loaded uint64 // row.next when this run first saw the row: later numbers were made by this run
	synced bool   // the peer's count was compared with loaded
	// suspect: the peer acknowledges what this store does not know of. Its count is
	// asked for even if nothing waits.
	suspect bool
	states  map[ratchet.SessionID]*ratchet.State
	ended   []ratchet.SessionID // void; the next commit deletes them
	// low is below the first row of the outbox from redo on, if lowKnown.
	low      uint64
	lowKnown bool
	// recent has all rows of the outbox from the number complete on, so that they need
	// not be read.
	recent   []pendingRow
	complete uint64
	size     int           // bytes of recent
	wake     chan struct{} // the outbox has something new
	arrived  chan struct{} // the peer has made a connection

	moved chan struct{} // closed when the peer has more; nil while nobody waits
	queue sending       // messages whose callers wait for mu
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
	c.void(0)
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
func (c *conversation) drop() {
	c.row, c.states, c.lowKnown, c.ended = nil, nil, false, nil
	c.forget()
}

// forget makes delivery read the outbox again.
func (c *conversation) forget() { c.recent, c.size, c.complete = nil, 0, endOfRows }

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

// write is one row; a nil value deletes it.
type write struct{ key, value []byte }

// commit makes the row, the events and what f writes durable, in one transaction, and
// deletes what the peer has acknowledged; on failure memory is dropped.
func (c *conversation) commit(ctx context.Context, bytes int, f func(Tx) error, events ...Event) error {
	from, to, err := c.acknowledgedRows()
	if err != nil {
		c.drop()
		return err
	}
	row, ended := c.row.encode(), c.ended
	for _, id := range ended {
		events = append(events, Event{Type: "session_close", Peer: c.row.peer, Session: id, Code: contracts.SessionVoid})
	}
	rows := func(tx Tx) error {
		tx.Put(key(rowConversation, c.id), row)
		for _, id := range ended {
			tx.Delete(key(rowSession, id))
		}
		for seq := from; seq < to; seq++ {
			tx.Delete(seqKey(rowOutbox, c.id, seq))
		}
		return f(tx)
	}
	if len(events) > 0 {
		err = c.m.audit.Record(ctx, bytes+len(row)+32*int(to-from), rows, events...)
	} else {
		err = c.m.store.Update(ctx, rows)
	}
	if err != nil {
		c.drop()
		return err
	}
	c.low, c.ended = max(c.low, to), nil
	return nil
}

// acknowledgedRows gives the range of rows that the peer has and the store still holds.
func (c *conversation) acknowledgedRows() (from, to uint64, err error) {
	if !c.synced || c.row.acked <= c.row.redo {
		return 0, 0, nil
	}
	if err := c.findLow(); err != nil {
		return 0, 0, err
	}
	return c.low, max(c.low, c.row.acked), nil
}

func (c *conversation) findLow() error {
	if c.lowKnown {
		return nil
	}
	rows, err := c.pending(c.row.redo, endOfRows, 1)
	if err != nil {
		return err
	}
	c.low, c.lowKnown = c.row.next, true
	if len(rows) > 0 {
		c.low = rows[0].seq
	}
	return nil
}

// batch is frames of the active session that become durable in one transaction,
// with the state where the reserve asks for it. After an error memory is dropped:
// what it has used up must never be used again.
type batch struct {
	c      *conversation
	id     ratchet.SessionID
	st     *ratchet.State
	rows   []write
	made   []pendingRow // the same, for delivery
	bytes  int
	events []Event
	store  bool
}

// newBatch begins a batch on the active session, which there must be.
func (c *conversation) newBatch() *batch {
	ref, st := c.active()
	return &batch{c: c, id: ref.id, st: st}
}

// hole closes the numbers that a crash has burnt, before anything else is sealed.
func (b *batch) hole() error {
	if gap := b.st.Info().NextSeq; gap > b.c.row.next {
		_, err := b.add(ratchet.KindControl, ratchet.Hole{A: b.c.row.next, B: gap}.Append(nil))
		return err
	}
	return nil
}

// add seals a message; again gives one that was accepted before its place among the
// others.
func (b *batch) add(kind ratchet.Kind, body []byte, again ...uint64) (Sent, error) {
	c, now := b.c, b.c.m.now()
	if b.st.Reserved() == 0 {
		if err := b.st.Reserve(now, rand.Reader); err != nil {
			c.drop()
			return Sent{}, err
		}
		b.store = true
	}
	frame, receipt, err := b.st.AppendSeal(nil, ratchet.Outgoing{Kind: kind, Body: body, RecipientSeq: c.row.window.Next()}, now, rand.Reader)
	if err != nil {
		c.drop() // the reserve may be in memory only
		return Sent{}, err
	}
	b.store = b.store || receipt.Store
	out := &outboxRow{session: b.id, kind: kind, made: now, order: receipt.Seq, body: body, frame: frame}
	if len(again) > 0 {
		out.order = again[0]
	}
	b.put(receipt.Seq, out)
	return Sent{Session: b.id, Conversation: c.id, Seq: receipt.Seq, CiphertextHash: sha256.Sum256(frame)}, nil
}

// put adds a row of the outbox, with the next number.
func (b *batch) put(seq uint64, out *outboxRow) {
	b.c.row.next = seq + 1
	row := out.encode()
	b.rows = append(b.rows, write{seqKey(rowOutbox, b.c.id, seq), row})
	b.made = append(b.made, pendingRow{seq, out})
	b.bytes += len(row)
}

func (b *batch) delete(key []byte) { b.rows = append(b.rows, write{key, nil}) }

func (b *batch) event(typ string, seq uint64, hash [32]byte) {
	b.events = append(b.events, Event{Type: typ, Peer: b.c.row.peer, Session: b.id, Seq: seq, CiphertextHash: hash})
}

func (b *batch) commit(ctx context.Context) error {
	c := b.c
	if b.store {
		b.rows = append(b.rows, write{key(rowSession, b.id), b.st.AppendState(nil)})
	}
	err := c.commit(ctx, b.bytes, func(tx Tx) error { put(tx, b.rows); return nil }, b.events...)
	if err != nil {
		return err
	}
	c.remember(b.made)
	c.nudge()
	return nil
}

// maxRecent bounds the bytes of rows that wait in memory too.
const maxRecent = 256 << 10

// remember keeps rows that are durable now for delivery, and drops those that the
// peer has.
func (c *conversation) remember(rows []pendingRow) {
	for _, p := range rows {
		c.complete = min(c.complete, p.seq)
		c.recent = append(c.recent, p)
		c.size += len(p.row.frame)
	}
	for len(c.recent) > 0 && (c.size > maxRecent || c.recent[0].seq < c.row.acked) {
		c.size -= len(c.recent[0].row.frame)
		c.complete = c.recent[0].seq + 1
		c.recent = c.recent[1:]
	}
}

// put writes rows.
func put(tx Tx, rows []write) {
	for _, w := range rows {
		if w.value == nil {
			tx.Delete(w.key)
		} else {
			tx.Put(w.key, w.value)
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
func (c *conversation) adopt(st *ratchet.State, ours bool, peerLog uint64) ratchet.SessionID {
	now, id := c.m.now(), sessionID(st.Transcript())
	ref := sessionRef{id: id, created: now, ours: ours, ownLog: uint64(c.m.dir.Self().SN), peerLog: peerLog}
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
func (c *conversation) prune() (gone []write) {
	now := c.m.now()
	var keep []sessionRef
	for _, s := range c.row.sessions { // newest first
		if s.draining && (now.Sub(s.changed) > drainFor || len(keep) >= maxSessions) {
			gone = append(gone, write{key(rowSession, s.id), nil})
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
		if c.moved != nil {
			close(c.moved)
			c.moved = nil
		}
	}
}

// Delivered returns when the peer has all numbers up to seq durably in its store; its
// application may not have seen them yet. It fails if ctx ends first, which says
// nothing of what becomes of the message.
func (m *Manager) Delivered(ctx context.Context, peer identity.DID, seq uint64) error {
	c := m.conversation(string(peer))
	for {
		c.mu.Lock()
		if err := c.load(); err != nil {
			c.mu.Unlock()
			return err
		}
		if c.row != nil && c.row.acked > seq {
			c.mu.Unlock()
			return nil
		}
		if c.moved == nil {
			c.moved = make(chan struct{})
		}
		moved := c.moved
		c.mu.Unlock()
		select {
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		case <-m.ctx.Done():
			return contracts.Errorf(contracts.Unavailable, "the node is stopping")
		}
	}
}
