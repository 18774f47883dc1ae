package session_test

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/node/p2p"
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
			seen := [2]*events{{}, {}}
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
			wait(t, "acknowledgement", func() bool { l, _ := a.m.Sessions(); return l[0].Acked == l[0].Sent })
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
	b.crash()
	a.send(t, b, numbered("waiting", 300)...)
	b.fresh(t)
	b.expect(t, numbered("waiting", 300)...)
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

// wire opens a session stream of its own as m.
func (m *member) wire(t testing.TB, to *member) (network.Stream, func(kind byte, body []byte) (byte, uint64)) {
	t.Helper()
	s, err := m.h.NewStream(t.Context(), to.h.ID(), m.h.Protocol(session.StreamName, session.StreamVersion))
	if err != nil {
		t.Fatal(err)
	}
	_ = s.SetDeadline(time.Now().Add(10 * time.Second))
	r := bufio.NewReader(s)
	answer := func() (byte, uint64) {
		b, err := p2p.ReadFrame(r, 16)
		if err != nil || len(b) != 9 {
			return 0, 0
		}
		return b[0], binary.BigEndian.Uint64(b[1:])
	}
	if err := p2p.WriteFrame(s, []byte{0}); err != nil {
		t.Fatal(err)
	}
	if kind, _ := answer(); kind != session.FrameHave {
		t.Fatalf("first answer %d", kind)
	}
	return s, func(kind byte, body []byte) (byte, uint64) {
		if err := p2p.WriteFrame(s, append([]byte{kind}, body...)); err != nil {
			return 0, 0
		}
		return answer()
	}
}

// Rows C6, D6, F2: copies of flights and frames, at once and after a restart, are
// answered and never delivered twice. SES-4, SES-5.
func TestF2_Duplicates(t *testing.T) {
	a, b := pair(t)
	a.send(t, b, numbered("m", 4)...)
	b.expect(t, numbered("m", 4)...)
	var frames [][]byte
	a.disk.mu.Lock()
	for _, f := range a.disk.frames {
		frames = append(frames, f)
	}
	a.disk.mu.Unlock()
	for range 2 {
		for _, f := range frames {
			for _, kind := range []byte{session.FrameFlight, session.FrameRatchet} {
				s, say := a.wire(t, b)
				if kind, next := say(kind, f); kind == session.FrameHave && next < 5 {
					t.Errorf("the peer has %d", next)
				}
				_ = s.Reset()
			}
		}
		b.crash()
		b.open(t, 0, false)
	}
	b.expect(t, numbered("m", 4)...)
	a.send(t, b, "alive")
	b.expect(t, append(numbered("m", 4), "alive")...)
}

// Row F1, D4: forged, cut and foreign frames are refused and change nothing. SES-4,
// SES-12.
func TestF1_ForgedFrames(t *testing.T) {
	a, b := pair(t)
	a.send(t, b, "one")
	b.expect(t, "one")
	b.send(t, a, "two")
	a.expect(t, "two")
	var frame []byte
	a.disk.mu.Lock()
	for _, f := range a.disk.frames {
		frame = f
	}
	a.disk.mu.Unlock()
	id, before := b.active(t, a), b.disk.snapshot()
	flip := slices.Clone(frame)
	flip[len(flip)-1] ^= 1
	for name, body := range map[string][]byte{"flipped": flip, "cut": frame[:len(frame)/2], "junk": make([]byte, 500), "long": make([]byte, 60<<10)} {
		for _, kind := range []byte{session.FrameRatchet, session.FrameFlight, 9} {
			s, say := a.wire(t, b)
			// A copy of what was received, changed or not, is known by its number.
			if got, _ := say(kind, body); got != session.FrameRefuse && name != "flipped" {
				t.Errorf("%s as %d: answer %d", name, kind, got)
			}
			_ = s.Reset()
		}
	}
	after := b.disk.snapshot()
	for k, v := range before {
		if string(after[k]) != string(v) {
			t.Errorf("row %q was changed", k[:1])
		}
	}
	a.send(t, b, "three")
	b.expect(t, "one", "three")
	if b.active(t, a) != id {
		t.Error("the session was replaced")
	}
}

// Row C8: prekeys of one peer are bounded in rate and number, and free again when
// used. SES-13.
func TestC8_PrekeysAreBounded(t *testing.T) {
	a, b := pair(t)
	ask := func() bool {
		s, err := a.h.NewStream(t.Context(), b.h.ID(), a.h.Protocol(session.PrekeyName, session.StreamVersion))
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close() //nolint:errcheck // read to its end
		_ = s.SetDeadline(time.Now().Add(10 * time.Second))
		if err := p2p.WriteFrame(s, []byte{1}); err != nil {
			t.Fatal(err)
		}
		_, err = p2p.ReadFrame(bufio.NewReader(s), 8<<10)
		return err == nil
	}
	for i := range session.MaxFetches {
		b.clock.Add(session.FetchEvery.Milliseconds())
		if !ask() || ask() {
			t.Fatalf("request %d: one is given, a second at once is not", i)
		}
	}
	b.clock.Add(session.FetchEvery.Milliseconds())
	if ask() {
		t.Error("more keys than one peer may hold")
	}
	b.clock.Add((3 * time.Hour).Milliseconds())
	for range 40 { // used keys do not count; signed keys change with the days
		a.clock.Add((7 * time.Hour).Milliseconds())
		_ = a.m.Rotate(t.Context(), b.did)
		a.send(t, b, "x")
	}
	wait(t, "all", func() bool { return len(b.inbox(t)) == 40 })
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
