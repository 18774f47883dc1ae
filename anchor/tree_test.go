package anchor_test

import (
	"context"
	"testing"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"golang.org/x/mod/sumdb/tlog"
	"pgregory.net/rapid"

	"github.com/talosprotocol/talos/anchor"
)

func raw(hs []anchor.Hash) [][]byte {
	out := make([][]byte, len(hs))
	for i := range hs {
		out[i] = hs[i][:]
	}
	return out
}

// TestRow32_SmallTreesAndPowersOfTwo compares roots and all proofs of every size up
// to 140 with x/mod tlog and transparency-dev/merkle. AUD-5.
func TestRow32_SmallTreesAndPowersOfTwo(t *testing.T) {
	l := newLog("a").grow(140)
	var stored []tlog.Hash
	read := tlog.HashReaderFunc(func(ix []int64) ([]tlog.Hash, error) {
		out := make([]tlog.Hash, len(ix))
		for i, x := range ix {
			out[i] = stored[x]
		}
		return out, nil
	})
	r := (&compact.RangeFactory{Hash: rfc6962.DefaultHasher.HashChildren}).NewEmptyRange(0)
	if l.at[0].Root() != anchor.Hash(rfc6962.DefaultHasher.EmptyRoot()) {
		t.Error("the root of the empty tree differs")
	}
	for size := 1; size <= 140; size++ {
		leaf := l.leaves[size-1]
		hs, err := tlog.StoredHashes(int64(size-1), leaf[:], read)
		if err != nil {
			t.Fatal(err)
		}
		stored = append(stored, hs...)
		if err := r.Append(rfc6962.DefaultHasher.HashLeaf(leaf[:]), nil); err != nil {
			t.Fatal(err)
		}
		root := l.at[size].Root()
		th, _ := tlog.TreeHash(int64(size), read)
		ch, _ := r.GetRootHash(nil)
		if root != anchor.Hash(th) || root != anchor.Hash(ch) {
			t.Fatalf("size %d: roots differ", size)
		}
		checkProofs(t, l, size, root)
	}
	for i := range stored {
		if l.nodes[i] != anchor.Hash(stored[i]) {
			t.Fatalf("node %d differs from tlog's", i)
		}
	}
	if anchor.NodeCount(140) != uint64(len(stored)) {
		t.Error("NodeCount differs from tlog's")
	}
}

// checkProofs makes every proof of one size, and has us and merkle verify it.
func checkProofs(t *testing.T, l *log, size int, root anchor.Hash) {
	t.Helper()
	for i := range size {
		p := l.inclusion(i, size)
		h := l.leaves[i].Hash()
		if err := anchor.VerifyInclusion(uint64(i), uint64(size), h, root, p); err != nil {
			t.Fatalf("index %d of %d: %v", i, size, err)
		}
		if err := proof.VerifyInclusion(rfc6962.DefaultHasher, uint64(i), uint64(size), h[:], raw(p), root[:]); err != nil {
			t.Fatalf("index %d of %d: merkle says %v", i, size, err)
		}
	}
	for from := 0; from <= size; from++ {
		p, err := anchor.Nodes(l.read).Consistency(context.Background(), uint64(from), uint64(size))
		if err != nil {
			t.Fatal(err)
		}
		old := l.at[from].Root()
		if err := anchor.VerifyConsistency(uint64(from), uint64(size), old, root, p); err != nil {
			t.Fatalf("from %d to %d: %v", from, size, err)
		}
		if err := proof.VerifyConsistency(rfc6962.DefaultHasher, uint64(from), uint64(size), raw(p), old[:], root[:]); err != nil {
			t.Fatalf("from %d to %d: merkle says %v", from, size, err)
		}
	}
}

// TestTreeRefusals holds the verifiers to the verdicts of merkle on proofs that are
// wrong in one place.
func TestTreeRefusals(t *testing.T) {
	l := newLog("a").grow(300)
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.IntRange(1, 300).Draw(t, "size")
		from := rapid.IntRange(0, size).Draw(t, "from")
		index := rapid.IntRange(0, size-1).Draw(t, "index")
		inc := l.inclusion(index, size)
		con, _ := anchor.Nodes(l.read).Consistency(context.Background(), uint64(from), uint64(size))
		vi, vf, vs := uint64(index), uint64(from), uint64(size)
		change := func(p []anchor.Hash) []anchor.Hash {
			switch k := rapid.IntRange(0, 4).Draw(t, "change"); {
			case k == 0:
				return append(p, anchor.Hash{1})
			case k == 1 && len(p) > 0:
				return p[1:]
			case k == 2 && len(p) > 0:
				p[rapid.IntRange(0, len(p)-1).Draw(t, "at")][rapid.IntRange(0, 31).Draw(t, "byte")] ^= 1
			case k == 3:
				vs += uint64(rapid.IntRange(0, 3).Draw(t, "size+"))
				vi += uint64(rapid.IntRange(0, 3).Draw(t, "index+"))
				vf += uint64(rapid.IntRange(0, 3).Draw(t, "from+"))
			}
			return p
		}
		inc, con = change(inc), change(con)
		h, old, root := l.leaves[index].Hash(), l.at[from].Root(), l.at[size].Root()
		want := proof.VerifyInclusion(rfc6962.DefaultHasher, vi, vs, h[:], raw(inc), root[:])
		if got := anchor.VerifyInclusion(vi, vs, h, root, inc); (got == nil) != (want == nil) {
			t.Fatalf("inclusion: we say %v, merkle says %v", got, want)
		}
		want = proof.VerifyConsistency(rfc6962.DefaultHasher, vf, vs, raw(con), old[:], root[:])
		// merkle takes any old root at size 0, where we ask for the empty one.
		if got := anchor.VerifyConsistency(vf, vs, old, root, con); (got == nil) != (want == nil) && vf != 0 {
			t.Fatalf("consistency from %d to %d: we say %v, merkle says %v", vf, vs, got, want)
		}
	})
}
