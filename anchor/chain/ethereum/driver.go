package ethereum

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/talosprotocol/talos/anchor"
	"github.com/talosprotocol/talos/anchor/chain"
	"github.com/talosprotocol/talos/anchor/chain/evm"
	"github.com/talosprotocol/talos/contracts"
)

// Config of the driver.
type Config struct {
	URLs    []string
	ChainID uint64
	Key     evm.Key
	// Confirmations is how many blocks above make a block final; 0: what the chain itself
	// calls final.
	Confirmations uint64
	Every         time.Duration // ten minutes if zero
	MaxFee        evm.Wei       // the most for a unit of gas; 200 gwei if zero
	// Patience is how long a transaction may wait before its fee is raised; three minutes
	// if zero.
	Patience time.Duration
	HTTP     *http.Client // nil: one of its own
}

const gwei = 1_000_000_000

// Driver is a [chain.Driver].
type Driver struct {
	c    Config
	rpc  *Client
	from evm.Address
}

// New makes the driver; it asks nothing yet.
func New(c Config) (*Driver, error) {
	if len(c.URLs) == 0 || c.ChainID == 0 || c.Key == (evm.Key{}) {
		return nil, contracts.Errorf(contracts.ConfigInvalid, "ethereum: endpoints, chain_id and the account's key are needed")
	}
	for to, def := range map[*time.Duration]time.Duration{&c.Every: 10 * time.Minute, &c.Patience: 3 * time.Minute} {
		if *to == 0 {
			*to = def
		}
	}
	if c.MaxFee == 0 {
		c.MaxFee = 200 * gwei
	}
	return &Driver{c: c, rpc: NewClient(c.URLs, c.HTTP), from: c.Key.Address()}, nil
}

// Name gives the driver's name.
func (d *Driver) Name() string { return Name }

// Chain gives the chain's name.
func (d *Driver) Chain() string { return ChainName(d.c.ChainID) }

// Every gives the least time between two transactions.
func (d *Driver) Every() time.Duration { return d.c.Every }

// Account gives the address that pays.
func (d *Driver) Account() evm.Address { return d.from }

// state is a submission: the same head with the same nonce in one or more transactions,
// whose fees rise. At most one of them can be on the chain.
type state struct {
	Nonce  uint64    `json:"nonce"`
	Tip    evm.Wei   `json:"tip"`
	FeeCap evm.Wei   `json:"fee_cap"`
	Gas    uint64    `json:"gas"`
	Raw    [][]byte  `json:"raw"` // the newest last
	Made   time.Time `json:"made"`
}

func parseState(b []byte) (*state, error) {
	s := new(state)
	if err := json.Unmarshal(b, s); err != nil || len(s.Raw) == 0 {
		return nil, contracts.Errorf(contracts.StorageCorrupt, "ethereum: a submission does not read")
	}
	return s, nil
}

// with signs a transaction of the head with the state's numbers.
func (d *Driver) with(s *state, head *anchor.Note) ([]byte, error) {
	c := head.Commitment()
	tx := &evm.Tx{ChainID: d.c.ChainID, Nonce: s.Nonce, Tip: s.Tip, FeeCap: s.FeeCap, Gas: s.Gas, To: d.from, Data: c[:]}
	s.Raw, s.Made = append(s.Raw, tx.Sign(d.c.Key)), time.Now().UTC()
	return json.Marshal(s)
}

// Prepare signs a transaction with the next nonce at today's fees. While those are above
// the limit there is nothing to send: the head of a better time covers this one.
func (d *Driver) Prepare(ctx context.Context, head *anchor.Note) ([]byte, error) {
	if err := d.rpc.checkChain(ctx, d.c.ChainID); err != nil {
		return nil, err
	}
	s := new(state)
	var err error
	if s.Tip, s.FeeCap, err = d.fees(ctx); err != nil {
		return nil, err
	}
	if s.Nonce, err = d.nonce(ctx, "pending"); err != nil {
		return nil, err
	}
	c := head.Commitment()
	var gas quantity
	call := map[string]any{"from": data(d.from[:]), "to": data(d.from[:]), "data": data(c[:])}
	if err := d.rpc.call(ctx, &gas, maxAnswer, "eth_estimateGas", call); err != nil {
		return nil, err
	}
	if s.Gas = uint64(gas) + uint64(gas)/5; s.Gas > maxGas {
		return nil, contracts.Errorf(contracts.Unavailable, "ethereum: the endpoint wants %d gas for 76 bytes", gas)
	}
	return d.with(s, head)
}

// maxGas is far above what 76 bytes cost: 23,830 where it was measured.
const maxGas = 1_000_000

// fees gives the tip and the cap for a unit of gas: twice the base fee of the newest
// block is enough for six full blocks.
func (d *Driver) fees(ctx context.Context) (tip, feeCap evm.Wei, err error) {
	var t quantity
	if err := d.rpc.call(ctx, &t, maxAnswer, "eth_maxPriorityFeePerGas"); err != nil {
		return 0, 0, err
	}
	var b struct {
		Base quantity `json:"baseFeePerGas"`
	}
	if err := d.rpc.call(ctx, &b, maxAnswer, "eth_getBlockByNumber", "latest", false); err != nil {
		return 0, 0, err
	}
	base := uint64(b.Base)
	if base > d.c.MaxFee || uint64(t) > d.c.MaxFee-base {
		return 0, 0, contracts.Errorf(contracts.Unavailable, "ethereum: a unit of gas costs %d + %d wei, above the limit of %d", base, t, d.c.MaxFee)
	}
	tip = uint64(t)
	return tip, min(2*base+tip, d.c.MaxFee), nil
}

func (d *Driver) nonce(ctx context.Context, block string) (uint64, error) {
	var n quantity
	err := d.rpc.call(ctx, &n, maxAnswer, "eth_getTransactionCount", data(d.from[:]), block)
	return uint64(n), err
}

// Submit sends the newest transaction. That the chain knows it, or has it already, is no
// failure: what came of it, Status finds.
func (d *Driver) Submit(ctx context.Context, _ *anchor.Note, b []byte) error {
	s, err := parseState(b)
	if err != nil {
		return err
	}
	var hash data
	err = d.rpc.call(ctx, &hash, maxAnswer, "eth_sendRawTransaction", data(s.Raw[len(s.Raw)-1]))
	var refused *rpcError
	if errors.As(err, &refused) {
		for _, fine := range []string{"known", "nonce too low", "underpriced", "already"} {
			if strings.Contains(strings.ToLower(refused.Message), fine) {
				return nil
			}
		}
	}
	return err
}

// found is where a transaction is.
type found struct {
	BlockHash   data     `json:"blockHash"`
	BlockNumber quantity `json:"blockNumber"`
}

// Status looks for the transactions of a submission, the newest first.
func (d *Driver) Status(ctx context.Context, head *anchor.Note, b []byte) (chain.Status, error) {
	s, err := parseState(b)
	if err != nil {
		return chain.Status{}, err
	}
	if err := d.rpc.checkChain(ctx, d.c.ChainID); err != nil {
		return chain.Status{}, err
	}
	for i := len(s.Raw) - 1; i >= 0; i-- {
		var at *found
		h := evm.TxHash(s.Raw[i])
		if err := d.rpc.call(ctx, &at, maxAnswer, "eth_getTransactionReceipt", data(h[:])); err != nil {
			return chain.Status{}, err
		}
		if at != nil && len(at.BlockHash) == 32 {
			return d.inBlock(ctx, s.Raw[i], at)
		}
	}
	return d.waiting(ctx, s, head)
}

// waiting says what to do with transactions that are in no block.
func (d *Driver) waiting(ctx context.Context, s *state, head *anchor.Note) (chain.Status, error) {
	used, err := d.nonce(ctx, "latest")
	if err != nil {
		return chain.Status{}, err
	}
	if used > s.Nonce {
		return chain.Status{Phase: chain.Lost, Note: fmt.Sprintf("another transaction has taken nonce %d", s.Nonce)}, nil
	}
	if age := time.Since(s.Made); age > d.c.Patience || age < -time.Second { // below zero: the clock was set back
		if next, ok, err := d.raise(ctx, s, head); err != nil || ok {
			return chain.Status{Phase: chain.Replaced, State: next, Note: "its fee was raised"}, err
		}
	}
	var at *found
	h := evm.TxHash(s.Raw[len(s.Raw)-1])
	if err := d.rpc.call(ctx, &at, maxAnswer, "eth_getTransactionByHash", data(h[:])); err != nil {
		return chain.Status{}, err
	}
	if at == nil {
		return chain.Status{Phase: chain.Unsent, Note: "the chain does not know it"}, nil
	}
	return chain.Status{Phase: chain.Pending, Wait: d.look(), Note: "it waits for a block"}, nil
}

// look is how long to wait before looking at a transaction again: a block takes 12 s.
func (d *Driver) look() time.Duration { return min(12*time.Second, d.c.Every) }

// maxRaises bounds how often a fee is raised by an eighth: to eleven times the first.
const maxRaises = 20

// raise makes the same transaction with fees that nodes take as a replacement: an eighth
// more, or today's if they are higher. ok is false if the limit does not allow it.
func (d *Driver) raise(ctx context.Context, s *state, head *anchor.Note) (next []byte, ok bool, err error) {
	tip, feeCap, err := d.fees(ctx)
	if contracts.CodeOf(err) == contracts.Unavailable {
		tip, feeCap = 0, 0
	} else if err != nil {
		return nil, false, err
	}
	more := func(fee evm.Wei) evm.Wei { return fee + fee/8 + 1 }
	n := *s
	n.Raw = append([][]byte{}, s.Raw...)
	n.Tip, n.FeeCap = max(tip, more(s.Tip)), max(feeCap, more(s.FeeCap))
	if n.FeeCap > d.c.MaxFee || n.Tip > n.FeeCap || len(s.Raw) > maxRaises {
		return nil, false, nil
	}
	next, err = d.with(&n, head)
	return next, err == nil, err
}

// inBlock waits until the block of a transaction is final, then makes the receipt from
// the block itself.
func (d *Driver) inBlock(ctx context.Context, raw []byte, at *found) (chain.Status, error) {
	n := uint64(at.BlockNumber)
	final, err := d.rpc.final(ctx, n, d.c.Confirmations)
	if err != nil {
		return chain.Status{}, err
	}
	if !final {
		return chain.Status{Phase: chain.Pending, Wait: d.look(), Note: fmt.Sprintf("it is in block %d, which is not final", n)}, nil
	}
	b, err := d.rpc.block(ctx, number(n), true)
	if err != nil {
		return chain.Status{}, err
	}
	if b == nil || b.head.Number != n {
		return chain.Status{}, contracts.Errorf(contracts.ProofInvalid, "ethereum: the endpoint lies: block %d is final, and is not there", n)
	}
	for i := range b.txs {
		if string(b.txs[i]) == string(raw) {
			return chain.Status{Phase: chain.Final, Body: newBody(b, i), Note: fmt.Sprintf("it is in block %d", n)}, nil
		}
	}
	return chain.Status{}, contracts.Errorf(contracts.ProofInvalid, "ethereum: the endpoint lies, or the chain is being reorganised: the transaction is not in block %d", n)
}

// final says whether a height is final.
func (c *Client) final(ctx context.Context, n, confirmations uint64) (bool, error) {
	tag := "finalized"
	if confirmations > 0 {
		tag = "latest"
	}
	h, err := c.Header(ctx, tag)
	if err != nil || h == nil {
		return false, err
	}
	return h.Number >= n && h.Number-n >= confirmations, nil
}

// Check follows a receipt to a header.
func (d *Driver) Check(r *anchor.Receipt) error {
	_, err := Open(r)
	if err == nil && r.Chain != d.Chain() {
		err = contracts.Errorf(contracts.ProofInvalid, "ethereum: a receipt of %s", r.Chain)
	}
	return err
}
