package evidence_test

import (
	"bufio"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/talosprotocol/talos/anchor"
	"github.com/talosprotocol/talos/anchor/witness"
	"github.com/talosprotocol/talos/identity"
	"github.com/talosprotocol/talos/identity/keystore"
	"github.com/talosprotocol/talos/node"
	"github.com/talosprotocol/talos/node/p2p"
)

var discard = slog.New(slog.DiscardHandler)

// member is a node with its home, which a test may stop and start.
type member struct {
	*node.Node
	home *node.Home
	stop func() error
}

func initHome(t testing.TB, o node.InitOptions) *node.Home {
	t.Helper()
	o.Network, o.Kind, o.Interval = "test", "local", 1
	if o.Listen == nil {
		o.Listen = []string{"/ip4/127.0.0.1/tcp/0"}
	}
	h, err := node.Init(t.TempDir(), o)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func start(t testing.TB, h *node.Home) *member {
	t.Helper()
	h, err := node.OpenHome(h.Dir)
	if err != nil {
		t.Fatal(err)
	}
	log := discard
	if os.Getenv("TALOS_TEST_LOG") != "" {
		log = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	n, err := node.New(t.Context(), h, log, node.WithoutAPI())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	stopped := false
	m := &member{Node: n, home: h, stop: func() error {
		if stopped {
			return nil
		}
		stopped = true
		cancel()
		return <-done
	}}
	t.Cleanup(func() {
		if err := m.stop(); err != nil {
			t.Errorf("stopping: %v", err)
		}
	})
	return m
}

func wait(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("no %s within a minute", what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// world is a bootstrap, anchors and agents.
type world struct {
	boot            *member
	anchors, agents []*member
	anchorDIDs      []string
}

func newWorld(t testing.TB, anchors, agents int) *world {
	t.Helper()
	w := &world{boot: start(t, initHome(t, node.InitOptions{Roles: []string{"bootstrap"}}))}
	for range anchors {
		a := start(t, initHome(t, node.InitOptions{Roles: []string{"anchor"}, Bootstrap: w.boot.Status().Addresses}))
		w.anchors, w.anchorDIDs = append(w.anchors, a), append(w.anchorDIDs, string(a.DID()))
	}
	for range agents {
		w.agents = append(w.agents, start(t, w.agentHome(t, w.anchorDIDs...)))
	}
	w.ready(t)
	return w
}

func (w *world) agentHome(t testing.TB, anchors ...string) *node.Home {
	t.Helper()
	return initHome(t, node.InitOptions{Bootstrap: w.boot.Status().Addresses, Anchors: anchors})
}

func (w *world) all() []*member {
	return append(append([]*member{w.boot}, w.anchors...), w.agents...)
}

// ready waits until all can be found by all: a node is ready before its state is.
func (w *world) ready(t testing.TB) {
	t.Helper()
	for _, m := range w.all()[1:] {
		wait(t, "readiness", func() bool {
			p := m.Directory().Published()
			return m.Status().Ready && p.Err == nil && p.Acks > 0
		})
	}
}

// record appends events and waits until anchors have cosigned all of them.
func (m *member) record(t testing.TB, events, anchors int) {
	t.Helper()
	for range events {
		if _, err := m.Evidence().Append(t.Context(), m.Evidence().NewEvent("message_out")); err != nil {
			t.Fatal(err)
		}
	}
	if anchors > 0 {
		wait(t, "cosignatures", func() bool {
			size, by := m.Evidence().Witnessed()
			return size == m.Evidence().Log().Size() && by == anchors
		})
	}
}

// logKey opens the log key of a home, as whoever stole it would.
func logKey(t testing.TB, h *node.Home) identity.LogKey {
	t.Helper()
	ks, err := keystore.Open(filepath.Join(h.Dir, "keys.sealed"), keystore.File(filepath.Join(h.Dir, "kek")))
	if err != nil {
		t.Fatal(err)
	}
	k, err := keystore.Key[identity.Log](ks, "log")
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// forge signs a head of the member's log over some root.
func (m *member) forge(t testing.TB, size uint64, root byte) *anchor.Note {
	t.Helper()
	c := anchor.Checkpoint{Origin: m.Evidence().Log().Origin(), Size: size, Root: anchor.Hash{root}}
	n, err := anchor.Sign(c, anchor.Key(logKey(t, m.home).Ed25519()))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func (m *member) digest(t testing.TB, n *anchor.Note) []byte {
	t.Helper()
	d, err := n.Digest(logKey(t, m.home).Public().Bytes())
	if err != nil {
		t.Fatal(err)
	}
	b, err := d.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// ask speaks the witness stream from this member to another.
func (m *member) ask(t testing.TB, to *member, body []byte) ([]byte, error) {
	t.Helper()
	h := m.Host()
	if err := h.Connect(t.Context(), peer.AddrInfo{ID: to.Host().ID(), Addrs: to.Host().Addrs()}); err != nil {
		t.Fatal(err)
	}
	st, err := h.NewStream(t.Context(), to.Host().ID(), h.Protocol("witness", "1.0.0"))
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close() //nolint:errcheck // a test
	_ = st.SetDeadline(time.Now().Add(10 * time.Second))
	if err := p2p.WriteFrame(st, body); err != nil {
		return nil, err
	}
	b, err := p2p.ReadFrame(bufio.NewReader(st), witness.MaxResponse)
	if err != nil {
		return nil, err
	}
	return witness.ParseResponse(b)
}

// submit brings a head to an anchor that has none of the log.
func (m *member) submit(t testing.TB, to *member, n *anchor.Note) error {
	t.Helper()
	_, err := m.ask(t, to, witness.AppendRequest([]byte{1}, witness.Request{Note: n.Append(nil)}))
	return err
}
