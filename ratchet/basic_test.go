package ratchet_test

import (
	"bytes"
	"testing"

	"github.com/talosprotocol/talos/ratchet"
)

// Shows RAT-1, RAT-8, RAT-21.
func TestD1_PingPong(t *testing.T) {
	r := &stream{}
	a, b := newPair(t, r)
	for range 50 {
		turn(t, a, b, r)
	}
	if !a.Confirmed() || !b.Confirmed() {
		t.Error("not confirmed after many turns")
	}
}

func TestStateEncodingRoundTrip(t *testing.T) {
	r := &stream{}
	a, b := newPair(t, r)
	for i := range 20 {
		f1 := seal(t, a, "one", r)
		f2 := seal(t, a, "two", r)
		open(t, b, f2, "two")
		for _, s := range []**ratchet.State{&a, &b} {
			enc := (*s).AppendState(nil)
			back, err := ratchet.DecodeState(enc)
			if err != nil {
				t.Fatalf("turn %d: %v", i, err)
			}
			if !bytes.Equal(enc, back.AppendState(nil)) {
				t.Fatal("encoding is not stable")
			}
			*s = back
		}
		if i%2 == 0 {
			open(t, b, f1, "one")
		}
		open(t, a, seal(t, b, "three", r), "three")
	}
}
