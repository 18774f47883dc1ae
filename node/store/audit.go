package store

import (
	"context"
	"encoding/binary"
	"sort"

	"github.com/talosprotocol/talos/anchor"
	"github.com/talosprotocol/talos/anchor/auditlog"
	"github.com/talosprotocol/talos/contracts"
)

const tableAudit = 0x20

// Audit gives the backend of one incarnation of this node's audit log. Its
// companions are those that this package makes (Sessions.With).
//
// Keys: incarnation (2), then 'e' and the index (8) of a run's first entry for a run
// of entries that were written together, 'z' for the size, 'h' for the signed head. A
// run's row has the nodes that its entries completed, in clear, then the entries,
// sealed: a row for each entry would double what a busy log costs.
func (s *Store) Audit(incarnation uint16) auditlog.Backend {
	return auditTable{s, binary.BigEndian.AppendUint16([]byte{tableAudit}, incarnation)}
}

// maxRun is how many entries one row takes: erasing one writes them all again.
const maxRun = 64

type auditTable struct {
	s      *Store
	prefix []byte
}

func (t auditTable) key(kind byte) []byte {
	return append(append(make([]byte, 0, 12), t.prefix...), kind)
}

func (t auditTable) entryKey(i uint64) []byte {
	return binary.BigEndian.AppendUint64(t.key('e'), i)
}

func sizeOf(b []byte) uint64 {
	if len(b) != 8 {
		return 0
	}
	return binary.BigEndian.Uint64(b)
}

func (t auditTable) State(context.Context) (st auditlog.State, err error) {
	err = t.s.View(func(r *Reader) error {
		st.Size, st.Head = sizeOf(r.Get(t.key('z'))), r.Get(t.key('h'))
		return r.Err()
	})
	return st, err
}

// encode makes the row of a run: count of nodes (2), nodes, sealed entries.
func (t auditTable) encode(key []byte, run []auditlog.Entry, nodes []anchor.Hash) []byte {
	size := 0
	for i := range run {
		size += 4 + len(run[i].Leaf) + len(run[i].Salt) + len(run[i].Event)
	}
	plain := make([]byte, 0, size)
	for i := range run {
		e := &run[i]
		plain = append(binary.BigEndian.AppendUint32(plain, uint32(len(e.Event))), e.Leaf[:]...)
		if !e.Erased() {
			plain = append(append(plain, e.Salt[:]...), e.Event...)
		}
	}
	b := make([]byte, 0, 2+32*len(nodes)+len(plain)+sealOverhead)
	b = binary.BigEndian.AppendUint16(b, uint16(len(nodes)))
	for i := range nodes {
		b = append(b, nodes[i][:]...)
	}
	return t.s.appendSeal(b, key, plain)
}

// errAuditRow says that a row is not as it was written.
func errAuditRow(key []byte) error {
	return contracts.Errorf(contracts.StorageCorrupt, "the audit row of entry %d is not as it was written", binary.BigEndian.Uint64(key[len(key)-8:]))
}

// nodesOf gives the clear part of a row.
func nodesOf(key, b []byte) (nodes, sealed []byte, err error) {
	if len(b) < 2 || len(b) < 2+32*int(binary.BigEndian.Uint16(b)) {
		return nil, nil, errAuditRow(key)
	}
	n := 2 + 32*int(binary.BigEndian.Uint16(b))
	return b[2:n], b[n:], nil
}

func (t auditTable) decode(key, b []byte) (run []auditlog.Entry, nodes []byte, err error) {
	nodes, sealed, err := nodesOf(key, b)
	if err != nil {
		return nil, nil, err
	}
	plain, err := t.s.open(key, sealed)
	if err != nil {
		return nil, nil, err
	}
	for len(plain) > 0 {
		var e auditlog.Entry
		if len(plain) < 4+len(e.Leaf) {
			return nil, nil, errAuditRow(key)
		}
		size := int(binary.BigEndian.Uint32(plain))
		plain = plain[4:]
		plain = plain[copy(e.Leaf[:], plain):]
		if size > 0 {
			if size > len(plain)-len(e.Salt) {
				return nil, nil, errAuditRow(key)
			}
			plain = plain[copy(e.Salt[:], plain):]
			e.Event, plain = plain[:size:size], plain[size:]
		}
		run = append(run, e)
	}
	return run, nodes, nil
}

func (t auditTable) Append(ctx context.Context, b *auditlog.Batch) error {
	for _, w := range b.With {
		if _, ok := w.(*companion); !ok {
			return contracts.Errorf(contracts.Internal, "a companion that is not of this store: %T", w)
		}
	}
	// Encoded here, in the caller's goroutine, not in the committer.
	var rows [][2][]byte
	first, node := anchor.NodeCount(b.First), uint64(0)
	for at := 0; at < len(b.Entries); at += maxRun {
		run := b.Entries[at:min(at+maxRun, len(b.Entries))]
		end := anchor.NodeCount(b.First+uint64(at+len(run))) - first
		k := t.entryKey(b.First + uint64(at))
		rows = append(rows, [2][]byte{k, t.encode(k, run, b.Nodes[node:end])})
		node = end
	}
	return t.s.Update(ctx, func(tx *Tx) error {
		if size := sizeOf(tx.Get(t.key('z'))); size != b.First {
			return contracts.Errorf(contracts.Conflict, "the audit log has %d entries, not %d: there is another writer", size, b.First)
		}
		for _, w := range b.With {
			c := w.(*companion)
			c.err = tx.try(c.f)
		}
		for _, r := range rows {
			tx.Put(r[0], r[1])
		}
		tx.Put(t.key('z'), binary.BigEndian.AppendUint64(nil, b.First+uint64(len(b.Entries))))
		return nil
	})
}

// companion is rows that become durable with an audit event.
type companion struct {
	f     func(*Tx) error
	bytes int
	err   error // of f; none of its rows is written then
}

func (c *companion) Bytes() int { return c.bytes }

// rowOf gives the key of the row that has an entry, nil if there is none.
func (t auditTable) rowOf(r *Reader, index uint64) []byte {
	k, _ := r.Last(t.key('e'), t.entryKey(index))
	return k
}

func (t auditTable) Entries(_ context.Context, from uint64, limit int) (out []auditlog.Entry, err error) {
	err = t.s.View(func(r *Reader) error {
		start := t.rowOf(r, from)
		if start == nil || from >= sizeOf(r.Get(t.key('z'))) {
			return r.Err()
		}
		next := binary.BigEndian.Uint64(start[len(start)-8:])
		var failed error
		err := r.Scan(t.key('e'), before(start), func(k, v []byte) bool {
			if at := binary.BigEndian.Uint64(k[len(k)-8:]); at != next {
				failed = contracts.Errorf(contracts.StorageCorrupt, "audit entry %d is missing", next)
				return false
			}
			run, _, err := t.decode(k, v)
			if err != nil {
				failed = err
				return false
			}
			for i := range run {
				if next+uint64(i) >= from && len(out) < limit {
					out = append(out, run[i])
				}
			}
			next += uint64(len(run))
			return len(out) < limit
		})
		if err == nil {
			err = failed
		}
		return err
	})
	return out, err
}

// before gives a key that is directly below k, for an exclusive cursor: the rows of
// the table have keys of one length.
func before(k []byte) []byte {
	out := append([]byte{}, k...)
	for i := len(out) - 1; i >= 0; i-- {
		out[i]--
		if out[i] != 0xff {
			return out
		}
	}
	return nil
}

func (t auditTable) Nodes(_ context.Context, numbers []uint64) (out []anchor.Hash, err error) {
	out = make([]anchor.Hash, len(numbers))
	err = t.s.View(func(r *Reader) error {
		size := sizeOf(r.Get(t.key('z')))
		for i, n := range numbers {
			// The entry that completed node n: the last whose first node is not above n.
			entry := uint64(sort.Search(int(size), func(i int) bool { return anchor.NodeCount(uint64(i)+1) > n }))
			if entry >= size {
				return contracts.Errorf(contracts.NotFound, "node %d was never stored", n)
			}
			k, b := r.Last(t.key('e'), t.entryKey(entry))
			if k == nil {
				return contracts.Errorf(contracts.StorageCorrupt, "audit entry %d is missing", entry)
			}
			nodes, _, err := nodesOf(k, b)
			if err != nil {
				return err
			}
			at := 32 * int(n-anchor.NodeCount(binary.BigEndian.Uint64(k[len(k)-8:])))
			if len(nodes) < at+32 {
				return contracts.Errorf(contracts.StorageCorrupt, "audit entry %d is missing or cut short", entry)
			}
			out[i] = anchor.Hash(nodes[at : at+32])
		}
		return r.Err()
	})
	return out, err
}

func (t auditTable) SetHead(ctx context.Context, old, head []byte) error {
	return t.s.Update(ctx, func(tx *Tx) error {
		if now := tx.Get(t.key('h')); string(now) != string(old) {
			return contracts.Errorf(contracts.Conflict, "the signed head was changed by another writer")
		}
		tx.Put(t.key('h'), append([]byte{}, head...))
		return nil
	})
}

func (t auditTable) Erase(ctx context.Context, index uint64) error {
	var k []byte
	err := t.s.View(func(r *Reader) error {
		if index < sizeOf(r.Get(t.key('z'))) {
			k = t.rowOf(r, index)
		}
		return r.Err()
	})
	if err != nil {
		return err
	}
	if k == nil {
		return contracts.Errorf(contracts.NotFound, "no audit entry %d", index)
	}
	return t.s.Update(ctx, func(tx *Tx) error {
		run, clear, err := t.decode(k, tx.Get(k))
		if err != nil {
			return err
		}
		at := index - binary.BigEndian.Uint64(k[len(k)-8:])
		if at >= uint64(len(run)) {
			return contracts.Errorf(contracts.StorageCorrupt, "audit entry %d is missing", index)
		}
		run[at] = auditlog.Entry{Leaf: run[at].Leaf}
		nodes := make([]anchor.Hash, len(clear)/32)
		for i := range nodes {
			nodes[i] = anchor.Hash(clear[32*i:])
		}
		tx.Put(k, t.encode(k, run, nodes))
		return nil
	})
}
