package ethereum

import (
	"bytes"
	"strconv"
	"strings"

	"github.com/talosprotocol/talos/anchor"
	"github.com/talosprotocol/talos/anchor/chain/evm"
	"github.com/talosprotocol/talos/contracts"
)

// Name is the driver's name in receipts.
const Name = "ethereum"

// maxTx bounds a transaction of ours: 76 bytes of data, and what belongs to it.
const maxTx = 512

// MaxBody bounds the body of a receipt.
const MaxBody = 16 << 10

// ChainName gives the name of a chain by its id (CAIP-2).
func ChainName(id uint64) string { return "eip155:" + strconv.FormatUint(id, 10) }

// ParseChain reads the name of a chain. The code is MALFORMED.
func ParseChain(name string) (uint64, error) {
	text, ok := strings.CutPrefix(name, "eip155:")
	id, err := strconv.ParseUint(text, 10, 53)
	if !ok || err != nil || id == 0 || ChainName(id) != name {
		return 0, contracts.Errorf(contracts.Malformed, "%.80q is no chain eip155:<id>", name)
	}
	return id, nil
}

// newBody makes the body of a receipt: the header, the transaction's place, and the nodes
// of the trie that lead to it.
func newBody(b *block, index int) []byte {
	body := evm.AppendBytes(nil, b.raw)
	body = evm.AppendUint(body, uint64(index))
	var nodes []byte
	for _, n := range evm.NewTrie(b.txs).Prove(uint64(index)) {
		nodes = evm.AppendBytes(nodes, n)
	}
	return evm.AppendList(nil, evm.AppendList(body, nodes))
}

// Open follows a receipt from the commitment in its transaction to the header of a block,
// and gives the header. Whether that block is on the chain is for others to say. Codes:
// MALFORMED, TOO_LARGE, PROOF_INVALID, SIGNATURE_INVALID.
func Open(r *anchor.Receipt) (*evm.Header, error) {
	bad := func(format string, args ...any) (*evm.Header, error) {
		return nil, contracts.Errorf(contracts.ProofInvalid, "ethereum: "+format, args...)
	}
	if r.Driver != Name {
		return bad("a receipt of %.40q", r.Driver)
	}
	id, err := ParseChain(r.Chain)
	if err != nil {
		return nil, err
	}
	if len(r.Body) > MaxBody {
		return nil, contracts.Errorf(contracts.TooLarge, "ethereum: a receipt of %d bytes, at most %d", len(r.Body), MaxBody)
	}
	it, err := evm.Decode(r.Body)
	if err != nil {
		return nil, err
	}
	if !it.IsList || len(it.List) != 3 || it.List[0].IsList || !it.List[2].IsList {
		return nil, contracts.Errorf(contracts.Malformed, "ethereum: the body is not header, place and nodes")
	}
	h, err := evm.ParseHeader(it.List[0].Bytes)
	if err != nil {
		return nil, err
	}
	index, err := it.List[1].Uint()
	if err != nil {
		return nil, err
	}
	nodes := make([][]byte, len(it.List[2].List))
	for i, n := range it.List[2].List {
		if n.IsList {
			return nil, contracts.Errorf(contracts.Malformed, "ethereum: a node that is no string")
		}
		nodes[i] = n.Bytes
	}
	raw, err := evm.VerifyProof(h.TxRoot, index, nodes, maxTx)
	if err != nil {
		return nil, err
	}
	tx, err := evm.ReadTx(raw)
	if err != nil {
		return nil, err
	}
	want := r.Head.Commitment()
	switch {
	case tx.ChainID != id:
		return bad("the transaction is of chain %d, the receipt of %d", tx.ChainID, id)
	case !bytes.Equal(tx.Data, want[:]):
		return bad("the transaction carries something else than this head")
	}
	return h, nil
}
