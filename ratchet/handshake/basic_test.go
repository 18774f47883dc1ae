package handshake_test

import (
	"testing"

	"github.com/talosprotocol/talos/ratchet/handshake"
)

// Shows HS-1, HS-10, HS-12, HS-20.
func TestHandshake(t *testing.T) {
	for _, oneTime := range []bool{true, false} {
		a, b := newParty(t, "Alice", 1), newParty(t, "Bob", 2)
		i := initiate(t, initiator(a, b), b.bundle(t, oneTime))
		acc, err := handshake.Accept(responder(a, b), i.Flight)
		if err != nil {
			t.Fatal(err)
		}
		if string(acc.First.Body) != "hello" || acc.OneTime != oneTime || i.OneTime != oneTime {
			t.Fatalf("got %q, one-time %v and %v", acc.First.Body, acc.OneTime, i.OneTime)
		}
		if acc.Transcript != i.Transcript || acc.Peer.DID != a.card.DID || i.Peer.DID != b.card.DID {
			t.Fatal("the two sides disagree")
		}
		if i.State.Confirmed() || acc.State.Confirmed() {
			t.Fatal("confirmed too early")
		}
		exchange(t, acc.State, i.State, b.rand, "reply")
		if !i.State.Confirmed() || acc.State.Confirmed() {
			t.Fatal("the initiator is confirmed by the reply, the responder is not")
		}
		exchange(t, i.State, acc.State, a.rand, "again")
		if !acc.State.Confirmed() {
			t.Fatal("the responder is confirmed by the answer")
		}
	}
}
