package chain_test

import (
	"testing"
	"time"

	"github.com/talosprotocol/talos/anchor"
	"github.com/talosprotocol/talos/anchor/chain"
	"github.com/talosprotocol/talos/contracts"
)

// sealed has a ledger take the newest head of the anchor's log.
func (w *world) sealed(d *ledger) {
	w.t.Helper()
	want := w.head().Size
	s := w.submitter(d)
	crash := w.running(s)
	for s.Info().Newest < want {
		time.Sleep(time.Second)
	}
	crash()
}

// CHAIN-1, CHAIN-2, CHAIN-3, CHAIN-18: the way of a head through an epoch, for each of
// many logs, through a start in between.
func TestEpochs(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		d := &ledger{}
		e := w.epochs(d)
		if m := w.closeEpoch(e); m != nil {
			t.Errorf("an epoch of no logs: %+v", m)
		}
		w.advance(0, 100, 5)
		first := w.closeEpoch(e)
		if first == nil || first.Number != 0 || first.Count != 100 {
			t.Fatalf("epoch %+v", first)
		}
		if m := w.closeEpoch(e); m != nil {
			t.Errorf("an epoch in which nothing advanced: %+v", m)
		}
		w.advance(10, 20, 9)
		w.advance(30, 31, 4) // a head that falls is none
		if m := w.closeEpoch(e); m == nil || m.Number != 1 || m.Count != 10 {
			t.Fatalf("epoch %+v", m)
		}
		if a, err := e.Anchoring(t.Context(), origin(3), 5); a != nil || err != nil {
			t.Errorf("an anchoring without a receipt: %v", err)
		}
		w.sealed(d)
		for _, e := range []*chain.Epochs{e, w.epochs(d)} {
			for i := range 100 {
				w.follow(e, i, 5, 0)
			}
			w.follow(e, 12, 4, 0) // the first that has it
			w.follow(e, 12, 6, 1)
			if a, err := e.Anchoring(t.Context(), origin(12), 10); a != nil || err != nil {
				t.Errorf("an anchoring of what the anchor has not seen: %v", err)
			}
			if a, err := e.Anchoring(t.Context(), origin(200), 1); a != nil || err != nil {
				t.Errorf("an anchoring of a stranger: %v", err)
			}
			if a, err := e.AnchoringIn(t.Context(), origin(12), 7); a != nil || err != nil {
				t.Errorf("an anchoring in no epoch: %v", err)
			}
			if got := e.List(1); len(got) != 1 || got[0].Number != 1 {
				t.Errorf("the newest epochs: %+v", got)
			}
		}
	})
}

// follow reads an anchoring as its log would.
func (w *world) follow(e *chain.Epochs, i int, size, epoch uint64) *anchor.Anchoring {
	w.t.Helper()
	c, err := e.Anchoring(w.t.Context(), origin(i), size)
	if err != nil || c == nil {
		w.t.Fatalf("log %d: %v, %v", i, c, err)
	}
	text := c.AppendCanonical(nil)
	a, err := anchor.ReadAnchoring(text, origin(i))
	if err != nil {
		w.t.Fatalf("log %d: %v", i, err)
	}
	if a.Epoch() != epoch || a.Leaf.Size < size || a.Leaf != anchor.NewEpochLeaf(head(i, a.Leaf.Size)) {
		w.t.Errorf("log %d of size %d: %+v in epoch %d", i, size, a.Leaf, a.Epoch())
	}
	if _, err := anchor.ReadAnchoring(text, origin(i+1)); contracts.CodeOf(err) == "" {
		w.t.Errorf("the anchoring of log %d is taken for another's", i)
	}
	return a
}

// CHAIN-3: whatever write fails, before or after it happened, and a start after it: the
// numbers ascend by one, no epoch is twice in the log, and no log is left out.
func TestEpochsOverCrashes(t *testing.T) {
	for fail := 1; fail <= 4; fail++ {
		for _, after := range []bool{false, true} {
			inBubble(t, func(t *testing.T, w *world) {
				d := &ledger{}
				w.advance(0, 3, 1)
				w.closeEpoch(w.epochs(d))
				w.advance(0, 3, 2)
				w.rows.fail, w.rows.after = fail, after
				_, err := w.epochs(d).Close(t.Context()) // then the process is gone
				w.rows.fail = 0
				w.advance(0, 2, 3)
				e := w.epochs(d)
				for range 3 {
					w.closeEpoch(e)
				}
				w.sealed(d)
				for i := range 3 {
					want := uint64(3)
					if i == 2 {
						want = 2
					}
					if c, err := e.Anchoring(t.Context(), origin(i), want); err != nil || c == nil {
						t.Errorf("fail %d after %v: log %d of size %d is in no epoch: %v", fail, after, i, want, err)
					}
				}
				w.epochsInLog(t, fail, err)
			})
		}
	}
}

// epochsInLog checks that the events of epochs in the log count from 0.
func (w *world) epochsInLog(t *testing.T, fail int, cause error) {
	t.Helper()
	list, _, err := w.log.List(t.Context(), 0, 100)
	if err != nil {
		t.Fatal(err)
	}
	next := int64(0)
	for i := range list {
		ev, err := anchor.DecodeEvent(list[i].Event)
		if err != nil {
			t.Fatal(err)
		}
		if ev.Type == "epoch" {
			if *ev.Index != next {
				t.Errorf("fail %d (%v): epoch %d follows %d", fail, cause, *ev.Index, next-1)
			}
			next++
		}
	}
	if next < 2 {
		t.Errorf("fail %d: %d epochs", fail, next)
	}
}

// CHAIN-4: anchors whose logs alone advance do not keep each other busy.
func TestEpochsOfFellowsWait(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		fellow := origin(1)
		w.src.Fellow = func(o string) bool { return o == fellow }
		e := w.epochs()
		w.advance(0, 2, 1)
		w.closeEpoch(e)
		for size := uint64(2); size < 60; size++ {
			time.Sleep(time.Minute)
			w.advance(1, 2, size)
			if m := w.closeEpoch(e); m != nil {
				t.Fatalf("an epoch after %d minutes: %+v", size-1, m)
			}
		}
		time.Sleep(2 * time.Minute)
		if m := w.closeEpoch(e); m == nil || m.Count != 1 {
			t.Errorf("no epoch after an hour: %+v", m)
		}
	})
}

// What a store lost is not made up: an epoch whose leaves have changed gives no proofs.
func TestEpochOfOtherLeaves(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		d := &ledger{}
		w.advance(0, 5, 1)
		w.closeEpoch(w.epochs(d))
		w.sealed(d)
		for k, v := range w.rows.rows {
			if k[0] == 'e' && k[9] == 'l' {
				v[40] ^= 1
			}
		}
		_, err := w.epochs(d).Anchoring(t.Context(), origin(2), 1)
		if contracts.CodeOf(err) != contracts.StorageCorrupt && err != nil {
			t.Errorf("error %v", err)
		}
		if c, err := w.epochs(d).AnchoringIn(t.Context(), origin(2), 0); err == nil {
			t.Errorf("an anchoring of other leaves: %v", c)
		}
	})
}
