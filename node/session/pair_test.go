package session_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	crand "crypto/rand"
	"errors"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	record "github.com/libp2p/go-libp2p-record"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
	"github.com/talosprotocol/talos/node/directory"
	"github.com/talosprotocol/talos/node/p2p"
	"github.com/talosprotocol/talos/node/session"
	"github.com/talosprotocol/talos/node/store"
)

// disk is what survives a crash: rows in memory, and a record of every frame that
// was ever durable, so that a key used twice is seen.
type disk struct {
	mu     sync.Mutex
	rows   map[string][]byte
	frames map[string][]byte // by session and number
	twice  []string
}

func newDisk() *disk { return &disk{rows: map[string][]byte{}, frames: map[string][]byte{}} }

func (d *disk) snapshot() map[string][]byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	return maps.Clone(d.rows)
}

// outbox gives how many rows wait for an acknowledgement.
func (d *disk) outbox() (n int) {
	for k, v := range d.snapshot() {
		if _, _, _, ok := session.OutboxFrame([]byte(k), v); ok {
			n++
		}
	}
	return n
}

func (d *disk) restore(rows map[string][]byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.rows = maps.Clone(rows)
}

func (d *disk) reused() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.twice
}

var errCrash = errors.New("the process has died")

// handle is one process's use of a disk. At its failAt-th Update it dies: with
// persist after the rows are durable, else before.
type handle struct {
	*disk
	failAt  int
	persist bool
	count   int
	dead    atomic.Bool
}

func (h *handle) Get(key []byte) ([]byte, error) {
	if h.dead.Load() {
		return nil, errCrash
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.rows[string(key)], nil
}

func (h *handle) Scan(prefix, after []byte, f func(key, value []byte) bool) error {
	if h.dead.Load() {
		return errCrash
	}
	h.mu.Lock()
	var keys []string
	for k := range h.rows {
		if strings.HasPrefix(k, string(prefix)) && k > string(after) {
			keys = append(keys, k)
		}
	}
	rows := h.rows
	slices.Sort(keys)
	values := make([][]byte, len(keys))
	for i, k := range keys {
		values[i] = rows[k]
	}
	h.mu.Unlock()
	for i, k := range keys {
		if !f([]byte(k), values[i]) {
			break
		}
	}
	return nil
}

type memTx struct {
	h   *handle
	own map[string][]byte
}

func (t memTx) Get(key []byte) ([]byte, error) {
	if v, ok := t.own[string(key)]; ok {
		return v, nil
	}
	return t.h.rows[string(key)], nil
}
func (t memTx) Put(key, value []byte) { t.own[string(key)] = bytes.Clone(value) }
func (t memTx) Delete(key []byte)     { t.own[string(key)] = nil }

func (h *handle) Update(_ context.Context, f func(session.Tx) error) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.dead.Load() {
		return errCrash
	}
	h.count++
	die := h.count == h.failAt
	t := memTx{h, map[string][]byte{}}
	if err := f(t); err != nil {
		return err
	}
	if die {
		h.dead.Store(true)
		if !h.persist {
			return errCrash
		}
	}
	for k, v := range t.own {
		if v == nil {
			delete(h.rows, k)
			continue
		}
		h.rows[k] = v
		h.saw(k, v)
	}
	if die {
		return errCrash
	}
	return nil
}

// saw notes a durable frame.
func (h *handle) saw(k string, v []byte) {
	id, seq, frame, ok := session.OutboxFrame([]byte(k), v)
	if !ok || len(frame) == 0 {
		return
	}
	name := string(id[:]) + k[17:]
	if old, ok := h.frames[name]; ok && !bytes.Equal(old, frame) {
		h.twice = append(h.twice, string(rune(seq)))
	}
	h.frames[name] = frame
}

// events is a journal on the store that a member has now. It keeps what was recorded,
// if keep is set.
type events struct {
	m    *member
	keep bool
	mu   sync.Mutex
	list []session.Event
}

func (e *events) Record(ctx context.Context, _ int, f func(session.Tx) error, evs ...session.Event) error {
	if f != nil {
		if err := e.m.store.Update(ctx, f); err != nil {
			return err
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.keep {
		e.list = append(e.list, evs...)
	}
	return nil
}

func (e *events) code(c contracts.Code) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.ContainsFunc(e.list, func(x session.Event) bool { return x.Code == c })
}

// member is a DID on a real host, with a manager that may crash and start again.
type member struct {
	h    *p2p.Host
	dir  *directory.Directory
	did  identity.DID
	keys session.Keys
	// What its states are signed with.
	control, next identity.ControlKey
	peer          identity.PeerKey
	keyLog        []contracts.SignedKeyEvent
	seq           int64

	clock *atomic.Int64 // Unix ms, one for all members of a test
	audit *events
	door  session.Door
	disk  *disk
	store *handle
	m     *session.Manager
}

func gen[P identity.Purpose](t testing.TB, r io.Reader) identity.Private[P] {
	t.Helper()
	k, err := identity.Generate[P](r)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func logger(t testing.TB) *slog.Logger {
	if os.Getenv("TALOS_TEST_LOG") == "" {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func newMember(t testing.TB, clock *atomic.Int64, boot *member) *member {
	t.Helper()
	m := &member{clock: clock}
	m.audit = &events{m: m}
	rnd := rand.NewChaCha8([32]byte{byte(rand.Uint32()), byte(rand.Uint32()), byte(rand.Uint32()), byte(rand.Uint32())})
	control, next, pk := gen[identity.Control](t, rnd), gen[identity.Control](t, rnd), gen[identity.Peer](t, rnd)
	ka, err := identity.GenerateAgreement(rnd)
	if err != nil {
		t.Fatal(err)
	}
	m.keys = session.Keys{Agreement: ka, Invocation: gen[identity.Invocation](t, rnd)}
	m.control, m.next, m.peer, m.seq = control, next, pk, 1
	did, icp := identity.Incept(control, next.Public(), time.Now())
	m.did, m.keyLog = did, []contracts.SignedKeyEvent{icp}
	m.host(t, pk.Ed25519(), boot)
	m.sign(t)
	if boot != nil {
		if _, err := m.dir.Bind(t.Context(), boot.h.ID()); err != nil {
			t.Fatal(err)
		}
		if _, err := boot.dir.Bind(t.Context(), m.h.ID()); err != nil {
			t.Fatal(err)
		}
	}
	m.fresh(t)
	return m
}

// sign makes the member's next state its own.
func (m *member) sign(t testing.TB) {
	t.Helper()
	hot := identity.Hot{Peer: m.peer.Public(), Invocation: m.keys.Invocation.Public(), Log: gen[identity.Log](t, crand.Reader).Public(), Agreement: m.keys.Agreement.Public()}
	s, err := identity.SignState(identity.NewState{
		KeyLog: m.keyLog, Doc: identity.NewDocument(m.did, []identity.ControlPublic{m.control.Public()}, hot, 0, directory.Addrs(m.h)),
		Seq: m.seq, Now: time.Now(), Valid: 48 * time.Hour, TTL: time.Hour,
	}, m.control)
	if err != nil {
		t.Fatal(err)
	}
	m.seq++
	m.dir.SetSelf(s)
}

// rotate gives the member new keys for control and sessions.
func (m *member) rotate(t testing.TB, void bool) {
	t.Helper()
	fresh := gen[identity.Control](t, crand.Reader)
	e, err := identity.Rotate(m.dir.Self().Keys, m.next, fresh.Public(), void, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	ka, err := identity.GenerateAgreement(crand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	m.keyLog, m.control, m.next = append(m.keyLog, e), m.next, fresh
	m.keys = session.Keys{Agreement: ka, Invocation: gen[identity.Invocation](t, crand.Reader)}
	m.sign(t)
}

// shared, if not nil, is the store of all directories: benchmarks have hundreds.
var shared *store.Store

func (m *member) host(t testing.TB, key ed25519.PrivateKey, boot *member) {
	t.Helper()
	st := shared
	if st == nil {
		var err error
		if st, err = store.Open("", store.Options{Key: make([]byte, 32), InMemory: true}); err != nil {
			t.Fatal(err)
		}
	}
	v := directory.NewValidator(time.Now)
	var err error
	m.h, err = p2p.New(p2p.Config{Network: "test", Kind: p2p.Local, Key: key, Listen: []string{"/ip4/127.0.0.1/tcp/0"}, PerIP: 2048, HighConns: 2400, LowConns: 2000, MemoryMiB: 8192},
		st.Datastore(), record.NamespacedValidator{directory.Namespace: v})
	if err != nil {
		t.Fatal(err)
	}
	m.dir = directory.New(m.h, st.Directory(), v, slog.New(slog.DiscardHandler))
	t.Cleanup(func() {
		if m.m != nil {
			_ = m.m.Close()
		}
		_ = m.h.Close()
		if st != shared {
			_ = st.Close()
		}
	})
	if boot != nil {
		if err := m.h.Connect(t.Context(), peer.AddrInfo{ID: boot.h.ID(), Addrs: boot.h.Addrs()}); err != nil {
			t.Fatal(err)
		}
	}
}

func (m *member) now() time.Time { return time.UnixMilli(m.clock.Load()) }

// fresh starts on an empty disk.
func (m *member) fresh(t testing.TB) {
	t.Helper()
	m.crash()
	m.disk = newDisk()
	m.open(t, 0, false)
}

// crash ends the manager without a word to its disk.
func (m *member) crash() {
	if m.m == nil {
		return
	}
	m.store.dead.Store(true)
	_ = m.m.Close() // frees goroutines; the dead handle keeps nothing
	m.m = nil
}

// open starts a manager whose failAt-th Update is fatal; 0 for never.
func (m *member) open(t testing.TB, failAt int, persist bool) {
	t.Helper()
	m.clock.Add(2 * session.FetchEvery.Milliseconds()) // prekeys are due again
	m.store = &handle{disk: m.disk, failAt: failAt, persist: persist}
	var err error
	if m.m, err = session.New(m.h, m.dir, m.store, m.keys, m.audit, m.door, logger(t), m.now); err == nil {
		m.m.SetRetry(4 * time.Millisecond)
		return
	}
	if !errors.Is(err, errCrash) {
		t.Fatal(err)
	}
	m.m = nil
	m.open(t, 0, false)
}

func pair(t testing.TB) (a, b *member) {
	t.Helper()
	clock := new(atomic.Int64)
	clock.Store(time.Now().UnixMilli())
	a = newMember(t, clock, nil)
	return a, newMember(t, clock, a)
}

func wait(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("no %s within 20 s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

// inbox gives the bodies that the application of m has.
func (m *member) inbox(t testing.TB) []string {
	t.Helper()
	msgs, err := m.m.Inbox(0, 1<<20)
	if err != nil && !m.store.dead.Load() {
		t.Fatal(err)
	}
	var out []string
	for _, x := range msgs {
		out = append(out, string(x.Body))
	}
	return out
}

func (m *member) send(t testing.TB, to *member, bodies ...string) {
	t.Helper()
	for _, b := range bodies {
		wait(t, "acceptance of "+b, func() bool {
			_, err := m.m.Send(t.Context(), to.did, []byte(b))
			if c := contracts.CodeOf(err); err != nil && c != contracts.Unavailable && c != contracts.OutboxFull {
				t.Fatal(err)
			}
			if err != nil {
				m.clock.Add(session.FetchEvery.Milliseconds())
			}
			return err == nil
		})
	}
}

func (m *member) expect(t testing.TB, want ...string) {
	t.Helper()
	var got []string
	deadline := time.Now().Add(20 * time.Second)
	for ; len(got) < len(want) && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		m.clock.Add(20) // time passes, also for limits of a rate
		got = m.inbox(t)
	}
	if !slices.Equal(got, want) {
		t.Fatalf("inbox has %d %.600q, want %d %.600q", len(got), got, len(want), want)
	}
}
