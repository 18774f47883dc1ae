package anchor_test

import (
	"context"
	"crypto/ed25519"
	"errors"
	"math/bits"
	"math/rand/v2"
	"testing"

	"github.com/talosprotocol/talos/anchor"
	"github.com/talosprotocol/talos/contracts"
)

// forked gives two logs whose entries are the same but for those of the indexes.
func forked(n, m int, differ ...int) (a, b *log) {
	a, b = newLog("one"), newLog("one")
	other := newLog("two").grow(max(n, m))
	one := newLog("one").grow(max(n, m))
	for i := range m {
		src := one
		for _, d := range differ {
			if d == i {
				src = other
			}
		}
		b.add(src.events[i], src.salts[i])
	}
	return a.grow(n), b
}

// prover answers for two trees, told apart by root, and counts.
func prover(asked *int, logs ...*log) anchor.Prover {
	return func(ctx context.Context, n *anchor.Note, index uint64) (anchor.Hash, []anchor.Hash, error) {
		*asked++
		for _, l := range logs {
			if uint64(len(l.leaves)) >= n.Size && l.at[n.Size].Root() == n.Root {
				proof, err := anchor.Nodes(l.read).Inclusion(ctx, index, n.Size)
				return l.leaves[index].Hash(), proof, err
			}
		}
		return anchor.Hash{}, nil, errors.New("no such tree")
	}
}

// WIT-18: the index at which two histories part is found in 1 + log2 rounds, for
// trees of any sizes and differences anywhere, and the evidence convicts alone; where
// the larger extends the smaller none is found.
func TestFindFork(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	k := keys{log: map[string]ed25519.PublicKey{origin: public("log")}}
	for range 400 {
		n := 1 + rnd.IntN(70)
		m := n + 1 + rnd.IntN(70)
		var differ []int
		for range rnd.IntN(3) {
			differ = append(differ, rnd.IntN(m))
		}
		forks := false
		for _, d := range differ {
			forks = forks || d < n
		}
		a, b := forked(n, m, differ...)
		asked := 0
		e, err := anchor.FindFork(t.Context(), b.note(m), a.note(n), prover(&asked, a, b))
		if err != nil || (e != nil) != forks {
			t.Fatalf("sizes %d and %d, other leaves at %v: %v, %v", n, m, differ, e, err)
		}
		if limit := 2 * (1 + bits.Len(uint(n))); asked > limit {
			t.Errorf("sizes %d and %d: %d questions, at most %d", n, m, asked, limit)
		}
		if e == nil {
			continue
		}
		c, err := anchor.VerifyEvidence(e.AppendCanonical(nil), k)
		if err != nil || c.Type != "B" || a.leaves[c.Below] == b.leaves[c.Below] {
			t.Fatalf("sizes %d and %d: %+v, %v", n, m, c, err)
		}
	}
}

// WIT-18: what is not proven convicts nobody: an answer of another tree, a spoiled
// one, and none.
func TestFindForkBelievesNothing(t *testing.T) {
	a, b := forked(20, 33, 7)
	x, y := a.note(20), b.note(33)
	asked := 0
	honest := prover(&asked, a, b)
	for name, p := range map[string]anchor.Prover{
		"refuses": prover(&asked, a),
		"one tree only": func(ctx context.Context, _ *anchor.Note, i uint64) (anchor.Hash, []anchor.Hash, error) {
			return honest(ctx, x, i)
		},
		"spoiled": func(ctx context.Context, n *anchor.Note, i uint64) (anchor.Hash, []anchor.Hash, error) {
			leaf, proof, err := honest(ctx, n, i)
			proof[rand.IntN(len(proof))][3] ^= 1
			return leaf, proof, err
		},
		"endless": func(ctx context.Context, n *anchor.Note, i uint64) (anchor.Hash, []anchor.Hash, error) {
			leaf, proof, err := honest(ctx, n, i)
			return leaf, append(proof, make([]anchor.Hash, 100)...), err
		},
	} {
		if e, err := anchor.FindFork(t.Context(), x, y, p); err == nil || e != nil {
			t.Errorf("%s: %v, %v", name, e, err)
		}
	}
	if e, err := anchor.FindFork(t.Context(), x, a.note(20), nil); e != nil || err != nil {
		t.Errorf("one head: %v, %v", e, err)
	}
	c, d := forked(20, 20, 3)
	e, err := anchor.FindFork(t.Context(), c.note(20), d.note(20), nil)
	if err != nil || e == nil || e.Type != "A" {
		t.Errorf("one size: %v, %v", e, err)
	}
	other := *x
	other.Origin = keyDID + "/audit/1"
	if _, err := anchor.FindFork(t.Context(), &other, y, honest); contracts.CodeOf(err) != contracts.Malformed {
		t.Errorf("two logs: %v", err)
	}
}
