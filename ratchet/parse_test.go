package ratchet_test

import (
	"bytes"
	"testing"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/ratchet"
)

// Shows RAT-1: no truncation of a frame opens, panics or allocates.
func TestA1_EveryTruncation(t *testing.T) {
	r := &stream{}
	a, b := newPair(t, r)
	frame := seal(t, a, "hello", r)
	for n := range frame {
		refuse(t, b, frame[:n])
	}
	// Short frames cost nothing: a truncated one that still parses fails at its
	// payload, after the X25519 of nobody.
	for _, n := range []int{0, 1, 4, 16, 80, 140} {
		if got := testing.AllocsPerRun(10, func() { _, _ = b.Open(nil, frame[:n], t0) }); got != 0 {
			t.Errorf("truncation to %d: %v allocations", n, got)
		}
	}
	open(t, b, frame, "hello")
}

// Shows RAT-10, RAT-21: each bit of a frame is authenticated, and a refused copy
// costs the genuine frame nothing.
func TestA2_EveryBitFlip(t *testing.T) {
	r := &stream{}
	a, b := newPair(t, r)
	turn(t, a, b, r)
	frame := seal(t, a, "hello", r)
	bad := bytes.Clone(frame)
	for i := range 8 * len(frame) {
		bad[i/8] ^= 1 << (i % 8)
		refuse(t, b, bad, contracts.RatchetAuthFailed, contracts.UnsupportedVersion,
			contracts.RatchetInvalidHeader, contracts.Malformed)
		bad[i/8] ^= 1 << (i % 8)
	}
	open(t, b, frame, "hello")
}

// Shows RAT-1, RAT-2, RAT-4, RAT-5.
func TestA3_FormErrors(t *testing.T) {
	r := &stream{}
	a, b := newPair(t, r)
	turn(t, a, b, r)
	good := seal(t, a, "hello", r)
	edit := func(f func(b []byte) []byte) []byte { return f(bytes.Clone(good)) }
	for name, c := range map[string]struct {
		frame []byte
		code  contracts.Code
	}{
		"trailing byte": {edit(func(b []byte) []byte { return append(b, 0) }), contracts.RatchetAuthFailed},
		"version 1":     {edit(func(b []byte) []byte { b[0] = 1; return b }), contracts.UnsupportedVersion},
		"suite 3":       {edit(func(b []byte) []byte { b[2] = 3; return b }), contracts.UnsupportedVersion},
		"class 3":       {edit(func(b []byte) []byte { b[3] = 3; return b }), contracts.RatchetInvalidHeader},
		"flag 0x04":     {edit(func(b []byte) []byte { b[3] |= 4; return b }), contracts.RatchetInvalidHeader},
		"class 2 cut":   {edit(func(b []byte) []byte { b[3] = 2; return b }), contracts.Malformed},
	} {
		t.Run(name, func(t *testing.T) { refuse(t, b, c.frame, c.code) })
	}
	turn(t, b, a, r) // the frames that follow open still
}

// Shows RAT-5: unknown extensions are ignored, malformed ones refused.
func TestA3_Extensions(t *testing.T) {
	r := &stream{}
	a, b := newPair(t, r)
	turn(t, a, b, r)
	turn(t, a, b, r)
	x := ratchet.AppendExt(nil, 700, make([]byte, 1184)) // as long as an ML-KEM key
	for name, c := range map[string]struct {
		ext []byte
		ok  bool
	}{
		"unknown":         {x, true},
		"two":             {ratchet.AppendExt(ratchet.AppendExt(nil, 5, nil), 6, []byte{1}), true},
		"twice the same":  {ratchet.AppendExt(ratchet.AppendExt(nil, 5, nil), 5, nil), false},
		"falling":         {ratchet.AppendExt(ratchet.AppendExt(nil, 6, nil), 5, nil), false},
		"type 0":          {ratchet.AppendExt(nil, 0, nil), false},
		"past the end":    {[]byte{0, 9, 0, 5, 1}, false},
		"only half a TLV": {[]byte{0, 9}, false},
	} {
		t.Run(name, func(t *testing.T) {
			f, err := a.SealExt(ratchet.Outgoing{Body: []byte("x")}, c.ext, t0, r)
			if err != nil {
				t.Fatal(err)
			}
			if c.ok {
				open(t, b, f, "x")
			} else {
				refuse(t, b, f, contracts.RatchetInvalidHeader)
			}
		})
	}
}

func ptr[T any](v T) *T { return &v }

// Shows RAT-4, RAT-17, RAT-24: numbers at their limits, from a peer that holds
// the keys.
func TestA4_NumbersAtTheirLimits(t *testing.T) {
	r := &stream{}
	a, b := newPair(t, r)
	turn(t, a, b, r)
	turn(t, a, b, r)
	open(t, b, seal(t, a, "now", r), "now")
	for name, c := range map[string]struct {
		e    ratchet.HeaderEdit
		code contracts.Code
	}{
		"n max":        {ratchet.HeaderEdit{N: ptr(^uint32(0))}, contracts.RatchetInvalidHeader},
		"n max-1":      {ratchet.HeaderEdit{N: ptr(^uint32(0) - 1)}, contracts.RatchetInvalidHeader},
		"n 2^16":       {ratchet.HeaderEdit{N: ptr(uint32(1 << 16)), Seq: ptr(uint64(1<<16 + 2))}, contracts.RatchetInvalidHeader},
		"n 2^16-1":     {ratchet.HeaderEdit{N: ptr(uint32(1<<16 - 1)), Seq: ptr(uint64(1<<16 + 1))}, contracts.RatchetMaxSkip},
		"n 0":          {ratchet.HeaderEdit{N: ptr(uint32(0)), Seq: ptr(uint64(2))}, contracts.FrameReplay},
		"pn max":       {ratchet.HeaderEdit{PN: ptr(^uint32(0))}, contracts.RatchetInvalidHeader},
		"seq 0":        {ratchet.HeaderEdit{Seq: ptr(uint64(0))}, contracts.RatchetInvalidHeader},
		"seq max":      {ratchet.HeaderEdit{Seq: ptr(^uint64(0))}, contracts.RatchetInvalidHeader},
		"seq 2^63-1":   {ratchet.HeaderEdit{Seq: ptr(uint64(1<<63 - 1))}, contracts.RatchetInvalidHeader},
		"receipt max":  {ratchet.HeaderEdit{Receipt: ptr(^uint64(0))}, contracts.RatchetInvalidHeader},
		"receipt 2^63": {ratchet.HeaderEdit{Receipt: ptr(uint64(1 << 63))}, contracts.RatchetInvalidHeader},
	} {
		t.Run(name, func(t *testing.T) { refuse(t, b, a.SealEdited(nil, c.e, r), c.code) })
	}
	open(t, b, a.SealEdited([]byte("ok"), ratchet.HeaderEdit{}, r), "ok")
}

// Shows RAT-24: a chain ends at 2^16, on both sides.
func TestA4_ChainEnds(t *testing.T) {
	r := &stream{}
	a, b := newPair(t, r)
	turn(t, a, b, r)
	open(t, b, seal(t, a, "x", r), "x")
	a.JumpChain(ratchet.MaxChain - 1)
	b.JumpRecv(ratchet.MaxChain - 1)
	open(t, b, seal(t, a, "last", r), "last")
	before := a.AppendState(nil)
	_, _, err := a.AppendSeal(nil, ratchet.Outgoing{}, t0, r)
	if contracts.CodeOf(err) != contracts.SessionState || !bytes.Equal(before, a.AppendState(nil)) {
		t.Fatalf("sealed past the end of a chain: %v", err)
	}
	if err := a.Reserve(t0, r); contracts.CodeOf(err) != contracts.SessionState {
		t.Fatalf("reserved past the end of a chain: %v", err)
	}
	open(t, a, seal(t, b, "fresh key", r), "fresh key")
	open(t, b, seal(t, a, "goes on", r), "goes on")
}

// Shows RAT-3: the cap of a frame, met before anything else is looked at. (The
// original's 1 MiB is 64 KiB here: larger content is chunked above.)
func TestA5_FrameSize(t *testing.T) {
	r := &stream{}
	a, b := newPair(t, r)
	big := string(make([]byte, ratchet.MaxBody))
	f := seal(t, a, big, r)
	if len(f) > ratchet.MaxFrame {
		t.Fatalf("largest frame has %d bytes", len(f))
	}
	open(t, b, f, big)
	if _, _, err := a.AppendSeal(nil, ratchet.Outgoing{Body: make([]byte, ratchet.MaxBody+1)}, t0, r); contracts.CodeOf(err) != contracts.FrameSize {
		t.Fatalf("body too long: %v", err)
	}
	huge := make([]byte, ratchet.MaxFrame+1)
	refuse(t, b, huge, contracts.FrameSize)
	refuse(t, b, huge[:ratchet.MaxFrame], contracts.UnsupportedVersion)
	if n := testing.AllocsPerRun(10, func() { _, _ = b.Open(nil, huge, t0) }); n != 0 {
		t.Errorf("refusing a huge frame: %v allocations", n)
	}
}

// Shows RAT-6: the sizes that an observer sees.
func TestPaddingBuckets(t *testing.T) {
	for n := 1; n <= ratchet.MaxBody+3; n++ {
		p := ratchet.PaddedLen(n)
		if p < n || p%64 != 0 || n > 1280 && p-n > n/20 || p-n >= 64 && n < 2560 {
			t.Fatalf("%d is padded to %d", n, p)
		}
	}
}

// Shows RAT-6: a body may not be told in two ways.
func TestPayloadHasOneEncoding(t *testing.T) {
	r := &stream{}
	a, b := newPair(t, r)
	if _, _, err := a.AppendSeal(nil, ratchet.Outgoing{Kind: 0x80}, t0, r); contracts.CodeOf(err) != contracts.Malformed {
		t.Errorf("kind 0x80: %v", err)
	}
	for _, n := range []int{0, 1, 60, 61, 62, 1000, 1023, 1024, 1025, 5000} {
		body := string(bytes.Repeat([]byte{0}, n))
		open(t, b, seal(t, a, body, r), body)
	}
}
