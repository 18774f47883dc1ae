package session_test

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
)

// guard is a door that a test opens and shuts.
type guard struct {
	shut  atomic.Bool
	shown atomic.Int64
	again atomic.Int64
	let   atomic.Int64 // messages
}

func (g *guard) Admit(_ context.Context, _ identity.DID, _ peer.ID, what string) error {
	if g.shut.Load() {
		return contracts.Errorf(contracts.NoCapability, "no")
	}
	if what == "a2a.message.receive" {
		g.let.Add(1)
	}
	return nil
}

func (g *guard) Present(_ context.Context, _ peer.ID, _ identity.DID, again bool) error {
	g.shown.Add(1)
	if again {
		g.again.Add(1)
	}
	return nil
}

// A message that the receiver's door does not let in stays with the sender, and arrives
// in its place when the door opens; what the peer may not do it is told. Answers pass
// through a shut door. Each message is let in once, also those of one run. SES-15.
func TestDoor(t *testing.T) {
	a, b := pair(t)
	ga, gb := &guard{}, &guard{}
	a.door, b.door = ga, gb
	a.fresh(t)
	b.fresh(t)
	gb.shut.Store(true)
	if _, err := a.m.Send(t.Context(), b.did, []byte("zero")); contracts.CodeOf(err) != contracts.NoCapability {
		t.Fatalf("prekeys through a shut door: %v", err)
	}
	if ga.again.Load() != 1 {
		t.Errorf("capabilities were shown again %d times", ga.again.Load())
	}
	gb.shut.Store(false)
	a.clock.Add(5000)
	a.send(t, b, "one")
	b.expect(t, "one")
	gb.shut.Store(true)
	ga.shut.Store(true) // b's acknowledgements pass all the same
	before := ga.again.Load()
	a.send(t, b, "two", "three")
	wait(t, "another showing", func() bool { return ga.again.Load() > before })
	b.expect(t, "one")
	gb.shut.Store(false)
	b.expect(t, "one", "two", "three")
	wait(t, "rest", func() bool { return a.disk.outbox() == 0 })
	if n := gb.let.Load(); n != 3 {
		t.Errorf("%d messages were let in, want 3", n)
	}
	b.send(t, a, "answer")
	before = gb.again.Load()
	wait(t, "another showing", func() bool { return gb.again.Load() > before })
	a.expect(t)
	ga.shut.Store(false)
	a.expect(t, "answer")
}
