package evm

import (
	"bytes"

	"github.com/talosprotocol/talos/contracts"
)

// Bounds of a proof: the key of a transaction is at most 3 bytes of RLP below 2^16, so 6
// nibbles deep; a branch has at most 17 items of 33 bytes. A transaction is as long as
// its value.
const (
	MaxProofNodes = 16
	MaxProofNode  = 1024
)

// EmptyRoot is the root of the trie without values.
var EmptyRoot = Keccak([]byte{0x80})

// node is a trie in memory: a leaf or extension with a path, or a branch.
type node struct {
	path  []byte    // nibbles, of a leaf or an extension
	value []byte    // of a leaf, or of a branch whose key ends there
	next  *node     // of an extension
	kids  [16]*node // of a branch
	leaf  bool
	fan   bool // a branch
}

// Trie is the trie of a list of values, with the RLP of their places as keys: that of the
// transactions of a block. It is made once and then only read.
type Trie struct{ root *node }

// NewTrie makes the trie of values.
func NewTrie(values [][]byte) *Trie {
	t := new(Trie)
	for i, v := range values {
		t.Put(AppendUint(nil, uint64(i)), v)
	}
	return t
}

// Put sets the value of a key, which must not be empty.
func (t *Trie) Put(key, value []byte) { t.root = put(t.root, nibbles(key), value) }

func nibbles(key []byte) []byte {
	out := make([]byte, 0, 2*len(key))
	for _, b := range key {
		out = append(out, b>>4, b&15)
	}
	return out
}

func common(a, b []byte) int {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}

func put(n *node, path, value []byte) *node {
	switch {
	case n == nil:
		return &node{leaf: true, path: path, value: value}
	case n.fan:
		if len(path) == 0 {
			n.value = value
		} else {
			n.kids[path[0]] = put(n.kids[path[0]], path[1:], value)
		}
		return n
	}
	k := common(n.path, path)
	if k == len(n.path) {
		if !n.leaf {
			n.next = put(n.next, path[k:], value)
			return n
		}
		if k == len(path) {
			n.value = value
			return n
		}
	}
	// The paths part here: a branch, behind what they have in common.
	b := &node{fan: true}
	switch rest := n.path[k:]; {
	case n.leaf:
		b = put(b, rest, n.value)
	case len(rest) == 1:
		b.kids[rest[0]] = n.next
	default:
		b.kids[rest[0]] = &node{path: rest[1:], next: n.next}
	}
	b = put(b, path[k:], value)
	if k > 0 {
		return &node{path: path[:k], next: b}
	}
	return b
}

// compact is the hex-prefix encoding of a path.
func compact(path []byte, leaf bool) []byte {
	flag := byte(0)
	if leaf {
		flag = 0x20
	}
	var out []byte
	if len(path)%2 == 1 {
		out, path = append(out, flag|0x10|path[0]), path[1:]
	} else {
		out = append(out, flag)
	}
	for ; len(path) > 0; path = path[2:] {
		out = append(out, path[0]<<4|path[1])
	}
	return out
}

// encode gives the RLP of a node.
func (n *node) encode() []byte {
	var body []byte
	switch {
	case n.fan:
		for _, k := range n.kids {
			if k == nil {
				body = append(body, 0x80)
			} else {
				body = k.appendRef(body)
			}
		}
		body = AppendBytes(body, n.value)
	case n.leaf:
		body = AppendBytes(AppendBytes(nil, compact(n.path, true)), n.value)
	default:
		body = n.next.appendRef(AppendBytes(nil, compact(n.path, false)))
	}
	return AppendList(nil, body)
}

// appendRef appends how a parent names a node: itself if it is short, or its hash.
func (n *node) appendRef(dst []byte) []byte {
	e := n.encode()
	if len(e) < 32 {
		return append(dst, e...)
	}
	h := Keccak(e)
	return AppendBytes(dst, h[:])
}

// Root gives the root.
func (t *Trie) Root() Hash {
	if t.root == nil {
		return EmptyRoot
	}
	return Keccak(t.root.encode())
}

// Prove gives the nodes from the root to the value of a place, without those that stand
// in their parents.
func (t *Trie) Prove(index uint64) (nodes [][]byte) {
	path := nibbles(AppendUint(nil, index))
	for n := t.root; n != nil; {
		if e := n.encode(); len(e) >= 32 || n == t.root {
			nodes = append(nodes, e)
		}
		switch {
		case n.leaf:
			return nodes
		case n.fan && len(path) == 0:
			return nodes
		case n.fan:
			n, path = n.kids[path[0]], path[1:]
		default:
			n, path = n.next, path[min(len(n.path), len(path)):]
		}
	}
	return nodes
}

// VerifyProof follows a proof from the root to the value of a place, and gives the value.
// Every node must be on the way, in its order. Codes: MALFORMED, PROOF_INVALID.
func VerifyProof(root Hash, index uint64, nodes [][]byte, maxValue int) ([]byte, error) {
	bad := func(why string) ([]byte, error) {
		return nil, contracts.Errorf(contracts.ProofInvalid, "trie proof: %s", why)
	}
	if len(nodes) == 0 || len(nodes) > MaxProofNodes {
		return bad("no nodes, or too many")
	}
	path := nibbles(AppendUint(nil, index))
	want, used := root[:], 0
	var it Item
	for next := true; ; {
		if next {
			if used == len(nodes) {
				return bad("it ends before the value")
			}
			raw := nodes[used]
			if len(raw) > MaxProofNode+maxValue {
				return bad("a node that is too long")
			}
			if h := Keccak(raw); !bytes.Equal(h[:], want) {
				return bad("a node is not the one that the way leads to")
			}
			var err error
			if it, err = Decode(raw); err != nil {
				return nil, err
			}
			used++
		}
		step, rest, done, err := descend(&it, path)
		switch {
		case err != nil:
			return nil, err
		case done:
			if used != len(nodes) || step.IsList || len(step.Bytes) == 0 {
				return bad("nodes that are not on the way, or no value at its end")
			}
			return step.Bytes, nil
		}
		path = rest
		if next = !step.IsList; next {
			if len(step.Bytes) != 32 {
				return bad("the way ends at nothing")
			}
			want = step.Bytes
		} else if len(step.Raw) >= 32 {
			return bad("a long node inside its parent")
		}
		it = step
	}
}

// descend goes one node on: to its child, or to the value.
func descend(it *Item, path []byte) (step Item, rest []byte, done bool, err error) {
	bad := func(why string) (Item, []byte, bool, error) {
		return Item{}, nil, false, contracts.Errorf(contracts.ProofInvalid, "trie proof: %s", why)
	}
	switch {
	case it.IsList && len(it.List) == 17:
		if len(path) == 0 {
			return it.List[16], nil, true, nil
		}
		return it.List[path[0]], path[1:], false, nil
	case !it.IsList || len(it.List) != 2 || it.List[0].IsList || len(it.List[0].Bytes) == 0:
		return bad("what is there is no node")
	}
	hp := it.List[0].Bytes
	flag := hp[0] >> 4
	if flag > 3 || flag&1 == 0 && hp[0]&15 != 0 {
		return bad("a path with another flag")
	}
	own := nibbles(hp)[2-int(flag&1):]
	if leaf := flag&2 != 0; leaf {
		if !bytes.Equal(own, path) {
			return bad("it leads to another place")
		}
		return it.List[1], nil, true, nil
	}
	if len(own) == 0 || !bytes.HasPrefix(path, own) {
		return bad("it leads to another place")
	}
	return it.List[1], path[len(own):], false, nil
}
