package ethereum

import (
	"context"
	"fmt"
	"time"

	"github.com/talosprotocol/talos/anchor"
	"github.com/talosprotocol/talos/anchor/chain/evm"
)

// Verifier judges receipts for an auditor. The zero value trusts nothing, and can only
// tell what is invalid.
type Verifier struct {
	// Blocks are the hashes of blocks that the auditor knows to be on a chain, by the
	// chain's name and height.
	Blocks map[string]map[uint64]evm.Hash
	// Endpoints are asked, by the chain's name. All of them must agree.
	Endpoints map[string][]*Client
	// Confirmations as in [Config]: 0 wants what the endpoint calls final.
	Confirmations uint64
	// Timeout of asking; ten seconds if zero.
	Timeout time.Duration
}

// VerifyReceipt judges one receipt.
func (v *Verifier) VerifyReceipt(r *anchor.Receipt) anchor.Finding {
	h, err := Open(r)
	if err != nil {
		return anchor.Findingf(anchor.NotValid, "%v", err)
	}
	where := fmt.Sprintf("block %d of %s, hash 0x%x", h.Number, r.Chain, h.Hash)
	if known, ok := v.Blocks[r.Chain][h.Number]; ok {
		if known != h.Hash {
			return anchor.Findingf(anchor.NotValid, "the block %d that you trust has the hash 0x%x, and the receipt is of 0x%x", h.Number, known, h.Hash)
		}
		f := anchor.Findingf(anchor.Valid, "it is in %s, which you trust", where)
		f.Existed, f.Final = h.Time, true
		return f
	}
	if len(v.Endpoints[r.Chain]) == 0 {
		return anchor.Findingf(anchor.CannotTell, "it is in %s, and nothing here says that this block is on the chain: give its hash, or an endpoint", where)
	}
	var f anchor.Finding
	for i, c := range v.Endpoints[r.Chain] {
		one := v.ask(c, r.Chain, h, where)
		if i > 0 && one.Outcome != f.Outcome {
			return anchor.Findingf(anchor.CannotTell, "the endpoints disagree: one says %s because %s; another %s because %s", f.Outcome, f.Why, one.Outcome, one.Why)
		}
		f = one
	}
	return f
}

// ask has one endpoint say whether a block is on its chain.
func (v *Verifier) ask(c *Client, name string, h *evm.Header, where string) anchor.Finding {
	d := v.Timeout
	if d == 0 {
		d = 10 * time.Second
	}
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	id, _ := ParseChain(name)
	if err := c.checkChain(ctx, id); err != nil {
		return anchor.Findingf(anchor.CannotTell, "%v", err)
	}
	there, err := c.Header(ctx, number(h.Number))
	if err != nil {
		return anchor.Findingf(anchor.CannotTell, "%v", err)
	}
	final, err := c.final(ctx, h.Number, v.Confirmations)
	switch {
	case err != nil:
		return anchor.Findingf(anchor.CannotTell, "%v", err)
	case there == nil:
		return anchor.Findingf(anchor.CannotTell, "the endpoint has no block %d yet", h.Number)
	case there.Hash != h.Hash:
		return anchor.Findingf(anchor.NotValid, "the chain has another block %d: 0x%x, not 0x%x", h.Number, there.Hash, h.Hash)
	case !final:
		return anchor.Findingf(anchor.CannotTell, "it is in %s, which is not final yet", where)
	}
	f := anchor.Findingf(anchor.Valid, "it is in %s, as the endpoint says too", where)
	f.Existed, f.Final = h.Time, true
	return f
}
