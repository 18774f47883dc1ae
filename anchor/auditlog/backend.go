package auditlog

import (
	"context"
	"time"

	"github.com/talosprotocol/talos/anchor"
)

// Entry is one stored entry.
type Entry struct {
	Leaf anchor.Leaf
	// Event is the canonical event and Salt what the leaf commits to it with. Both
	// are empty once the entry is erased.
	Event []byte
	Salt  anchor.Salt
}

// Erased says that event and salt are gone.
func (e *Entry) Erased() bool { return len(e.Event) == 0 }

// Batch is a run of entries with the nodes that they add to the tree.
type Batch struct {
	First   uint64 // index of Entries[0]
	Entries []Entry
	Nodes   []anchor.Hash // numbered from anchor.NodeCount(First)
	// With is what callers gave along with entries, to be written in the same
	// transaction.
	With []Companion
}

// Companion is other rows of the caller of AppendWith, durable together with its
// events: what it does and that it did it are one transaction, and one sync. Only the
// backend knows what is in it, and tells the caller through it if a companion could
// not be written; the entries are written all the same.
type Companion interface {
	// Bytes says roughly how much will be written, so that a batch stays within what
	// the backend takes at once.
	Bytes() int
}

// State is what a backend holds.
type State struct {
	Size uint64 // entries
	// Torn says that a crash cut a batch that was never acknowledged, and that the
	// backend dropped it. It is said once: by the first State after the crash.
	Torn bool
	Head []byte // as SetHead stored it, nil before the first
}

// Backend stores one incarnation of a log: entries, nodes of the tree, and the
// signed head.
//
// Durability: what returned nil survives a crash and a power cut.
// Atomicity: a batch, a head, or an erasure is there as a whole or not at all, also
// after a crash.
// Concurrency: reads and Erase may run beside one writer; the log has one writer.
// Exclusion: only one Backend may be open on one storage, in any process.
//
// Errors. An error of code STORAGE_FULL from a writing method, or TOO_LARGE from
// Append, promises that nothing was written, now or later; the log goes on. After any other error from a writing
// method, of which nothing is promised, the log stops for good. An error from a
// reading method fails that call, and a checkpoint that needed it.
//
// The slices that a method is given are the caller's again when it returns; those
// that it returns are the caller's. The promises are tested by
// anchor/anchortest.TestBackend.
type Backend interface {
	// State gives size and head, after dropping what a crash left incomplete.
	State(ctx context.Context) (State, error)
	// Append adds a batch and its companions. If b.First is not the size, nothing is
	// written and the code is CONFLICT: there is another writer.
	Append(ctx context.Context, b *Batch) error
	// Entries reads up to limit entries from index from, fewer only at the end.
	Entries(ctx context.Context, from uint64, limit int) ([]Entry, error)
	// Nodes reads nodes by number, in the order asked. A number that was never
	// stored is NOT_FOUND.
	Nodes(ctx context.Context, numbers []uint64) ([]anchor.Hash, error)
	// SetHead replaces the head if it is still old (nil: none yet); otherwise
	// nothing is written and the code is CONFLICT.
	SetHead(ctx context.Context, old, head []byte) error
	// Erase forgets event and salt of an entry, and leaves its leaf. It must reach
	// the disk: erased bytes may not come back after a crash. Erasing twice is no
	// error; an index at or above the size is NOT_FOUND.
	Erase(ctx context.Context, index uint64) error
}

// HeadFile stores the newest signed head a second time, apart from the backend, so
// that a backend which silently became shorter is found out. Store is durable and
// atomic when it returns nil; its errors mean what a Backend's do. Load gives nil
// if nothing was ever stored, and an error rather than nil if it cannot tell.
type HeadFile interface {
	Load(ctx context.Context) ([]byte, error)
	Store(ctx context.Context, head []byte) error
}

// Clock is the time that a log lives in. Both methods may be called concurrently.
type Clock interface {
	Now() time.Time
	After(d time.Duration) <-chan time.Time
}
