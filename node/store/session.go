package store

import (
	"context"

	"github.com/talosprotocol/talos/anchor/auditlog"
	"github.com/talosprotocol/talos/node/session"
)

const tableSession = 0x10

// Sessions is the sealed table of sessions and messages.
type Sessions struct{ sealedTable }

// Session gives the table of sessions and messages.
func (s *Store) Session() Sessions { return Sessions{sealedTable{s, tableSession}} }

// With makes the writes of f a companion of audit events: bytes is about how much
// they are. After the events are appended, failed gives the error of f, of which
// nothing is written then.
func (t Sessions) With(bytes int, f func(session.Tx) error) (with auditlog.Companion, failed func() error) {
	c := &companion{bytes: bytes, f: func(tx *Tx) error { return f(sealedTx{tx, t.sealedTable}) }}
	return c, func() error { return c.err }
}

// sealedTable is a table whose values are sealed; its keys carry the prefix.
type sealedTable struct {
	s      *Store
	prefix byte
}

func (t sealedTable) key(k []byte) []byte { return append([]byte{t.prefix}, k...) }

func (t sealedTable) Get(k []byte) (v []byte, err error) {
	err = t.s.View(func(r *Reader) error {
		v, err = r.GetSealed(t.key(k))
		return err
	})
	return v, err
}

func (t sealedTable) Scan(prefix, after []byte, f func(key, value []byte) bool) error {
	if after != nil {
		after = t.key(after)
	}
	return t.s.View(func(r *Reader) error {
		var failed error
		err := r.Scan(t.key(prefix), after, func(k, v []byte) bool {
			plain, err := t.s.open(k, v)
			if err != nil {
				failed = err
				return false
			}
			return f(k[1:], plain)
		})
		if err == nil {
			err = failed
		}
		return err
	})
}

func (t sealedTable) Update(ctx context.Context, f func(session.Tx) error) error {
	return t.s.Update(ctx, func(tx *Tx) error { return f(sealedTx{tx, t}) })
}

type sealedTx struct {
	tx *Tx
	t  sealedTable
}

func (x sealedTx) Get(k []byte) ([]byte, error) { return x.tx.GetSealed(x.t.key(k)) }
func (x sealedTx) Put(k, v []byte)              { x.tx.PutSealed(x.t.key(k), v) }
func (x sealedTx) Delete(k []byte)              { x.tx.Delete(x.t.key(k)) }
