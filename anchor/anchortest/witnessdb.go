package anchortest

import (
	"bytes"
	"context"
	"maps"
	"sync"

	"github.com/talosprotocol/talos/contracts"
)

// WitnessDB is memory that stands for a witness's database. Its zero value is an
// empty one. OpLoad and OpStore are its operations.
type WitnessDB struct {
	hook
	mu      sync.Mutex
	records map[string][]byte
}

// Load gives a record; Stale and Short make it look absent.
func (w *WitnessDB) Load(_ context.Context, key string) ([]byte, error) {
	switch w.ask(OpLoad) {
	case Error:
		return nil, ErrInjected
	case Stale, Short:
		return nil, nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return bytes.Clone(w.records[key]), nil
}

// Swap replaces a record if it is still old.
func (w *WitnessDB) Swap(_ context.Context, key string, old, record []byte) error {
	f := w.ask(OpStore)
	switch f {
	case Error, Torn:
		return ErrInjected
	case Full:
		return fullError()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	got, ok := w.records[key]
	if ok != (old != nil) || !bytes.Equal(got, old) {
		return contracts.Errorf(contracts.Conflict, "the record is another")
	}
	if w.records == nil {
		w.records = map[string][]byte{}
	}
	w.records[key] = bytes.Clone(record)
	if f == ErrorWritten {
		return ErrInjected
	}
	return nil
}

// Scan calls f with each record.
func (w *WitnessDB) Scan(_ context.Context, f func(key string, record []byte) bool) error {
	if w.ask(OpLoad) == Error {
		return ErrInjected
	}
	w.mu.Lock()
	all := maps.Clone(w.records)
	w.mu.Unlock()
	for k, r := range all {
		if !f(k, bytes.Clone(r)) {
			break
		}
	}
	return nil
}

// Count gives how many records there are.
func (w *WitnessDB) Count(context.Context) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.records), nil
}

// Clone copies what is written: a backup.
func (w *WitnessDB) Clone() *WitnessDB {
	w.mu.Lock()
	defer w.mu.Unlock()
	return &WitnessDB{records: maps.Clone(w.records)}
}

// Bytes gives the length of all records.
func (w *WitnessDB) Bytes() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for _, r := range w.records {
		n += len(r)
	}
	return n
}
