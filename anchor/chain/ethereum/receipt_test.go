package ethereum_test

import (
	"bytes"
	"testing"
	"time"

	"github.com/talosprotocol/talos/anchor"
	"github.com/talosprotocol/talos/anchor/chain/ethereum"
	"github.com/talosprotocol/talos/anchor/chain/evm"
)

// received makes a receipt among others' transactions.
func received(t *testing.T, others int) (r anchor.Receipt) {
	t.Helper()
	inBubble(t, func(t *testing.T, w *world) {
		for i := range others {
			tx := &evm.Tx{ChainID: 1337, Nonce: uint64(i), Tip: 2e9, FeeCap: 5e9, Gas: 30000, Data: bytes.Repeat([]byte{byte(i)}, i%120)}
			w.chain.Add(tx.Sign(account(2)))
		}
		w.grow(10)
		w.pass(time.Second)
		w.settle()
		r = w.receipts(1)[0]
	})
	return r
}

// Row 31 for receipts: no bit is free, and a cut one is none. CHAIN-9.
func TestRow31_EveryBitFlipOfAReceipt(t *testing.T) {
	r := received(t, 20)
	h, err := ethereum.Open(&r)
	if err != nil {
		t.Fatal(err)
	}
	for bit := range len(r.Body) * 8 {
		r.Body[bit/8] ^= 1 << (bit % 8)
		// Another header is another block, which no auditor trusts.
		if got, err := ethereum.Open(&r); err == nil && got.Hash == h.Hash {
			t.Errorf("bit %d of %d is free", bit, len(r.Body)*8)
		}
		r.Body[bit/8] ^= 1 << (bit % 8)
	}
	whole := r.Body
	for n := range whole {
		r.Body = whole[:n]
		if _, err := ethereum.Open(&r); err == nil {
			t.Errorf("%d of %d bytes are a receipt", n, len(whole))
		}
	}
	r.Body = append(bytes.Clone(whole), 0x80)
	if _, err := ethereum.Open(&r); err == nil {
		t.Error("bytes after a receipt are not seen")
	}
	t.Logf("a receipt among 20 transactions has %d bytes", len(whole))
}

// Row 19 for receipts: one of another head, log, chain or driver is none.
func TestRow19_ReceiptOfAnother(t *testing.T) {
	r := received(t, 3)
	for name, change := range map[string]func(r *anchor.Receipt){
		"another size":   func(r *anchor.Receipt) { r.Head.Size++ },
		"another root":   func(r *anchor.Receipt) { r.Head.Root[0] ^= 1 },
		"another log":    func(r *anchor.Receipt) { r.Head.Origin += "1" },
		"another chain":  func(r *anchor.Receipt) { r.Chain = "eip155:1" },
		"no chain":       func(r *anchor.Receipt) { r.Chain = "eip155:01337" },
		"another driver": func(r *anchor.Receipt) { r.Driver = "quorum" },
	} {
		other := r
		change(&other)
		if _, err := ethereum.Open(&other); err == nil {
			t.Errorf("%s: it is taken", name)
		}
	}
}

// FuzzReceipt hunts for a receipt of a block that we did not make.
func FuzzReceipt(f *testing.F) {
	head := headOf(10)
	c := head.Commitment()
	raw := (&evm.Tx{ChainID: 1337, Tip: 1, FeeCap: 2, Gas: 30000, Data: c[:]}).Sign(account(1))
	trie := evm.NewTrie([][]byte{raw})
	root := trie.Root()
	var h []byte
	for i := range 16 {
		switch i {
		case 2:
			h = evm.AppendBytes(h, make([]byte, 20))
		case 4:
			h = evm.AppendBytes(h, root[:])
		case 6:
			h = evm.AppendBytes(h, make([]byte, 256))
		case 7, 8, 9, 10, 11, 15:
			h = evm.AppendUint(h, uint64(i))
		default:
			h = evm.AppendBytes(h, make([]byte, 32))
		}
	}
	h = evm.AppendList(nil, h)
	var nodes []byte
	for _, n := range trie.Prove(0) {
		nodes = evm.AppendBytes(nodes, n)
	}
	seed := evm.AppendList(nil, evm.AppendList(evm.AppendUint(evm.AppendBytes(nil, h), 0), nodes))
	if _, err := ethereum.Open(&anchor.Receipt{Driver: "ethereum", Chain: "eip155:1337", Head: head.Checkpoint, Body: seed}); err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Fuzz(func(t *testing.T, body []byte) {
		r := anchor.Receipt{Driver: "ethereum", Chain: "eip155:1337", Head: head.Checkpoint, Body: body}
		if got, err := ethereum.Open(&r); err == nil && got.Hash == evm.Keccak(h) && !bytes.Equal(body, seed) {
			t.Errorf("the block has a second receipt: %x", body)
		}
	})
}
