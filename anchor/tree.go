package anchor

import (
	"context"
	"crypto/sha256"
	"math/bits"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/talosprotocol/talos/contracts"
)

// MaxProof bounds the hashes of a proof: a tree of 2^63 leaves needs no more
// (C2SP tlog-witness).
const MaxProof = 63

// EmptyRoot is the root of the tree without leaves: the hash of nothing.
var EmptyRoot = Hash(sha256.Sum256(nil))

// Frontier is the compact form of a growing tree: the roots of its perfect
// subtrees, at most 64 of them. The zero Frontier is the empty tree. It is a plain
// value, so a copy is a snapshot; one goroutine at a time may change it.
type Frontier struct {
	size uint64
	// nodes[l] is the root of the perfect subtree of 2^l leaves, where bit l of
	// size is set.
	nodes [64]Hash
}

// Size gives the number of leaves.
func (f *Frontier) Size() uint64 { return f.size }

// Append adds a leaf hash and appends to dst the nodes that became complete: the
// leaf, then its parents upwards. Over all leaves that is the sequence of
// tlog.StoredHashes, so node number i is tlog's stored hash i.
func (f *Frontier) Append(dst []Hash, leaf Hash) []Hash {
	dst = append(dst, leaf)
	h := leaf
	level := 0
	for ; f.size>>level&1 == 1; level++ {
		h = nodeHash(&f.nodes[level], &h)
		dst = append(dst, h)
	}
	f.nodes[level] = h
	f.size++
	return dst
}

// Add is Append for callers that keep no nodes.
func (f *Frontier) Add(leaf Hash) {
	level := 0
	for ; f.size>>level&1 == 1; level++ {
		leaf = nodeHash(&f.nodes[level], &leaf)
	}
	f.nodes[level] = leaf
	f.size++
}

// Root gives the root of the tree (RFC 6962 section 2.1).
func (f *Frontier) Root() Hash {
	if f.size == 0 {
		return EmptyRoot
	}
	level := bits.TrailingZeros64(f.size)
	h := f.nodes[level]
	for level++; f.size>>level != 0; level++ {
		if f.size>>level&1 == 1 {
			h = nodeHash(&f.nodes[level], &h)
		}
	}
	return h
}

// NodeCount gives how many nodes the tree of n leaves has stored: the number of
// the first node that leaf n appends.
func NodeCount(n uint64) uint64 { return uint64(tlog.StoredHashIndex(0, int64(n))) }

// Nodes reads nodes by their number. It may be backed by storage that lies: every
// proof made here is checked before it is handed out.
type Nodes func(ctx context.Context, numbers []uint64) ([]Hash, error)

// reader adapts to tlog, which counts in int64.
func (n Nodes) reader(ctx context.Context) tlog.HashReader {
	return tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		numbers := make([]uint64, len(indexes))
		for i, x := range indexes {
			numbers[i] = uint64(x)
		}
		got, err := n(ctx, numbers)
		if err != nil {
			return nil, err
		}
		if len(got) != len(numbers) {
			return nil, contracts.Errorf(contracts.StorageCorrupt, "%d nodes read, want %d", len(got), len(numbers))
		}
		out := make([]tlog.Hash, len(got))
		for i := range got {
			out[i] = tlog.Hash(got[i])
		}
		return out, nil
	})
}

// RootAt gives the root of the first size leaves.
func (n Nodes) RootAt(ctx context.Context, size uint64) (Hash, error) {
	if size == 0 {
		return EmptyRoot, nil
	}
	h, err := tlog.TreeHash(int64(size), n.reader(ctx))
	return Hash(h), err
}

// Inclusion proves that leaf index is in the tree of size leaves. index must be
// below size; the code is NOT_FOUND otherwise.
func (n Nodes) Inclusion(ctx context.Context, index, size uint64) ([]Hash, error) {
	if index >= size || size > 1<<62 {
		return nil, contracts.Errorf(contracts.NotFound, "index %d of a tree of %d", index, size)
	}
	p, err := tlog.ProveRecord(int64(size), int64(index), n.reader(ctx))
	return fromTlog(p), err
}

// Consistency proves that the tree of to leaves extends the tree of from leaves.
// It is empty when from is 0 or equal to to. from must not be above to; the code
// is NOT_FOUND otherwise.
func (n Nodes) Consistency(ctx context.Context, from, to uint64) ([]Hash, error) {
	if from > to || to > 1<<62 {
		return nil, contracts.Errorf(contracts.NotFound, "no proof from size %d to size %d", from, to)
	}
	if from == 0 || from == to {
		return nil, nil
	}
	p, err := tlog.ProveTree(int64(to), int64(from), n.reader(ctx))
	return fromTlog(p), err
}

func fromTlog(p []tlog.Hash) []Hash {
	out := make([]Hash, len(p))
	for i := range p {
		out[i] = Hash(p[i])
	}
	return out
}

// VerifyInclusion checks that leaf is at index in the tree of size leaves with the
// given root (RFC 9162 section 2.1.3.2). The error has the code PROOF_INVALID.
func VerifyInclusion(index, size uint64, leaf, root Hash, proof []Hash) error {
	if index >= size || len(proof) > MaxProof {
		return contracts.Errorf(contracts.ProofInvalid, "inclusion: index %d, size %d, %d hashes", index, size, len(proof))
	}
	h, at, last := leaf, index, size-1
	for i := range proof {
		if last == 0 {
			return contracts.Errorf(contracts.ProofInvalid, "inclusion: too many hashes")
		}
		if at&1 == 1 || at == last {
			h = nodeHash(&proof[i], &h)
			for at&1 == 0 && at != 0 {
				at, last = at>>1, last>>1
			}
		} else {
			h = nodeHash(&h, &proof[i])
		}
		at, last = at>>1, last>>1
	}
	if last != 0 {
		return contracts.Errorf(contracts.ProofInvalid, "inclusion: too few hashes")
	}
	if h != root {
		return contracts.Errorf(contracts.ProofInvalid, "inclusion: the proof leads to another root")
	}
	return nil
}

// VerifyConsistency checks that the tree (to, newRoot) extends the tree
// (from, oldRoot) (RFC 9162 section 2.1.4.2). From size 0, and between equal
// sizes, the proof is empty. The error has the code PROOF_INVALID; it accuses
// nobody, because whoever carried the proof can have spoiled it.
func VerifyConsistency(from, to uint64, oldRoot, newRoot Hash, proof []Hash) error {
	switch {
	case from > to || len(proof) > MaxProof:
		return contracts.Errorf(contracts.ProofInvalid, "consistency: from %d to %d, %d hashes", from, to, len(proof))
	case from == to || from == 0:
		if len(proof) != 0 || from == to && oldRoot != newRoot || from == 0 && oldRoot != EmptyRoot {
			return contracts.Errorf(contracts.ProofInvalid, "consistency: from %d to %d takes no proof and one root", from, to)
		}
		return nil
	case len(proof) == 0:
		return contracts.Errorf(contracts.ProofInvalid, "consistency: no hashes")
	}
	at, last := from-1, to-1
	for at&1 == 1 {
		at, last = at>>1, last>>1
	}
	// A perfect old tree is its own first hash and is left out of the proof.
	seed := oldRoot
	if from&(from-1) != 0 {
		seed, proof = proof[0], proof[1:]
	}
	oldHash, newHash := seed, seed
	for i := range proof {
		if last == 0 {
			return contracts.Errorf(contracts.ProofInvalid, "consistency: too many hashes")
		}
		if at&1 == 1 || at == last {
			oldHash = nodeHash(&proof[i], &oldHash)
			newHash = nodeHash(&proof[i], &newHash)
			for at&1 == 0 && at != 0 {
				at, last = at>>1, last>>1
			}
		} else {
			newHash = nodeHash(&newHash, &proof[i])
		}
		at, last = at>>1, last>>1
	}
	if last != 0 || oldHash != oldRoot || newHash != newRoot {
		return contracts.Errorf(contracts.ProofInvalid, "consistency: the proof does not join the two roots")
	}
	return nil
}
