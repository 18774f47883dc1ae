package node_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/talosprotocol/talos/anchor"
	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
	"github.com/talosprotocol/talos/node"
	"github.com/talosprotocol/talos/node/directory"
)

// running is a node with its home, which a test may stop and start.
type running struct {
	*node.Node
	home *node.Home
	stop func() error
}

func logger(t testing.TB) *slog.Logger {
	if os.Getenv("TALOS_TEST_LOG") == "" {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func initHome(t testing.TB, o node.InitOptions) *node.Home {
	t.Helper()
	o.Network, o.Kind, o.Listen = "test", "local", []string{"/ip4/127.0.0.1/tcp/0"}
	dir, err := os.MkdirTemp("", "talos") // short, for the socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	h, err := node.Init(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func start(t testing.TB, h *node.Home) *running { return startWith(t, h, logger(t)) }

func startWith(t testing.TB, h *node.Home, log *slog.Logger, opts ...node.Option) *running {
	t.Helper()
	h, err := node.OpenHome(h.Dir)
	if err != nil {
		t.Fatal(err)
	}
	n, err := node.New(t.Context(), h, log, opts...)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	stopped := false
	r := &running{Node: n, home: h, stop: func() error {
		if stopped {
			return nil
		}
		stopped = true
		cancel()
		return <-done
	}}
	t.Cleanup(func() {
		if err := r.stop(); err != nil {
			t.Errorf("stopping: %v", err)
		}
	})
	return r
}

func addrs(r *running) []string { return r.Status().Addresses }

func wait(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(90 * time.Second) // on a machine with much else to do
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("no %s within 90 s", what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// mesh starts a bootstrap, anchors and agents.
func mesh(t testing.TB, anchors, agents int) (boot *running, as, ags []*running) {
	t.Helper()
	boot = start(t, initHome(t, node.InitOptions{Roles: []string{"bootstrap"}}))
	var dids []string
	for range anchors {
		a := start(t, initHome(t, node.InitOptions{Roles: []string{"anchor"}, Bootstrap: addrs(boot)}))
		as, dids = append(as, a), append(dids, string(a.DID()))
	}
	for range agents {
		ags = append(ags, start(t, initHome(t, node.InitOptions{Bootstrap: addrs(boot), Anchors: dids, Interval: 1})))
	}
	for _, r := range append(append([]*running{}, as...), ags...) {
		wait(t, "readiness", func() bool { return r.Status().Ready })
	}
	return boot, as, ags
}

func receive(t testing.TB, r *running, after uint64, n int) []string {
	t.Helper()
	var out []string
	wait(t, fmt.Sprintf("%d messages", n), func() bool {
		msgs, err := r.Inbox(t.Context(), after, 1000, false)
		if err != nil {
			t.Fatal(err)
		}
		out = out[:0]
		for _, m := range msgs {
			out = append(out, string(m.Body))
		}
		return len(out) >= n
	})
	return out
}

// The whole slice: two agents find each other by DID, talk both ways, and a stranger
// verifies an event offline.
func TestConversationAndProof(t *testing.T) {
	_, as, ags := mesh(t, 2, 2)
	a, b := ags[0], ags[1]
	for i := range 5 {
		if _, err := a.Send(t.Context(), b.DID(), fmt.Appendf(nil, "to b %d", i)); err != nil {
			t.Fatal(err)
		}
	}
	if got := receive(t, b, 0, 5); strings.Join(got, ",") != "to b 0,to b 1,to b 2,to b 3,to b 4" {
		t.Errorf("b got %v", got)
	}
	for i := range 3 {
		if _, err := b.Send(t.Context(), a.DID(), fmt.Appendf(nil, "to a %d", i)); err != nil {
			t.Fatal(err)
		}
	}
	if got := receive(t, a, 0, 3); strings.Join(got, ",") != "to a 0,to a 1,to a 2" {
		t.Errorf("a got %v", got)
	}
	wait(t, "two cosignatures over all", func() bool {
		s := a.Status()
		return s.Cosigners == 2 && s.Witnessed >= 5
	})
	bundle, err := a.Prove(t.Context(), 2)
	if err != nil {
		t.Fatal(err)
	}
	parts, err := anchor.ReadBundle(bundle)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := identity.NewStateKeys(parts.States)
	if err != nil {
		t.Fatal(err)
	}
	policy := anchor.Policy{Quorum: 2, Witnesses: []anchor.PolicyWitness{
		{Name: string(as[0].DID()), Organisation: "one"}, {Name: string(as[1].DID()), Organisation: "two"},
	}}
	v := anchor.Verify(bundle, keys, policy, time.Now())
	if v.Level < anchor.Witnessed || !v.QuorumMet() { // more, if a minute has passed
		t.Errorf("verdict %s, %v", v, v.Problems)
	}
}

// A restart of either side loses nothing, and the session goes on.
func TestRestart(t *testing.T) {
	_, _, ags := mesh(t, 1, 2)
	a, b := ags[0], ags[1]
	if _, err := a.Send(t.Context(), b.DID(), []byte("one")); err != nil {
		t.Fatal(err)
	}
	receive(t, b, 0, 1)
	if err := b.stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Send(t.Context(), b.DID(), []byte("two")); err != nil { // waits in the outbox
		t.Fatal(err)
	}
	if err := a.stop(); err != nil {
		t.Fatal(err)
	}
	b = start(t, b.home)
	a = start(t, a.home)
	if got := receive(t, b, 0, 2); strings.Join(got, ",") != "one,two" {
		t.Errorf("b got %v", got)
	}
	if _, err := a.Send(t.Context(), b.DID(), []byte("three")); err != nil {
		t.Fatal(err)
	}
	receive(t, b, 0, 3)
	if list, err := a.Sessions().Sessions(); err != nil || len(list) != 1 {
		t.Errorf("sessions of a: %+v, %v", list, err)
	}
}

// A whole home restored from an older copy, identity and all: its next state passes the
// one that the network holds, and the audit log signs nothing before its owner has
// decided. DIR-9.
func TestRestoredHome(t *testing.T) {
	boot, _, ags := mesh(t, 1, 2)
	a, b := ags[0], ags[1]
	if _, err := a.Send(t.Context(), b.DID(), []byte("one")); err != nil {
		t.Fatal(err)
	}
	receive(t, b, 0, 1)
	if err := a.stop(); err != nil {
		t.Fatal(err)
	}
	size := a.Status().AuditSize
	copied, err := os.MkdirTemp("", "talos")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(copied) })
	copyHome(t, a.home.Dir, copied)
	for i := range 3 { // each start signs a state, and more entries
		a = start(t, a.home)
		wait(t, "readiness", func() bool { return a.Status().Ready })
		if _, err := a.Send(t.Context(), b.DID(), []byte(fmt.Sprint("more ", i))); err != nil {
			t.Fatal(err)
		}
		receive(t, b, 0, 2+i)
		wait(t, "a cosigned head beyond the copy", func() bool { s := a.Status(); return s.Witnessed > size && s.Cosigners == 1 })
		if err := a.stop(); err != nil {
			t.Fatal(err)
		}
	}
	last := a.Status().State
	copyHome(t, copied, a.home.Dir)
	a = start(t, a.home)
	wait(t, "a state above the network's", func() bool {
		r, err := boot.Directory().Resolve(t.Context(), a.DID(), directory.Options{Fresh: true})
		return err == nil && r.State.Version() == a.Status().State && r.State.Version() > last
	})
	wait(t, "a named quarantine", func() bool { return strings.Contains(a.Status().AuditErr, "rollback") })
	if _, err := a.Send(t.Context(), b.DID(), []byte("unrecorded")); contracts.CodeOf(err) != contracts.AuditQuarantined {
		t.Errorf("sending from a log in quarantine: %v", err)
	}
	if err := a.stop(); err != nil {
		t.Fatal(err)
	}
	// A copy from before a rotation ends by itself.
	if h, err := node.OpenHome(a.home.Dir); err != nil {
		t.Fatal(err)
	} else if err := h.Rotate("", false, time.Now()); err != nil {
		t.Fatal(err)
	}
	a = start(t, a.home)
	wait(t, "the rotated state in the network", func() bool {
		r, err := boot.Directory().Resolve(t.Context(), a.DID(), directory.Options{Fresh: true})
		return err == nil && r.State.SN == 1
	})
	if err := a.stop(); err != nil {
		t.Fatal(err)
	}
	copyHome(t, copied, a.home.Dir)
	h, err := node.OpenHome(a.home.Dir)
	if err != nil {
		t.Fatal(err)
	}
	n, err := node.New(t.Context(), h, logger(t))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := n.Run(ctx); contracts.CodeOf(err) != contracts.Rollback {
		t.Errorf("a copy from before a rotation: %v", err)
	}
}

// copyHome replaces a home by a copy of another.
func copyHome(t *testing.T, from, to string) {
	t.Helper()
	if err := os.RemoveAll(to); err != nil {
		t.Fatal(err)
	}
	err := filepath.WalkDir(from, func(p string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		dst := filepath.Join(to, strings.TrimPrefix(p, from))
		if d.IsDir() {
			return os.MkdirAll(dst, 0o700)
		}
		if !d.Type().IsRegular() {
			return nil // a socket
		}
		b, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		return os.WriteFile(dst, b, 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestRotateSessionAndKeys(t *testing.T) {
	_, _, ags := mesh(t, 1, 2)
	a, b := ags[0], ags[1]
	send := func(from, to *running, text string) {
		t.Helper()
		if _, err := from.Send(t.Context(), to.DID(), []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	send(a, b, "one")
	receive(t, b, 0, 1)
	time.Sleep(2100 * time.Millisecond) // prekey bundles are limited to one in two seconds
	if err := a.Sessions().Rotate(t.Context(), b.DID()); err != nil {
		t.Fatal(err)
	}
	send(a, b, "two")
	send(b, a, "three")
	receive(t, b, 0, 2)
	receive(t, a, 0, 1)
}

// GATE-1: each stream protocol of ours that a running node serves is on a surface, and
// each surface of the mesh is served by some role.
func TestEveryProtocolIsOnASurface(t *testing.T) {
	_, as, ags := mesh(t, 1, 1)
	served := map[string]bool{}
	for _, r := range []*running{as[0], ags[0]} {
		for _, id := range r.Host().Mux().Protocols() {
			if name, ours := strings.CutPrefix(string(id), "/talos/test/"); ours {
				served[name] = true
			}
		}
	}
	for _, s := range contracts.Surfaces() {
		for _, name := range s.Mesh {
			if !served[name] {
				t.Errorf("surface %s: nobody serves %s", s.ID, name)
			}
			delete(served, name)
		}
	}
	for name := range served {
		if !strings.HasPrefix(name, "kad/") {
			t.Errorf("%s is on no surface", name)
		}
	}
}

func TestBadHomes(t *testing.T) {
	h := initHome(t, node.InitOptions{})
	if _, err := node.Init(h.Dir, node.InitOptions{}); contracts.CodeOf(err) != contracts.Conflict {
		t.Errorf("a second init: %v", err)
	}
	if _, err := node.OpenHome(t.TempDir()); contracts.CodeOf(err) != contracts.NotFound {
		t.Errorf("an empty folder: %v", err)
	}
	if err := os.WriteFile(h.Dir+"/config.json", []byte(`{"v":"talos-config/1","network":"x","kind":"local","roles":["agent"],"lisen":[]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := node.OpenHome(h.Dir); contracts.CodeOf(err) != contracts.ConfigInvalid || !strings.Contains(err.Error(), "lisen") {
		t.Errorf("a misspelt key: %v", err)
	}
	first := start(t, initHome(t, node.InitOptions{}))
	again, err := node.OpenHome(first.home.Dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := node.New(t.Context(), again, logger(t)); contracts.CodeOf(err) != contracts.Busy {
		t.Errorf("a second node in one home: %v", err)
	}
}
