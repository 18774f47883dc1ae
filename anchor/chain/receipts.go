package chain

import (
	"encoding/binary"
	"encoding/json"

	"github.com/talosprotocol/talos/anchor"
	"github.com/talosprotocol/talos/contracts"
)

// receipts are the rows of one chain.
type receipts struct {
	Rows
	driver, chain string
}

func (r *receipts) name(kind byte) []byte {
	b := append([]byte{kind}, r.driver...)
	b = append(append(b, ' '), r.chain...)
	return append(b, 0)
}

func (r *receipts) submissionKey() []byte { return r.name('s') }

func (r *receipts) key(size uint64) []byte { return binary.BigEndian.AppendUint64(r.name('r'), size) }

// newest gives the size of the newest receipt, 0 if there is none.
func (r *receipts) newest() (size uint64, err error) {
	err = r.Scan(r.name('r'), func(k, _ []byte) bool {
		size = binary.BigEndian.Uint64(k[len(k)-8:])
		return true
	})
	return size, err
}

// covering gives the receipt of the first head of at least a size, nil if there is none.
func (r *receipts) covering(size uint64) (out *anchor.Receipt, err error) {
	var bad error
	err = r.Scan(r.name('r'), func(k, v []byte) bool {
		if binary.BigEndian.Uint64(k[len(k)-8:]) < size {
			return true
		}
		out, bad = decodeReceipt(v)
		return false
	})
	if err == nil {
		err = bad
	}
	return out, err
}

// storedReceipt is a row.
type storedReceipt struct {
	Driver string      `json:"driver"`
	Chain  string      `json:"chain"`
	Origin string      `json:"origin"`
	Size   uint64      `json:"size"`
	Root   anchor.Hash `json:"root"`
	Body   []byte      `json:"body"`
}

func encodeReceipt(r *anchor.Receipt) ([]byte, error) {
	b, err := json.Marshal(storedReceipt{r.Driver, r.Chain, r.Head.Origin, r.Head.Size, r.Head.Root, r.Body})
	if err != nil {
		return nil, contracts.Errorf(contracts.Internal, "a receipt: %w", err)
	}
	return b, nil
}

func decodeReceipt(b []byte) (*anchor.Receipt, error) {
	var s storedReceipt
	if err := json.Unmarshal(b, &s); err != nil {
		return nil, contracts.Errorf(contracts.StorageCorrupt, "a kept receipt: %w", err)
	}
	return &anchor.Receipt{Driver: s.Driver, Chain: s.Chain, Head: anchor.Checkpoint{Origin: s.Origin, Size: s.Size, Root: s.Root}, Body: s.Body}, nil
}

// Receipts gives the newest receipts of all chains that the table has, at most limit of
// each, oldest first.
func Receipts(rows Rows, limit int) (out []anchor.Receipt, err error) {
	all := map[string][]anchor.Receipt{}
	var order []string
	var bad error
	err = rows.Scan([]byte{'r'}, func(k, v []byte) bool {
		r, e := decodeReceipt(v)
		if e != nil {
			bad = e
			return false
		}
		name := string(k[:len(k)-8])
		if all[name] == nil {
			order = append(order, name)
		}
		list := append(all[name], *r)
		all[name] = list[max(0, len(list)-limit):]
		return true
	})
	if err == nil {
		err = bad
	}
	for _, name := range order {
		out = append(out, all[name]...)
	}
	return out, err
}
