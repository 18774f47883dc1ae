package session_test

import (
	"bufio"
	"encoding/binary"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"

	"github.com/talosprotocol/talos/node/p2p"
	"github.com/talosprotocol/talos/node/session"
)

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
		b, err := p2p.ReadFrame(r, 32)
		if err != nil || len(b) != 17 {
			return 0, 0
		}
		return b[0], binary.BigEndian.Uint64(b[1:9])
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
	wait(t, "its acknowledgement, which changes rows too", func() bool { return b.disk.outbox() == 0 })
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

// Row F1: frames in any order within the window of 1,024, each up to twice, arrive once
// and in order; one beyond the window is refused. SES-4, SES-7.
func TestF1_AnyOrderWithinTheWindow(t *testing.T) {
	a, b := pair(t)
	a.send(t, b, "begin")
	b.expect(t, "begin")
	b.send(t, a, "begun")
	a.expect(t, "begun")
	wait(t, "rest", func() bool { return a.disk.outbox() == 0 && b.disk.outbox() == 0 })
	b.crash()
	want := numbered("m", 800)
	a.send(t, b, want...)
	a.crash()
	var frames [][]byte
	rows := a.disk.snapshot()
	for _, k := range slices.Sorted(maps.Keys(rows)) {
		if _, _, f, ok := session.OutboxFrame([]byte(k), rows[k]); ok {
			frames = append(frames, f)
		}
	}
	if len(frames) < 800 {
		t.Fatalf("%d frames", len(frames))
	}
	rnd := rand.New(rand.NewPCG(7, 7))
	order := rnd.Perm(len(frames))
	for range 200 {
		order = append(order, rnd.IntN(len(frames)))
	}
	b.open(t, 0, false)
	s, say := a.wire(t, b)
	defer s.Reset() //nolint:errcheck // the test is over
	_ = s.SetDeadline(time.Now().Add(time.Minute))
	for _, i := range order {
		if kind, _ := say(session.FrameRatchet, frames[i]); kind != session.FrameHave {
			t.Fatalf("frame %d: answer %d", i, kind)
		}
	}
	b.expect(t, append([]string{"begin"}, want...)...)
}
