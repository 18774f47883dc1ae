package store

import (
	"context"

	ds "github.com/ipfs/go-datastore"
	"github.com/ipfs/go-datastore/query"
)

const tableDatastore = 0x02

// Datastore gives the table that libp2p's DHT keeps its records in. Writes go
// through the committer like all others.
func (s *Store) Datastore() ds.Batching { return &datastore{s} }

type datastore struct{ s *Store }

func dsKey(k ds.Key) []byte { return append([]byte{tableDatastore}, k.String()...) }

func (d *datastore) Get(_ context.Context, k ds.Key) (v []byte, err error) {
	err = d.s.View(func(r *Reader) error { v = r.Get(dsKey(k)); return r.Err() })
	if err == nil && v == nil {
		err = ds.ErrNotFound
	}
	return v, err
}

func (d *datastore) Has(ctx context.Context, k ds.Key) (bool, error) {
	return ds.GetBackedHas(ctx, d, k)
}

func (d *datastore) GetSize(ctx context.Context, k ds.Key) (int, error) {
	return ds.GetBackedSize(ctx, d, k)
}

func (d *datastore) Put(ctx context.Context, k ds.Key, v []byte) error {
	v = append([]byte{}, v...) // the caller may reuse its slice; ours is kept until the commit
	return d.s.Update(ctx, func(tx *Tx) error { tx.Put(dsKey(k), v); return nil })
}

func (d *datastore) Delete(ctx context.Context, k ds.Key) error {
	return d.s.Update(ctx, func(tx *Tx) error { tx.Delete(dsKey(k)); return nil })
}

func (d *datastore) Sync(context.Context, ds.Key) error { return nil }
func (d *datastore) Close() error                       { return nil }

func (d *datastore) Query(_ context.Context, q query.Query) (query.Results, error) {
	var entries []query.Entry
	prefix := ds.NewKey(q.Prefix).String()
	if prefix != "/" {
		prefix += "/"
	}
	full := append([]byte{tableDatastore}, prefix...)
	err := d.s.View(func(r *Reader) error {
		return r.Scan(full, nil, func(k, v []byte) bool {
			e := query.Entry{Key: string(k[1:]), Size: len(v)}
			if !q.KeysOnly {
				e.Value = v
			}
			entries = append(entries, e)
			return true
		})
	})
	if err != nil {
		return nil, err
	}
	q.Prefix = "" // done above
	return query.NaiveQueryApply(q, query.ResultsWithEntries(q, entries)), nil
}

func (d *datastore) Batch(context.Context) (ds.Batch, error) {
	return &dsBatch{d: d, rows: map[ds.Key][]byte{}}, nil
}

type dsBatch struct {
	d    *datastore
	rows map[ds.Key][]byte // nil value: delete
}

func (b *dsBatch) Put(_ context.Context, k ds.Key, v []byte) error {
	b.rows[k] = append([]byte{}, v...)
	return nil
}

func (b *dsBatch) Delete(_ context.Context, k ds.Key) error { b.rows[k] = nil; return nil }

func (b *dsBatch) Commit(ctx context.Context) error {
	rows := b.rows
	b.rows = map[ds.Key][]byte{}
	return b.d.s.Update(ctx, func(tx *Tx) error {
		for k, v := range rows {
			if v == nil {
				tx.Delete(dsKey(k))
			} else {
				tx.Put(dsKey(k), v)
			}
		}
		return nil
	})
}
