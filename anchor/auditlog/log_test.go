package auditlog_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/talosprotocol/talos/anchor"
	"github.com/talosprotocol/talos/anchor/anchortest"
	"github.com/talosprotocol/talos/anchor/auditlog"
	"github.com/talosprotocol/talos/contracts"
)

// TestCheckpointTimes: every minute, at 256 events but not oftener than a second, at
// once for high risk, never without news. AUD-16.
func TestCheckpointTimes(t *testing.T) {
	inBubble(t, func(t *testing.T, s *site) {
		l, stop := s.run()
		s.append(l, 3)
		synctest.Wait()
		if got := s.sizes(); got != nil {
			t.Fatalf("heads %v before their time", got)
		}
		time.Sleep(61 * time.Second)
		synctest.Wait()
		s.append(l, 256)
		synctest.Wait()
		time.Sleep(5 * time.Minute)
		high := event("intent")
		yes := true
		high.HighRisk = &yes
		if _, err := l.Append(t.Context(), high); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if got := s.sizes(); !slices.Equal(got, []uint64{3, 259, 260}) {
			t.Errorf("heads %v", got)
		}
		if err := stop(); err != nil {
			t.Fatal(err)
		}
	})
}

// TestGroupCommit: callers that wait together share a write, and each gets its own
// index. AUD-6.
func TestGroupCommit(t *testing.T) {
	inBubble(t, func(t *testing.T, s *site) {
		l, stop := s.run()
		var mu sync.Mutex
		seen := map[uint64]bool{}
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				for range 20 {
					i, err := l.Append(t.Context(), event("noop"))
					if err != nil {
						t.Error(err)
					}
					if uint64(s.disk.Size()) <= i {
						t.Errorf("entry %d was acknowledged before it was written", i)
					}
					mu.Lock()
					seen[i] = true
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		if len(seen) != 1000 || l.Size() != 1000 {
			t.Errorf("%d indices, size %d", len(seen), l.Size())
		}
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		if faults, err := l.Check(t.Context()); err != nil || len(faults) != 0 {
			t.Errorf("check: %v, %v", faults, err)
		}
		if got := s.sizes(); got[len(got)-1] != 1000 {
			t.Errorf("the last head is of %v", got)
		}
	})
}

// TestRow13_WriteErrorStops: after an error of which nothing is promised, no
// acknowledgement, no signature, no second try. AUD-12.
func TestRow13_WriteErrorStops(t *testing.T) {
	for _, f := range []anchortest.Fault{anchortest.Error, anchortest.ErrorWritten, anchortest.Torn} {
		for _, op := range []anchortest.Op{anchortest.OpAppend, anchortest.OpSetHead, anchortest.OpStore} {
			inBubble(t, func(t *testing.T, s *site) {
				l, stop := s.run()
				s.append(l, 5)
				hook := anchortest.Nth(op, 1, f)
				s.disk.Inject(hook)
				s.file.Inject(hook)
				i, err := l.Append(t.Context(), event("noop"))
				if op == anchortest.OpAppend && !errors.Is(err, anchortest.ErrInjected) {
					t.Errorf("%s %d: entry %d, %v", op, f, i, err)
				}
				time.Sleep(2 * time.Minute)
				synctest.Wait()
				if err := stop(); !errors.Is(err, anchortest.ErrInjected) {
					t.Errorf("%s %d: Run returned %v", op, f, err)
				}
				if len(s.sizes()) != 0 {
					t.Errorf("%s %d: a head left: %v", op, f, s.sizes())
				}
				if _, err := l.Append(t.Context(), event("noop")); err == nil {
					t.Error("a stopped log takes events")
				}
				s.disk.Inject(nil)
				s.file.Inject(nil)
				l, stop = s.run()
				if l.Size() < 5 {
					t.Errorf("%s %d: %d entries after the restart", op, f, l.Size())
				}
				s.append(l, 1)
				if err := stop(); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// TestRow11_TornTail: a batch that a crash cut is gone, a recovered event says so,
// and nothing else changes.
func TestRow11_TornTail(t *testing.T) {
	inBubble(t, func(t *testing.T, s *site) {
		l, stop := s.run()
		s.append(l, 5)
		s.disk.Inject(anchortest.Nth(anchortest.OpAppend, 1, anchortest.Torn))
		if _, err := l.Append(t.Context(), event("noop")); err == nil {
			t.Fatal("acknowledged")
		}
		_ = stop()
		s.disk.Inject(nil)
		l, stop = s.run()
		synctest.Wait()
		if l.Size() != 6 {
			t.Fatalf("size %d", l.Size())
		}
		e, err := l.Entry(t.Context(), 5)
		if err != nil {
			t.Fatal(err)
		}
		if ev, err := anchor.DecodeEvent(e.Event); err != nil || ev.Type != "recovered" || ev.Reason != "torn" {
			t.Errorf("entry 5 is %s", e.Event)
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}

// TestRow12_DiskFull: below the watermark, and when the store says so, events are
// refused and nothing stops; afterwards a gap event counts them. AUD-13.
func TestRow12_DiskFull(t *testing.T) {
	inBubble(t, func(t *testing.T, s *site) {
		free := uint64(1 << 30)
		var mu sync.Mutex
		s.opt.Free = func() (uint64, error) { mu.Lock(); defer mu.Unlock(); return free, nil }
		l, stop := s.run()
		s.append(l, 2)
		mu.Lock()
		free = 1 << 20
		mu.Unlock()
		for range 3 {
			_, err := l.Append(t.Context(), event("noop"))
			wantCode(t, err, contracts.StorageFull)
		}
		mu.Lock()
		free = 1 << 30
		mu.Unlock()
		s.disk.Inject(anchortest.Nth(anchortest.OpAppend, 1, anchortest.Full))
		_, err := l.Append(t.Context(), event("noop"))
		wantCode(t, err, contracts.StorageFull)
		// A head that finds no room is made again later.
		s.file.Inject(anchortest.Nth(anchortest.OpStore, 1, anchortest.Full))
		_, err = l.Checkpoint(t.Context())
		wantCode(t, err, contracts.StorageFull)
		i, err := l.Append(t.Context(), event("noop"))
		if err != nil || i != 3 {
			t.Fatalf("entry %d, %v", i, err)
		}
		e, _ := l.Entry(t.Context(), 2)
		ev, err := anchor.DecodeEvent(e.Event)
		if err != nil || ev.Type != "gap" || ev.Count == nil || *ev.Count != 4 || ev.Reason != "storage_full" {
			t.Errorf("entry 2 is %s", e.Event)
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
		if got := s.sizes(); !slices.Equal(got, []uint64{4}) {
			t.Errorf("heads %v", got)
		}
	})
}

// TestRow7_BitRot and a bit flipped between hash and store (row 8): found before the
// head that would cover it; Check names the index. AUD-11.
func TestRow7_BitRot(t *testing.T) {
	for name, rot := range map[string]func(e *auditlog.Entry){
		"event": func(e *auditlog.Entry) { e.Event[10] ^= 1 },
		"salt":  func(e *auditlog.Entry) { e.Salt[10] ^= 1 },
		"leaf":  func(e *auditlog.Entry) { e.Leaf[20] ^= 1 },
		"index": func(e *auditlog.Entry) { e.Leaf[9] ^= 1 },
	} {
		inBubble(t, func(t *testing.T, s *site) {
			l, stop := s.run()
			s.append(l, 10)
			s.disk.Damage(func(es *[]auditlog.Entry, _ *[]anchor.Hash, _ *[]byte) { rot(&(*es)[7]) })
			faults, err := l.Check(t.Context())
			if err != nil || len(faults) == 0 || faults[0].Index != 7 {
				t.Errorf("%s: check says %v, %v", name, faults, err)
			}
			_, err = l.Checkpoint(t.Context())
			var q *auditlog.Quarantine
			if !errors.As(err, &q) || q.Reason != "corrupt" {
				t.Errorf("%s: %v", name, err)
			}
			wantCode(t, err, contracts.AuditQuarantined)
			wantCode(t, stop(), contracts.AuditQuarantined)
			if len(s.sizes()) != 0 {
				t.Errorf("%s: signed all the same", name)
			}
		})
	}
}

// flipping is a backend that writes another byte than it was given.
type flipping struct{ auditlog.Backend }

func (f flipping) Append(ctx context.Context, b *auditlog.Batch) error {
	c := *b
	c.Entries = slices.Clone(b.Entries)
	e := &c.Entries[0]
	e.Event = slices.Clone(e.Event)
	e.Event[20] ^= 4
	e.Leaf = anchor.Commit(e.Leaf.Type(), e.Leaf.Index(), &e.Salt, e.Event) // it looks whole
	return f.Backend.Append(ctx, &c)
}

// TestRow8_FlipOnTheWayToTheStore: what is stored fits together, and is not what was
// hashed: the head is refused. AUD-11.
func TestRow8_FlipOnTheWayToTheStore(t *testing.T) {
	inBubble(t, func(t *testing.T, s *site) {
		o := s.opt
		o.Backend, o.HeadFile, o.Publish = flipping{s.disk.Open()}, s.file, s.published
		l, err := auditlog.Open(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- l.Run(t.Context()) }()
		s.append(l, 1)
		_, err = l.Checkpoint(t.Context())
		wantCode(t, err, contracts.AuditQuarantined)
		wantCode(t, <-done, contracts.AuditQuarantined)
		if len(s.sizes()) != 0 {
			t.Errorf("heads %v", s.sizes())
		}
	})
}

// TestRow10_ShortRead: the store silently loses acknowledged entries before they are
// covered. AUD-11.
func TestRow10_ShortRead(t *testing.T) {
	inBubble(t, func(t *testing.T, s *site) {
		l, stop := s.run()
		s.append(l, 10)
		s.disk.Inject(anchortest.Nth(anchortest.OpEntries, 1, anchortest.Short))
		_, err := l.Checkpoint(t.Context())
		wantCode(t, err, contracts.AuditQuarantined)
		_ = stop()
	})
}

// TestRow25_AnchorsOffline: no anchor answers for an hour; events go on, nothing is
// signed before one has confirmed, then one head covers all. AUD-10.
func TestRow25_AnchorsOffline(t *testing.T) {
	inBubble(t, func(t *testing.T, s *site) {
		var mu sync.Mutex
		online, asked := false, 0
		s.opt.Confirm = func(context.Context) (uint64, anchor.Hash, error) {
			mu.Lock()
			defer mu.Unlock()
			asked++
			if !online {
				return 0, anchor.Hash{}, errors.New("no route")
			}
			return 0, anchor.EmptyRoot, nil
		}
		l, stop := s.run()
		for range 60 {
			s.append(l, 5)
			time.Sleep(time.Minute)
		}
		_, err := l.Checkpoint(t.Context())
		wantCode(t, err, contracts.Unavailable)
		mu.Lock()
		if got := s.sizes(); len(got) != 0 || asked < 50 || asked > 80 {
			t.Errorf("offline: heads %v, asked %d times", got, asked)
		}
		online = true
		mu.Unlock()
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if got := s.sizes(); !slices.Equal(got, []uint64{300}) {
			t.Errorf("online: heads %v", got)
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}

// TestRow41_DanglingIntent: an intent without a result is shown, over a restart.
// AUD-7.
func TestRow41_DanglingIntent(t *testing.T) {
	inBubble(t, func(t *testing.T, s *site) {
		l, stop := s.run()
		var ids []string
		for range 3 {
			ev := event("intent")
			ids = append(ids, ev.ID)
			if _, err := l.Append(t.Context(), ev); err != nil {
				t.Fatal(err)
			}
		}
		done := event("result")
		done.Intent, done.Outcome = ids[1], "ok"
		if _, err := l.Append(t.Context(), done); err != nil {
			t.Fatal(err)
		}
		_ = stop()
		l, stop = s.run()
		open, err := l.Unresolved(t.Context(), 0)
		if err != nil || len(open) != 2 || open[0].ID != ids[0] || open[1].Index != 2 {
			t.Errorf("unresolved %+v, %v", open, err)
		}
		_ = stop()
	})
}
