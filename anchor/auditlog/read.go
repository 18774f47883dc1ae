package auditlog

import (
	"context"
	"slices"
	"strings"

	"github.com/talosprotocol/talos/anchor"
	"github.com/talosprotocol/talos/contracts"
)

// Cursor is a place between entries: the number of entries before it. The zero
// Cursor is the beginning. What comes after a cursor excludes what was read to it.
type Cursor uint64

// MaxPage bounds the entries of one List.
const MaxPage = 1024

// List gives up to limit entries after a cursor, in order, and the cursor after the
// last of them. No entries means that the end is reached for now: [Log.Wait].
func (l *Log) List(ctx context.Context, after Cursor, limit int) ([]Entry, Cursor, error) {
	size := l.Size()
	if uint64(after) >= size {
		return nil, after, nil
	}
	limit = int(min(uint64(min(max(limit, 1), MaxPage)), size-uint64(after)))
	got, err := l.o.Backend.Entries(ctx, uint64(after), limit)
	return got, after + Cursor(len(got)), err
}

// Tail gives the cursor before the last n entries.
func (l *Log) Tail(n uint64) Cursor {
	size := l.Size()
	return Cursor(size - min(n, size))
}

// Entry gives one entry; the code is NOT_FOUND at and above the size.
func (l *Log) Entry(ctx context.Context, index uint64) (*Entry, error) {
	if index >= l.Size() {
		return nil, contracts.Errorf(contracts.NotFound, "audit log: entry %d of %d", index, l.Size())
	}
	got, err := l.o.Backend.Entries(ctx, index, 1)
	if err != nil {
		return nil, err
	}
	if len(got) != 1 || got[0].Leaf.Index() != index {
		return nil, contracts.Errorf(contracts.StorageCorrupt, "audit log: entry %d is not in its place", index)
	}
	return &got[0], nil
}

// Root gives the root of the first size entries, for any size up to [Log.Size].
func (l *Log) Root(ctx context.Context, size uint64) (anchor.Hash, error) {
	if size > l.Size() {
		return anchor.Hash{}, contracts.Errorf(contracts.NotFound, "audit log: size %d of %d", size, l.Size())
	}
	return anchor.Nodes(l.o.Backend.Nodes).RootAt(ctx, size)
}

// Inclusion proves that an entry is in the tree of the given size.
func (l *Log) Inclusion(ctx context.Context, index, size uint64) ([]anchor.Hash, error) {
	if size > l.Size() {
		return nil, contracts.Errorf(contracts.NotFound, "audit log: size %d of %d", size, l.Size())
	}
	return anchor.Nodes(l.o.Backend.Nodes).Inclusion(ctx, index, size)
}

// Consistency proves that the tree of size to extends the tree of size from.
func (l *Log) Consistency(ctx context.Context, from, to uint64) ([]anchor.Hash, error) {
	if to > l.Size() {
		return nil, contracts.Errorf(contracts.NotFound, "audit log: size %d of %d", to, l.Size())
	}
	return anchor.Nodes(l.o.Backend.Nodes).Consistency(ctx, from, to)
}

// BundleOptions say what goes into a bundle beside entry and proof.
type BundleOptions struct {
	Head   anchor.Head  // must cover the entry
	Prior  *anchor.Head // see [anchor.Parts]
	States [][]byte
	// Anchorings are those of heads that extend Head, in any order; one of each anchor.
	Anchorings []anchor.HeadAnchoring
	// Sealed leaves event and salt out, and so shows the commitment alone. An erased
	// entry is always sealed.
	Sealed bool
}

// Bundle writes the proof that an entry is in the log under a head.
func (l *Log) Bundle(ctx context.Context, index uint64, o BundleOptions) ([]byte, error) {
	e, err := l.Entry(ctx, index)
	if err != nil {
		return nil, err
	}
	if o.Head.Note == nil || o.Head.Note.Origin != l.origin {
		return nil, contracts.Errorf(contracts.BundleInvalid, "audit log: the head is not of this log")
	}
	proof, err := l.Inclusion(ctx, index, o.Head.Note.Size)
	if err != nil {
		return nil, err
	}
	p := anchor.Parts{Leaf: e.Leaf, Proof: proof, Head: o.Head, Prior: o.Prior, States: o.States, Anchorings: slices.Clone(o.Anchorings)}
	slices.SortFunc(p.Anchorings, func(a, b anchor.HeadAnchoring) int { return strings.Compare(a.Anchor, b.Anchor) })
	if !o.Sealed && !e.Erased() {
		if p.Event, err = anchor.DecodeEvent(e.Event); err != nil {
			return nil, err
		}
		p.Salt = &e.Salt
	}
	return anchor.NewBundle(p)
}

// Erase forgets an entry for good: it logs an erase event, waits until that is
// durable, then has the backend forget event and salt. The leaf stays, so all
// proofs stay as they are. Bundles that were handed out keep what they show.
func (l *Log) Erase(ctx context.Context, index uint64, reason string) error {
	if index >= l.Size() {
		return contracts.Errorf(contracts.NotFound, "audit log: entry %d of %d", index, l.Size())
	}
	ev := l.event("erase")
	i := int64(index)
	ev.Index, ev.Reason = &i, reason
	if _, err := l.Append(ctx, ev); err != nil {
		return err
	}
	return l.o.Backend.Erase(ctx, index)
}
