package auditlog

import (
	"bytes"
	"context"
	"fmt"

	"github.com/talosprotocol/talos/anchor"
	"github.com/talosprotocol/talos/contracts"
)

// page is how many entries are read at once: about 1 MiB.
const page = 1024

// Open reads the store and proves the last signed head from its leaves. With an
// error of type *[Quarantine] it also returns the log, for reading only; with any
// other error it returns nil. The log takes no event before [Log.Run].
//
// The cost is one pass over the leaves, below 1 s for 100,000.
func Open(ctx context.Context, o Options) (*Log, error) {
	if err := o.defaults(); err != nil {
		return nil, err
	}
	st, err := o.Backend.State(ctx)
	if err != nil {
		return nil, fmt.Errorf("audit log: state: %w", err)
	}
	file, err := o.HeadFile.Load(ctx)
	if err != nil {
		return nil, fmt.Errorf("audit log: head file: %w", err)
	}
	l := newLog(o)
	l.size, l.torn, l.stored = st.Size, st.Torn, st.Head
	if q := l.prove(ctx, st, file); q != nil {
		l.stop(q)
		return l, q
	}
	if err := l.equalizeHeads(ctx, file); err != nil {
		return nil, err
	}
	return l, nil
}

// prove recomputes the tree from the stored leaves and compares it with both
// stored heads. Nil means that tip, signed and head are set.
func (l *Log) prove(ctx context.Context, st State, file []byte) *Quarantine {
	var heads []*anchor.Note
	for _, text := range [][]byte{st.Head, file} {
		if text == nil {
			continue
		}
		n, err := anchor.Open(text, l.o.Signer.Public())
		if err == nil && n.Origin != l.origin {
			err = contracts.Errorf(contracts.CheckpointInvalid, "it is of %s", n.Origin)
		}
		if err != nil {
			return &Quarantine{Reason: "corrupt", Detail: "a stored head is not ours: " + err.Error(), Stored: st.Size}
		}
		heads = append(heads, n)
		if l.head == nil || n.Size > l.head.Size {
			l.head = n
		}
	}
	if l.head != nil && l.head.Size > st.Size {
		return &Quarantine{Reason: "truncated", Detail: "the store is shorter than the signed head", Signed: l.head.Size, Stored: st.Size}
	}
	q := func(reason, detail string) *Quarantine {
		out := &Quarantine{Reason: reason, Detail: detail, Stored: st.Size}
		if l.head != nil {
			out.Signed = l.head.Size
		}
		return out
	}
	for {
		for _, n := range heads {
			if n.Size != l.tip.Size() {
				continue
			}
			if n.Root != l.tip.Root() {
				return q("corrupt", fmt.Sprintf("the leaves up to size %d do not lead to the signed root", n.Size))
			}
			if n.Size == l.head.Size {
				l.signed = l.tip
			}
		}
		if l.tip.Size() == st.Size {
			return nil
		}
		if err := l.scanPage(ctx, heads, st.Size); err != nil {
			return q("corrupt", err.Error())
		}
	}
}

// scanPage adds a page of leaves to the tip, but stops at the size of a head.
func (l *Log) scanPage(ctx context.Context, heads []*anchor.Note, end uint64) error {
	from := l.tip.Size()
	for _, n := range heads {
		if n.Size > from {
			end = min(end, n.Size)
		}
	}
	limit := int(min(end-from, page))
	got, err := l.o.Backend.Entries(ctx, from, limit)
	if err != nil {
		return err
	}
	if len(got) != limit {
		return fmt.Errorf("%d entries read from index %d, want %d", len(got), from, limit)
	}
	for i := range got {
		if index := l.tip.Size(); got[i].Leaf.Index() != index {
			return fmt.Errorf("the entry at index %d is of index %d", index, got[i].Leaf.Index())
		}
		l.tip.Add(got[i].Leaf.Hash())
	}
	return nil
}

// equalizeHeads writes the newer head where the older one is: a crash came between
// the two, or one store was restored and the leaves were complete all the same.
func (l *Log) equalizeHeads(ctx context.Context, file []byte) error {
	if l.head == nil {
		return nil
	}
	text := l.head.Append(nil)
	if !bytes.Equal(text, l.stored) {
		if err := l.o.Backend.SetHead(ctx, l.stored, text); err != nil {
			return fmt.Errorf("audit log: head: %w", err)
		}
		l.stored = text
	}
	if !bytes.Equal(text, file) {
		if err := l.o.HeadFile.Store(ctx, text); err != nil {
			return fmt.Errorf("audit log: head file: %w", err)
		}
	}
	return nil
}
