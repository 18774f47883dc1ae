// Package chain is a small Ethereum chain with a JSON-RPC face, for tests: its owner says
// when a block is made, which are final, and what goes wrong: reorganisations,
// transactions that get lost, an endpoint that lies or is down.
//
// Blocks, transactions and their tries are real; there is no state, and no consensus.
package chain

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"

	"github.com/talosprotocol/talos/anchor/chain/evm"
)

// Chain is the chain. It is an http.Handler, and an http.RoundTripper for those who
// need no socket. Its fields may be changed under [Chain.Set].
type Chain struct {
	mu       sync.Mutex
	ID       uint64
	BaseFee  uint64
	Tip      uint64 // what it suggests
	MinTip   uint64 // below, a transaction waits
	Finality uint64 // the newest final height
	Down     bool
	Losing   bool // transactions are taken and forgotten
	Now      uint64
	// Lie changes an answer; nil: it does not lie.
	Lie func(method string, result any) any

	blocks []*block
	pool   [][]byte
	sent   int
	fork   byte
}

type block struct {
	header map[string]any
	raw    []byte
	head   *evm.Header
	txs    [][]byte
}

// New makes a chain with its first block.
func New(id uint64) *Chain {
	c := &Chain{ID: id, BaseFee: 7, Tip: 1e9, Now: 1_790_000_000}
	c.blocks = []*block{c.make(nil, evm.Hash{}, 0)}
	return c
}

// Set changes the chain.
func (c *Chain) Set(f func(c *Chain)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f(c)
}

func hexBytes(b []byte) string { return "0x" + hex.EncodeToString(b) }
func hexNum(n uint64) string   { return "0x" + strconv.FormatUint(n, 16) }

// make makes a block with a header as a chain of today has.
func (c *Chain) make(txs [][]byte, parent evm.Hash, n uint64) *block {
	b := &block{txs: txs}
	zero, root := make([]byte, 32), evm.NewTrie(txs).Root()
	b.header = map[string]any{}
	var body []byte
	put := func(name string, v []byte) {
		b.header[name], body = hexBytes(v), evm.AppendBytes(body, v)
	}
	num := func(name string, v uint64) {
		b.header[name], body = hexNum(v), evm.AppendUint(body, v)
	}
	put("parentHash", parent[:])
	put("sha3Uncles", zero)
	put("miner", make([]byte, 20))
	put("stateRoot", zero)
	put("transactionsRoot", root[:])
	put("receiptsRoot", zero)
	put("logsBloom", make([]byte, 256))
	num("difficulty", 0)
	num("number", n)
	num("gasLimit", 30_000_000)
	num("gasUsed", uint64(len(txs))*23_830)
	num("timestamp", c.Now+12*n)
	put("extraData", []byte{c.fork})
	put("mixHash", zero)
	put("nonce", make([]byte, 8))
	num("baseFeePerGas", c.BaseFee)
	b.raw = evm.AppendList(nil, body)
	b.head, _ = evm.ParseHeader(b.raw) // it was just made
	b.header["hash"] = hexBytes(b.head.Hash[:])
	return b
}

// Mine makes a block of the waiting transactions that pay enough, each account's in the
// order of their nonces.
func (c *Chain) Mine() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mine()
}

func (c *Chain) mine() {
	var txs, rest [][]byte
	next := map[evm.Address]uint64{}
	for _, raw := range c.pool {
		tx, from, err := evm.ParseTx(raw)
		if err != nil {
			continue
		}
		if _, ok := next[from]; !ok {
			next[from] = c.nonce(from, len(c.blocks))
		}
		switch {
		case tx.Nonce < next[from]: // another took its place
		case tx.Nonce == next[from] && tx.Tip >= c.MinTip && tx.FeeCap >= c.BaseFee+c.MinTip:
			txs = append(txs, raw)
			next[from]++
		default:
			rest = append(rest, raw)
		}
	}
	c.pool = rest
	last := c.blocks[len(c.blocks)-1]
	c.blocks = append(c.blocks, c.make(txs, last.head.Hash, last.head.Number+1))
}

// Reorg takes back the newest blocks. Their transactions wait again, or are lost.
func (c *Chain) Reorg(depth int, lost bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fork++
	cut := len(c.blocks) - depth
	for _, b := range c.blocks[cut:] {
		if !lost {
			c.pool = append(c.pool, b.txs...)
		}
	}
	c.blocks = c.blocks[:cut]
}

// Finalize makes all blocks final.
func (c *Chain) Finalize() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.Finality = uint64(len(c.blocks)) - 1
}

// DropPool forgets the waiting transactions.
func (c *Chain) DropPool() { c.Set(func(c *Chain) { c.pool = nil }) }

// Add puts a stranger's transaction among the waiting.
func (c *Chain) Add(raw []byte) { c.Set(func(c *Chain) { c.pool = append(c.pool, raw) }) }

// Sent gives how many transactions were taken.
func (c *Chain) Sent() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sent
}

// Data gives what the transactions on the chain carry.
func (c *Chain) Data() (out [][]byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, b := range c.blocks {
		for _, raw := range b.txs {
			if tx, err := evm.ReadTx(raw); err == nil {
				out = append(out, bytes.Clone(tx.Data))
			}
		}
	}
	return out
}

// Hash gives the hash of a block.
func (c *Chain) Hash(n uint64) evm.Hash {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.blocks[n].head.Hash
}

// nonce counts an account's transactions in the first n blocks.
func (c *Chain) nonce(a evm.Address, n int) (count uint64) {
	for _, b := range c.blocks[:n] {
		for _, raw := range b.txs {
			if _, from, err := evm.ParseTx(raw); err == nil && from == a {
				count++
			}
		}
	}
	return count
}

// RoundTrip answers without a socket.
func (c *Chain) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	c.ServeHTTP(w, r)
	return w.Result(), nil
}

// ServeHTTP answers one JSON-RPC request.
func (c *Chain) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var q struct {
		ID     json.RawMessage   `json:"id"`
		Method string            `json:"method"`
		Params []json.RawMessage `json:"params"`
	}
	b, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err == nil {
		err = json.Unmarshal(b, &q)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil || c.Down {
		http.Error(w, "down", http.StatusBadGateway)
		return
	}
	result, err := c.answer(q.Method, q.Params)
	if c.Lie != nil {
		result = c.Lie(q.Method, result)
	}
	out := map[string]any{"jsonrpc": "2.0", "id": q.ID, "result": result}
	if err != nil {
		out = map[string]any{"jsonrpc": "2.0", "id": q.ID, "error": map[string]any{"code": -32000, "message": err.Error()}}
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(out)
}

func (c *Chain) answer(method string, params []json.RawMessage) (any, error) {
	arg := func(i int) (s string) {
		if i < len(params) {
			_ = json.Unmarshal(params[i], &s)
		}
		return s
	}
	switch method {
	case "eth_chainId":
		return hexNum(c.ID), nil
	case "eth_maxPriorityFeePerGas":
		return hexNum(c.Tip), nil
	case "eth_estimateGas":
		return hexNum(23_830), nil
	case "eth_getTransactionCount":
		a, _ := hex.DecodeString(strings.TrimPrefix(arg(0), "0x"))
		n := c.nonce(evm.Address(a), len(c.blocks))
		if arg(1) == "pending" {
			for _, raw := range c.pool {
				if tx, from, err := evm.ParseTx(raw); err == nil && from == evm.Address(a) && tx.Nonce == n {
					n++
				}
			}
		}
		return hexNum(n), nil
	case "eth_sendRawTransaction":
		return c.send(arg(0))
	case "eth_getTransactionReceipt", "eth_getTransactionByHash":
		return c.find(arg(0), method == "eth_getTransactionByHash"), nil
	case "eth_getBlockByNumber":
		return c.block(arg(0), len(params) > 1 && string(params[1]) == "true"), nil
	}
	return nil, fmt.Errorf("the method %s does not exist", method)
}

func (c *Chain) send(text string) (any, error) {
	raw, err := hex.DecodeString(strings.TrimPrefix(text, "0x"))
	if err != nil {
		return nil, err
	}
	tx, from, err := evm.ParseTx(raw)
	if err != nil {
		return nil, err
	}
	h := evm.TxHash(raw)
	if tx.ChainID != c.ID {
		return nil, fmt.Errorf("invalid chain id")
	}
	if tx.Nonce < c.nonce(from, len(c.blocks)) {
		return nil, fmt.Errorf("nonce too low")
	}
	if tx.Gas < 23_830 {
		return nil, fmt.Errorf("intrinsic gas too low")
	}
	if c.sent++; c.Losing {
		return hexBytes(h[:]), nil
	}
	for i, other := range c.pool {
		o, who, err := evm.ParseTx(other)
		if err != nil || who != from || o.Nonce != tx.Nonce {
			continue
		}
		if bytes.Equal(other, raw) {
			return nil, fmt.Errorf("already known")
		}
		if tx.Tip < o.Tip+o.Tip/10 || tx.FeeCap < o.FeeCap+o.FeeCap/10 {
			return nil, fmt.Errorf("replacement transaction underpriced")
		}
		c.pool[i] = raw
		return hexBytes(h[:]), nil
	}
	c.pool = append(c.pool, raw)
	return hexBytes(h[:]), nil
}

func (c *Chain) find(hash string, waiting bool) any {
	for _, b := range c.blocks {
		for i, raw := range b.txs {
			if h := evm.TxHash(raw); hexBytes(h[:]) == hash {
				return map[string]any{"hash": hash, "blockHash": b.header["hash"], "blockNumber": b.header["number"], "transactionIndex": hexNum(uint64(i))}
			}
		}
	}
	for _, raw := range c.pool {
		if h := evm.TxHash(raw); waiting && hexBytes(h[:]) == hash {
			return map[string]any{"hash": hash, "blockHash": nil}
		}
	}
	return nil
}

func (c *Chain) block(name string, full bool) any {
	n := uint64(len(c.blocks)) - 1
	switch name {
	case "latest", "pending":
	case "finalized", "safe":
		n = c.Finality
	default:
		var err error
		if n, err = strconv.ParseUint(strings.TrimPrefix(name, "0x"), 16, 64); err != nil || n >= uint64(len(c.blocks)) {
			return nil
		}
	}
	b := c.blocks[n]
	out := map[string]any{}
	for k, v := range b.header {
		out[k] = v
	}
	txs := []any{}
	for _, raw := range b.txs {
		h := evm.TxHash(raw)
		if !full {
			txs = append(txs, hexBytes(h[:]))
			continue
		}
		txs = append(txs, transaction(raw))
	}
	out["transactions"] = txs
	return out
}

// transaction gives the JSON of a transaction of type 2.
func transaction(raw []byte) any {
	it, err := evm.Decode(raw[1:])
	if err != nil {
		return nil
	}
	h := evm.TxHash(raw)
	o := map[string]any{"type": "0x2", "accessList": []any{}, "hash": hexBytes(h[:])}
	for i, name := range []string{"chainId", "nonce", "maxPriorityFeePerGas", "maxFeePerGas", "gas", "to", "value", "input", "", "yParity", "r", "s"} {
		switch b := it.List[i].Bytes; name {
		case "":
		case "to", "input":
			o[name] = hexBytes(b)
		default:
			s := strings.TrimLeft(hex.EncodeToString(b), "0")
			if s == "" {
				s = "0"
			}
			o[name] = "0x" + s
		}
	}
	return o
}
