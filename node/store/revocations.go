package store

import (
	"context"
	"encoding/binary"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
	"github.com/talosprotocol/talos/identity/capability"
)

const tableRevocation = 0x41

// Revocations gives the store of revocation logs.
//
// Keys: DID, 0x00, then 'r' and number (8) for a record, 'h' for the head, 'n' for how
// many records there are.
func (s *Store) Revocations() capability.RecordStore { return revocations{s} }

type revocations struct{ s *Store }

func revKey(log identity.DID, kind byte) []byte {
	return append(append(append([]byte{tableRevocation}, log...), 0), kind)
}

func (t revocations) Append(ctx context.Context, log identity.DID, from int64, records [][]byte, head []byte) error {
	return t.s.Update(ctx, func(tx *Tx) error {
		n := sizeOf(tx.Get(revKey(log, 'n')))
		if len(records) > 0 && uint64(from) != n+1 {
			return contracts.Errorf(contracts.Conflict, "record %d of a log that has %d", from, n)
		}
		for _, r := range records {
			n++
			tx.Put(binary.BigEndian.AppendUint64(revKey(log, 'r'), n), append([]byte{}, r...))
		}
		if head != nil {
			tx.Put(revKey(log, 'h'), append([]byte{}, head...))
		}
		tx.Put(revKey(log, 'n'), binary.BigEndian.AppendUint64(nil, n))
		return nil
	})
}

func (t revocations) Records(_ context.Context, log identity.DID, from int64, limit int) (out [][]byte, err error) {
	var after []byte
	if from > 0 {
		after = binary.BigEndian.AppendUint64(revKey(log, 'r'), uint64(from-1))
	}
	err = t.s.View(func(r *Reader) error {
		if limit <= 0 {
			return nil
		}
		return r.Scan(revKey(log, 'r'), after, func(_, v []byte) bool {
			out = append(out, v)
			return len(out) < limit
		})
	})
	return out, err
}

func (t revocations) Head(_ context.Context, log identity.DID) (b []byte, err error) {
	err = t.s.View(func(r *Reader) error { b = r.Get(revKey(log, 'h')); return r.Err() })
	return b, err
}

func (t revocations) Logs(context.Context) (out []identity.DID, err error) {
	err = t.s.View(func(r *Reader) error {
		return r.Scan([]byte{tableRevocation}, nil, func(k, _ []byte) bool {
			if k[len(k)-1] == 'n' && k[len(k)-2] == 0 {
				out = append(out, identity.DID(k[1:len(k)-2]))
			}
			return true
		})
	})
	return out, err
}
