package anchor

import (
	"context"

	"github.com/talosprotocol/talos/contracts"
)

// Prover gives the leaf hash at an index of the tree that a note signs, with its
// inclusion proof. [FindFork] checks what it gives; its errors end the search.
type Prover func(ctx context.Context, n *Note, index uint64) (leaf Hash, proof []Hash, err error)

// FindFork compares the histories behind two notes of one log, whose signatures the
// caller has verified. It gives evidence if they contradict each other, and nil if the
// larger extends the smaller: both are then proven, by what prove gave. An error means
// that neither is: those of prove, or PROOF_INVALID if what it gave is not of those
// trees, which accuses nobody.
//
// Notes of one size need no questions. For others prove is asked twice a round, once
// for each tree, and there are at most 1 + log2 of the smaller size rounds. The first
// is about the last index of the smaller tree: there the siblings on the left of the
// path are the perfect subtrees that make up all that comes before, in both trees.
// One that differs is looked into in the same way, at its own last index, until it is
// a leaf.
func FindFork(ctx context.Context, a, b *Note, prove Prover) (*contracts.Evidence, error) {
	if a.Size > b.Size {
		a, b = b, a
	}
	switch {
	case a.Origin != b.Origin:
		return nil, contracts.Errorf(contracts.Malformed, "heads of %.80s and %.80s", a.Origin, b.Origin)
	case a.Size == b.Size && a.Root == b.Root, a.Size == 0:
		return nil, nil
	case a.Size == b.Size:
		return ForkOfSize(a, b), nil
	}
	index, below := a.Size-1, 64
	for {
		x, err := askBranch(ctx, a, index, prove)
		if err != nil {
			return nil, err
		}
		y, err := askBranch(ctx, b, index, prove)
		if err != nil {
			return nil, err
		}
		if x.Leaf != y.Leaf {
			return ForkAtIndex(index, x, y), nil
		}
		left, right := leftSiblings(index, a.Size, x.Proof), leftSiblings(index, b.Size, y.Proof)
		level := 0
		for level < below && left[level] == right[level] {
			level++
		}
		switch {
		case level < below: // the last index of the subtree that differs
			index, below = (index>>level<<level)-1, level
		case below == 64:
			return nil, nil
		default: // two preimages of one node
			return nil, contracts.Errorf(contracts.ProofInvalid, "the proofs of index %d contradict the ones before", index)
		}
	}
}

func askBranch(ctx context.Context, n *Note, index uint64, prove Prover) (Branch, error) {
	leaf, proof, err := prove(ctx, n, index)
	if err != nil {
		return Branch{}, err
	}
	return Branch{Note: n, Leaf: leaf, Proof: proof}, VerifyInclusion(index, n.Size, leaf, n.Root, proof)
}

// leftSiblings gives the hashes of a valid inclusion proof that stand on the left of
// the path, by level: that at level l is the root of the 2^l leaves that end where bit
// l and those below it are cleared from the index. There is one for each bit that is
// set in the index, whatever the size of the tree; the others stay zero.
func leftSiblings(index, size uint64, proof []Hash) (out [64]Hash) {
	at, last, level := index, size-1, 0
	for i := range proof {
		if at&1 == 1 || at == last {
			for at&1 == 0 && at != 0 {
				at, last, level = at>>1, last>>1, level+1
			}
			out[level] = proof[i]
		}
		at, last, level = at>>1, last>>1, level+1
	}
	return out
}
