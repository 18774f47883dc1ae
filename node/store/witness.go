package store

import (
	"bytes"
	"context"
	"encoding/binary"

	"github.com/talosprotocol/talos/anchor/witness"
	"github.com/talosprotocol/talos/contracts"
)

const (
	tableWitness  = 0x30
	tableEvidence = 0x31
)

// Witness gives the table of heads that this anchor has cosigned.
func (s *Store) Witness() witness.Store { return witnessTable{s} }

type witnessTable struct{ s *Store }

func witnessKey(k string) []byte { return append([]byte{tableWitness, 'r'}, k...) }

var witnessCount = []byte{tableWitness, 'n'}

func (t witnessTable) Load(_ context.Context, key string) (b []byte, err error) {
	err = t.s.View(func(r *Reader) error { b = r.Get(witnessKey(key)); return r.Err() })
	return b, err
}

func (t witnessTable) Swap(ctx context.Context, key string, old, record []byte) error {
	record = bytes.Clone(record)
	return t.s.Update(ctx, func(tx *Tx) error {
		now := tx.Get(witnessKey(key))
		if !bytes.Equal(now, old) || (now == nil) != (old == nil) {
			return contracts.Errorf(contracts.Conflict, "the record was changed by somebody else")
		}
		if now == nil {
			tx.Put(witnessCount, binary.BigEndian.AppendUint64(nil, sizeOf(tx.Get(witnessCount))+1))
		}
		tx.Put(witnessKey(key), record)
		return nil
	})
}

func (t witnessTable) Scan(_ context.Context, f func(key string, record []byte) bool) error {
	return t.s.View(func(r *Reader) error {
		return r.Scan(witnessKey(""), nil, func(k, v []byte) bool { return f(string(k[2:]), v) })
	})
}

func (t witnessTable) Count(context.Context) (n int, err error) {
	err = t.s.View(func(r *Reader) error { n = int(sizeOf(r.Get(witnessCount))); return r.Err() })
	return n, err
}

// Table gives a plain table of small rows for the evidence service: cosignatures
// that were collected, and proofs against logs.
func (s *Store) Table() Rows { return Rows{s} }

// Rows is a plain table of rows by name.
type Rows struct{ s *Store }

func rowsKey(k []byte) []byte { return append([]byte{tableEvidence}, k...) }

// Get gives a row, nil where there is none.
func (t Rows) Get(key []byte) (b []byte, err error) {
	err = t.s.View(func(r *Reader) error { b = r.Get(rowsKey(key)); return r.Err() })
	return b, err
}

// Put makes a row durable.
func (t Rows) Put(ctx context.Context, key, value []byte) error {
	value = bytes.Clone(value)
	return t.s.Update(ctx, func(tx *Tx) error { tx.Put(rowsKey(key), value); return nil })
}

// Write makes several rows durable together, or none of them; a nil value removes its row.
func (t Rows) Write(ctx context.Context, keys, values [][]byte) error {
	return t.s.Update(ctx, func(tx *Tx) error {
		for i, k := range keys {
			if values[i] == nil {
				tx.Delete(rowsKey(k))
			} else {
				tx.Put(rowsKey(k), bytes.Clone(values[i]))
			}
		}
		return nil
	})
}

// Delete removes a row.
func (t Rows) Delete(ctx context.Context, key []byte) error {
	return t.s.Update(ctx, func(tx *Tx) error { tx.Delete(rowsKey(key)); return nil })
}

// Scan calls f with the rows of a prefix in order, until it returns false.
func (t Rows) Scan(prefix []byte, f func(key, value []byte) bool) error {
	return t.s.View(func(r *Reader) error {
		return r.Scan(rowsKey(prefix), nil, func(k, v []byte) bool { return f(k[1:], v) })
	})
}
