package handshake_test

import (
	"bytes"
	"testing"

	"github.com/talosprotocol/talos/ratchet/handshake"
)

// FuzzBundle: no input panics; what decodes but is not the genuine bundle does
// not verify.
func FuzzBundle(f *testing.F) {
	a, b := newParty(f, "Alice", 1), newParty(f, "Bob", 2)
	one, none := b.bundle(f, true), b.bundle(f, false)
	f.Add(one)
	f.Add(none)
	f.Fuzz(func(t *testing.T, in []byte) {
		x, err := handshake.DecodeBundle(in)
		if err != nil || bytes.Equal(in, one) || bytes.Equal(in, none) {
			return
		}
		if x.Verify(b.card.DID, 0, t0, directory(a, b)) == nil {
			t.Fatal("a forged bundle verifies")
		}
	})
}

// FuzzAccept: no input but the genuine flight is accepted, and none changes the
// prekeys.
func FuzzAccept(f *testing.F) {
	a, b := newParty(f, "Alice", 1), newParty(f, "Bob", 2)
	// The same flights in each worker process.
	p := initiator(a, b).WithKEMRandom([32]byte{1})
	i := initiate(f, p, b.bundle(f, true))
	j := initiate(f, p, b.bundle(f, false))
	f.Add(i.Flight)
	f.Add(j.Flight)
	before := b.prekeys.Append(nil)
	f.Fuzz(func(t *testing.T, in []byte) {
		_, _ = handshake.Inspect(in)
		_, err := handshake.Accept(responder(a, b), in)
		if err == nil && !bytes.Equal(in, i.Flight) && !bytes.Equal(in, j.Flight) {
			t.Fatal("a forged flight is accepted")
		}
		if !bytes.Equal(before, b.prekeys.Append(nil)) {
			t.Fatal("the prekeys changed")
		}
	})
}

// FuzzDecodeCard: what decodes has this one encoding.
func FuzzDecodeCard(f *testing.F) {
	enc, _ := newParty(f, "Alice", 1).card.Append(nil)
	f.Add(enc)
	f.Fuzz(func(t *testing.T, in []byte) {
		c, err := handshake.DecodeCard(in)
		if err != nil {
			return
		}
		if out, err := c.Append(nil); err != nil || !bytes.Equal(out, in) {
			t.Fatalf("a card has two encodings: %v", err)
		}
	})
}

// FuzzDecodePrekeys: what decodes has this one encoding and can be used.
func FuzzDecodePrekeys(f *testing.F) {
	b := newParty(f, "Bob", 2)
	f.Add(b.prekeys.Append(nil))
	b.bundle(f, true)
	b.bundle(f, false)
	f.Add(b.prekeys.Append(nil))
	f.Fuzz(func(t *testing.T, in []byte) {
		p, err := handshake.DecodePrekeys(in)
		if err != nil {
			return
		}
		if !bytes.Equal(p.Append(nil), in) {
			t.Fatal("a holder has two encodings")
		}
		p.Expire(t0)
		_ = p.Available()
	})
}
