package store_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/talosprotocol/talos/anchor"
	"github.com/talosprotocol/talos/anchor/auditlog"
	"github.com/talosprotocol/talos/anchor/chain"
	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/node/store"
)

// counting is an audit log that only counts.
type counting struct{ n uint64 }

func (c *counting) Origin() string { return "did:talos:z/audit/1" }
func (c *counting) Size() uint64   { return c.n }
func (c *counting) Append(context.Context, *contracts.AuditEvent) (uint64, error) {
	c.n++
	return c.n - 1, nil
}

func (c *counting) Entry(context.Context, uint64) (*auditlog.Entry, error) {
	return nil, contracts.Errorf(contracts.NotFound, "no entry")
}

func (c *counting) List(_ context.Context, after auditlog.Cursor, _ int) ([]auditlog.Entry, auditlog.Cursor, error) {
	return nil, after, nil
}

func (c *counting) Inclusion(context.Context, uint64, uint64) ([]anchor.Hash, error) { return nil, nil }

// epochsOf opens epochs over so many logs, all of one size, which the caller changes.
func epochsOf(t testing.TB, s *store.Store, logs int, size *uint64, l chain.Log) *chain.Epochs {
	t.Helper()
	e, err := chain.OpenEpochs(s.Table(), l, chain.Source{
		Heads: func(_ context.Context, f func(anchor.Checkpoint) bool) error {
			for i := range logs {
				if !f(anchor.Checkpoint{Origin: fmt.Sprint("log ", i), Size: *size}) {
					break
				}
			}
			return nil
		},
		NewEvent: func(typ string) *contracts.AuditEvent {
			return anchor.NewEvent(typ, "did:talos:z", time.Now(), [10]byte{})
		},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// An epoch of more logs than one row holds, and the next start, on the real store.
func TestEpochOfManyLogs(t *testing.T) {
	dir, key := t.TempDir(), make([]byte, 32)
	s, err := store.Open(dir, store.Options{Key: key})
	if err != nil {
		t.Fatal(err)
	}
	const logs = 20_000
	size, l := uint64(1), new(counting)
	e := epochsOf(t, s, logs, &size, l)
	for size = 1; size <= 2; size++ {
		if m, err := e.Close(t.Context()); err != nil || m == nil || m.Count != logs {
			t.Fatalf("%+v, %v", m, err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if s, err = store.Open(dir, store.Options{Key: key}); err != nil {
		t.Fatal(err)
	}
	defer s.Close() //nolint:errcheck // a test
	size = 2
	e = epochsOf(t, s, logs, &size, l)
	if m, err := e.Close(t.Context()); err != nil || m != nil {
		t.Errorf("an epoch of nothing new: %+v, %v", m, err)
	}
	size = 3
	if m, err := e.Close(t.Context()); err != nil || m == nil || m.Number != 2 || m.Count != logs {
		t.Errorf("%+v, %v", m, err)
	}
}

// BenchmarkEpoch is an epoch of 100,000 logs on the real store: the tree, 8 MB of leaves,
// and 15 syncs.
func BenchmarkEpoch(b *testing.B) {
	s, err := store.Open(b.TempDir(), store.Options{Key: make([]byte, 32)})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close() //nolint:errcheck // a benchmark
	size := uint64(0)
	e := epochsOf(b, s, 100_000, &size, new(counting))
	for b.Loop() {
		size++
		if m, err := e.Close(b.Context()); err != nil || m == nil {
			b.Fatal(m, err)
		}
	}
}
