package anchor

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"slices"

	"github.com/talosprotocol/talos/contracts"
)

// EpochLeafSize is the length of the leaf data of an epoch tree.
const EpochLeafSize = 32 + 8 + 32

// EpochLeaf is the head of one log as an epoch tree holds it: SHA-256 of the origin,
// size (8, big-endian), root. The origin is hashed because neighbours see it.
type EpochLeaf struct {
	Log  Hash
	Size uint64
	Root Hash
}

// NewEpochLeaf gives the leaf of a head.
func NewEpochLeaf(c Checkpoint) EpochLeaf {
	return EpochLeaf{Log: LogID(c.Origin), Size: c.Size, Root: c.Root}
}

// LogID is how epochs and chains name a log: SHA-256 of its origin.
func LogID(origin string) Hash { return sha256.Sum256([]byte(origin)) }

// Append appends the 72 bytes of leaf data.
func (l *EpochLeaf) Append(dst []byte) []byte {
	dst = append(dst, l.Log[:]...)
	dst = binary.BigEndian.AppendUint64(dst, l.Size)
	return append(dst, l.Root[:]...)
}

// ParseEpochLeaf reads leaf data. The code is MALFORMED.
func ParseEpochLeaf(b []byte) (EpochLeaf, error) {
	if len(b) != EpochLeafSize {
		return EpochLeaf{}, contracts.Errorf(contracts.Malformed, "epoch leaf: %d bytes, want %d", len(b), EpochLeafSize)
	}
	return EpochLeaf{Log: Hash(b[:32]), Size: binary.BigEndian.Uint64(b[32:]), Root: Hash(b[40:])}, nil
}

// Hash gives the leaf's hash in the tree: SHA-256(0x00 ‖ leaf data).
func (l *EpochLeaf) Hash() Hash {
	var b [1 + EpochLeafSize]byte
	l.Append(b[:1])
	return sha256.Sum256(b[:])
}

// EpochTree is the tree of one epoch: the heads of the logs that advanced, one each,
// in ascending order of their ids, so that what is not there has its place too. It is
// not changed once made, and safe for concurrent use.
type EpochTree struct {
	leaves []EpochLeaf
	nodes  []Hash // as tlog numbers them
	root   Hash
}

// NewEpochTree makes the tree of leaves in any order. Two heads of one log are MALFORMED,
// and so is a tree without leaves.
func NewEpochTree(leaves []EpochLeaf) (*EpochTree, error) {
	if len(leaves) == 0 {
		return nil, contracts.Errorf(contracts.Malformed, "an epoch without logs")
	}
	leaves = sortLeaves(leaves)
	t := &EpochTree{leaves: leaves, nodes: make([]Hash, 0, 2*len(leaves))}
	var f Frontier
	for i := range leaves {
		if i > 0 && leaves[i].Log == leaves[i-1].Log {
			return nil, contracts.Errorf(contracts.Malformed, "an epoch with two heads of the log %s", leaves[i].Log)
		}
		t.nodes = f.Append(t.nodes, leaves[i].Hash())
	}
	t.root = f.Root()
	return t, nil
}

// sortLeaves gives the leaves in their order. Short keys are sorted in their place: ids
// are hashes, so 8 bytes nearly always tell two apart, and leaves are long to move.
func sortLeaves(leaves []EpochLeaf) []EpochLeaf {
	type place struct {
		key uint64
		at  int
	}
	places := make([]place, len(leaves))
	for i := range leaves {
		places[i] = place{binary.BigEndian.Uint64(leaves[i].Log[:]), i}
	}
	slices.SortFunc(places, func(a, b place) int {
		if a.key != b.key {
			return cmp.Compare(a.key, b.key)
		}
		return bytes.Compare(leaves[a.at].Log[:], leaves[b.at].Log[:])
	})
	out := make([]EpochLeaf, len(leaves))
	for i, p := range places {
		out[i] = leaves[p.at]
	}
	return out
}

// Root gives the root of the tree.
func (t *EpochTree) Root() Hash { return t.root }

// Leaves gives the leaves in their order; they must not be changed.
func (t *EpochTree) Leaves() []EpochLeaf { return t.leaves }

// Find gives the place of a log; false, and where it would be, if it is not there.
func (t *EpochTree) Find(log Hash) (int, bool) {
	return slices.BinarySearchFunc(t.leaves, log, func(l EpochLeaf, log Hash) int { return bytes.Compare(l.Log[:], log[:]) })
}

// Proof gives the inclusion proof of a place.
func (t *EpochTree) Proof(index int) ([]Hash, error) {
	return Nodes(func(_ context.Context, numbers []uint64) ([]Hash, error) {
		out := make([]Hash, len(numbers))
		for i, n := range numbers {
			out[i] = t.nodes[n]
		}
		return out, nil
	}).Inclusion(context.Background(), uint64(index), uint64(len(t.leaves)))
}

// CommitmentSize is the length of what is written to a chain.
const CommitmentSize = 4 + 32 + 8 + 32

// commitmentMagic begins a commitment: it is how one is found among other data.
const commitmentMagic = "TLS\x01"

// Commitment is what goes onto a chain for the head of an anchor's log: a magic of 4
// bytes, SHA-256 of the log's origin, size (8, big-endian), root. It says nothing about
// the logs of agents, and is as long for one of them as for a million.
type Commitment [CommitmentSize]byte

// Commitment gives what goes onto a chain for a head.
func (c Checkpoint) Commitment() (out Commitment) {
	id := LogID(c.Origin)
	b := append(out[:0], commitmentMagic...)
	b = append(b, id[:]...)
	b = binary.BigEndian.AppendUint64(b, c.Size)
	_ = append(b, c.Root[:]...)
	return out
}
