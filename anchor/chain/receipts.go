package chain

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"slices"
	"sync"
	"time"

	"github.com/talosprotocol/talos/anchor"
	"github.com/talosprotocol/talos/contracts"
)

// Bounds of keeping receipts.
const (
	keepReceipts = 4096        // of one chain: a day and more of the newest
	readReceipts = time.Second // at most so often the rows are read for new ones
)

// receipts are the rows of one chain, with their sizes in memory. It is safe for
// concurrent use.
type receipts struct {
	Rows
	driver, chain string

	mu    sync.Mutex // guards what follows
	sizes []uint64   // ascending
	read  time.Time  // when they were read
}

func (r *receipts) name(kind byte) []byte {
	b := append([]byte{kind}, r.driver...)
	b = append(append(b, ' '), r.chain...)
	return append(b, 0)
}

func (r *receipts) submissionKey() []byte { return r.name('s') }

func (r *receipts) key(size uint64) []byte { return binary.BigEndian.AppendUint64(r.name('r'), size) }

// load reads which receipts there are.
func (r *receipts) load() ([]uint64, error) {
	sizes := []uint64{}
	err := r.Scan(r.name('r'), func(k, _ []byte) bool {
		sizes = append(sizes, binary.BigEndian.Uint64(k[len(k)-8:]))
		return true
	})
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sizes, r.read = sizes, time.Now()
	return sizes, nil
}

// known gives the sizes in memory, read again if they may not reach to one that is asked
// for.
func (r *receipts) known(upTo uint64) ([]uint64, error) {
	r.mu.Lock()
	sizes, age := r.sizes, time.Since(r.read)
	r.mu.Unlock()
	if sizes != nil && (len(sizes) > 0 && sizes[len(sizes)-1] >= upTo || age >= 0 && age < readReceipts) {
		return sizes, nil
	}
	return r.load()
}

// covering gives the receipt of the first head of at least a size, nil if there is none.
func (r *receipts) covering(size uint64) (*anchor.Receipt, error) {
	sizes, err := r.known(size)
	if err != nil {
		return nil, err
	}
	i, _ := slices.BinarySearch(sizes, size)
	if i == len(sizes) {
		return nil, nil
	}
	b, err := r.Get(r.key(sizes[i]))
	if err != nil || b == nil {
		return nil, err // forgotten since
	}
	return decodeReceipt(b)
}

// keep makes a receipt durable, ends the submission that it is of, and forgets the oldest
// ones, in one transaction.
func (r *receipts) keep(ctx context.Context, size uint64, row []byte) error {
	sizes, err := r.load()
	if err != nil {
		return err
	}
	keys, values := [][]byte{r.key(size), r.submissionKey()}, [][]byte{row, nil}
	for ; len(sizes) >= keepReceipts; sizes = sizes[1:] {
		keys, values = append(keys, r.key(sizes[0])), append(values, nil)
	}
	return r.Write(ctx, keys, values)
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
