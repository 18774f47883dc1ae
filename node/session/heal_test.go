package session_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/node/directory"
	"github.com/talosprotocol/talos/node/session"
)

func numbered(prefix string, n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprintf("%s%d", prefix, i)
	}
	return out
}

// active gives the id of the session that m sends on to a peer.
func (m *member) active(t testing.TB, peer *member) (id [16]byte) {
	t.Helper()
	list, err := m.m.Sessions()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range list {
		if s.Active && s.Peer == string(peer.did) {
			id = s.ID
		}
	}
	return id
}

// Row C12: both sides begin at once, again and again; both rotate at once. SES-1, SES-2.
func TestC12_BothBeginAtOnce(t *testing.T) {
	a, b := pair(t)
	both := func(f func(x, y *member)) {
		var wg sync.WaitGroup
		wg.Go(func() { f(a, b) })
		wg.Go(func() { f(b, a) })
		wg.Wait()
	}
	for round := range 30 {
		a.fresh(t)
		b.fresh(t)
		both(func(x, y *member) { x.send(t, y, numbered("first", 3)...) })
		both(func(x, y *member) {
			x.clock.Add(2 * session.FetchEvery.Milliseconds())
			_ = x.m.Rotate(t.Context(), y.did)
		})
		both(func(x, y *member) { x.send(t, y, numbered("second", 3)...) })
		want := append(numbered("first", 3), numbered("second", 3)...)
		a.expect(t, want...)
		b.expect(t, want...)
		wait(t, fmt.Sprintf("agreement on one session in round %d", round), func() bool {
			id := a.active(t, b)
			return id == b.active(t, a) && id != [16]byte{}
		})
	}
}

// SES-2, SES-8: messages go on while the session is replaced; once a day it happens by
// itself.
func TestRotationUnderLoad(t *testing.T) {
	a, b := pair(t)
	a.send(t, b, "begin")
	b.expect(t, "begin")
	want := []string{"begin"}
	for i := range 20 {
		body := numbered(fmt.Sprintf("round %d.", i), 10)
		want = append(want, body...)
		var wg sync.WaitGroup
		wg.Go(func() { a.send(t, b, body...) })
		wg.Go(func() {
			a.clock.Add(2 * session.FetchEvery.Milliseconds())
			_ = []*member{a, b}[i%2].m.Rotate(t.Context(), []*member{b, a}[i%2].did)
		})
		wg.Wait()
	}
	b.expect(t, want...)
	before := a.active(t, b)
	a.clock.Add((session.RotateAfter + time.Hour).Milliseconds())
	wait(t, "session of the new day", func() bool {
		a.crash() // a stream that idles does not ask; a new one does
		a.open(t, 0, false)
		want = append(want, fmt.Sprint("next day ", len(want)))
		a.send(t, b, want[len(want)-1])
		b.expect(t, want...)
		return a.active(t, b) != before
	})
}

// Rows E3 and F3: an older copy of either store is seen within one round trip, and the
// conversation heals. SES-9, SES-10.
func TestE3_RestoredCopy(t *testing.T) {
	for name, c := range map[string]struct{ sender, receiver bool }{
		"of the sender": {sender: true}, "of the receiver": {receiver: true}, "of both": {true, true},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := pair(t)
			seen := [2]*events{{m: a, keep: true}, {m: b, keep: true}}
			a.audit, b.audit = seen[0], seen[1]
			a.fresh(t)
			b.fresh(t)
			a.send(t, b, numbered("old", 3)...)
			b.send(t, a, "old answer")
			b.expect(t, numbered("old", 3)...)
			a.expect(t, "old answer")
			copies := [2]map[string][]byte{a.disk.snapshot(), b.disk.snapshot()}
			a.send(t, b, numbered("lost", 5)...)
			b.expect(t, append(numbered("old", 3), numbered("lost", 5)...)...)
			wait(t, "acknowledgement, noted durably", func() bool { return a.disk.outbox() == 0 })
			a.crash()
			b.crash()
			want := append(numbered("old", 3), numbered("lost", 5)...)
			if c.sender {
				a.disk.restore(copies[0])
			}
			if c.receiver {
				b.disk.restore(copies[1])
				want = numbered("old", 3)
			}
			a.open(t, 0, false)
			b.open(t, 0, false)
			a.send(t, b, numbered("new", 4)...)
			b.expect(t, append(want, numbered("new", 4)...)...)
			b.send(t, a, "answer")
			a.expect(t, "old answer", "answer")
			if !(c.sender && c.receiver) && !seen[0].code(contracts.SessionRollback) {
				t.Error("nobody has noticed")
			}
		})
	}
}

// Row E3: a store that is gone altogether, of either side, with messages waiting. SES-10.
func TestE3_LostStore(t *testing.T) {
	a, b := pair(t)
	a.send(t, b, numbered("old", 3)...)
	b.expect(t, numbered("old", 3)...)
	wait(t, "acknowledgement, noted durably", func() bool { return a.disk.outbox() == 0 })
	b.crash()
	a.send(t, b, numbered("waiting", 300)...)
	b.fresh(t)
	b.expect(t, numbered("waiting", 300)...)
	wait(t, "acknowledgement, noted durably", func() bool { return a.disk.outbox() == 0 })
	a.fresh(t)
	a.send(t, b, numbered("anew", 5)...)
	b.expect(t, append(numbered("waiting", 300), numbered("anew", 5)...)...)
}

// Row E9: numbers that a crash has burnt are closed, whatever is sealed next; SES-6.
func TestE9_VoidAfterCrash(t *testing.T) {
	a, b := pair(t)
	want := []string{"begin"}
	a.send(t, b, want...)
	b.expect(t, want...)
	for i := range 40 {
		a.crash()
		a.open(t, 0, false)
		switch i % 3 {
		case 0: // the first that is sealed is a control message
			if err := a.m.End(t.Context(), b.did); err != nil {
				t.Fatal(err)
			}
		case 1:
			_ = a.m.Rotate(t.Context(), b.did)
		}
		body := fmt.Sprint("after crash ", i)
		a.send(t, b, body)
		want = append(want, body)
	}
	b.expect(t, want...)
	b.send(t, a, "answer")
	a.expect(t, "answer")
}

// Row E9: a peer that is away takes as much as fits its window, and all of it when it
// is back without its sessions; SES-11.
func TestE9_FullOutboxIsReplaced(t *testing.T) {
	a, b := pair(t)
	a.send(t, b, "begin")
	b.expect(t, "begin")
	wait(t, "acknowledgement", func() bool { l, _ := a.m.Sessions(); return l[0].Acked == l[0].Sent })
	b.crash()
	var want []string
	for {
		body := fmt.Sprint("waiting ", len(want))
		if _, err := a.m.Send(t.Context(), b.did, []byte(body)); contracts.CodeOf(err) == contracts.OutboxFull {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		want = append(want, body)
	}
	if len(want) < session.MaxOutbox-8 {
		t.Errorf("full after %d", len(want))
	}
	b.fresh(t)
	b.expect(t, want...)
	a.send(t, b, "room again")
	b.expect(t, append(want, "room again")...)
}

// Row D12: 64 goroutines send to 16 peers. SES-3.
func TestD12_ManySenders(t *testing.T) {
	clock := new(atomic.Int64)
	clock.Store(time.Now().UnixMilli())
	a := newMember(t, clock, nil)
	peers := make([]*member, 16)
	for i := range peers {
		peers[i] = newMember(t, clock, a)
	}
	const each = 8
	var wg sync.WaitGroup
	for g := range 64 {
		wg.Go(func() {
			for i := range each {
				to := peers[(g+i)%len(peers)]
				if _, err := a.m.Send(t.Context(), to.did, fmt.Appendf(nil, "%d.%d", g, i)); err != nil {
					t.Errorf("sending: %v", err)
				}
			}
		})
	}
	wg.Wait()
	total := 0
	for _, p := range peers {
		wait(t, "all messages of a peer", func() bool { return len(p.inbox(t)) >= 64*each/len(peers) })
		got := p.inbox(t)
		total += len(got)
		slices.Sort(got)
		if n := len(slices.Compact(got)); n != 64*each/len(peers) {
			t.Errorf("%d different messages", n)
		}
	}
	if total != 64*each || len(a.disk.reused()) > 0 {
		t.Errorf("%d messages, want %d", total, 64*each)
	}
}

// SES-7: Close waits for what is being committed, nothing is accepted after it, and
// the next start goes on without a gap.
func TestCloseLosesNothing(t *testing.T) {
	a, b := pair(t)
	a.send(t, b, "begin")
	b.expect(t, "begin")
	want := []string{"begin"}
	for i := range 10 {
		var accepted []string
		done := make(chan struct{})
		go func() {
			defer close(done)
			for k := 0; ; k++ {
				body := fmt.Sprintf("%d.%d", i, k)
				if _, err := a.m.Send(context.Background(), b.did, []byte(body)); err != nil {
					return
				}
				accepted = append(accepted, body)
			}
		}()
		time.Sleep(3 * time.Millisecond)
		if err := a.m.Close(); err != nil {
			t.Fatal(err)
		}
		<-done
		want = append(want, accepted...)
		a.m = nil
		a.open(t, 0, false)
	}
	a.send(t, b, "end")
	b.expect(t, append(want, "end")...)
}

// Row 11 of identity: a rotation that voids what was signed before ends the sessions
// made under the old keys, on both sides; what waits arrives in a new one. SES-14.
func TestVoidRotationEndsSessions(t *testing.T) {
	a, b := pair(t)
	a.audit.keep, b.audit.keep = true, true
	a.send(t, b, "one")
	b.expect(t, "one")
	b.send(t, a, "two")
	a.expect(t, "two")
	old := a.active(t, b)
	b.crash()
	a.send(t, b, "waits")
	a.crash()
	a.rotate(t, true)
	b.open(t, 0, false)
	if _, err := b.dir.Resolve(t.Context(), a.did, directory.Options{Fresh: true}); err != nil {
		t.Fatal(err)
	}
	a.open(t, 0, false)
	b.expect(t, "one", "waits")
	b.send(t, a, "three")
	a.expect(t, "two", "three")
	for _, m := range []*member{a, b} {
		list, err := m.m.Sessions()
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range list {
			if s.ID == old {
				t.Error("a session under voided keys is still there")
			}
		}
		if !m.audit.code(contracts.SessionVoid) {
			t.Error("the end of the session is not recorded")
		}
	}
	// A rotation that voids nothing leaves the session alone.
	id := a.active(t, b)
	a.crash()
	a.rotate(t, false)
	if _, err := b.dir.Resolve(t.Context(), a.did, directory.Options{Fresh: true}); err != nil {
		t.Fatal(err)
	}
	a.open(t, 0, false)
	a.send(t, b, "four")
	b.expect(t, "one", "waits", "four")
	if a.active(t, b) != id {
		t.Error("an ordinary rotation has ended the session")
	}
}
