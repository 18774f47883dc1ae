package store

import (
	"context"
	"encoding/binary"
	"time"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/node/directory"
)

const tableDirectory = 0x03

// Directory gives the table of remembered DID states.
func (s *Store) Directory() directory.Store { return directoryTable{s} }

type directoryTable struct{ s *Store }

func didKey(did string) []byte { return append([]byte{tableDirectory}, did...) }

// Row layout: version 1 ‖ fetched, Unix ms (8) ‖ length of record (4) ‖ record ‖ proof.
func encodeRow(r *directory.Row) []byte {
	b := make([]byte, 0, 13+len(r.Record)+len(r.Proof))
	b = append(b, 1)
	b = binary.BigEndian.AppendUint64(b, uint64(r.Fetched.UnixMilli()))
	b = binary.BigEndian.AppendUint32(b, uint32(len(r.Record)))
	b = append(b, r.Record...)
	return append(b, r.Proof...)
}

func decodeRow(b []byte) (*directory.Row, error) {
	if b == nil {
		return nil, nil
	}
	if len(b) < 13 || b[0] != 1 || int(binary.BigEndian.Uint32(b[9:])) > len(b)-13 {
		return nil, contracts.Errorf(contracts.StorageCorrupt, "a remembered DID state is not as it was written")
	}
	n := 13 + int(binary.BigEndian.Uint32(b[9:]))
	r := &directory.Row{Record: b[13:n], Fetched: time.UnixMilli(int64(binary.BigEndian.Uint64(b[1:])))}
	if n < len(b) {
		r.Proof = b[n:]
	}
	return r, nil
}

func (t directoryTable) Row(did string) (row *directory.Row, err error) {
	err = t.s.View(func(r *Reader) error {
		b := r.Get(didKey(did))
		if err := r.Err(); err != nil {
			return err
		}
		row, err = decodeRow(b)
		return err
	})
	return row, err
}

func (t directoryTable) Update(ctx context.Context, did string, f func(*directory.Row) (*directory.Row, error)) error {
	return t.s.Update(ctx, func(tx *Tx) error {
		old, err := decodeRow(tx.Get(didKey(did)))
		if err != nil {
			return err
		}
		row, err := f(old)
		if err == nil && row != nil {
			tx.Put(didKey(did), encodeRow(row))
		}
		return err
	})
}
