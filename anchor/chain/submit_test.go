package chain_test

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"testing"
	"testing/synctest"
	"time"

	"github.com/talosprotocol/talos/anchor"
	"github.com/talosprotocol/talos/anchor/chain"
)

func (w *world) received(n int) []anchor.Receipt {
	w.t.Helper()
	rs, err := chain.Receipts(w.rows, 100)
	if err != nil {
		w.t.Fatal(err)
	}
	if len(rs) != n {
		w.t.Errorf("%d receipts, want %d", len(rs), n)
	}
	return rs
}

// Row 34, and CHAIN-5, CHAIN-6: a chain that is down for an hour costs nothing, and what
// came meanwhile goes there as one.
func TestRow34_ChainDownForAnHour(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		d := &ledger{down: true}
		e, s := w.epochs(d), w.submitter(d)
		defer w.running(s)()
		for i := range 60 {
			w.advance(0, 10, uint64(i+1))
			w.closeEpoch(e)
			s.Wake()
			time.Sleep(time.Minute)
		}
		if n, _ := d.sendings(); s.Info().Failing == "" || n != 0 {
			t.Errorf("it says %+v after %d sends", s.Info(), n)
		}
		d.mu.Lock()
		d.down = false
		d.mu.Unlock()
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		r := w.received(1)
		if n, _ := d.sendings(); r[0].Head.Size != w.head().Size || n != 1 {
			t.Errorf("the receipt is of size %d of %d, after %d sends", r[0].Head.Size, w.head().Size, n)
		}
		for size := uint64(1); size <= 60; size++ { // nothing is lost
			if c, err := e.Anchoring(t.Context(), origin(4), size); err != nil || c == nil || uint64(c.Size) != size {
				t.Errorf("size %d is not anchored: %v", size, err)
			}
		}
	})
}

// CHAIN-5: a crash at any moment sends the same again and never a second one.
func TestSubmitterOverCrashes(t *testing.T) {
	for fail := 1; fail <= 5; fail++ {
		for _, after := range []bool{false, true} {
			inBubble(t, func(t *testing.T, w *world) {
				d := &ledger{}
				w.advance(0, 1, 1)
				w.closeEpoch(w.epochs(d))
				w.head()
				w.rows.fail, w.rows.after = fail, after
				crash := w.running(w.submitter(d))
				time.Sleep(500 * time.Millisecond)
				crash()
				w.rows.fail = 0
				crash = w.running(w.submitter(d))
				time.Sleep(3 * time.Minute)
				crash()
				if _, n := d.sendings(); n != 1 {
					t.Errorf("write %d fails: %d different things were sent", fail, n)
				}
				w.received(1)
			})
		}
	}
}

// Row 33 and CHAIN-8: what the chain has lost is sent again.
func TestSubmitterSendsAgain(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		d := &ledger{drops: 3}
		w.advance(0, 1, 1)
		w.closeEpoch(w.epochs(d))
		w.head()
		defer w.running(w.submitter(d))()
		time.Sleep(30 * time.Second)
		d.mu.Lock()
		for k := range d.sent { // a block with it is taken back
			delete(d.sent, k)
		}
		d.mu.Unlock()
		time.Sleep(5 * time.Minute)
		if n, _ := d.sendings(); n != 5 {
			t.Errorf("%d sends, want 5", n)
		}
		w.received(1)
	})
}

// CHAIN-6: one at a time, and not more often than the driver wants.
func TestSubmitterKeepsItsPace(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		d := &ledger{}
		e, s := w.epochs(d), w.submitter(d)
		defer w.running(s)()
		for i := range 61 {
			w.advance(0, 1, uint64(i+1))
			w.closeEpoch(e)
			s.Wake()
			time.Sleep(time.Minute)
		}
		time.Sleep(2 * time.Minute)
		w.received(7)
	})
}

// liar says that all is done, with nothing to show.
type liar struct{ ledger }

func (l *liar) Status(_ context.Context, n *anchor.Note, state []byte) (chain.Status, error) {
	return chain.Status{Phase: chain.Final, Body: append([]byte("x"), state...)}, nil
}

// CHAIN-7: what proves nothing is no receipt, whatever the chain says.
func TestSubmitterChecksReceipts(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		d := &liar{}
		w.advance(0, 1, 1)
		w.closeEpoch(w.epochs(d))
		w.head()
		s := w.submitter(d)
		defer w.running(s)()
		time.Sleep(time.Hour)
		w.received(0)
		if s.Info().Failing == "" {
			t.Error("it does not say that it fails")
		}
	})
}

// Row 17 for chains: a clock that was years ahead when a submission began, and was set
// right since, stops neither it nor the next one.
func TestRow17_ClockSetBack(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		d := &ledger{}
		e := w.epochs(d)
		w.advance(0, 1, 1)
		w.closeEpoch(e)
		first := w.head()
		ahead, err := json.Marshal(chain.Submission{Note: first.Append(nil), State: append([]byte{9}, commitment(first)...), Began: time.Now().AddDate(5, 0, 0)})
		if err != nil {
			t.Fatal(err)
		}
		if err := w.rows.Put(t.Context(), []byte("sledger test:1\x00"), ahead); err != nil {
			t.Fatal(err)
		}
		s := w.submitter(d)
		defer w.running(s)()
		time.Sleep(5 * time.Minute)
		w.received(1)
		w.advance(0, 1, 2)
		w.closeEpoch(e)
		w.head()
		s.Wake()
		time.Sleep(15 * time.Minute)
		w.received(2)
	})
}

func commitment(n *anchor.Note) []byte {
	c := n.Commitment()
	return c[:]
}

// What is kept is bounded; what was given out needs none of it.
func TestReceiptsAreForgotten(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		d := &ledger{}
		key := func(size uint64) []byte {
			return binary.BigEndian.AppendUint64([]byte("rledger test:1\x00"), size)
		}
		var keys, values [][]byte
		for i := range uint64(4200) { // of sizes below those of the log
			keys, values = append(keys, key(i)), append(values, []byte("{}"))
		}
		if err := w.rows.Write(t.Context(), keys, values); err != nil {
			t.Fatal(err)
		}
		w.advance(0, 1, 1)
		e := w.epochs(d)
		for i := range 4300 {
			w.advance(0, 1, uint64(i+1))
			if i < 10 {
				w.closeEpoch(e)
			} else if _, err := w.log.Append(t.Context(), w.src.NewEvent("noop")); err != nil {
				t.Fatal(err)
			}
		}
		w.head()
		defer w.running(w.submitter(d))()
		time.Sleep(5 * time.Minute)
		n := 0
		if err := w.rows.Scan([]byte("rledger"), func(_, _ []byte) bool { n++; return true }); err != nil || n != 4096 {
			t.Errorf("%d receipts are kept, %v", n, err)
		}
	})
}
