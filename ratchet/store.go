package ratchet

import (
	"context"
	"errors"
)

// ErrStale is the error of a Commit whose version is not the stored one.
var ErrStale = errors.New("ratchet: state was changed by somebody else")

// ErrNotFound is the error of Load and Row for what is not there.
var ErrNotFound = errors.New("ratchet: not found")

// SessionID names a session: a UUIDv7.
type SessionID [16]byte

// Record is a stored state.
type Record struct {
	// Version counts the commits of this session, from 1. It is never reused,
	// not even after a crash.
	Version uint64
	State   []byte // as written by State.AppendState and its sisters
}

// Row is anything that must become durable together with a state: the outgoing
// frame, the inbox row of a message, the replay window, the erasure of a
// one-time key. Key is in the caller's own scheme and not empty; a nil Value
// deletes the row.
type Row struct {
	Key   string
	Value []byte
}

// Store keeps session states. All methods may be called concurrently; two
// Commits of one session with the same version must not both succeed. Slices
// passed in are not kept, slices returned belong to the caller.
//
// What the caller does with an error of Commit:
//
//   - ErrStale: somebody else owns the session. Drop the State, Load again.
//   - any other: it is unknown whether the transaction is durable. Drop the
//     State, release nothing that depended on it, Load again; the loaded version
//     says which it was. Going on with the State in memory could reuse a key.
type Store interface {
	// Load gives the newest committed record, ErrNotFound if there is none.
	Load(ctx context.Context, id SessionID) (Record, error)

	// Commit writes the state and all rows in one transaction, atomic and
	// durable when it returns nil, visible to every later Load and Row. version
	// is that of the record on which state is built, 0 for a new session; the
	// new record's version is version+1. A version that is not the stored one
	// gives ErrStale, and nothing is written. A nil state deletes the session's
	// record; the id of a session is never used again.
	Commit(ctx context.Context, id SessionID, version uint64, state []byte, rows ...Row) error

	// Row gives the value of a row, ErrNotFound if there is none.
	Row(ctx context.Context, key string) ([]byte, error)
}
