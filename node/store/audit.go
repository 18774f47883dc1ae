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

// Audit gives the backend of one incarnation of this node's audit log.
//
// Keys: incarnation (2), then 'e' and index (8) for an entry, 'z' for the size, 'h'
// for the signed head. An entry's row holds the nodes that the entry completed, in
// clear, then leaf, salt and event, sealed: one row and no more for each event.
func (s *Store) Audit(incarnation uint16) auditlog.Backend {
	return auditTable{s, binary.BigEndian.AppendUint16([]byte{tableAudit}, incarnation)}
}

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

func (t auditTable) encode(key []byte, e *auditlog.Entry, nodes []anchor.Hash) []byte {
	plain := append(make([]byte, 0, len(e.Leaf)+len(e.Salt)+len(e.Event)), e.Leaf[:]...)
	if !e.Erased() {
		plain = append(append(plain, e.Salt[:]...), e.Event...)
	}
	b := []byte{byte(len(nodes))}
	for i := range nodes {
		b = append(b, nodes[i][:]...)
	}
	return append(b, t.s.seal(key, plain)...)
}

func (t auditTable) decode(key, b []byte) (e auditlog.Entry, nodes []anchor.Hash, err error) {
	bad := contracts.Errorf(contracts.StorageCorrupt, "an audit row is not as it was written")
	if len(b) == 0 || len(b) < 1+32*int(b[0]) {
		return e, nil, bad
	}
	n := int(b[0])
	for i := range n {
		nodes = append(nodes, anchor.Hash(b[1+32*i:33+32*i]))
	}
	plain, err := t.s.open(key, b[1+32*n:])
	if err != nil {
		return e, nil, err
	}
	if len(plain) < len(e.Leaf) || (len(plain) > len(e.Leaf) && len(plain) < len(e.Leaf)+len(e.Salt)) {
		return e, nil, bad
	}
	plain = plain[copy(e.Leaf[:], plain):]
	if len(plain) > 0 {
		e.Event = plain[copy(e.Salt[:], plain):]
	}
	return e, nodes, nil
}

func (t auditTable) Append(ctx context.Context, b *auditlog.Batch) error {
	// Encoded here, in the caller's goroutine, not in the committer.
	rows := make([][2][]byte, len(b.Entries))
	node := uint64(0)
	first := anchor.NodeCount(b.First)
	for i := range b.Entries {
		end := anchor.NodeCount(b.First+uint64(i)+1) - first
		k := t.entryKey(b.First + uint64(i))
		rows[i] = [2][]byte{k, t.encode(k, &b.Entries[i], b.Nodes[node:end])}
		node = end
	}
	return t.s.Update(ctx, func(tx *Tx) error {
		if size := sizeOf(tx.Get(t.key('z'))); size != b.First {
			return contracts.Errorf(contracts.Conflict, "the audit log has %d entries, not %d: there is another writer", size, b.First)
		}
		for _, r := range rows {
			tx.Put(r[0], r[1])
		}
		tx.Put(t.key('z'), binary.BigEndian.AppendUint64(nil, b.First+uint64(len(rows))))
		return nil
	})
}

func (t auditTable) Entries(_ context.Context, from uint64, limit int) (out []auditlog.Entry, err error) {
	var after []byte
	if from > 0 {
		after = t.entryKey(from - 1)
	}
	want := from
	err = t.s.View(func(r *Reader) error {
		var failed error
		err := r.Scan(t.key('e'), after, func(k, v []byte) bool {
			if len(out) == limit {
				return false
			}
			if i := binary.BigEndian.Uint64(k[len(k)-8:]); i != want {
				failed = contracts.Errorf(contracts.StorageCorrupt, "audit entry %d is missing", want)
				return false
			}
			e, _, err := t.decode(k, v)
			if err != nil {
				failed = err
				return false
			}
			out, want = append(out, e), want+1
			return true
		})
		if err == nil {
			err = failed
		}
		return err
	})
	return out, err
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
			k := t.entryKey(entry)
			b := r.Get(k)
			at := int(n - anchor.NodeCount(entry))
			if len(b) == 0 || at >= int(b[0]) || len(b) < 33+32*at {
				return contracts.Errorf(contracts.StorageCorrupt, "audit entry %d is missing or cut short", entry)
			}
			out[i] = anchor.Hash(b[1+32*at : 33+32*at])
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
	return t.s.Update(ctx, func(tx *Tx) error {
		k := t.entryKey(index)
		b := tx.Get(k)
		if b == nil {
			return contracts.Errorf(contracts.NotFound, "no audit entry %d", index)
		}
		e, nodes, err := t.decode(k, b)
		if err != nil {
			return err
		}
		tx.Put(k, t.encode(k, &auditlog.Entry{Leaf: e.Leaf}, nodes))
		return nil
	})
}
