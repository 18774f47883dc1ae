package ethereum_test

import (
	"strings"
	"testing"
	"time"

	"github.com/talosprotocol/talos/anchor"
	"github.com/talosprotocol/talos/anchor/chain"
	"github.com/talosprotocol/talos/anchor/chain/ethereum"
	"github.com/talosprotocol/talos/anchor/chain/evm"
	fake "github.com/talosprotocol/talos/testnet/fake/chain"
)

// CHAIN-8, CHAIN-13: a head on a chain, from the transaction to the auditor's word.
func TestAnchorOnAChain(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.grow(10)
		w.pass(time.Second)
		w.chain.Mine()
		w.pass(5 * time.Minute)
		w.receipts(0) // in a block that is not final
		w.settle()
		r := &w.receipts(1)[0]
		none := new(ethereum.Verifier)
		if f := none.VerifyReceipt(r); f.Outcome != anchor.CannotTell || !strings.Contains(f.Why, "block 1") {
			t.Errorf("without trust: %+v", f)
		}
		h, _ := ethereum.Open(r)
		if f := trusting(1, w.chain.Hash(1)).VerifyReceipt(r); f.Outcome != anchor.Valid || !f.Existed.Equal(h.Time) || !f.Final {
			t.Errorf("with the block's hash: %+v", f)
		}
		if f := trusting(1, evm.Hash{1}).VerifyReceipt(r); f.Outcome != anchor.NotValid {
			t.Errorf("with another hash at that height: %+v", f)
		}
		if f := trusting(2, evm.Hash{1}).VerifyReceipt(r); f.Outcome != anchor.CannotTell {
			t.Errorf("with the hash of another block: %+v", f)
		}
		if f := w.verifier().VerifyReceipt(r); f.Outcome != anchor.Valid {
			t.Errorf("online: %+v", f)
		}
		w.chain.Set(func(c *fake.Chain) { c.Down = true })
		if f := w.verifier().VerifyReceipt(r); f.Outcome != anchor.CannotTell {
			t.Errorf("with an endpoint that is down: %+v", f)
		}
	})
}

func trusting(n uint64, h evm.Hash) *ethereum.Verifier {
	return &ethereum.Verifier{Blocks: map[string]map[uint64]evm.Hash{"eip155:1337": {n: h}}}
}

// Row 33: a chain that is reorganised before finality. What it took back is sent again,
// also when the chain has forgotten it; the head is there once, and the receipt is of
// the block that stayed. CHAIN-8.
func TestRow33_Reorg(t *testing.T) {
	for _, lost := range []bool{false, true} {
		inBubble(t, func(t *testing.T, w *world) {
			w.grow(10)
			w.pass(time.Second)
			w.chain.Mine()
			w.pass(time.Minute)
			old := w.chain.Hash(1)
			w.chain.Reorg(1, lost)
			w.chain.Mine()
			w.pass(time.Minute)
			w.settle()
			w.settle()
			r := w.receipts(1)
			h, err := ethereum.Open(&r[0])
			if err != nil || h.Hash == old || h.Hash != w.chain.Hash(h.Number) {
				t.Errorf("lost %v: the receipt is of a block that was taken back: %v", lost, err)
			}
			if n := w.onChain(10); n != 1 {
				t.Errorf("lost %v: the head is on the chain %d times", lost, n)
			}
		})
	}
}

// Row 33: a receipt whose block was taken back after all is refused by who asks the
// chain. CHAIN-13.
func TestRow33_ReceiptOfAnOldBranch(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.grow(10)
		w.pass(time.Second)
		w.settle()
		r := w.receipts(1)[0]
		w.chain.Reorg(1, false)
		w.chain.Mine()
		if f := w.verifier().VerifyReceipt(&r); f.Outcome != anchor.NotValid || !strings.Contains(f.Why, "another block") {
			t.Errorf("%+v", f)
		}
		w.chain.Set(func(c *fake.Chain) { c.Finality = 0 })
		r2 := r
		if f := w.verifier().VerifyReceipt(&r2); f.Outcome != anchor.NotValid {
			t.Errorf("%+v", f)
		}
	})
}

// Row 34: an hour without the chain; heads that are missed are under the next one.
func TestRow34_EndpointDown(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.chain.Set(func(c *fake.Chain) { c.Down = true })
		for i := range uint64(60) {
			w.grow(11 + i)
			w.pass(time.Minute)
		}
		w.chain.Set(func(c *fake.Chain) { c.Down = false })
		w.pass(7 * time.Minute) // the longest pause of a submitter that fails is 6 min 15 s
		w.settle()
		if r := w.receipts(1); r[0].Head.Size != 70 || len(w.chain.Data()) != 1 {
			t.Errorf("size %d, with %d transactions", r[0].Head.Size, len(w.chain.Data()))
		}
	})
}

// Row 34: transactions that get lost are sent again, the same ones. CHAIN-5.
func TestRow34_DroppedTransaction(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.chain.Set(func(c *fake.Chain) { c.Losing = true })
		w.grow(10)
		w.pass(time.Minute)
		w.chain.Set(func(c *fake.Chain) { c.Losing = false })
		w.pass(time.Minute)
		w.chain.DropPool()
		w.pass(time.Minute)
		w.settle()
		w.receipts(1)
		if n := w.onChain(10); n != 1 || w.chain.Sent() < 3 {
			t.Errorf("%d times on the chain after %d sends", n, w.chain.Sent())
		}
	})
}

// Row 34: a fee that has become too low is raised until it is enough, within the limit.
func TestRow34_FeeSpike(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.grow(10)
		w.pass(time.Second)
		w.chain.Set(func(c *fake.Chain) { c.MinTip = 3e9 })
		for range 60 {
			w.pass(time.Minute)
			w.chain.Mine()
		}
		w.settle()
		w.receipts(1)
		if n := w.onChain(10); n != 1 || w.chain.Sent() < 4 {
			t.Errorf("%d times on the chain after %d sends", n, w.chain.Sent())
		}
		// Above the limit nothing is prepared, and the head of a better time covers it.
		w.chain.Set(func(c *fake.Chain) { c.BaseFee, c.MinTip = 300e9, 0 })
		w.chain.Mine()
		for i := range uint64(20) {
			w.grow(11 + i)
			w.pass(time.Minute)
		}
		if s := w.sub.Info(); !strings.Contains(s.Failing, "above the limit") || s.Pending != 0 {
			t.Errorf("it says %+v", s)
		}
		w.chain.Set(func(c *fake.Chain) { c.BaseFee = 7 })
		w.chain.Mine()
		w.pass(7 * time.Minute) // the longest pause of a submitter that fails is 6 min 15 s
		w.settle()
		if r := w.receipts(2); r[1].Head.Size != 30 {
			t.Errorf("size %d", r[1].Head.Size)
		}
	})
}

// Row 34: another program with the same key takes the nonce. The head goes there with
// the next one, once.
func TestRow34_ForeignTransactionTakesTheNonce(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.grow(10)
		w.pass(time.Second)
		w.chain.DropPool()
		foreign := &evm.Tx{ChainID: 1337, Nonce: 0, Tip: 9e9, FeeCap: 20e9, Gas: 30000, Data: []byte("something else")}
		w.chain.Add(foreign.Sign(account(1)))
		w.chain.Mine()
		w.grow(12)
		w.pass(time.Minute)
		w.settle()
		if r := w.receipts(1); r[0].Head.Size != 12 || w.onChain(10) != 0 || w.onChain(12) != 1 {
			t.Errorf("size %d; 10 is there %d times, 12 %d", r[0].Head.Size, w.onChain(10), w.onChain(12))
		}
	})
}

// Row 9 for chains: crashes between any two steps send nothing twice. CHAIN-5.
func TestCrashesBetweenSteps(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.grow(10)
		for i := range 30 {
			w.pass(time.Duration(i) * 7 * time.Second)
			w.crash()
			w.start()
			if i == 10 {
				w.chain.Mine()
			}
		}
		w.settle()
		w.receipts(1)
		if n := w.onChain(10); n != 1 {
			t.Errorf("the head is on the chain %d times", n)
		}
	})
}

// Row 35: an endpoint that lies brings no receipt, and is found out. CHAIN-7, CHAIN-15.
func TestRow35_LyingEndpoint(t *testing.T) {
	block := func(change func(b map[string]any)) func(string, any) any {
		return func(method string, result any) any {
			if b, ok := result.(map[string]any); ok && method == "eth_getBlockByNumber" {
				change(b)
			}
			return result
		}
	}
	zero := "0x" + strings.Repeat("00", 32)
	lies := map[string]func(string, any) any{
		"another chain": func(m string, r any) any {
			if m == "eth_chainId" {
				return "0x1"
			}
			return r
		},
		"another hash":    block(func(b map[string]any) { b["hash"] = zero }),
		"another root":    block(func(b map[string]any) { b["transactionsRoot"] = zero }),
		"another time":    block(func(b map[string]any) { b["timestamp"] = "0x1" }),
		"no transactions": block(func(b map[string]any) { b["transactions"] = []any{} }),
		"a receipt of none": func(m string, r any) any {
			if m == "eth_getTransactionReceipt" {
				return map[string]any{"blockHash": zero, "blockNumber": "0x0"}
			}
			return r
		},
		"another calldata": block(func(b map[string]any) {
			for _, tx := range b["transactions"].([]any) {
				if o, ok := tx.(map[string]any); ok {
					o["input"] = "0x1234"
				}
			}
		}),
	}
	for name, lie := range lies {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				w.grow(10)
				w.pass(time.Second)
				w.chain.Set(func(c *fake.Chain) { c.Lie = lie })
				w.settle()
				w.pass(10 * time.Minute)
				w.receipts(0)
				if w.sub.Info().Failing == "" {
					t.Errorf("nothing is said: %+v", w.sub.Info())
				}
				w.chain.Set(func(c *fake.Chain) { c.Lie = nil })
				w.pass(7 * time.Minute) // the longest pause of a submitter that fails is 6 min 15 s
				r := w.receipts(1)
				w.chain.Set(func(c *fake.Chain) { c.Lie = lie })
				if f := w.verifier().VerifyReceipt(&r[0]); name != "no transactions" && name != "a receipt of none" && name != "another calldata" && f.Outcome == anchor.Valid {
					t.Errorf("the auditor believes it: %+v", f)
				}
			})
		})
	}
}

// Row 35: two endpoints that say different things tell nothing.
func TestRow35_EndpointsDisagree(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.grow(10)
		w.pass(time.Second)
		w.settle()
		r := w.receipts(1)[0]
		v := w.verifier()
		other := &world{t: t, chain: fake.New(1337)}
		other.chain.Mine()
		other.chain.Finalize()
		v.Endpoints["eip155:1337"] = append(v.Endpoints["eip155:1337"], other.verifier().Endpoints["eip155:1337"]...)
		if f := v.VerifyReceipt(&r); f.Outcome != anchor.CannotTell || !strings.Contains(f.Why, "disagree") {
			t.Errorf("%+v", f)
		}
	})
}

// Clock steps do not harm: the chain's time is in the receipt, ours decides when to look.
func TestRow17_ClockOfAChain(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.chain.Set(func(c *fake.Chain) { c.Now = 4_000_000_000 }) // the year 2096
		w.grow(10)
		w.pass(time.Second)
		w.settle()
		r := w.receipts(1)[0]
		f := w.verifier().VerifyReceipt(&r)
		if f.Outcome != anchor.Valid || f.Existed.Year() != 2096 {
			t.Errorf("%+v", f)
		}
	})
}

var _ chain.Driver = (*ethereum.Driver)(nil)
