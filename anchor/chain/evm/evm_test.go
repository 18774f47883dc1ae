package evm_test

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/talosprotocol/talos/anchor/chain/evm"
	"github.com/talosprotocol/talos/contracts"
)

func unhex(s string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		panic(err)
	}
	return b
}

// Known answers of the yellow paper's appendix B, as every implementation has them.
func TestRLP(t *testing.T) {
	for want, got := range map[string][]byte{
		"83646f67":                     evm.AppendBytes(nil, []byte("dog")),
		"80":                           evm.AppendUint(nil, 0),
		"0f":                           evm.AppendUint(nil, 15),
		"820400":                       evm.AppendUint(nil, 1024),
		"c0":                           evm.AppendList(nil, nil),
		"c88363617483646f67":           evm.AppendList(nil, evm.AppendBytes(evm.AppendBytes(nil, []byte("cat")), []byte("dog"))),
		"b838" + hexOf(lorem):          evm.AppendBytes(nil, []byte(lorem)),
		"c7c0c1c0c3c0c1c0":             evm.AppendList(nil, unhex("c0c1c0c3c0c1c0")),
		"f83a" + "b838" + hexOf(lorem): evm.AppendList(nil, evm.AppendBytes(nil, []byte(lorem))),
	} {
		if hexOf(string(got)) != want {
			t.Errorf("%x, want %s", got, want)
		}
		if it, err := evm.Decode(got); err != nil || !bytes.Equal(it.Raw, got) {
			t.Errorf("%x does not read: %v", got, err)
		}
	}
	for _, bad := range []string{"", "81", "8100", "817f", "b800", "b80161", "b83700", "c1", "c2c1", "8000", "bfffffffffffffffff", "ff0000000000000000", "b90038" + hexOf(lorem), "f837" + hexOf(lorem)[:110]} {
		if _, err := evm.Decode(unhex(bad)); contracts.CodeOf(err) != contracts.Malformed {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

const lorem = "Lorem ipsum dolor sit amet, consectetur adipisicing elit"

func hexOf(s string) string { return hex.EncodeToString([]byte(s)) }

// The genesis block of Ethereum, whose hash everybody knows.
func TestHeaderOfGenesis(t *testing.T) {
	empty := unhex("56e81f171bcc55a6ff8345e692c0f86e5b48e01b996cadc001622fb5e363b421")
	if h := evm.EmptyRoot; !bytes.Equal(h[:], empty) {
		t.Fatalf("the root of the empty trie is %x", h)
	}
	var b []byte
	for _, m := range [][]byte{
		make([]byte, 32), unhex("1dcc4de8dec75d7aab85b567b6ccd41ad312451b948a7413f0a142fd40d49347"), make([]byte, 20),
		unhex("d7f8974fb5ac78d9ac099b9ad5018bedc2ce0a72dad1827a1709da30580f0544"), empty, empty, make([]byte, 256),
	} {
		b = evm.AppendBytes(b, m)
	}
	for _, n := range []uint64{0x400000000, 0, 5000, 0, 0} {
		b = evm.AppendUint(b, n)
	}
	b = evm.AppendBytes(b, unhex("11bbe8db4e347b4e8c937c1c8370e4b5ed33adb3db69cbdb7a38e1e50b1b82fa"))
	b = evm.AppendBytes(b, make([]byte, 32))
	b = evm.AppendBytes(b, unhex("0000000000000042"))
	raw := evm.AppendList(nil, b)
	h, err := evm.ParseHeader(raw)
	if err != nil || hexOf(string(h.Hash[:])) != "d4e56740f876aef8c010b86a40d5f56745a118d0906a34e69aec8c0db1cb8fa3" {
		t.Fatalf("%+v, %v", h, err)
	}
	if h.TxRoot != evm.EmptyRoot || h.Number != 0 {
		t.Errorf("%+v", h)
	}
}

// A trie that many implementations have among their tests.
func TestTrieKnownRoot(t *testing.T) {
	var trie evm.Trie
	trie.Put([]byte("doe"), []byte("reindeer"))
	trie.Put([]byte("dog"), []byte("puppy"))
	trie.Put([]byte("dogglesworth"), []byte("cat"))
	if r := trie.Root(); hexOf(string(r[:])) != "8aad789dff2f538bca5d8ea56e8abe10f4c7ba3a5dea95fea4cd6e7c3a1168d3" {
		t.Errorf("root %x", r)
	}
}

func values(n int, r *rand.Rand) [][]byte {
	out := make([][]byte, n)
	for i := range out {
		out[i] = make([]byte, 1+r.IntN(180))
		for j := range out[i] {
			out[i][j] = byte(r.Uint32())
		}
	}
	return out
}

// Every value of lists of many lengths is proven, by proofs that prove nothing else, and
// of which no bit is free. CHAIN-9.
func TestTrieProofs(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, n := range []int{1, 2, 3, 15, 16, 17, 127, 128, 129, 130, 257, 300} {
		vs := values(n, r)
		trie := evm.NewTrie(vs)
		root := trie.Root()
		for i, v := range vs {
			if i > 20 && i < n-4 && i%16 != 0 && i != 127 && i != 128 {
				continue
			}
			p := trie.Prove(uint64(i))
			got, err := evm.VerifyProof(root, uint64(i), p, 256)
			if err != nil || !bytes.Equal(got, v) {
				t.Fatalf("%d of %d: %x, %v", i, n, got, err)
			}
			// A short value stands in its parent, so a proof may prove a neighbour too.
			if got, err := evm.VerifyProof(root, uint64(i+1), p, 256); err == nil && (i+1 == n || !bytes.Equal(got, vs[i+1])) {
				t.Errorf("%d of %d: the proof proves another place", i, n)
			}
		}
		p := trie.Prove(0)
		if _, err := evm.VerifyProof(root, 0, append(p, p[0]), 256); err == nil {
			t.Error("a node that is not on the way is taken")
		}
		if _, err := evm.VerifyProof(root, 0, p[:len(p)-1], 256); err == nil {
			t.Error("a proof that is cut is taken")
		}
		for _, node := range p {
			if n > 17 { // the same, and slow under the race detector
				break
			}
			for bit := range len(node) * 8 {
				node[bit/8] ^= 1 << (bit % 8)
				if _, err := evm.VerifyProof(root, 0, p, 256); err == nil {
					t.Fatalf("%d values: bit %d of a node is free", n, bit)
				}
				node[bit/8] ^= 1 << (bit % 8)
			}
		}
	}
}

// The account of a key, and its transaction, back from its bytes.
func TestTx(t *testing.T) {
	k, err := evm.NewKey(unhex("4646464646464646464646464646464646464646464646464646464646464646"))
	if err != nil {
		t.Fatal(err)
	}
	// The example of EIP-155 has this key and this account.
	if a := k.Address(); hexOf(string(a[:])) != "9d8a62f656a8d1615c1294fd71e9cfb3e4855a4f" {
		t.Errorf("address %x", a)
	}
	tx := &evm.Tx{ChainID: 1337, Nonce: 7, Tip: 1e9, FeeCap: 3e9, Gas: 30000, To: k.Address(), Data: bytes.Repeat([]byte{7}, 76)}
	raw := tx.Sign(k)
	got, from, err := evm.ParseTx(raw)
	if err != nil || from != k.Address() || got.Nonce != 7 || !bytes.Equal(got.Data, tx.Data) || !bytes.Equal(got.Sign(k), raw) {
		t.Errorf("%+v from %x: %v", got, from, err)
	}
	for bit := 0; bit < len(raw)*8; bit += 3 { // signatures are slow under the race detector
		raw[bit/8] ^= 1 << (bit % 8)
		if tx, who, err := evm.ParseTx(raw); err == nil && who == from {
			t.Errorf("bit %d is free: %+v", bit, tx)
		}
		raw[bit/8] ^= 1 << (bit % 8)
	}
	for _, bad := range [][]byte{nil, make([]byte, 32), make([]byte, 31), bytes.Repeat([]byte{255}, 32)} {
		if _, err := evm.NewKey(bad); contracts.CodeOf(err) != contracts.KeyInvalid {
			t.Errorf("%x is a key: %v", bad, err)
		}
	}
	if s := fmt.Sprintf("%v %+v %#v %s", k, k, k, k); strings.Contains(s, "46") || strings.Contains(s, "70") {
		t.Errorf("a key prints as %s", s)
	}
}

func FuzzRLP(f *testing.F) {
	for _, s := range []string{"83646f67", "c88363617483646f67", "f83ab838" + hexOf(lorem), "820400", "c7c0c1c0c3c0c1c0"} {
		f.Add(unhex(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		it, err := evm.Decode(b)
		if err != nil {
			return
		}
		if again := encode(it); !bytes.Equal(again, b) {
			t.Errorf("%x is read, and written as %x", b, again)
		}
	})
}

func encode(it evm.Item) []byte {
	if !it.IsList {
		return evm.AppendBytes(nil, it.Bytes)
	}
	var body []byte
	for _, s := range it.List {
		body = append(body, encode(s)...)
	}
	return evm.AppendList(nil, body)
}

// FuzzTrieProof hunts for a proof of what is not there. The input is nodes, each with
// its length in two bytes.
func FuzzTrieProof(f *testing.F) {
	vs := values(130, rand.New(rand.NewPCG(3, 4)))
	trie := evm.NewTrie(vs)
	root := trie.Root()
	for _, i := range []uint64{0, 1, 127, 128, 129} {
		var b []byte
		for _, n := range trie.Prove(i) {
			b = append(append(b, byte(len(n)>>8), byte(len(n))), n...)
		}
		f.Add(i, b)
	}
	f.Fuzz(func(t *testing.T, index uint64, b []byte) {
		var nodes [][]byte
		for len(b) >= 2 {
			n := min(int(b[0])<<8|int(b[1]), len(b)-2)
			nodes, b = append(nodes, b[2:2+n]), b[2+n:]
		}
		v, err := evm.VerifyProof(root, index, nodes, 256)
		if err == nil && (index >= 130 || !bytes.Equal(v, vs[index])) {
			t.Errorf("place %d is proven to hold %x", index, v)
		}
		if len(nodes) > 0 { // a root of the prover's own choice
			_, _ = evm.VerifyProof(evm.Keccak(nodes[0]), index, nodes, 256)
		}
	})
}

func FuzzTx(f *testing.F) {
	k, _ := evm.NewKey(bytes.Repeat([]byte{0x46}, 32))
	tx := &evm.Tx{ChainID: 1, Nonce: 2, Tip: 3, FeeCap: 4, Gas: 5, Data: []byte("data")}
	f.Add(tx.Sign(k))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _, _ = evm.ParseTx(b)
		_, _ = evm.ParseHeader(b)
	})
}

// BenchmarkProof is a proof from a block of 200 transactions; the floor is the hashes of
// its nodes.
func BenchmarkProof(b *testing.B) {
	trie := evm.NewTrie(values(200, rand.New(rand.NewPCG(5, 6))))
	root, p := trie.Root(), trie.Prove(100)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := evm.VerifyProof(root, 100, p, 256); err != nil {
			b.Fatal(err)
		}
	}
}
