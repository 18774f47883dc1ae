package witness_test

import (
	"crypto/ed25519"
	"testing"
	"time"

	"github.com/talosprotocol/talos/anchor"
	"github.com/talosprotocol/talos/anchor/witness"
)

// BenchmarkStep is a witness's whole step: open, consistency, store, cosign. The
// metric of-bare compares it with the primitives alone, measured in the same run:
// one verification, one proof of a tree of a million's depth, one signature.
func BenchmarkStep(b *testing.B) {
	const size = 1 << 14
	tr := newTree(size+64, "a", 0)
	s := newStand(b, func(o *witness.Options) { o.Burst = 1 << 30; o.Every = 1 })
	if err := s.add(b, tr, 0, size); err != nil {
		b.Fatal(err)
	}
	note, proof := tr.note(size+63), tr.proof(size, size+63)
	record, _ := s.db.Load(b.Context(), tr.origin)
	n, _ := anchor.ParseNote(note)
	text, pub := n.Checkpoint.Append(nil), key(tr.origin).Public().(ed25519.PublicKey)
	old, root, wk := tr.at[size].Root(), tr.at[size+63].Root(), key("witness")
	primitives := func() {
		ed25519.Verify(pub, text, n.Signatures[0].Body)
		_ = anchor.VerifyConsistency(size, size+63, old, root, proof)
		ed25519.Sign(wk, text)
	}
	s.opt.Keys = fixed{pub}
	w, err := witness.Open(b.Context(), s.opt)
	if err != nil {
		b.Fatal(err)
	}
	var bare time.Duration
	rounds := 0
	b.ReportAllocs()
	for b.Loop() {
		if _, err := w.AddCheckpoint(b.Context(), size, proof, note); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		got, _ := s.db.Load(b.Context(), tr.origin)
		if err := s.db.Swap(b.Context(), tr.origin, got, record); err != nil {
			b.Fatal(err)
		}
		if rounds++; rounds%16 == 0 { // interleaved, so that other load hits both alike
			start := time.Now()
			primitives()
			bare += time.Since(start)
		}
		b.StartTimer()
	}
	if k := rounds / 16; k > 0 {
		b.ReportMetric(float64(bare)/float64(k)*float64(b.N)/float64(b.Elapsed()), "of-bare")
	}
}

// fixed is a resolver without the cost of deriving test keys.
type fixed struct{ key ed25519.PublicKey }

func (f fixed) LogKey(string) (ed25519.PublicKey, error)     { return f.key, nil }
func (f fixed) WitnessKey(string) (ed25519.PublicKey, error) { return f.key, nil }
