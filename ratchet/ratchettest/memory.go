package ratchettest

import (
	"context"
	"errors"
	"sync"

	"github.com/talosprotocol/talos/ratchet"
)

// Fault is what a Memory does to a Commit.
type Fault int

// The faults. After ErrorPersisted the caller cannot know that it was written,
// as when a machine dies between a write and its answer.
const (
	None           Fault = iota
	Error                // fails, nothing is written
	ErrorPersisted       // fails, but everything is written
	Stale                // fails as if somebody else had committed
)

// ErrInjected is the error of Error and ErrorPersisted.
var ErrInjected = errors.New("ratchettest: injected fault")

// Memory is a ratchet.Store in memory. It may be used concurrently. The zero
// value is empty and ready.
type Memory struct {
	// Fault, if not nil, is asked before each Commit.
	Fault func(id ratchet.SessionID) Fault

	mu      sync.Mutex
	records map[ratchet.SessionID]ratchet.Record
	rows    map[string][]byte
}

// Load gives the newest record.
func (m *Memory) Load(ctx context.Context, id ratchet.SessionID) (ratchet.Record, error) {
	if err := ctx.Err(); err != nil {
		return ratchet.Record{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	r, ok := m.records[id]
	if !ok {
		return ratchet.Record{}, ratchet.ErrNotFound
	}
	r.State = append([]byte(nil), r.State...)
	return r, nil
}

// Commit writes state and rows, or does what Fault says.
func (m *Memory) Commit(ctx context.Context, id ratchet.SessionID, version uint64, state []byte, rows ...ratchet.Row) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	fault := None
	if m.Fault != nil {
		fault = m.Fault(id)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if fault == Error {
		return ErrInjected
	}
	if fault == Stale || m.records[id].Version != version {
		return ratchet.ErrStale
	}
	for _, r := range rows {
		if r.Key == "" {
			return errors.New("ratchettest: a row without a key")
		}
	}
	m.write(id, version, state, rows)
	if fault == ErrorPersisted {
		return ErrInjected
	}
	return nil
}

func (m *Memory) write(id ratchet.SessionID, version uint64, state []byte, rows []ratchet.Row) {
	if m.records == nil {
		m.records = map[ratchet.SessionID]ratchet.Record{}
		m.rows = map[string][]byte{}
	}
	if state == nil {
		delete(m.records, id)
	} else {
		m.records[id] = ratchet.Record{Version: version + 1, State: append([]byte(nil), state...)}
	}
	for _, r := range rows {
		if r.Value == nil {
			delete(m.rows, r.Key)
		} else {
			m.rows[r.Key] = append([]byte{}, r.Value...)
		}
	}
}

// Row gives the value of a row.
func (m *Memory) Row(ctx context.Context, key string) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	v, ok := m.rows[key]
	if !ok {
		return nil, ratchet.ErrNotFound
	}
	return append([]byte{}, v...), nil
}

// Snapshot copies the store, as a backup of a disk would.
func (m *Memory) Snapshot() *Memory {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := &Memory{records: map[ratchet.SessionID]ratchet.Record{}, rows: map[string][]byte{}}
	for k, v := range m.records {
		out.records[k] = v
	}
	for k, v := range m.rows {
		out.rows[k] = v
	}
	return out
}
