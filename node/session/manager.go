package session

import (
	"context"
	"encoding/binary"
	"log/slog"
	"sync"
	"time"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
	"github.com/talosprotocol/talos/node/directory"
	"github.com/talosprotocol/talos/node/p2p"
	"github.com/talosprotocol/talos/ratchet"
	"github.com/talosprotocol/talos/ratchet/handshake"
)

// Recorder takes the events that must be in the audit log. It returns when the
// event is durable; an error stops what the event is about.
type Recorder interface {
	Record(ctx context.Context, e Event) error
}

// Event is what happened to a session or message: names, numbers and hashes only.
type Event struct {
	Type           string // an event type of the audit-event schema
	Peer           string
	Session        ratchet.SessionID
	Seq            uint64
	CiphertextHash [32]byte // zero for session events
	Code           contracts.Code
}

// Keys are the private keys that sessions use.
type Keys struct {
	Agreement  identity.AgreementKey
	Invocation identity.InvocationKey
}

// Sent says what became of a message that was accepted for sending: it is durable
// here and will be delivered when the peer is reached.
type Sent struct {
	Session        ratchet.SessionID
	Conversation   [16]byte
	Seq            uint64
	CiphertextHash [32]byte
}

// Manager holds the conversations of one DID. It is safe for concurrent use.
type Manager struct {
	h      *p2p.Host
	dir    *directory.Directory
	store  Store
	audit  Recorder
	log    *slog.Logger
	now    func() time.Time
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	work   sync.WaitGroup

	mu            sync.Mutex
	keys          Keys
	conversations map[string]*conversation // by DID of the peer
	delivering    map[string]bool
	listeners     map[chan struct{}]struct{}
	fetches       map[string]time.Time // last prekey request, by peer id

	pk      sync.Mutex // after a conversation's mu, where both are held
	prekeys *handshake.Prekeys
}

// New makes the manager, serves its streams on h, and goes on delivering what waits
// in the outbox.
func New(h *p2p.Host, dir *directory.Directory, store Store, keys Keys, audit Recorder, log *slog.Logger, now func() time.Time) (*Manager, error) {
	ctx, cancel := context.WithCancel(context.Background())
	m := &Manager{
		h: h, dir: dir, store: store, keys: keys, audit: audit, log: log, now: now, ctx: ctx, cancel: cancel,
		conversations: map[string]*conversation{}, delivering: map[string]bool{}, listeners: map[chan struct{}]struct{}{}, fetches: map[string]time.Time{},
	}
	if err := m.loadPrekeys(); err != nil {
		cancel()
		return nil, err
	}
	waiting, err := m.waiting()
	if err != nil {
		cancel()
		return nil, err
	}
	h.SetStreamHandler(h.Protocol(prekeyName, protocolVersion), m.servePrekeys)
	h.SetStreamHandler(h.Protocol(sessionName, protocolVersion), m.serveSession)
	for _, c := range waiting {
		m.deliver(c)
	}
	return m, nil
}

// Close stops the streams and waits for what is being committed.
func (m *Manager) Close() error {
	m.h.RemoveStreamHandler(m.h.Protocol(prekeyName, protocolVersion))
	m.h.RemoveStreamHandler(m.h.Protocol(sessionName, protocolVersion))
	m.cancel()
	m.work.Wait()
	return m.rest()
}

// rest writes the exact sending positions, so that the next start skips nothing.
func (m *Manager) rest() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range m.conversations {
		c.mu.Lock()
		if c.row != nil {
			states := c.states
			err := m.store.Update(context.Background(), func(tx Tx) error {
				for id, st := range states {
					tx.Put(key(rowSession, id), st.AppendFinal(nil))
				}
				return nil
			})
			c.drop()
			if err != nil {
				c.mu.Unlock()
				return err
			}
		}
		c.mu.Unlock()
	}
	return nil
}

// waiting gives the conversations with something in the outbox.
func (m *Manager) waiting() ([]*conversation, error) {
	peers := map[string]bool{}
	var failed error
	err := m.store.Scan([]byte{rowConversation}, nil, func(k, v []byte) bool {
		row, err := decodeConversation(v)
		if err != nil {
			failed = err
			return false
		}
		peers[row.peer] = true
		return true
	})
	if err == nil {
		err = failed
	}
	if err != nil {
		return nil, err
	}
	var out []*conversation
	for peer := range peers {
		c := m.conversation(peer)
		some := false
		if err := m.store.Scan(key(rowOutbox, c.id), nil, func(_, _ []byte) bool { some = true; return false }); err != nil {
			return nil, err
		}
		if some {
			out = append(out, c)
		}
	}
	return out, nil
}

// conversation gives the conversation with a peer, made at the first use.
func (m *Manager) conversation(peer string) *conversation {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.conversations[peer]
	if c == nil {
		c = &conversation{m: m, id: conversationID(m.self(), peer), wake: make(chan struct{}, 1)}
		m.conversations[peer] = c
	}
	return c
}

func (m *Manager) self() string { return string(m.dir.Self().DID) }

// SetKeys replaces the keys after a rotation of the DID: sessions that exist go on,
// new ones use the new keys.
func (m *Manager) SetKeys(k Keys) {
	m.mu.Lock()
	m.keys = k
	m.mu.Unlock()
}

func (m *Manager) ownKeys() Keys {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.keys
}

func (m *Manager) record(ctx context.Context, typ, peer string, id ratchet.SessionID, seq uint64, hash [32]byte) error {
	return m.audit.Record(ctx, Event{Type: typ, Peer: peer, Session: id, Seq: seq, CiphertextHash: hash})
}

// Send accepts a message for peer: when it returns nil the message is durable and
// will be delivered exactly once, in order. A first message needs the peer to be
// online, for its prekeys. Errors: Unavailable, OutboxFull, FrameSize, and those of
// resolving the DID.
func (m *Manager) Send(ctx context.Context, peer identity.DID, body []byte) (Sent, error) {
	if len(body) > ratchet.MaxBody {
		return Sent{}, contracts.Errorf(contracts.FrameSize, "a message of %d bytes, at most %d", len(body), ratchet.MaxBody)
	}
	if string(peer) == m.self() {
		return Sent{}, contracts.Errorf(contracts.Malformed, "%s is this node itself", peer)
	}
	c := m.conversation(string(peer))
	for range 3 {
		sent, ok, err := c.trySend(ctx, body)
		if ok || err != nil {
			return sent, err
		}
		if err := m.initiate(ctx, c, peer, false); err != nil {
			return Sent{}, err
		}
	}
	return Sent{}, contracts.Errorf(contracts.Unavailable, "no session with %s could be kept open; try again", peer.Short())
}

// trySend seals on the active session; ok is false if there is none.
func (c *conversation) trySend(ctx context.Context, body []byte) (Sent, bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.load(); err != nil {
		return Sent{}, false, err
	}
	if _, st := c.active(); st == nil {
		return Sent{}, false, nil
	}
	if c.row.next-c.row.acked >= maxOutbox {
		return Sent{}, false, contracts.Errorf(contracts.OutboxFull, "%d messages wait for this peer", maxOutbox)
	}
	sent, err := c.seal(ctx, ratchet.KindData, body)
	return sent, err == nil, err
}

// Inbox gives up to limit messages after a cursor, oldest first.
func (m *Manager) Inbox(after uint64, limit int) ([]Message, error) {
	var out []Message
	var failed error
	err := m.store.Scan([]byte{rowInbox}, indexKey(after), func(k, v []byte) bool {
		if len(out) == limit {
			return false
		}
		_, msg, err := decodeMessage(v)
		if err != nil {
			failed = err
			return false
		}
		msg.Index = binary.BigEndian.Uint64(k[1:])
		out = append(out, msg)
		return true
	})
	if err == nil {
		err = failed
	}
	return out, err
}

// Acknowledge removes the messages up to a cursor: the application has them.
func (m *Manager) Acknowledge(ctx context.Context, upTo uint64) error {
	var keys [][]byte
	err := m.store.Scan([]byte{rowInbox}, nil, func(k, _ []byte) bool {
		if binary.BigEndian.Uint64(k[1:]) > upTo {
			return false
		}
		keys = append(keys, k)
		return true
	})
	if err != nil || len(keys) == 0 {
		return err
	}
	return m.store.Update(ctx, func(tx Tx) error {
		for _, k := range keys {
			tx.Delete(k)
		}
		return nil
	})
}

// Changed gives a channel that gets a token when the inbox has something new, until
// stop is called.
func (m *Manager) Changed() (changed <-chan struct{}, stop func()) {
	ch := make(chan struct{}, 1)
	m.mu.Lock()
	m.listeners[ch] = struct{}{}
	m.mu.Unlock()
	return ch, func() {
		m.mu.Lock()
		delete(m.listeners, ch)
		m.mu.Unlock()
	}
}

func (m *Manager) announce() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for ch := range m.listeners {
		select {
		case ch <- struct{}{}:
		default:
		}
	}
}

// Info is what a person may see of a session.
type Info struct {
	ID        ratchet.SessionID
	Peer      string
	Active    bool
	Confirmed bool
	Created   time.Time
	Sent      uint64 // messages of the conversation sent so far
	Acked     uint64 // of these, acknowledged by the peer
	Received  uint64 // messages of the peer received without a gap
}

// Sessions lists all sessions.
func (m *Manager) Sessions() ([]Info, error) {
	var peers []string
	err := m.store.Scan([]byte{rowConversation}, nil, func(_, v []byte) bool {
		if row, err := decodeConversation(v); err == nil {
			peers = append(peers, row.peer)
		}
		return true
	})
	if err != nil {
		return nil, err
	}
	var out []Info
	for _, p := range peers {
		infos, err := m.conversation(p).infos()
		if err != nil {
			return nil, err
		}
		out = append(out, infos...)
	}
	return out, nil
}

func (c *conversation) infos() ([]Info, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.load(); err != nil || c.row == nil {
		return nil, err
	}
	var out []Info
	for _, s := range c.row.sessions {
		out = append(out, Info{
			ID: s.id, Peer: c.row.peer, Active: !s.draining, Confirmed: c.states[s.id].Confirmed(), Created: s.created,
			Sent: c.row.next, Acked: c.row.acked, Received: c.row.window.Next(),
		})
	}
	return out, nil
}

// Rotate replaces the session with a peer by a fresh handshake, mixed with a key of
// the old one. Nothing that waits is lost.
func (m *Manager) Rotate(ctx context.Context, peer identity.DID) error {
	return m.initiate(ctx, m.conversation(string(peer)), peer, true)
}

// End closes the session with a peer on both sides; the next message makes a new one.
func (m *Manager) End(ctx context.Context, peer identity.DID) error {
	c := m.conversation(string(peer))
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.load(); err != nil {
		return err
	}
	ref, _ := c.active()
	if ref == nil {
		return contracts.Errorf(contracts.SessionNotFound, "no session with %s", peer.Short())
	}
	id := ref.id
	if err := m.record(ctx, "session_close", string(peer), id, 0, [32]byte{}); err != nil {
		return err
	}
	if _, err := c.seal(ctx, ratchet.KindControl, []byte{controlClose}); err != nil {
		return err
	}
	if ref, _ = c.active(); ref != nil && ref.id == id {
		ref.draining, ref.changed = true, m.now()
	}
	return c.commit(ctx, func(Tx) error { return nil })
}
