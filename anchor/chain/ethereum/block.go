package ethereum

import (
	"bytes"
	"context"
	"encoding/json"

	"github.com/talosprotocol/talos/anchor/chain/evm"
	"github.com/talosprotocol/talos/contracts"
)

// block is a block of an endpoint, of which everything that can be computed was.
type block struct {
	raw  []byte // the header's RLP
	head *evm.Header
	txs  [][]byte // nil unless they were asked for
}

// How JSON-RPC names the members of a header, in the order of its RLP. Those of later
// forks may be absent, from one on.
var headerMembers = []struct {
	name   string
	number bool
}{
	{"parentHash", false}, {"sha3Uncles", false}, {"miner", false}, {"stateRoot", false}, {"transactionsRoot", false}, {"receiptsRoot", false},
	{"logsBloom", false}, {"difficulty", true}, {"number", true}, {"gasLimit", true}, {"gasUsed", true}, {"timestamp", true},
	{"extraData", false}, {"mixHash", false}, {"nonce", false},
	{"baseFeePerGas", true}, {"withdrawalsRoot", false}, {"blobGasUsed", true}, {"excessBlobGas", true},
	{"parentBeaconBlockRoot", false}, {"requestsHash", false}, {"blockAccessListHash", false}, {"slotNumber", true},
}

// object is JSON whose members are encoded one by one.
type object map[string]json.RawMessage

// appendMember appends a member as RLP; one that is absent or null is empty.
func (o object) appendMember(dst []byte, name string, number bool) ([]byte, error) {
	raw := o[name]
	if raw == nil || string(raw) == "null" {
		return evm.AppendBytes(dst, nil), nil
	}
	var text string
	if err := json.Unmarshal(raw, &text); err != nil {
		return nil, contracts.Errorf(contracts.Malformed, "%s is no text", name)
	}
	if number && len(text)%2 == 1 {
		text = "0x0" + text[min(2, len(text)):]
	}
	var b data
	if err := b.UnmarshalText([]byte(text)); err != nil {
		return nil, err
	}
	if number {
		b = bytes.TrimLeft(b, "\x00")
	}
	return evm.AppendBytes(dst, b), nil
}

// header gives the RLP of the header in a block's JSON.
func (o object) header() ([]byte, error) {
	var body []byte
	for _, m := range headerMembers {
		if o[m.name] == nil {
			break
		}
		var err error
		if body, err = o.appendMember(body, m.name, m.number); err != nil {
			return nil, err
		}
	}
	return evm.AppendList(nil, body), nil
}

// block asks for a block and computes its hash and, with its transactions, their root
// (CHAIN-15). It is nil where the chain has none.
func (c *Client) block(ctx context.Context, name string, full bool) (*block, error) {
	limit := int64(maxAnswer)
	if full {
		limit = maxBlock
	}
	var o object
	if err := c.call(ctx, &o, limit, "eth_getBlockByNumber", name, full); err != nil || o == nil {
		return nil, err
	}
	b := new(block)
	var err error
	if b.raw, err = o.header(); err != nil {
		return nil, err
	}
	if b.head, err = evm.ParseHeader(b.raw); err != nil {
		return nil, err
	}
	var says data
	if err := json.Unmarshal(o["hash"], &says); err != nil || !bytes.Equal(says, b.head.Hash[:]) {
		return nil, contracts.Errorf(contracts.ProofInvalid, "the endpoint lies, or the header has a form that this program does not know: block %s hashes to %x", name, b.head.Hash)
	}
	if !full {
		return b, nil
	}
	var txs []object
	if err := json.Unmarshal(o["transactions"], &txs); err != nil {
		return nil, contracts.Errorf(contracts.Malformed, "the transactions of block %s: %w", name, err)
	}
	for i, tx := range txs {
		raw, err := tx.transaction()
		if err != nil || !tx.hashes(raw) {
			raw, err = c.rawTransaction(ctx, b.head.Hash, i)
		}
		if err != nil {
			return nil, err
		}
		b.txs = append(b.txs, raw)
	}
	if evm.NewTrie(b.txs).Root() != b.head.TxRoot {
		return nil, contracts.Errorf(contracts.ProofInvalid, "the endpoint lies: the transactions that it shows are not those of block %s", name)
	}
	return b, nil
}

// hashes says that bytes have the hash that a transaction says of itself.
func (o object) hashes(raw []byte) bool {
	var says data
	h := evm.TxHash(raw)
	return json.Unmarshal(o["hash"], &says) == nil && bytes.Equal(says, h[:])
}

// rawTransaction asks for a transaction of a kind that this program cannot encode.
func (c *Client) rawTransaction(ctx context.Context, block evm.Hash, index int) (raw data, err error) {
	err = c.call(ctx, &raw, maxAnswer, "eth_getRawTransactionByBlockHashAndIndex", data(block[:]), quantity(index))
	return raw, err
}

// The members of transactions by type (EIP-2718), as JSON-RPC names them. A # says that a
// member is a number, lists have functions of their own.
var (
	ending  = []string{"#yParity", "#r", "#s"}
	dynamic = []string{"#chainId", "#nonce", "#maxPriorityFeePerGas", "#maxFeePerGas", "#gas", "to", "#value", "input", "accessList"}

	transactions = map[byte][]string{
		0: {"#nonce", "#gasPrice", "#gas", "to", "#value", "input", "#v", "#r", "#s"},
		1: append([]string{"#chainId", "#nonce", "#gasPrice", "#gas", "to", "#value", "input", "accessList"}, ending...),
		2: append(append([]string{}, dynamic...), ending...),
		3: append(append(append([]string{}, dynamic...), "#maxFeePerBlobGas", "blobVersionedHashes"), ending...),
		4: append(append(append([]string{}, dynamic...), "authorizationList"), ending...),
	}
)

// transaction gives the bytes of a transaction in its JSON. Whether they are the right
// ones, the root says.
func (o object) transaction() ([]byte, error) {
	var typ quantity
	if o["type"] != nil {
		if err := json.Unmarshal(o["type"], &typ); err != nil {
			return nil, contracts.Errorf(contracts.Malformed, "a transaction's type: %w", err)
		}
	}
	members, ok := transactions[byte(typ)]
	if !ok || typ > 255 {
		return nil, contracts.Errorf(contracts.UnsupportedVersion, "a transaction of type %d", typ)
	}
	body, err := o.appendAll(nil, members)
	if err != nil {
		return nil, err
	}
	out := evm.AppendList(nil, body)
	if typ > 0 {
		out = append([]byte{byte(typ)}, out...)
	}
	return out, nil
}

func (o object) appendAll(dst []byte, members []string) (_ []byte, err error) {
	for _, m := range members {
		switch {
		case m == "accessList":
			dst, err = o.appendObjects(dst, m, []string{"address", "storageKeys"})
		case m == "authorizationList":
			dst, err = o.appendObjects(dst, m, []string{"#chainId", "address", "#nonce", "#yParity", "#r", "#s"})
		case m == "storageKeys", m == "blobVersionedHashes":
			dst, err = o.appendHashes(dst, m)
		case m == "#yParity" && o["yParity"] == nil:
			dst, err = o.appendMember(dst, "v", true)
		default:
			dst, err = o.appendMember(dst, string(bytes.TrimPrefix([]byte(m), []byte("#"))), m[0] == '#')
		}
		if err != nil {
			return nil, err
		}
	}
	return dst, nil
}

// appendObjects appends a list of objects, each a list of its members.
func (o object) appendObjects(dst []byte, name string, members []string) ([]byte, error) {
	var list []object
	if o[name] != nil {
		if err := json.Unmarshal(o[name], &list); err != nil {
			return nil, contracts.Errorf(contracts.Malformed, "%s: %w", name, err)
		}
	}
	var body []byte
	for _, e := range list {
		sub, err := e.appendAll(nil, members)
		if err != nil {
			return nil, err
		}
		body = evm.AppendList(body, sub)
	}
	return evm.AppendList(dst, body), nil
}

func (o object) appendHashes(dst []byte, name string) ([]byte, error) {
	var list []data
	if o[name] != nil {
		if err := json.Unmarshal(o[name], &list); err != nil {
			return nil, contracts.Errorf(contracts.Malformed, "%s: %w", name, err)
		}
	}
	var body []byte
	for _, h := range list {
		body = evm.AppendBytes(body, h)
	}
	return evm.AppendList(dst, body), nil
}
