package anchortest

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/talosprotocol/talos/anchor"
	"github.com/talosprotocol/talos/anchor/auditlog"
	"github.com/talosprotocol/talos/anchor/witness"
	"github.com/talosprotocol/talos/contracts"
)

// actor is the DID that the suites' events are of.
const actor = "did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK"

// Batch makes entries from a frontier on, for tests of a backend: the same for
// the same indices.
func Batch(f *anchor.Frontier, n int) *auditlog.Batch {
	b := &auditlog.Batch{First: f.Size()}
	for range n {
		var salt anchor.Salt
		binary.BigEndian.PutUint64(salt[:], f.Size()+1)
		ev := anchor.NewEvent("noop", actor, time.UnixMilli(1764000000000+int64(f.Size())), [10]byte(salt[:10]))
		event := ev.AppendCanonical(nil)
		typ, _ := anchor.EventType(ev.Type)
		leaf := anchor.Commit(typ, f.Size(), &salt, event)
		b.Entries = append(b.Entries, auditlog.Entry{Leaf: leaf, Event: event, Salt: salt})
		b.Nodes = f.Append(b.Nodes, leaf.Hash())
	}
	return b
}

// TestBackend holds a backend to the promises of auditlog.Backend. open gives a new
// empty one each time.
func TestBackend(t *testing.T, open func(t *testing.T) auditlog.Backend) {
	t.Run("empty", func(t *testing.T) { testEmpty(t, open(t)) })
	t.Run("append and read", func(t *testing.T) { testAppend(t, open(t)) })
	t.Run("another writer", func(t *testing.T) { testConflict(t, open(t)) })
	t.Run("head", func(t *testing.T) { testHead(t, open(t)) })
	t.Run("erase", func(t *testing.T) { testErase(t, open(t)) })
	t.Run("slices", func(t *testing.T) { testSlices(t, open(t)) })
	t.Run("readers", func(t *testing.T) { testReaders(t, open(t)) })
}

// TestBackendReopen holds a backend to its promises over a restart. open gives a new
// empty backend, and a function that closes it as a crash would and opens the same
// storage again.
func TestBackendReopen(t *testing.T, open func(t *testing.T) (b auditlog.Backend, reopen func() auditlog.Backend)) {
	b, reopen := open(t)
	ctx := t.Context()
	var f anchor.Frontier
	for i := range 20 {
		batch := Batch(&f, i+1)
		must(t, b.Append(ctx, batch))
		if i == 7 {
			must(t, b.SetHead(ctx, nil, []byte("head 7")))
			must(t, b.Erase(ctx, 3))
		}
		b = reopen()
		st, err := b.State(ctx)
		must(t, err)
		if st.Size != f.Size() || st.Torn || (string(st.Head) == "head 7") != (i >= 7) {
			t.Fatalf("after batch %d and a restart: %d entries, torn %v, head %q; want %d", i, st.Size, st.Torn, st.Head, f.Size())
		}
	}
	root, err := anchor.Nodes(b.Nodes).RootAt(ctx, f.Size())
	must(t, err)
	if root != f.Root() {
		t.Error("the nodes after restarts lead to another root")
	}
	got, err := b.Entries(ctx, 3, 1)
	must(t, err)
	if len(got) != 1 || !got[0].Erased() || got[0].Salt != (anchor.Salt{}) || got[0].Leaf.Index() != 3 {
		t.Error("an erased entry came back, or lost its leaf")
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantCode(t testing.TB, err error, code contracts.Code) {
	t.Helper()
	if contracts.CodeOf(err) != code {
		t.Errorf("error %v has the code %q, want %s", err, contracts.CodeOf(err), code)
	}
}

func testEmpty(t *testing.T, b auditlog.Backend) {
	st, err := b.State(t.Context())
	must(t, err)
	if st.Size != 0 || st.Head != nil || st.Torn {
		t.Errorf("an empty backend says %+v", st)
	}
	got, err := b.Entries(t.Context(), 0, 10)
	must(t, err)
	if len(got) != 0 {
		t.Errorf("%d entries in an empty backend", len(got))
	}
	_, err = b.Nodes(t.Context(), []uint64{0})
	wantCode(t, err, contracts.NotFound)
	wantCode(t, b.Erase(t.Context(), 0), contracts.NotFound)
}

func testAppend(t *testing.T, b auditlog.Backend) {
	ctx := t.Context()
	var f, all anchor.Frontier
	for _, n := range []int{1, 1, 2, 3, 64, 129} {
		must(t, b.Append(ctx, Batch(&f, n)))
	}
	want := Batch(&all, int(f.Size()))
	st, err := b.State(ctx)
	must(t, err)
	if st.Size != f.Size() {
		t.Fatalf("size %d, want %d", st.Size, f.Size())
	}
	for _, r := range [][2]int{{0, 1000}, {0, 1}, {5, 7}, {199, 5}, {200, 5}, {1 << 40, 1}} {
		got, err := b.Entries(ctx, uint64(r[0]), r[1])
		must(t, err)
		if n := max(0, min(r[1], 200-r[0])); len(got) != n {
			t.Fatalf("entries %v: %d, want %d", r, len(got), n)
		}
		for i := range got {
			w := want.Entries[r[0]+i]
			if got[i].Leaf != w.Leaf || got[i].Salt != w.Salt || !bytes.Equal(got[i].Event, w.Event) {
				t.Fatalf("entry %d is not what was appended", r[0]+i)
			}
		}
	}
	numbers := []uint64{7, 0, uint64(len(want.Nodes) - 1), 7}
	nodes, err := b.Nodes(ctx, numbers)
	must(t, err)
	for i, n := range numbers {
		if len(nodes) != len(numbers) || nodes[i] != want.Nodes[n] {
			t.Fatalf("node %d is not what was appended", n)
		}
	}
	_, err = b.Nodes(ctx, []uint64{0, uint64(len(want.Nodes))})
	wantCode(t, err, contracts.NotFound)
}

func testConflict(t *testing.T, b auditlog.Backend) {
	ctx := t.Context()
	var f anchor.Frontier
	first := Batch(&f, 3)
	must(t, b.Append(ctx, first))
	wantCode(t, b.Append(ctx, first), contracts.Conflict)
	Batch(&f, 1)
	wantCode(t, b.Append(ctx, Batch(&f, 1)), contracts.Conflict)
	st, err := b.State(ctx)
	must(t, err)
	if st.Size != 3 {
		t.Errorf("size %d after refused batches, want 3", st.Size)
	}
}

func testHead(t *testing.T, b auditlog.Backend) {
	ctx := t.Context()
	wantCode(t, b.SetHead(ctx, []byte("x"), []byte("y")), contracts.Conflict)
	must(t, b.SetHead(ctx, nil, []byte("one")))
	wantCode(t, b.SetHead(ctx, nil, []byte("two")), contracts.Conflict)
	must(t, b.SetHead(ctx, []byte("one"), []byte("two")))
	wantCode(t, b.SetHead(ctx, []byte("one"), []byte("three")), contracts.Conflict)
	st, err := b.State(ctx)
	must(t, err)
	if string(st.Head) != "two" {
		t.Errorf("head %q, want two", st.Head)
	}
}

func testErase(t *testing.T, b auditlog.Backend) {
	ctx := t.Context()
	var f anchor.Frontier
	must(t, b.Append(ctx, Batch(&f, 5)))
	before, err := b.Entries(ctx, 0, 5)
	must(t, err)
	must(t, b.Erase(ctx, 2))
	must(t, b.Erase(ctx, 2))
	after, err := b.Entries(ctx, 0, 5)
	must(t, err)
	for i := range after {
		if after[i].Leaf != before[i].Leaf || after[i].Erased() != (i == 2) {
			t.Errorf("entry %d after erasing 2: erased %v", i, after[i].Erased())
		}
	}
	if after[2].Salt != (anchor.Salt{}) {
		t.Error("the salt of an erased entry is still there")
	}
}

func testSlices(t *testing.T, b auditlog.Backend) {
	ctx := t.Context()
	var f anchor.Frontier
	batch := Batch(&f, 2)
	must(t, b.Append(ctx, batch))
	head := []byte("head")
	must(t, b.SetHead(ctx, nil, head))
	head[0] = 'X'
	batch.Entries[0].Event[0] = 'X'
	batch.Nodes[0] = anchor.Hash{}
	got, err := b.Entries(ctx, 0, 1)
	must(t, err)
	got[0].Event[1] = 'X'
	again, err := b.Entries(ctx, 0, 1)
	must(t, err)
	st, err := b.State(ctx)
	must(t, err)
	nodes, err := b.Nodes(ctx, []uint64{0})
	must(t, err)
	if string(st.Head) != "head" || again[0].Event[0] != '{' || again[0].Event[1] != '"' || nodes[0] == (anchor.Hash{}) {
		t.Error("the backend keeps slices that are not its own")
	}
}

func testReaders(t *testing.T, b auditlog.Backend) {
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for ctx.Err() == nil {
				st, err := b.State(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				got, err := b.Entries(t.Context(), 0, int(st.Size)+1)
				if err != nil || uint64(len(got)) < st.Size {
					t.Errorf("a reader sees %d of %d entries: %v", len(got), st.Size, err)
					return
				}
			}
		})
	}
	var f anchor.Frontier
	for range 50 {
		must(t, b.Append(t.Context(), Batch(&f, 3)))
	}
	cancel()
	wg.Wait()
}

// TestHeadFile holds a head file to its promises. open gives a new empty one, and a
// function that opens the same storage again.
func TestHeadFile(t *testing.T, open func(t *testing.T) (h auditlog.HeadFile, reopen func() auditlog.HeadFile)) {
	h, reopen := open(t)
	ctx := t.Context()
	got, err := h.Load(ctx)
	must(t, err)
	if got != nil {
		t.Fatalf("an empty head file holds %q", got)
	}
	for _, head := range []string{"first", "a second that is longer", "3"} {
		must(t, h.Store(ctx, []byte(head)))
		h = reopen()
		got, err := h.Load(ctx)
		must(t, err)
		if string(got) != head {
			t.Fatalf("loaded %q, stored %q", got, head)
		}
	}
}

// TestWitnessStore holds a store to the promises of witness.Store. open gives a new
// empty one each time.
func TestWitnessStore(t *testing.T, open func(t *testing.T) witness.Store) {
	t.Run("swap", func(t *testing.T) {
		s, ctx := open(t), t.Context()
		got, err := s.Load(ctx, "a")
		must(t, err)
		if got != nil {
			t.Fatalf("a record that was never stored: %q", got)
		}
		wantCode(t, s.Swap(ctx, "a", []byte("x"), []byte("y")), contracts.Conflict)
		must(t, s.Swap(ctx, "a", nil, []byte("1")))
		wantCode(t, s.Swap(ctx, "a", nil, []byte("2")), contracts.Conflict)
		must(t, s.Swap(ctx, "a", []byte("1"), []byte("2")))
		must(t, s.Swap(ctx, " b", nil, []byte("3")))
		got, err = s.Load(ctx, "a")
		must(t, err)
		n, err := s.Count(ctx)
		must(t, err)
		if string(got) != "2" || n != 2 {
			t.Errorf("record %q of %d, want 2 of 2", got, n)
		}
		seen := map[string]string{}
		must(t, s.Scan(ctx, func(k string, r []byte) bool { seen[k] = string(r); return true }))
		if len(seen) != 2 || seen["a"] != "2" || seen[" b"] != "3" {
			t.Errorf("scanned %q", seen)
		}
		calls := 0
		must(t, s.Scan(ctx, func(string, []byte) bool { calls++; return false }))
		if calls != 1 {
			t.Errorf("a scan that is stopped went on for %d calls", calls)
		}
	})
	t.Run("race", func(t *testing.T) {
		s, ctx := open(t), t.Context()
		for round := range 20 {
			old, err := s.Load(ctx, "k")
			must(t, err)
			var wg sync.WaitGroup
			var mu sync.Mutex
			var won []string
			for i := range 8 {
				wg.Go(func() {
					record := fmt.Sprintf("%d by %d", round, i)
					if err := s.Swap(ctx, "k", old, []byte(record)); err == nil {
						mu.Lock()
						defer mu.Unlock()
						won = append(won, record)
					} else if contracts.CodeOf(err) != contracts.Conflict {
						t.Errorf("lost with %v, want CONFLICT", err)
					}
				})
			}
			wg.Wait()
			got, err := s.Load(ctx, "k")
			must(t, err)
			if len(won) != 1 || string(got) != won[0] {
				t.Fatalf("round %d: winners %q, stored %q", round, won, got)
			}
		}
	})
}
