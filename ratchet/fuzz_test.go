package ratchet_test

import (
	"bytes"
	"testing"

	"github.com/talosprotocol/talos/ratchet"
)

// FuzzDecodeState: what decodes has this one encoding (RAT-31).
func FuzzDecodeState(f *testing.F) {
	r := &stream{}
	a, b := newPair(f, r)
	f.Add(a.AppendState(nil))
	f.Add(b.AppendState(nil))
	seal(f, a, "lost", r)
	turn(f, a, b, r)
	f.Add(b.AppendState(nil))
	f.Add(a.AppendState(nil))
	p, _ := fiveOldChains(f)
	f.Add(p.AppendState(nil))
	frame := seal(f, a, "x", r)
	f.Fuzz(func(t *testing.T, in []byte) {
		s, err := ratchet.DecodeState(in)
		if err != nil {
			return
		}
		if !bytes.Equal(s.AppendState(nil), in) {
			t.Fatal("a state has two encodings")
		}
		r := &stream{}
		_ = s.Info()
		_, _ = s.Open(nil, frame, t0)
		s.Discard()
		_, _, _ = s.AppendSeal(nil, ratchet.Outgoing{Body: []byte("x")}, t0, r)
		_ = s.Reserve(t0, r)
		if _, err := ratchet.DecodeState(s.AppendState(nil)); err != nil {
			t.Fatalf("a used state does not decode: %v", err)
		}
	})
}

// FuzzDecodeFrame: no input panics, and what is refused costs nothing.
func FuzzDecodeFrame(f *testing.F) {
	r := &stream{}
	a, _ := newPair(f, r)
	f.Add(seal(f, a, "x", r))
	f.Add([]byte{2, 0, 2, 0})
	f.Fuzz(func(t *testing.T, in []byte) {
		if err := ratchet.CheckFrame(in); err == nil && (len(in) > ratchet.MaxFrame || in[0] != ratchet.Version) {
			t.Fatal("accepted a frame of another form")
		}
	})
}

// FuzzOpen: no input but the genuine frames opens, and none changes the state.
func FuzzOpen(f *testing.F) {
	r := &stream{}
	a, b := newPair(f, r)
	turn(f, a, b, r)
	genuine := [][]byte{seal(f, a, "one", r), seal(f, a, "two", r)}
	enc := b.AppendState(nil)
	for _, g := range genuine {
		f.Add(g)
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		s, err := ratchet.DecodeState(enc)
		if err != nil {
			t.Fatal(err)
		}
		_, err = s.Open(nil, in, t0)
		if err == nil {
			if !bytes.Equal(in, genuine[0]) && !bytes.Equal(in, genuine[1]) {
				t.Fatal("a forged frame opened")
			}
			s.Discard()
		}
		if !bytes.Equal(enc, s.AppendState(nil)) {
			t.Fatal("state changed")
		}
	})
}

// FuzzExtensions: header extensions from a genuine peer.
func FuzzExtensions(f *testing.F) {
	f.Add(ratchet.AppendExt(nil, 7, []byte("x")))
	f.Fuzz(func(t *testing.T, ext []byte) {
		if len(ext) > 1280 {
			return
		}
		r := &stream{}
		a, b := newPair(t, r)
		turn(t, a, b, r)
		turn(t, a, b, r)
		frame, err := a.SealExt(ratchet.Outgoing{}, ext, t0, r)
		if err != nil {
			t.Fatal(err)
		}
		before := b.AppendState(nil)
		if _, err := b.Open(nil, frame, t0); err != nil && !bytes.Equal(before, b.AppendState(nil)) {
			t.Fatal("state changed")
		}
	})
}

func FuzzDecodeWindow(f *testing.F) {
	var w ratchet.Window
	f.Add(w.Append(nil))
	_, _, _ = w.Accept(5)
	f.Add(w.Append(nil))
	f.Fuzz(func(t *testing.T, in []byte) {
		w, err := ratchet.DecodeWindow(in)
		if err == nil && !bytes.Equal(w.Append(nil), in) {
			t.Fatal("a window has two encodings")
		}
		if h, err := ratchet.DecodeHole(in); err == nil && !bytes.Equal(h.Append(nil), in) {
			t.Fatal("a hole has two encodings")
		}
	})
}

// TestE6_StateVersions: a version that is not known is refused by name.
// Shows RAT-31.
func TestE6_StateVersions(t *testing.T) {
	r := &stream{}
	a, b := newPair(t, r)
	seal(t, a, "lost", r)
	turn(t, a, b, r)
	enc := b.AppendState(nil)
	for v := range 256 {
		bad := bytes.Clone(enc)
		bad[0] = byte(v)
		if _, err := ratchet.DecodeState(bad); (err == nil) != (v == 1) {
			t.Errorf("version %d: %v", v, err)
		}
	}
	for n := range enc {
		if _, err := ratchet.DecodeState(enc[:n]); err == nil {
			t.Fatalf("decoded a state cut to %d bytes", n)
		}
	}
	if _, err := ratchet.DecodeState(append(enc, 0)); err == nil {
		t.Error("decoded a state with a byte too many")
	}
}
