package p2p_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ed25519"
	"io"
	"log/slog"
	"testing"
	"time"

	ds "github.com/ipfs/go-datastore"
	dssync "github.com/ipfs/go-datastore/sync"
	record "github.com/libp2p/go-libp2p-record"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/node/p2p"
)

func config(seed byte, listen ...string) p2p.Config {
	return p2p.Config{Network: "test", Kind: p2p.Local, Key: ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, 32)), Listen: listen}
}

func start(t *testing.T, cfg p2p.Config) *p2p.Host {
	t.Helper()
	h, err := p2p.New(cfg, dssync.MutexWrap(ds.NewMapDatastore()), record.NamespacedValidator{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.Close() })
	return h
}

func wait(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("no %s within 20 s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// NET-2: the limit is checked before anything is allocated.
func TestFrames(t *testing.T) {
	var b bytes.Buffer
	for _, body := range []string{"", "a", string(make([]byte, 300))} {
		if err := p2p.WriteFrame(&b, []byte(body)); err != nil {
			t.Fatal(err)
		}
	}
	r := bufio.NewReader(&b)
	for _, want := range []int{0, 1, 300} {
		if got, err := p2p.ReadFrame(r, 300); err != nil || len(got) != want {
			t.Errorf("%d bytes, %v; want %d", len(got), err, want)
		}
	}
	if _, err := p2p.ReadFrame(r, 300); err != io.EOF {
		t.Errorf("at the end: %v", err)
	}
	for name, c := range map[string]struct {
		in   []byte
		code contracts.Code
	}{
		"over the limit": {[]byte{0xac, 0x02, 0}, contracts.TooLarge}, "huge": {bytes.Repeat([]byte{0xff}, 9), contracts.Internal},
		"overflow": {bytes.Repeat([]byte{0xff}, 11), contracts.Malformed}, "cut": {[]byte{5, 1, 2}, contracts.Malformed},
	} {
		if _, err := p2p.ReadFrame(bufio.NewReader(bytes.NewReader(c.in)), 299); contracts.CodeOf(err) != c.code {
			t.Errorf("%s: %v, want %s", name, err, c.code)
		}
	}
}

func FuzzReadFrame(f *testing.F) {
	f.Add([]byte{3, 1, 2, 3, 0})
	f.Fuzz(func(t *testing.T, in []byte) {
		r := bufio.NewReader(bytes.NewReader(in))
		for {
			b, err := p2p.ReadFrame(r, 64)
			if err != nil {
				return
			}
			if len(b) > 64 {
				t.Fatalf("%d bytes", len(b))
			}
		}
	})
}

func TestBadConfigIsNamed(t *testing.T) {
	busy := start(t, config(1, "/ip4/127.0.0.1/tcp/0"))
	port := busy.Host.Network().ListenAddresses()[0].String()
	for name, c := range map[string]struct {
		change func(*p2p.Config)
		code   contracts.Code
	}{
		"network name": {func(c *p2p.Config) { c.Network = "Not A Name" }, contracts.ConfigInvalid},
		"announce":     {func(c *p2p.Config) { c.Announce = []string{"nonsense"} }, contracts.ConfigInvalid},
		"no key":       {func(c *p2p.Config) { c.Key = nil }, contracts.KeyInvalid},
		"busy port":    {func(c *p2p.Config) { c.Listen = []string{port} }, contracts.Unavailable},
	} {
		cfg := config(2)
		c.change(&cfg)
		h, err := p2p.New(cfg, dssync.MutexWrap(ds.NewMapDatastore()), record.NamespacedValidator{})
		if err == nil {
			_ = h.Close()
		}
		if contracts.CodeOf(err) != c.code {
			t.Errorf("%s: %v, want %s", name, err, c.code)
		}
	}
}

// NET-4: a cut connection comes back by itself, also after the other side restarts.
func TestPeeringBringsBack(t *testing.T) {
	a, b := start(t, config(1, "/ip4/127.0.0.1/tcp/0")), start(t, config(2))
	p := p2p.NewPeering(b, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	p.Keep(peer.AddrInfo{ID: a.ID(), Addrs: a.Addrs()}, peer.AddrInfo{ID: b.ID()})
	connected := func() bool { return b.Host.Network().Connectedness(a.ID()) == network.Connected }
	wait(t, "connection", connected)
	_ = b.Host.Network().ClosePeer(a.ID())
	wait(t, "reconnection", connected)

	addr := a.Host.Network().ListenAddresses()[0].String()
	_ = a.Close()
	wait(t, "disconnection", func() bool { return !connected() })
	again := start(t, config(1, addr))
	wait(t, "reconnection after a restart", func() bool {
		return again.Host.Network().Connectedness(b.ID()) == network.Connected
	})
	if st := p.Status(); len(st) != 1 || st[0].Peer != a.ID() {
		t.Errorf("status %+v", st)
	}
	p.Drop(a.ID())
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// Each kind of network and each role makes a host that starts and stops.
func TestKindsAndRoles(t *testing.T) {
	for _, kind := range []p2p.Kind{p2p.Private, p2p.Local} {
		for _, relay := range []bool{true, false} {
			cfg := config(7, "/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1")
			cfg.Kind, cfg.Relay, cfg.Server = kind, relay, relay
			h := start(t, cfg)
			if n := len(h.Host.Network().ListenAddresses()); n < 2 { // with a relay transport there is one more
				t.Errorf("%s, relay %v: listens on %d addresses", kind, relay, n)
			}
			if err := h.Close(); err != nil {
				t.Errorf("%s, relay %v: %v", kind, relay, err)
			}
		}
	}
}

// A network of many peers behind one address is no attack on a private network.
func TestManyConnectionsFromOneAddress(t *testing.T) {
	cfg := config(1, "/ip4/127.0.0.1/tcp/0")
	cfg.Kind = p2p.Private
	hub := start(t, cfg)
	for i := range 20 {
		c := config(byte(10 + i))
		c.Kind = p2p.Private
		h := start(t, c)
		if err := h.Connect(t.Context(), peer.AddrInfo{ID: hub.ID(), Addrs: hub.Addrs()}); err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
	}
	if n := len(hub.Host.Network().Peers()); n != 20 {
		t.Errorf("%d peers, want 20", n)
	}
}
