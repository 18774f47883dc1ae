package gossip_test

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/gossip"
)

func newHost(t *testing.T) host.Host {
	t.Helper()
	h, err := libp2p.New(libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"), libp2p.DisableMetrics())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.Close() })
	return h
}

func newGossip(t *testing.T, h host.Host, network string) *gossip.Gossip {
	t.Helper()
	g, err := gossip.New(h, gossip.Config{Network: network}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = g.Close() })
	return g
}

// judge accepts what begins with "good", rejects what begins with "bad".
func judge(b []byte) gossip.Verdict {
	switch {
	case len(b) >= 4 && string(b[:4]) == "good":
		return gossip.Accept
	case len(b) >= 3 && string(b[:3]) == "bad":
		return gossip.Reject
	}
	return gossip.Ignore
}

type inbox struct {
	mu  sync.Mutex
	got map[string]int
}

func (i *inbox) take(_ context.Context, b []byte) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.got == nil {
		i.got = map[string]int{}
	}
	i.got[string(b)]++
}

func (i *inbox) count(s string) int { i.mu.Lock(); defer i.mu.Unlock(); return i.got[s] }

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

// NET-3: the payload's validator decides; a line of three hosts relays what is
// accepted, once, and nothing else.
func TestRelayOnce(t *testing.T) {
	hosts := []host.Host{newHost(t), newHost(t), newHost(t)}
	var boxes [3]inbox
	var topics [3]*gossip.Topic
	for i, h := range hosts {
		var err error
		if topics[i], err = newGossip(t, h, "test").Join("news", "1", judge, boxes[i].take); err != nil {
			t.Fatal(err)
		}
		if i > 0 {
			if err := h.Connect(t.Context(), peer.AddrInfo{ID: hosts[i-1].ID(), Addrs: hosts[i-1].Addrs()}); err != nil {
				t.Fatal(err)
			}
		}
	}
	wait(t, "mesh", func() bool {
		return len(topics[0].Peers()) == 1 && len(topics[1].Peers()) == 2 && len(topics[2].Peers()) == 1
	})
	for _, i := range []int{0, 2} { // the same payload from both ends is one message
		if err := topics[i].Publish(t.Context(), []byte("good news")); err != nil && i == 0 {
			t.Fatal(err)
		}
	}
	_ = topics[0].Publish(t.Context(), []byte("old news"))
	if err := topics[0].Publish(t.Context(), []byte("bad news")); contracts.CodeOf(err) != contracts.Malformed {
		t.Errorf("publishing what the validator rejects: %v", err)
	}
	wait(t, "delivery", func() bool { return boxes[1].count("good news") > 0 })
	// Until the mesh has formed, a message is not passed on: say it anew until it is.
	last, n := "", 0
	wait(t, "the later message", func() bool {
		if last != "" && boxes[2].count(last) == 1 && boxes[1].count(last) == 1 {
			return true
		}
		n++
		last = fmt.Sprintf("good bye %d", n)
		if err := topics[0].Publish(t.Context(), []byte(last)); err != nil {
			t.Fatal(err)
		}
		deadline := time.Now().Add(200 * time.Millisecond)
		for time.Now().Before(deadline) && boxes[2].count(last) == 0 {
			time.Sleep(5 * time.Millisecond)
		}
		return false
	})
	if n := boxes[1].count("good news"); n != 1 {
		t.Errorf("delivered %d times", n)
	}
	if boxes[2].count("old news")+boxes[1].count("old news") > 0 {
		t.Error("an ignored message was delivered")
	}
}

// NET-1: networks share no topic.
func TestNetworksDoNotMix(t *testing.T) {
	a, b := newHost(t), newHost(t)
	var box inbox
	ta, err := newGossip(t, a, "one").Join("news", "1", judge, nil)
	if err != nil {
		t.Fatal(err)
	}
	tb, err := newGossip(t, b, "two").Join("news", "1", judge, box.take)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Connect(t.Context(), peer.AddrInfo{ID: b.ID(), Addrs: b.Addrs()}); err != nil {
		t.Fatal(err)
	}
	if err := ta.Publish(t.Context(), []byte("good news")); err != nil {
		t.Fatal(err)
	}
	if len(ta.Peers())+len(tb.Peers()) > 0 {
		t.Error("peers of another network are in the topic")
	}
}
