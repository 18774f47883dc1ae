package auditlog

import (
	"context"
	"fmt"

	"github.com/talosprotocol/talos/anchor"
)

// Fault is one thing that Check found.
type Fault struct {
	Index  uint64
	Detail string
}

// Check reads everything back and compares it: each event with its leaf, each leaf
// with its place, the tree's nodes with the leaves, and the root with the newest
// head. It gives the faults, at most 1,000, and changes nothing.
func (l *Log) Check(ctx context.Context) ([]Fault, error) {
	var faults []Fault
	add := func(index uint64, format string, args ...any) {
		if len(faults) < 1000 {
			faults = append(faults, Fault{Index: index, Detail: fmt.Sprintf(format, args...)})
		}
	}
	var f anchor.Frontier
	head := l.Head()
	size := l.Size()
	for f.Size() < size {
		from := f.Size()
		got, err := l.o.Backend.Entries(ctx, from, int(min(size-from, page)))
		if err != nil {
			return faults, err
		}
		if len(got) == 0 {
			add(from, "missing, with all that follow")
			return faults, nil
		}
		for i := range got {
			index := f.Size()
			if err := checkEntry(&got[i], index); err != nil {
				add(index, "%v", err)
			}
			nodes := f.Append(nil, got[i].Leaf.Hash())
			if err := l.checkNodes(ctx, anchor.NodeCount(index), nodes); err != nil {
				add(index, "%v", err)
			}
			if head != nil && f.Size() == head.Size && f.Root() != head.Root {
				add(index, "the leaves up to here do not lead to the signed root")
			}
		}
	}
	return faults, nil
}

func checkEntry(e *Entry, index uint64) error {
	if e.Leaf.Index() != index {
		return fmt.Errorf("the leaf is of index %d", e.Leaf.Index())
	}
	if e.Erased() {
		return nil
	}
	if err := e.Leaf.Opens(&e.Salt, e.Event); err != nil {
		return err
	}
	ev, err := anchor.DecodeEvent(e.Event)
	if err != nil {
		return err
	}
	if typ, _ := anchor.EventType(ev.Type); typ != e.Leaf.Type() {
		return fmt.Errorf("the leaf is of type %d, the event of type %d", e.Leaf.Type(), typ)
	}
	return nil
}

func (l *Log) checkNodes(ctx context.Context, first uint64, want []anchor.Hash) error {
	numbers := make([]uint64, len(want))
	for i := range numbers {
		numbers[i] = first + uint64(i)
	}
	got, err := l.o.Backend.Nodes(ctx, numbers)
	if err != nil {
		return fmt.Errorf("nodes: %w", err)
	}
	for i := range want {
		if i >= len(got) || got[i] != want[i] {
			return fmt.Errorf("stored node %d does not follow from the leaves", numbers[i])
		}
	}
	return nil
}

// Unresolved gives the intents after a cursor that no later entry resolves, oldest
// first: effects of which the log cannot say how they ended, as after a crash
// between intent and result. Erased entries are left out.
func (l *Log) Unresolved(ctx context.Context, after Cursor) ([]Intent, error) {
	var order []string
	open := map[string]Intent{}
	for {
		got, next, err := l.List(ctx, after, MaxPage)
		if err != nil {
			return nil, err
		}
		if len(got) == 0 {
			break
		}
		for i := range got {
			if got[i].Erased() {
				continue
			}
			ev, err := anchor.DecodeEvent(got[i].Event)
			if err != nil {
				continue // Check names it
			}
			if ev.Type == "intent" {
				open[ev.ID] = Intent{Index: uint64(after) + uint64(i), ID: ev.ID, Time: ev.Time}
				order = append(order, ev.ID)
			} else if ev.Intent != "" {
				delete(open, ev.Intent)
			}
		}
		after = next
	}
	var out []Intent
	for _, id := range order {
		if in, ok := open[id]; ok {
			out = append(out, in)
		}
	}
	return out, nil
}

// Intent is an entry of type intent.
type Intent struct {
	Index uint64
	ID    string
	Time  string // as it claims
}
