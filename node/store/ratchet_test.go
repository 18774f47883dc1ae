package store_test

import (
	"context"
	"encoding/binary"
	"testing"

	"github.com/talosprotocol/talos/node/session"
	"github.com/talosprotocol/talos/node/store"
	"github.com/talosprotocol/talos/ratchet"
	"github.com/talosprotocol/talos/ratchet/ratchettest"
)

// onTable keeps ratchet records in the sealed table, as package session does, in the
// form that the suite of ratchet.Store asks for.
type onTable struct{ t session.Store }

func (s onTable) Load(_ context.Context, id ratchet.SessionID) (ratchet.Record, error) {
	b, err := s.t.Get(append([]byte{'s'}, id[:]...))
	if err != nil {
		return ratchet.Record{}, err
	}
	if len(b) < 9 {
		return ratchet.Record{}, ratchet.ErrNotFound // none, or the tombstone of a version
	}
	return ratchet.Record{Version: binary.BigEndian.Uint64(b), State: b[9:]}, nil
}

func (s onTable) Commit(ctx context.Context, id ratchet.SessionID, version uint64, state []byte, rows ...ratchet.Row) error {
	return s.t.Update(ctx, func(tx session.Tx) error {
		key := append([]byte{'s'}, id[:]...)
		b, err := tx.Get(key)
		if err != nil {
			return err
		}
		var now uint64
		if len(b) >= 8 {
			now = binary.BigEndian.Uint64(b)
		}
		if now != version {
			return ratchet.ErrStale
		}
		next := binary.BigEndian.AppendUint64(nil, version+1)
		if state != nil {
			next = append(append(next, 1), state...)
		}
		tx.Put(key, next)
		for _, r := range rows {
			k := append([]byte{'r'}, r.Key...)
			if r.Value == nil {
				tx.Delete(k)
			} else {
				tx.Put(k, append([]byte{}, r.Value...))
			}
		}
		return nil
	})
}

func (s onTable) Row(_ context.Context, key string) ([]byte, error) {
	b, err := s.t.Get(append([]byte{'r'}, key...))
	if err == nil && b == nil {
		err = ratchet.ErrNotFound
	}
	return b, err
}

func TestRatchetStore(t *testing.T) {
	ratchettest.TestStore(t, func() ratchet.Store {
		s, err := store.Open(t.TempDir(), store.Options{Key: key})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		return onTable{s.Session()}
	})
}
