package testnet_test

import (
	"crypto/ed25519"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/network"

	"github.com/talosprotocol/talos/anchor"
	"github.com/talosprotocol/talos/gossip"
	"github.com/talosprotocol/talos/identity"
)

// simDigests gives a maker of digests of one log, and their validator.
func simDigests(t *testing.T) (func(size uint64) []byte, func([]byte) gossip.Verdict) {
	t.Helper()
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	peerKey, err := identity.FromSeed[identity.Peer](make([]byte, ed25519.SeedSize))
	if err != nil {
		t.Fatal(err)
	}
	origin := anchor.Origin{DID: string(identity.KeyDID(peerKey.Public())), Incarnation: 1}.String()
	pub := key.Public().(ed25519.PublicKey)
	mint := func(size uint64) []byte {
		n, err := anchor.Sign(anchor.Checkpoint{Origin: origin, Size: size, Root: anchor.Hash{1}}, anchor.Key(key))
		if err != nil {
			t.Fatal(err)
		}
		d, err := n.Digest(pub)
		if err != nil {
			t.Fatal(err)
		}
		b, err := d.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	return mint, func(b []byte) gossip.Verdict {
		d, err := anchor.ParseDigest(b)
		if err != nil {
			return gossip.Reject
		}
		if _, err := d.Note(pub); err != nil {
			return gossip.Reject
		}
		return gossip.Accept
	}
}

// pass lets virtual time go by.
func pass(d time.Duration) { time.Sleep(d) }

// A checkpoint reaches 99 of 100 nodes within two seconds, over links of 100 ms and
// with about seven connections a node.
func TestSimCheckpointSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mint, judge := simDigests(t)
		s, rnd := newSim(), rand.New(rand.NewPCG(1, 1))
		s.sparse = true // each reaches only a few others
		defer s.close(t)
		for i := range 100 {
			n := s.add(t, judge)
			for _, k := range rnd.Perm(i)[:min(i, 4)] {
				s.connect(t, n, s.nodes[k])
			}
		}
		pass(10 * time.Second) // connections and meshes
		for round := range 3 {
			b := mint(uint64(round + 1))
			begin := time.Now()
			s.nodes[rnd.IntN(100)].publish(t, b)
			pass(5 * time.Second)
			n, all := s.have(b, begin.Add(2*time.Second)), s.have(b, begin.Add(time.Minute))
			at := time.Duration(0)
			for s.have(b, begin.Add(at)) < 99 && at < 5*time.Second {
				at += 10 * time.Millisecond
			}
			conns := 0
			for _, n := range s.nodes {
				conns += len(n.h.Host.Network().Peers())
			}
			t.Logf("%d connections a node; %d nodes after 2 s, %d in all; 99 after %s", conns/100, n, all, at)
			if n < 99 {
				t.Errorf("round %d: %d of 100 nodes within 2 s", round, n)
			}
		}
	})
}

// A network that was cut in two for a minute grows together by itself.
func TestSimPartitionHeals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mint, judge := simDigests(t)
		s := newSim()
		defer s.close(t)
		for i := range 20 { // the first two are the bootstraps, one in each half
			s.add(t, judge, s.nodes[:min(i, 2)]...)
		}
		together := func() bool {
			for i, n := range s.nodes {
				for _, b := range s.nodes[:min(i, 2)] {
					if n.h.Host.Network().Connectedness(b.h.ID()) != network.Connected {
						return false
					}
				}
			}
			return true
		}
		reaches := func(b []byte, from int) int {
			s.nodes[from].publish(t, b)
			pass(5 * time.Second)
			return s.have(b, time.Now())
		}
		pass(10 * time.Second)
		if n := reaches(mint(1), 7); !together() || n != 20 {
			t.Fatalf("before the cut: %d of 20", n)
		}
		s.cut.Store(true)
		pass(time.Minute)
		if n := reaches(mint(2), 7); together() || n != 10 {
			t.Errorf("during the cut: %d of 10", n)
		}
		s.cut.Store(false)
		healed := time.Now()
		for !together() {
			if time.Since(healed) > 2*time.Minute {
				t.Fatal("the halves have not found each other")
			}
			pass(time.Second)
		}
		t.Logf("together again after %s", time.Since(healed))
		pass(3 * time.Second) // meshes
		if n := reaches(mint(3), 7); n != 20 {
			t.Errorf("after the cut: %d of 20", n)
		}
		if n := reaches(mint(4), 12); n != 20 {
			t.Errorf("after the cut, from the other half: %d of 20", n)
		}
	})
}
