package anchortest

import (
	"bytes"
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/talosprotocol/talos/anchor"
	"github.com/talosprotocol/talos/anchor/auditlog"
	"github.com/talosprotocol/talos/contracts"
)

// Disk is memory that stands for the disk under an audit log: what was written to
// it stays when the handle on it dies. It fails the test when its caller breaks a
// rule of auditlog.Backend.
type Disk struct {
	hook
	t testing.TB

	mu      sync.Mutex
	entries []auditlog.Entry
	nodes   []anchor.Hash
	head    []byte
	torn    bool
	open    *backend
}

// NewDisk gives an empty disk.
func NewDisk(t testing.TB) *Disk { return &Disk{t: t} }

// Open gives a handle, as a process gets after a start: what was open before is
// dead from now on.
func (d *Disk) Open() auditlog.Backend {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.open = &backend{d: d}
	return d.open
}

// Clone copies what is written: a backup, or a stolen data directory.
func (d *Disk) Clone() *Disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := &Disk{t: d.t, nodes: slices.Clone(d.nodes), head: bytes.Clone(d.head), torn: d.torn}
	for i := range d.entries {
		c.entries = append(c.entries, cloneEntry(&d.entries[i]))
	}
	return c
}

// Size gives how many entries are written.
func (d *Disk) Size() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.entries)
}

// Damage lets a test change what is written behind the back of the log.
func (d *Disk) Damage(f func(entries *[]auditlog.Entry, nodes *[]anchor.Hash, head *[]byte)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f(&d.entries, &d.nodes, &d.head)
}

func cloneEntry(e *auditlog.Entry) auditlog.Entry {
	return auditlog.Entry{Leaf: e.Leaf, Event: bytes.Clone(e.Event), Salt: e.Salt}
}

// backend is a handle on a Disk.
type backend struct {
	d       *Disk
	writing atomic.Bool
}

// enter begins an operation: the fault to play, or the error of a dead handle.
func (b *backend) enter(op Op) (Fault, error) {
	f := b.d.ask(op)
	b.d.mu.Lock()
	if b.d.open != b {
		b.d.mu.Unlock()
		return None, errDead
	}
	return f, nil // with the lock held
}

// write runs one writing operation under a fault.
func (b *backend) write(op Op, apply func() error) error {
	if !b.writing.CompareAndSwap(false, true) {
		b.d.t.Errorf("anchortest: %s beside another write: the log has one writer", op)
	}
	defer b.writing.Store(false)
	f, err := b.enter(op)
	if err != nil {
		return err
	}
	defer b.d.mu.Unlock()
	switch f {
	case Error:
		return ErrInjected
	case Full:
		return fullError()
	case Torn:
		b.d.torn = op == OpAppend
		b.d.open = nil
		return ErrInjected
	}
	if err := apply(); err != nil {
		return err
	}
	if f == ErrorWritten {
		return ErrInjected
	}
	return nil
}

// State is of auditlog.Backend; Short and Stale halve the size.
func (b *backend) State(context.Context) (auditlog.State, error) {
	f, err := b.enter(OpState)
	if err != nil {
		return auditlog.State{}, err
	}
	defer b.d.mu.Unlock()
	st := auditlog.State{Size: uint64(len(b.d.entries)), Torn: b.d.torn, Head: bytes.Clone(b.d.head)}
	switch f {
	case Error:
		return auditlog.State{}, ErrInjected
	case Short, Stale:
		st.Size /= 2
	}
	b.d.torn = false
	return st, nil
}

// Append is of auditlog.Backend; it checks the batch that the log made.
func (b *backend) Append(_ context.Context, batch *auditlog.Batch) error {
	return b.write(OpAppend, func() error {
		d := b.d
		if batch.First != uint64(len(d.entries)) {
			return contracts.Errorf(contracts.Conflict, "size %d, batch begins at %d", len(d.entries), batch.First)
		}
		end := batch.First + uint64(len(batch.Entries))
		if want := anchor.NodeCount(end) - anchor.NodeCount(batch.First); len(batch.Entries) == 0 || uint64(len(batch.Nodes)) != want {
			d.t.Errorf("anchortest: batch of %d entries with %d nodes, want %d", len(batch.Entries), len(batch.Nodes), want)
		}
		for i := range batch.Entries {
			e := &batch.Entries[i]
			if e.Leaf.Index() != batch.First+uint64(i) || e.Leaf.Opens(&e.Salt, e.Event) != nil {
				d.t.Errorf("anchortest: entry %d does not hold what its leaf says", batch.First+uint64(i))
			}
			d.entries = append(d.entries, cloneEntry(e))
		}
		d.nodes = append(d.nodes, batch.Nodes...)
		return nil
	})
}

// Entries is of auditlog.Backend; Short and Stale hide the later half.
func (b *backend) Entries(_ context.Context, from uint64, limit int) ([]auditlog.Entry, error) {
	f, err := b.enter(OpEntries)
	if err != nil {
		return nil, err
	}
	defer b.d.mu.Unlock()
	if f == Error {
		return nil, ErrInjected
	}
	size := uint64(len(b.d.entries))
	if f == Short || f == Stale {
		size /= 2
	}
	var out []auditlog.Entry
	for i := from; i < size && len(out) < limit; i++ {
		out = append(out, cloneEntry(&b.d.entries[i]))
	}
	return out, nil
}

// Nodes is of auditlog.Backend.
func (b *backend) Nodes(_ context.Context, numbers []uint64) ([]anchor.Hash, error) {
	f, err := b.enter(OpNodes)
	if err != nil {
		return nil, err
	}
	defer b.d.mu.Unlock()
	if f == Error {
		return nil, ErrInjected
	}
	out := make([]anchor.Hash, len(numbers))
	for i, n := range numbers {
		if n >= uint64(len(b.d.nodes)) {
			return nil, contracts.Errorf(contracts.NotFound, "node %d", n)
		}
		out[i] = b.d.nodes[n]
	}
	return out, nil
}

// SetHead is of auditlog.Backend.
func (b *backend) SetHead(_ context.Context, old, head []byte) error {
	return b.write(OpSetHead, func() error {
		if !bytes.Equal(b.d.head, old) {
			return contracts.Errorf(contracts.Conflict, "the head is another")
		}
		b.d.head = bytes.Clone(head)
		return nil
	})
}

// Erase is of auditlog.Backend.
func (b *backend) Erase(_ context.Context, index uint64) error {
	f, err := b.enter(OpErase)
	if err != nil {
		return err
	}
	defer b.d.mu.Unlock()
	switch {
	case f == Error:
		return ErrInjected
	case f == Full:
		return fullError()
	case index >= uint64(len(b.d.entries)):
		return contracts.Errorf(contracts.NotFound, "entry %d", index)
	}
	e := &b.d.entries[index]
	e.Event, e.Salt = nil, anchor.Salt{}
	return nil
}

// HeadCell is memory that stands for a head file.
type HeadCell struct {
	hook
	mu         sync.Mutex
	head, last []byte
}

// Load gives the head; Stale gives the one before it, Short an empty cell.
func (c *HeadCell) Load(context.Context) ([]byte, error) {
	f := c.ask(OpLoad)
	c.mu.Lock()
	defer c.mu.Unlock()
	switch f {
	case Error:
		return nil, ErrInjected
	case Stale:
		return bytes.Clone(c.last), nil
	case Short:
		return nil, nil
	}
	return bytes.Clone(c.head), nil
}

// Store replaces the head.
func (c *HeadCell) Store(_ context.Context, head []byte) error {
	f := c.ask(OpStore)
	switch f {
	case Error, Torn:
		return ErrInjected
	case Full:
		return fullError()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last, c.head = c.head, bytes.Clone(head)
	if f == ErrorWritten {
		return ErrInjected
	}
	return nil
}

// Clone copies what is written.
func (c *HeadCell) Clone() *HeadCell {
	c.mu.Lock()
	defer c.mu.Unlock()
	return &HeadCell{head: bytes.Clone(c.head), last: bytes.Clone(c.last)}
}
