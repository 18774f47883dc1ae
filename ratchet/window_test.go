package ratchet_test

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/ratchet"
)

// Shows RAT-29.
func TestF1_ReorderWithinTheWindow(t *testing.T) {
	var w ratchet.Window
	for seq := uint64(ratchet.WindowSize - 1); seq > 0; seq-- {
		if from, to, err := w.Accept(seq); err != nil || from != to {
			t.Fatalf("seq %d: released [%d,%d), %v", seq, from, to, err)
		}
	}
	if _, _, err := w.Accept(ratchet.WindowSize); contracts.CodeOf(err) != contracts.FrameTooFar {
		t.Fatalf("1,025 ahead: %v", err)
	}
	if _, _, err := w.Accept(5); contracts.CodeOf(err) != contracts.FrameReplay {
		t.Fatalf("duplicate: %v", err)
	}
	from, to, err := w.Accept(0)
	if err != nil || from != 0 || to != ratchet.WindowSize {
		t.Fatalf("released [%d,%d), %v", from, to, err)
	}
	if err := w.Check(ratchet.MaxSeq); contracts.CodeOf(err) != contracts.FrameTooFar {
		t.Errorf("last number: %v", err)
	}
}

// Shows RAT-30.
func TestE9_VoidHoles(t *testing.T) {
	var w ratchet.Window
	for _, seq := range []uint64{0, 1, 70, 71} {
		if _, _, err := w.Accept(seq); err != nil {
			t.Fatal(err)
		}
	}
	before := w
	for _, h := range []struct {
		a, b, at uint64
		code     contracts.Code
	}{
		{5, 5, 70, contracts.Malformed},
		{6, 5, 70, contracts.Malformed},
		{2, 71, 70, contracts.Malformed}, // reaches past the frame that says so
		{2, 2000, 5000, contracts.FrameTooFar},
	} {
		if _, _, err := w.Void(h.a, h.b, h.at); contracts.CodeOf(err) != h.code || w != before {
			t.Errorf("hole %+v: %v", h, err)
		}
	}
	from, to, err := w.Void(2, 70, 71)
	if err != nil || from != 2 || to != 72 {
		t.Fatalf("released [%d,%d), %v", from, to, err)
	}
	if _, _, err := w.Accept(30); contracts.CodeOf(err) != contracts.FrameReplay {
		t.Errorf("a late frame of the hole: %v", err)
	}
	hole := ratchet.Hole{A: 2, B: 70}
	back, err := ratchet.DecodeHole(hole.Append(nil))
	if err != nil || back != hole {
		t.Errorf("hole: %v, %v", back, err)
	}
	for _, bad := range [][]byte{nil, hole.Append(nil)[1:], append(hole.Append(nil), 0), ratchet.Hole{A: 3, B: 3}.Append(nil)} {
		if _, err := ratchet.DecodeHole(bad); contracts.CodeOf(err) != contracts.Malformed {
			t.Errorf("hole %x: %v", bad, err)
		}
	}
}

// Shows RAT-29, RAT-31: the window agrees with a plain set, and its encoding is
// its only one.
func TestWindowAgreesWithASet(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var w ratchet.Window
		seen := map[uint64]bool{}
		var next uint64
		for range rapid.IntRange(1, 300).Draw(rt, "steps") {
			seq := next + rapid.Uint64Range(0, 1100).Draw(rt, "seq")
			if rapid.Bool().Draw(rt, "near") {
				seq = next + seq%4
			}
			want := !seen[seq] && seq >= next && seq < next+ratchet.WindowSize
			from, to, err := w.Accept(seq)
			if (err == nil) != want {
				rt.Fatalf("seq %d at %d: %v", seq, next, err)
			}
			if want {
				seen[seq] = true
			}
			if from != next {
				rt.Fatalf("released from %d, want %d", from, next)
			}
			for seen[next] {
				next++
			}
			if to != next || w.Next() != next {
				rt.Fatalf("released to %d, want %d", to, next)
			}
		}
		enc := w.Append(nil)
		back, err := ratchet.DecodeWindow(enc)
		if err != nil || back != w || !bytes.Equal(back.Append(nil), enc) {
			rt.Fatalf("round trip: %v", err)
		}
	})
}
