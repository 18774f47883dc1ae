package auditlog

import (
	"context"
	"errors"
	"fmt"

	"github.com/talosprotocol/talos/anchor"
	"github.com/talosprotocol/talos/contracts"
)

// commit writes a batch and answers its callers. highRisk says that one of the
// events wants a checkpoint at once. The error is fatal.
func (l *Log) commit(ctx context.Context, rs []*request) (highRisk bool, err error) {
	if err := l.space(); err != nil {
		l.refuse(rs, err)
		return false, nil
	}
	gap, err := l.gap()
	if err != nil {
		return false, err
	}
	all, n := rs, 0
	if gap != nil {
		all = append([]*request{gap}, rs...)
	}
	for _, r := range all {
		n += len(r.items)
	}
	tip := l.tip
	b := &Batch{First: tip.Size(), Entries: make([]Entry, 0, n), Nodes: make([]anchor.Hash, 0, 2*n+64)}
	for _, r := range all {
		for i := range r.items {
			it := &r.items[i]
			leaf := anchor.Commit(it.typ, tip.Size(), &it.salt, it.event)
			b.Entries = append(b.Entries, Entry{Leaf: leaf, Event: it.event, Salt: it.salt})
			b.Nodes = tip.Append(b.Nodes, leaf.Hash())
		}
		if r.with != nil {
			b.With = append(b.With, r.with)
		}
		highRisk = highRisk || r.highRisk
	}
	if err := l.o.Backend.Append(ctx, b); err != nil {
		if contracts.CodeOf(err) == contracts.StorageFull {
			l.refuse(rs, err)
			return false, nil
		}
		if contracts.CodeOf(err) == contracts.TooLarge {
			for _, r := range rs {
				r.done <- answer{err: err}
			}
			return false, nil
		}
		return false, l.failed(rs, "append", err)
	}
	l.tip = tip
	if gap != nil {
		l.refused, l.since = 0, ""
	}
	l.set(func() { l.size = tip.Size() })
	next := b.First
	for _, r := range all {
		index := next
		next += uint64(len(r.items)) // r is the caller's again once it is answered
		r.done <- answer{index: index}
	}
	return highRisk, nil
}

// space refuses when the disk is near full, before anything is written.
func (l *Log) space() error {
	if l.o.Free == nil {
		return nil
	}
	free, err := l.o.Free()
	if err != nil {
		return contracts.Errorf(contracts.StorageFull, "audit log: free space is not known: %w", err)
	}
	if free < l.o.Reserve {
		return contracts.Errorf(contracts.StorageFull, "audit log: %d bytes free, %d are kept in reserve", free, l.o.Reserve)
	}
	return nil
}

// refuse tells callers that nothing was written, and counts them for the gap event.
func (l *Log) refuse(rs []*request, err error) {
	if l.refused == 0 {
		l.since = l.o.Clock.Now().UTC().Format(anchor.TimeFormat)
	}
	for _, r := range rs {
		l.refused += uint64(len(r.items))
		r.done <- answer{err: err}
	}
}

// gap makes the event that says how many were refused, nil if none were.
func (l *Log) gap() (*request, error) {
	if l.refused == 0 {
		return nil, nil //nolint:nilnil // nothing to say
	}
	ev := l.event("gap")
	n := int64(l.refused)
	ev.Count, ev.Since, ev.Reason = &n, l.since, "storage_full"
	return l.own(ev)
}

// failed is the fatal end of a write: whether it is on disk is not known.
func (l *Log) failed(rs []*request, what string, err error) error {
	err = fmt.Errorf("audit log: %s: %w; the log stops, because disk and memory may disagree", what, err)
	for _, r := range rs {
		r.done <- answer{err: err}
	}
	return err
}

// checkpoint signs a head over all durable entries, if there is something new. An
// error that is not deferred is fatal.
func (l *Log) checkpoint(ctx context.Context) error {
	if l.tip.Size() == l.signed.Size() {
		return nil
	}
	if !l.confirmed && l.o.Confirm != nil {
		l.ask(ctx)
		return deferred{contracts.Errorf(contracts.Unavailable, "audit log: no anchor has confirmed the last head yet")}
	}
	if err := l.reread(ctx); err != nil {
		return err
	}
	n, err := anchor.Sign(anchor.Checkpoint{Origin: l.origin, Size: l.tip.Size(), Root: l.tip.Root()}, l.o.Signer)
	if err != nil {
		return deferred{err} // a key store that is locked for now; nothing was written
	}
	text := n.Append(nil)
	if err := l.o.Backend.SetHead(ctx, l.stored, text); err != nil {
		return l.headFailed("head", err)
	}
	l.stored = text
	if err := l.o.HeadFile.Store(ctx, text); err != nil {
		// The backend has the head, so no later one can contradict it; it is not
		// published, and the next one covers it.
		return l.headFailed("head file", err)
	}
	l.signed = l.tip
	l.set(func() { l.head = n })
	l.o.Publish(n)
	return nil
}

func (l *Log) headFailed(what string, err error) error {
	if contracts.CodeOf(err) == contracts.StorageFull {
		return deferred{err}
	}
	return l.failed(nil, what, err)
}

// reread reads the newly covered entries back and hashes them again, so that the
// log never signs what its store does not hold.
func (l *Log) reread(ctx context.Context) error {
	f := l.signed
	for f.Size() < l.tip.Size() {
		from := f.Size()
		limit := int(min(l.tip.Size()-from, page))
		got, err := l.o.Backend.Entries(ctx, from, limit)
		if err != nil {
			return deferred{fmt.Errorf("audit log: read back: %w", err)}
		}
		if len(got) != limit {
			return l.quarantine("truncated", fmt.Sprintf("%d acknowledged entries read back from index %d, want %d", len(got), from, limit))
		}
		for i := range got {
			e := &got[i]
			err := error(nil)
			if e.Leaf.Index() != f.Size() {
				err = errors.New("another entry is in its place")
			} else if !e.Erased() {
				err = e.Leaf.Opens(&e.Salt, e.Event)
			}
			if err != nil {
				return l.quarantine("corrupt", fmt.Sprintf("entry %d read back: %v", f.Size(), err))
			}
			f.Add(e.Leaf.Hash())
		}
	}
	if f.Root() != l.tip.Root() {
		return l.quarantine("corrupt", "the entries read back lead to another root")
	}
	return nil
}

func (l *Log) quarantine(reason, detail string) *Quarantine {
	return &Quarantine{Reason: reason, Detail: detail, Signed: l.signed.Size(), Stored: l.tip.Size()}
}

// confirmation is an anchor's answer.
type confirmation struct {
	size uint64
	root anchor.Hash
	err  error
}

// ask asks an anchor, unless it is being asked.
func (l *Log) ask(ctx context.Context) {
	if l.asking != nil {
		return
	}
	c := make(chan confirmation, 1)
	l.asking = c
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		select {
		case <-l.done:
		case <-ctx.Done():
		}
		cancel()
	}()
	go func() {
		defer cancel()
		size, root, err := l.o.Confirm(ctx)
		c <- confirmation{size, root, err}
	}()
}

// judge compares an anchor's answer with the log: an anchor that saw more, or
// something else, means that this store is not the newest.
func (l *Log) judge(ctx context.Context, c confirmation) error {
	l.asking = nil
	if c.err != nil {
		return nil // asked again when the next checkpoint is due
	}
	if c.size > l.tip.Size() {
		return l.quarantine("rollback", fmt.Sprintf("an anchor has cosigned size %d: this store is older than that", c.size))
	}
	root, err := l.leafRoot(ctx, c.size)
	if err != nil {
		return nil //nolint:nilerr // an unreadable store now is not a contradiction: ask again
	}
	if root != c.root {
		return l.quarantine("rollback", fmt.Sprintf("an anchor has cosigned another root at size %d: two stores have used this key", c.size))
	}
	l.confirmed = true
	return nil
}

// leafRoot computes the root of the first size entries from their leaves.
func (l *Log) leafRoot(ctx context.Context, size uint64) (anchor.Hash, error) {
	switch size {
	case l.tip.Size():
		return l.tip.Root(), nil
	case l.signed.Size():
		return l.signed.Root(), nil
	}
	var f anchor.Frontier
	for f.Size() < size {
		got, err := l.o.Backend.Entries(ctx, f.Size(), int(min(size-f.Size(), page)))
		if err != nil || len(got) == 0 {
			return anchor.Hash{}, fmt.Errorf("audit log: entries from %d: %w", f.Size(), errors.Join(err, contracts.Errorf(contracts.StorageCorrupt, "%d read", len(got))))
		}
		for i := range got {
			f.Add(got[i].Leaf.Hash())
		}
	}
	return f.Root(), nil
}
