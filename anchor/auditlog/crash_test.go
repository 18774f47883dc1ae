package auditlog_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/talosprotocol/talos/anchor"
	"github.com/talosprotocol/talos/anchor/anchortest"
	"github.com/talosprotocol/talos/anchor/auditlog"
	"github.com/talosprotocol/talos/contracts"
)

// TestRow9_CrashAnywhere cuts the power at every write of a run in every way, starts
// again, and asks: is each acknowledged event there, in its place, and was no second
// history signed? Row 10's model is in it: what was not synced is gone. AUD-6, AUD-8,
// AUD-9.
func TestRow9_CrashAnywhere(t *testing.T) {
	faults := []anchortest.Fault{anchortest.Torn, anchortest.Error, anchortest.ErrorWritten}
	for n := 1; n <= 40; n++ {
		for _, fault := range faults {
			synctest.Test(t, func(t *testing.T) { crash(t, n, fault) })
		}
	}
}

// crash lets the nth write fail, then goes on after a restart.
func crash(t *testing.T, n int, fault anchortest.Fault) {
	s := newSite(t)
	acked := map[uint64]string{}
	writes := 0
	hook := func(op anchortest.Op) anchortest.Fault {
		if op == anchortest.OpAppend || op == anchortest.OpSetHead || op == anchortest.OpStore {
			if writes++; writes == n {
				return fault
			}
		}
		return anchortest.None
	}
	s.disk.Inject(hook)
	s.file.Inject(hook)
	for range 3 {
		l, stop := s.run()
		for i := range 30 {
			ev := event("noop")
			at, err := l.Append(t.Context(), ev)
			if err != nil {
				break
			}
			acked[at] = ev.ID
			if i%5 == 4 {
				time.Sleep(61 * time.Second)
				synctest.Wait()
			}
		}
		_ = stop()
	}
	l, stop := s.run()
	for at, id := range acked {
		e, err := l.Entry(t.Context(), at)
		if err != nil {
			t.Fatalf("crash %d by %d: acknowledged entry %d: %v", n, fault, at, err)
		}
		if ev, err := anchor.DecodeEvent(e.Event); err != nil || ev.ID != id {
			t.Errorf("crash %d by %d: entry %d is another event", n, fault, at)
		}
	}
	for _, h := range s.heads {
		if root, err := l.Root(t.Context(), h.Size); err != nil || root != h.Root {
			t.Errorf("crash %d by %d: the log no longer extends its head of size %d", n, fault, h.Size)
		}
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// TestRow4_RestoredBackup: a whole copy of the data comes back. The store agrees
// with itself; only the anchor knows. Nothing is signed. AUD-10.
func TestRow4_RestoredBackup(t *testing.T) {
	inBubble(t, func(t *testing.T, s *site) {
		var mu sync.Mutex
		var seen anchor.Checkpoint
		s.opt.Confirm = func(context.Context) (uint64, anchor.Hash, error) {
			mu.Lock()
			defer mu.Unlock()
			if seen.Size == 0 {
				return 0, anchor.EmptyRoot, nil
			}
			return seen.Size, seen.Root, nil
		}
		l, stop := s.run()
		synctest.Wait() // the anchor has answered
		s.append(l, 10)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		disk, file := s.disk.Clone(), s.file.Clone()
		l, stop = s.run()
		synctest.Wait()
		s.append(l, 5)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		mu.Lock()
		seen = s.heads[len(s.heads)-1].Checkpoint
		mu.Unlock()
		before := len(s.heads)

		s.disk, s.file = disk, file
		l, stop = s.run()
		_, _ = l.Append(t.Context(), event("noop")) // refused, unless it came before the answer
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		var q *auditlog.Quarantine
		if err := stop(); !errors.As(err, &q) || q.Reason != "rollback" {
			t.Errorf("Run returned %v", err)
		}
		// Row 5: both copies went on, the other is as long: the root tells.
		s.disk, s.file = disk, file
		mu.Lock()
		seen.Root[0] ^= 1
		seen.Size = 10
		mu.Unlock()
		_, stop = s.run()
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		wantCode(t, stop(), contracts.AuditQuarantined)
		if len(s.heads) != before {
			t.Errorf("a restored log signed %v", s.sizes()[before:])
		}
	})
}

// TestRow6_SilentDamage cuts and flips the store at random. It never signs a head
// that is shorter than, or different from, the last; a store that no longer leads
// to the last head does not open. AUD-9.
func TestRow6_SilentDamage(t *testing.T) {
	inBubble(t, func(t *testing.T, s *site) {
		l, stop := s.run()
		s.append(l, 300)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		disk, file := s.disk, s.file
		r := rand.New(rand.NewPCG(1, 2))
		for i := range 1000 {
			s.disk, s.file = disk.Clone(), file.Clone()
			what := r.IntN(4)
			s.disk.Damage(func(es *[]auditlog.Entry, nodes *[]anchor.Hash, head *[]byte) {
				switch what {
				case 0:
					*es = (*es)[:r.IntN(300)]
				case 1:
					(*es)[r.IntN(300)].Leaf[r.IntN(anchor.LeafSize)] ^= 1 << r.IntN(8)
				case 2:
					(*head)[r.IntN(len(*head))] ^= 1 << r.IntN(8)
				case 3:
					*es, *nodes, *head = nil, nil, nil
				}
			})
			l, err := s.open()
			var q *auditlog.Quarantine
			if !errors.As(err, &q) || l == nil {
				t.Fatalf("damage %d of kind %d: opened: %v", i, what, err)
			}
			wantCode(t, err, contracts.AuditQuarantined)
			if err := l.Run(t.Context()); !errors.As(err, &q) {
				t.Errorf("a log in quarantine ran: %v", err)
			}
			if _, err := l.Append(t.Context(), event("noop")); !errors.As(err, &q) {
				t.Errorf("a log in quarantine takes events: %v", err)
			}
		}
		// The head file alone is damaged, or is older or newer than the backend's.
		s.disk, s.file = disk.Clone(), file.Clone()
		s.file.Inject(anchortest.Nth(anchortest.OpLoad, 1, anchortest.Short))
		if _, err := s.open(); err != nil {
			t.Errorf("a crash before the first head file: %v", err)
		}
		s.disk.Damage(func(_ *[]auditlog.Entry, _ *[]anchor.Hash, head *[]byte) { *head = nil })
		if l, err := s.open(); err != nil || l.Head().Size != 300 {
			t.Errorf("the backend lost its head, the leaves are complete: %v", err)
		}
	})
}

// TestNewIncarnation is the way out of quarantine: an empty backend, the next
// number, and a first entry that names what was lost. AUD-15.
func TestNewIncarnation(t *testing.T) {
	inBubble(t, func(t *testing.T, s *site) {
		l, stop := s.run()
		s.append(l, 10)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		last := l.Head().Checkpoint
		s2 := newSite(t)
		s2.opt.Origin.Incarnation = 2
		if _, err := s2.open(); contracts.CodeOf(err) != contracts.ConfigInvalid {
			t.Errorf("incarnation 2 of nothing: %v", err)
		}
		s2.opt.Begin = &auditlog.Succession{Reason: "truncated", Last: last, Lost: 3}
		l, stop = s2.run()
		synctest.Wait()
		if h := l.Head(); h == nil || h.Size != 1 {
			t.Errorf("head %+v: a recovery asks for one at once", h)
		}
		s2.append(l, 1)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		e, err := l.Entry(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		ev, err := anchor.DecodeEvent(e.Event)
		if err != nil || ev.Type != "recovered" || ev.HeadOrigin != last.Origin || *ev.HeadSize != 10 ||
			ev.HeadRoot != anchor.EncodeHash(last.Root) || *ev.Count != 3 {
			t.Errorf("first entry %s", e.Event)
		}
		// It is written once.
		l, stop = s2.run()
		if l.Size() != 2 {
			t.Errorf("size %d after a restart", l.Size())
		}
		_ = stop()
	})
}
