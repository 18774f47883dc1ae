package session

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
	"github.com/talosprotocol/talos/node/directory"
	"github.com/talosprotocol/talos/node/p2p"
	"github.com/talosprotocol/talos/ratchet"
	"github.com/talosprotocol/talos/ratchet/handshake"
)

// Journal makes events durable in the audit log, in one transaction with the writes
// of f in the store of the manager (about that many bytes; f may be nil): what is done
// is recorded, and what is recorded is done. An error stops what the events are about;
// whether they and the writes are durable is then not known. f may be called in
// another goroutine, and not after Record has returned.
type Journal interface {
	Record(ctx context.Context, bytes int, f func(Tx) error, events ...Event) error
}

// Door says what peers may do here, and shows them what this node may do there.
type Door interface {
	// Admit refuses what no grant of the peer covers, with the code that says why.
	// what is the surface: a2a.session.open, or a2a.message.receive for frames.
	Admit(ctx context.Context, did identity.DID, id peer.ID, what string) error
	// Present shows a peer this node's capabilities for use there, once on a connection,
	// and again if the peer says that it has seen none.
	Present(ctx context.Context, id peer.ID, did identity.DID, again bool) error
}

// anybody is a door that is open.
type anybody struct{}

func (anybody) Admit(context.Context, identity.DID, peer.ID, string) error { return nil }
func (anybody) Present(context.Context, peer.ID, identity.DID, bool) error { return nil }

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
	audit  Journal
	door   Door
	log    *slog.Logger
	now    func() time.Time
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	work   sync.WaitGroup
	watch  *network.NotifyBundle
	retry  atomic.Int64 // first pause after a failed delivery

	mu            sync.Mutex
	keys          Keys
	conversations map[string]*conversation // by DID of the peer
	delivering    map[string]bool
	listeners     map[chan struct{}]struct{}
	fetches       map[string]*fetch // prekey requests, by peer id
	expected      map[peer.ID]*conversation

	pk      sync.Mutex // after a conversation's mu, where both are held
	prekeys *handshake.Prekeys
	rotated time.Time // when the signed prekeys were made
}

// New makes the manager, serves its streams on h, and goes on delivering what waits
// in the outbox. A door of nil lets anybody in.
func New(h *p2p.Host, dir *directory.Directory, store Store, keys Keys, audit Journal, door Door, log *slog.Logger, now func() time.Time) (*Manager, error) {
	if door == nil {
		door = anybody{}
	}
	ctx, cancel := context.WithCancel(context.Background())
	m := &Manager{
		door: door, h: h, dir: dir, store: store, keys: keys, audit: audit, log: log, now: now, ctx: ctx, cancel: cancel,
		conversations: map[string]*conversation{}, delivering: map[string]bool{}, listeners: map[chan struct{}]struct{}{}, fetches: map[string]*fetch{},
		expected: map[peer.ID]*conversation{},
	}
	m.retry.Store(int64(firstRetry))
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
	m.work.Go(m.sweepLoop)
	m.watch = &network.NotifyBundle{ConnectedF: func(_ network.Network, conn network.Conn) { m.connected(conn.RemotePeer()) }}
	h.Host.Network().Notify(m.watch)
	return m, nil
}

// expect notes with which conversation a connection of a peer has to do.
func (m *Manager) expect(id peer.ID, c *conversation) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.expected[id] = c
}

// connected tells delivery that a peer has made a connection: it need not wait for
// its next try.
func (m *Manager) connected(id peer.ID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if c := m.expected[id]; c != nil {
		select {
		case c.arrived <- struct{}{}:
		default:
		}
	}
}

// enter counts a stream in, so that Close waits for it; false after Close.
func (m *Manager) enter() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ctx.Err() != nil {
		return false
	}
	m.work.Add(1)
	return true
}

// Close stops the streams and waits for what is being committed.
func (m *Manager) Close() error {
	m.h.Host.Network().StopNotify(m.watch)
	m.h.RemoveStreamHandler(m.h.Protocol(prekeyName, protocolVersion))
	m.h.RemoveStreamHandler(m.h.Protocol(sessionName, protocolVersion))
	m.mu.Lock()
	m.cancel()
	m.mu.Unlock()
	m.work.Wait()
	return m.rest()
}

// rest writes the exact sending positions, so that the next start skips nothing.
func (m *Manager) rest() error {
	var errs []error
	for _, c := range m.all() {
		errs = append(errs, c.rest())
	}
	return errors.Join(errs...)
}

// all gives the conversations in memory. A conversation's mu comes before the
// manager's, so nobody may lock one under m.mu.
func (m *Manager) all() []*conversation {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Collect(maps.Values(m.conversations))
}

func (c *conversation) rest() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.row == nil {
		return nil
	}
	states := c.states
	c.drop()
	return c.m.store.Update(context.Background(), func(tx Tx) error {
		for id, st := range states {
			tx.Put(key(rowSession, id), st.AppendFinal(nil))
		}
		return nil
	})
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
		c = &conversation{
			m: m, peer: identity.DID(peer), id: conversationID(m.self(), peer), wake: make(chan struct{}, 1),
			turn: make(chan struct{}, 1), starting: make(chan struct{}, 1), arrived: make(chan struct{}, 1), complete: endOfRows,
		}
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

// Send accepts a message for peer: when it returns nil the message is durable and
// will be delivered exactly once, in order. After another error than those below it
// may still be delivered. A first message needs the peer to be online, for its
// prekeys. Errors: Unavailable, OutboxFull, FrameSize, and those of resolving the
// DID.
func (m *Manager) Send(ctx context.Context, peer identity.DID, body []byte) (Sent, error) {
	if len(body) > ratchet.MaxBody {
		return Sent{}, contracts.Errorf(contracts.FrameSize, "a message of %d bytes, at most %d", len(body), ratchet.MaxBody)
	}
	if string(peer) == m.self() {
		return Sent{}, contracts.Errorf(contracts.Malformed, "%s is this node itself", peer)
	}
	c := m.conversation(string(peer))
	for range 3 {
		if w := c.trySend(ctx, body); w.state != needsSession {
			return w.sent, w.err
		}
		if err := m.initiate(ctx, c, peer, false); err != nil {
			return Sent{}, err
		}
	}
	return Sent{}, contracts.Errorf(contracts.Unavailable, "no session with %s could be kept open; try again", peer.Short())
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
	b := c.newBatch()
	if err := b.hole(); err != nil {
		return err
	}
	if _, err := b.add(ratchet.KindControl, []byte{controlClose}); err != nil {
		return err
	}
	ref.draining, ref.changed = true, m.now()
	b.event("session_close", 0, [32]byte{})
	return b.commit(ctx)
}
