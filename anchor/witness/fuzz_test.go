package witness_test

import (
	"bytes"
	"testing"

	"github.com/talosprotocol/talos/anchor/anchortest"
	"github.com/talosprotocol/talos/anchor/witness"
)

// FuzzRequest hunts for a body with two encodings.
func FuzzRequest(f *testing.F) {
	tr := newTree(40, "a", 0)
	f.Add(witness.AppendRequest(nil, witness.Request{OldSize: 7, Proof: tr.proof(7, 40), Note: tr.note(40)}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := witness.ParseRequest(b); err == nil && !bytes.Equal(witness.AppendRequest(nil, r), b) {
			t.Errorf("%q is read, and written as %q", b, witness.AppendRequest(nil, r))
		}
	})
}

// FuzzResponse hunts for panics, and for success with an error.
func FuzzResponse(f *testing.F) {
	f.Add(witness.Answer([]byte("— w AAAA\n"), nil).Append(nil))
	f.Add(witness.Answer(nil, &witness.Stale{Size: 7}).Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if line, err := witness.ParseResponse(b); err != nil && line != nil {
			t.Errorf("%q: both a line and %v", b, err)
		}
	})
}

// FuzzRecord hunts for panics on a damaged database.
func FuzzRecord(f *testing.F) {
	s := newStand(f)
	tr := newTree(20, "a", 0)
	want(f, s.add(f, tr, 0, 10), 200, "")
	b, _ := s.db.Load(f.Context(), tr.origin)
	f.Add(b)
	note, digest, proof := tr.note(20), tr.digest(20), tr.proof(10, 20)
	f.Fuzz(func(t *testing.T, b []byte) {
		if b == nil {
			return
		}
		s := newStand(t)
		if err := s.db.Swap(t.Context(), tr.origin, nil, b); err != nil {
			t.Fatal(err)
		}
		_, _ = s.AddCheckpoint(t.Context(), 10, proof, note)
		_, _ = s.Observe(t.Context(), digest)
		_, _ = s.Evidence(t.Context(), tr.origin)
		_, _ = s.Head(t.Context(), tr.origin)
	})
}

var _ witness.Store = (*anchortest.WitnessDB)(nil)
