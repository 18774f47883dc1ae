package chain

import (
	"context"

	"github.com/talosprotocol/talos/anchor"
	"github.com/talosprotocol/talos/contracts"
)

// Anchoring gives the anchoring of a log's head of the given size or above, in the first
// kept epoch that has one; nil if there is none, or no receipt covers it yet.
func (e *Epochs) Anchoring(ctx context.Context, origin string, size uint64) (*contracts.Anchoring, error) {
	id := anchor.LogID(origin)
	e.mu.Lock()
	at, ok := e.last[id]
	e.mu.Unlock()
	if !ok || at.size < size {
		return nil, nil
	}
	number, found := at.epoch, at.epoch
	for {
		m, index, leaf, err := e.find(number, id)
		if err != nil || m == nil || leaf.Size < size {
			break // forgotten, or too old
		}
		found = number
		if number, ok = e.before(m.Number, index); !ok {
			break
		}
	}
	return e.AnchoringIn(ctx, origin, found)
}

// AnchoringIn gives the anchoring of a log in an epoch, with all receipts that there are;
// nil if there is none, or the epoch is not kept.
func (e *Epochs) AnchoringIn(ctx context.Context, origin string, number uint64) (*contracts.Anchoring, error) {
	m, index, leaf, err := e.find(number, anchor.LogID(origin))
	if err != nil || m == nil || m.Open {
		return nil, err
	}
	t, err := e.tree(m)
	if err != nil {
		return nil, err
	}
	a := &anchor.Anchoring{Anchor: e.log.Origin(), Leaf: *leaf, Index: uint64(index)}
	if a.Proof, err = t.Proof(index); err != nil {
		return nil, err
	}
	entry, err := e.log.Entry(ctx, m.Entry)
	if err != nil {
		return nil, err
	}
	if a.Event, err = anchor.DecodeEvent(entry.Event); err != nil {
		return nil, err
	}
	a.Salt, a.Entry = entry.Salt, entry.Leaf
	if a.Receipts, err = e.receipts(ctx, m.Entry); err != nil || len(a.Receipts) == 0 {
		return nil, err
	}
	return a.Contract()
}

// find gives an epoch and the place of a log in it; nil if it is not kept, or the log is
// not there.
func (e *Epochs) find(number uint64, id anchor.Hash) (*Epoch, int, *anchor.EpochLeaf, error) {
	e.mu.Lock()
	var m *Epoch
	// Numbers ascend by one, so the place is known.
	if len(e.kept) > 0 && number >= e.kept[0].Number && number-e.kept[0].Number < uint64(len(e.kept)) {
		found := e.kept[number-e.kept[0].Number]
		m = &found
	}
	e.mu.Unlock()
	if m == nil {
		return nil, 0, nil, nil
	}
	t, err := e.tree(m)
	if err != nil {
		return nil, 0, nil, err
	}
	index, ok := t.Find(id)
	if !ok {
		return nil, 0, nil, nil
	}
	return m, index, &t.Leaves()[index], nil
}

// receipts gives, for each chain, the first receipt that covers an entry of the log.
func (e *Epochs) receipts(ctx context.Context, entry uint64) (out []anchor.Receipt, err error) {
	for _, c := range e.chains {
		r, err := c.covering(entry + 1)
		if err != nil {
			return nil, err
		}
		if r == nil || r.Head.Origin != e.log.Origin() {
			continue
		}
		if r.Inclusion, err = e.log.Inclusion(ctx, entry, r.Head.Size); err != nil {
			return nil, err
		}
		out = append(out, *r)
	}
	return out, nil
}
