package chain

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"slices"
	"strings"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/talosprotocol/talos/anchor"
	"github.com/talosprotocol/talos/anchor/auditlog"
	"github.com/talosprotocol/talos/contracts"
)

// Bounds of keeping epochs.
const (
	keepEpochs = 1440      // a day of minutes
	keepLeaves = 2_000_000 // of all epochs: 160 MB on disk, and seconds to read at a start
	partLeaves = 8192      // in one row: 650 KB, less than what the store takes at once
	cacheTrees = 4
	storedLeaf = anchor.EpochLeafSize + 8

	// An epoch of other anchors' logs alone waits so long (CHAIN-4).
	fellowsWait = time.Hour
)

// Log is the anchor's own audit log.
type Log interface {
	Origin() string
	Size() uint64
	Append(ctx context.Context, ev *contracts.AuditEvent) (uint64, error)
	Entry(ctx context.Context, index uint64) (*auditlog.Entry, error)
	List(ctx context.Context, after auditlog.Cursor, limit int) ([]auditlog.Entry, auditlog.Cursor, error)
	Inclusion(ctx context.Context, index, size uint64) ([]anchor.Hash, error)
}

// Source is what epochs are made from.
type Source struct {
	// Heads calls f with the newest cosigned head of each log that is followed and neither
	// frozen nor retired, until f returns false.
	Heads func(ctx context.Context, f func(anchor.Checkpoint) bool) error
	// Fellow says that a log is another anchor's. Nil: none is.
	Fellow func(origin string) bool
	// NewEvent begins an event of the anchor.
	NewEvent func(typ string) *contracts.AuditEvent
}

// Epoch is what is known of an epoch beside its leaves.
type Epoch struct {
	Number uint64      `json:"number"`
	Count  uint64      `json:"count"`
	Root   anchor.Hash `json:"root"`
	Time   time.Time   `json:"time"`
	// After is the size of the log before the event was appended, Entry its index; until
	// it is known, Open is true.
	After uint64 `json:"after"`
	Entry uint64 `json:"entry"`
	Open  bool   `json:"open,omitempty"`
}

// seen is where a log was taken last.
type seen struct{ epoch, size uint64 }

// Epochs makes an anchor's epochs and answers from them. Close has one caller at a time;
// the others may be called concurrently.
type Epochs struct {
	rows   Rows
	log    Log
	src    Source
	chains []*receipts // of the drivers, in order
	trees  *lru.Cache[uint64, *anchor.EpochTree]
	close  sync.Mutex
	build  sync.Mutex // one tree at a time is read from the disk: strangers may ask for any

	mu    sync.Mutex // guards what follows; never held over I/O
	last  map[anchor.Hash]seen
	kept  []Epoch // ascending
	total uint64  // leaves of those
}

// OpenEpochs reads what is kept. drivers are those whose receipts are given out.
func OpenEpochs(rows Rows, log Log, src Source, drivers []Driver) (*Epochs, error) {
	e := &Epochs{rows: rows, log: log, src: src, last: map[anchor.Hash]seen{}}
	for _, d := range drivers {
		e.chains = append(e.chains, &receipts{Rows: rows, driver: d.Name(), chain: d.Chain()})
	}
	slices.SortFunc(e.chains, func(a, b *receipts) int {
		return cmp.Or(strings.Compare(a.driver, b.driver), strings.Compare(a.chain, b.chain))
	})
	e.trees, _ = lru.New[uint64, *anchor.EpochTree](cacheTrees) // fails for sizes below 1 only
	// The parts of an epoch come before what is known of it. Those without it are of an
	// epoch that a crash cut short: nobody has heard of it.
	var bad error
	var parts, keys [][]byte
	err := rows.Scan([]byte{'e'}, func(k, v []byte) bool {
		if k[9] == 'l' {
			parts, keys = append(parts, v), append(keys, k)
			return true
		}
		var m Epoch
		if bad = json.Unmarshal(v, &m); bad != nil {
			return false
		}
		e.kept, e.total = append(e.kept, m), e.total+m.Count
		for _, p := range parts {
			for ; len(p) >= storedLeaf; p = p[storedLeaf:] {
				e.last[anchor.Hash(p[:32])] = seen{m.Number, binary.BigEndian.Uint64(p[32:])}
			}
		}
		parts, keys = parts[:0], keys[:0]
		return true
	})
	if bad != nil {
		err = contracts.Errorf(contracts.StorageCorrupt, "a kept epoch: %w", bad)
	}
	if err == nil && len(keys) > 0 {
		err = rows.Write(context.Background(), keys, make([][]byte, len(keys)))
	}
	return e, err
}

// Run closes an epoch every so often until ctx ends. closed is called after each.
func (e *Epochs) Run(ctx context.Context, every time.Duration, closed func(*Epoch, error)) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		if m, err := e.Close(ctx); m != nil || err != nil && ctx.Err() == nil {
			closed(m, err)
		}
	}
}

// Close makes the next epoch, of the logs that advanced; nil if none did, or only those
// of other anchors lately. An epoch that a crash or a full disk left open is finished
// first, and is then the one that is given.
func (e *Epochs) Close(ctx context.Context) (*Epoch, error) {
	if !e.close.TryLock() { // nobody waits for a log while holding a place
		return nil, contracts.Errorf(contracts.Busy, "an epoch is being closed")
	}
	defer e.close.Unlock()
	m, err := e.left(ctx)
	if m == nil && err == nil {
		m, err = e.begin(ctx)
	}
	if m == nil || err != nil {
		return nil, err
	}
	if err := e.finish(ctx, m); err != nil {
		return nil, err
	}
	return m, e.prune(ctx)
}

// left gives an epoch that was begun and is not known to be in the log. If it is there
// after all, its place is filled in.
func (e *Epochs) left(ctx context.Context) (*Epoch, error) {
	e.mu.Lock()
	n := len(e.kept)
	var m Epoch
	if n > 0 {
		m = e.kept[n-1]
	}
	e.mu.Unlock()
	if n == 0 || !m.Open {
		return nil, nil
	}
	for at := auditlog.Cursor(m.After); ; {
		list, next, err := e.log.List(ctx, at, auditlog.MaxPage)
		if err != nil {
			return nil, err
		}
		for i := range list {
			ev, err := anchor.DecodeEvent(list[i].Event)
			if err == nil && ev.Type == "epoch" && ev.Index != nil && uint64(*ev.Index) == m.Number {
				m.Entry, m.Open = list[i].Leaf.Index(), false
				return &m, nil
			}
		}
		if len(list) == 0 {
			return &m, nil
		}
		at = next
	}
}

// begin collects the leaves of the next epoch and makes them durable.
func (e *Epochs) begin(ctx context.Context) (*Epoch, error) {
	var leaves []anchor.EpochLeaf
	strangers := 0
	e.mu.Lock()
	last, kept := e.last, e.kept
	e.mu.Unlock()
	// last is changed by Close alone, which holds its lock.
	err := e.src.Heads(ctx, func(c anchor.Checkpoint) bool {
		l := anchor.NewEpochLeaf(c)
		if at, ok := last[l.Log]; !ok && c.Size > 0 || c.Size > at.size {
			leaves = append(leaves, l)
			if e.src.Fellow == nil || !e.src.Fellow(c.Origin) {
				strangers++
			}
		}
		return ctx.Err() == nil
	})
	if err != nil || ctx.Err() != nil || len(leaves) == 0 {
		return nil, err
	}
	m := &Epoch{Time: time.Now().UTC(), After: e.log.Size(), Open: true}
	if n := len(kept); n > 0 {
		m.Number = kept[n-1].Number + 1
		if age := time.Since(kept[n-1].Time); strangers == 0 && age >= 0 && age < fellowsWait {
			return nil, nil
		}
	}
	t, err := anchor.NewEpochTree(leaves)
	if err != nil {
		return nil, err
	}
	m.Count, m.Root = uint64(len(leaves)), t.Root()
	if err := e.putLeaves(ctx, m.Number, t.Leaves(), last); err != nil {
		return nil, err
	}
	e.trees.Add(m.Number, t)
	return m, e.putMeta(ctx, m)
}

// putLeaves writes the leaves, each with the epoch (plus one, 0 for none) in which its log
// was taken before: that is the way back to an older head.
func (e *Epochs) putLeaves(ctx context.Context, number uint64, leaves []anchor.EpochLeaf, last map[anchor.Hash]seen) error {
	for part := 0; part*partLeaves < len(leaves); part++ {
		some := leaves[part*partLeaves : min(len(leaves), (part+1)*partLeaves)]
		b := make([]byte, 0, len(some)*storedLeaf)
		for i := range some {
			b = some[i].Append(b)
			before := uint64(0)
			if at, ok := last[some[i].Log]; ok {
				before = at.epoch + 1
			}
			b = binary.BigEndian.AppendUint64(b, before)
		}
		if err := e.rows.Put(ctx, partKey(number, part), b); err != nil {
			return err
		}
	}
	return nil
}

// finish appends the event of an epoch whose leaves are durable, and notes its place.
func (e *Epochs) finish(ctx context.Context, m *Epoch) error {
	if m.Open {
		ev := e.src.NewEvent("epoch")
		number, count, high := int64(m.Number), int64(m.Count), true
		ev.Index, ev.Count, ev.HeadRoot, ev.HighRisk = &number, &count, anchor.EncodeHash(m.Root), &high
		at, err := e.log.Append(ctx, ev)
		if err != nil {
			return err
		}
		m.Entry, m.Open = at, false
	}
	t, err := e.tree(m)
	if err != nil {
		return err
	}
	if err := e.putMeta(ctx, m); err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, l := range t.Leaves() {
		e.last[l.Log] = seen{m.Number, l.Size}
	}
	return nil
}

// putMeta makes an epoch durable and known.
func (e *Epochs) putMeta(ctx context.Context, m *Epoch) error {
	b, err := json.Marshal(m)
	if err != nil {
		return contracts.Errorf(contracts.Internal, "an epoch: %w", err)
	}
	if err := e.rows.Put(ctx, metaKey(m.Number), b); err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if n := len(e.kept); n > 0 && e.kept[n-1].Number == m.Number {
		e.kept[n-1] = *m
	} else {
		e.kept, e.total = append(e.kept, *m), e.total+m.Count
	}
	return nil
}

// prune forgets the leaves of the oldest epochs. What was given out of them stays valid.
func (e *Epochs) prune(ctx context.Context) error {
	for {
		e.mu.Lock()
		var old *Epoch
		if len(e.kept) > keepEpochs || e.total > keepLeaves && len(e.kept) > 1 {
			old = &e.kept[0]
			e.kept, e.total = e.kept[1:], e.total-old.Count
		}
		e.mu.Unlock()
		if old == nil {
			return nil
		}
		keys := [][]byte{metaKey(old.Number)}
		for part := 0; part*partLeaves < int(old.Count); part++ {
			keys = append(keys, partKey(old.Number, part))
		}
		if err := e.rows.Write(ctx, keys, make([][]byte, len(keys))); err != nil {
			return err
		}
		e.mu.Lock()
		for log, at := range e.last {
			if at.epoch == old.Number {
				delete(e.last, log)
			}
		}
		e.mu.Unlock()
	}
}

func epochKey(n uint64) []byte { return binary.BigEndian.AppendUint64([]byte{'e'}, n) }

func metaKey(n uint64) []byte { return append(epochKey(n), 'm') }

func partKey(n uint64, part int) []byte {
	return binary.BigEndian.AppendUint32(append(epochKey(n), 'l'), uint32(part))
}

// tree gives the tree of an epoch, and refuses one whose leaves have changed.
func (e *Epochs) tree(m *Epoch) (*anchor.EpochTree, error) {
	if t, ok := e.trees.Get(m.Number); ok {
		return t, nil
	}
	e.build.Lock()
	defer e.build.Unlock()
	if t, ok := e.trees.Get(m.Number); ok {
		return t, nil
	}
	leaves := make([]anchor.EpochLeaf, 0, m.Count)
	var bad error
	err := e.rows.Scan(append(epochKey(m.Number), 'l'), func(_, v []byte) bool {
		for ; len(v) >= storedLeaf && bad == nil; v = v[storedLeaf:] {
			var l anchor.EpochLeaf
			l, bad = anchor.ParseEpochLeaf(v[:anchor.EpochLeafSize])
			leaves = append(leaves, l)
		}
		return bad == nil
	})
	if err != nil {
		return nil, err
	}
	t, err := anchor.NewEpochTree(leaves)
	if err != nil || bad != nil || t.Root() != m.Root {
		return nil, contracts.Errorf(contracts.StorageCorrupt, "the leaves of epoch %d are not those that it was made of", m.Number)
	}
	e.trees.Add(m.Number, t)
	return t, nil
}

// before gives the epoch in which a leaf's log was taken before, false if it was not.
func (e *Epochs) before(number uint64, index int) (uint64, bool) {
	b, err := e.rows.Get(partKey(number, index/partLeaves))
	at := index % partLeaves * storedLeaf
	if err != nil || len(b) < at+storedLeaf {
		return 0, false
	}
	n := binary.BigEndian.Uint64(b[at+anchor.EpochLeafSize:])
	return n - 1, n > 0
}

// List gives the newest epochs, at most limit, oldest first.
func (e *Epochs) List(limit int) []Epoch {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.kept[max(0, len(e.kept)-limit):])
}
