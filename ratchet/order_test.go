package ratchet_test

import (
	"bytes"
	"fmt"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/ratchet"
)

// Shows RAT-14, RAT-22: in each order in which six frames of three chains can
// arrive, all of them open. b's two answers were given by a guide that read the
// frames in order; b gives the same, from the same randomness, when a frame of a
// chain comes that it cannot know yet. That frame is refused without a trace and
// comes again.
func TestD1_EveryPermutationOverThreeChains(t *testing.T) {
	r := &stream{}
	a, guide := newPair(t, r)
	base := guide.AppendState(nil)
	var frames [][]byte
	var answers []int // where in the randomness an answer begins
	for chain := range 3 {
		for i := range 2 {
			f := seal(t, a, fmt.Sprint(2*chain+i), r)
			open(t, guide, f, fmt.Sprint(2*chain+i))
			frames = append(frames, f)
		}
		if chain < 2 {
			answers = append(answers, r.at)
			open(t, a, seal(t, guide, "turn", r), "turn")
		}
	}
	count := 0
	var permute func(order []int, used int)
	permute = func(order []int, used int) {
		if len(order) == 6 {
			count++
			deliver(t, base, frames, answers, order)
			return
		}
		for i := range 6 {
			if used&(1<<i) == 0 {
				permute(append(order[:len(order):len(order)], i), used|1<<i)
			}
		}
	}
	permute(nil, 0)
	if count != 720 {
		t.Fatalf("%d orders", count)
	}
}

func deliver(t *testing.T, base []byte, frames [][]byte, answers, order []int) {
	t.Helper()
	b, err := ratchet.DecodeState(base)
	if err != nil {
		t.Fatal(err)
	}
	for queue, tries := order, 0; len(queue) > 0; tries++ {
		i := queue[0]
		queue = queue[1:]
		before := b.AppendState(nil)
		m, err := b.Open(nil, frames[i], t0)
		if err == nil {
			if string(m.Body) != fmt.Sprint(i) {
				t.Fatalf("order %v: frame %d gave %q", order, i, m.Body)
			}
			b.Commit()
			continue
		}
		if tries > 20 || !bytes.Equal(before, b.AppendState(nil)) {
			t.Fatalf("order %v: frame %d: %v", order, i, err)
		}
		queue = append(queue[:len(queue):len(queue)], i)
		if b.Info().StepDue {
			again := &stream{}
			_, _ = again.Read(make([]byte, answers[b.Info().NextSeq]))
			seal(t, b, "turn", again)
		}
	}
}

// Shows RAT-17, RAT-22: random conversations lose nothing that was not dropped.
func TestD1_RandomConversation(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		r := &stream{seed: rapid.Uint64().Draw(rt, "seed")}
		a, b := newPair(t, r)
		type sent struct {
			to    *ratchet.State
			frame []byte
			body  string
		}
		var wire []sent
		for i := range rapid.IntRange(1, 60).Draw(rt, "steps") {
			switch rapid.IntRange(0, 2).Draw(rt, "op") {
			case 0:
				body := fmt.Sprint("a", i)
				wire = append(wire, sent{b, seal(t, a, body, r), body})
			case 1:
				body := fmt.Sprint("b", i)
				if a.Info().NextSeq == 0 {
					continue // a responder answers, it does not begin
				}
				wire = append(wire, sent{a, seal(t, b, body, r), body})
			case 2:
				if len(wire) == 0 {
					continue
				}
				// A frame may come out of order within its own direction.
				j := rapid.IntRange(0, len(wire)-1).Draw(rt, "which")
				w := wire[j]
				m, err := w.to.Open(nil, w.frame, t0)
				if err != nil { // its chain is not known yet: it stays on the wire
					continue
				}
				if string(m.Body) != w.body {
					rt.Fatalf("got %q, want %q", m.Body, w.body)
				}
				w.to.Commit()
				wire = append(wire[:j], wire[j+1:]...)
			}
		}
		// Whatever is left arrives in the order in which it was sent.
		for _, w := range wire {
			open(t, w.to, w.frame, w.body)
		}
	})
}

// Shows RAT-24, RAT-25: a million messages one way; the peer answers when asked.
func TestD1_OneWay(t *testing.T) {
	n := 1_000_000
	if testing.Short() {
		n = 50_000
	}
	r := &stream{}
	a, b := newPair(t, r)
	var frame, plain []byte
	for i := range n {
		var err error
		if frame, _, err = a.AppendSeal(frame[:0], ratchet.Outgoing{Body: []byte("x")}, t0, r); err != nil {
			t.Fatal(err)
		}
		m, err := b.Open(plain[:0], frame, t0)
		if err != nil || m.Seq != uint64(i) {
			t.Fatalf("message %d: seq %d, %v", i, m.Seq, err)
		}
		b.Commit()
		if b.OwesAck() {
			if frame, _, err = b.AppendSeal(frame[:0], ratchet.Outgoing{Kind: ratchet.KindAck}, t0, r); err != nil {
				t.Fatal(err)
			}
			open(t, a, frame, "")
		}
	}
}

// Shows RAT-22: 1,000 skipped keys are allowed, 1,001 are not.
func TestD2_GapBoundary(t *testing.T) {
	for gap, ok := range map[int]bool{999: true, 1000: true, 1001: false} {
		for _, overStep := range []bool{false, true} {
			r := &stream{}
			a, b := newPair(t, r)
			turn(t, a, b, r)
			open(t, b, seal(t, a, "first", r), "first")
			for range gap {
				seal(t, a, "lost", r)
			}
			if overStep { // the gap shows as pn of the next chain
				open(t, a, seal(t, b, "turn", r), "turn")
			}
			f := seal(t, a, "after", r)
			if !ok {
				refuse(t, b, f, contracts.RatchetMaxSkip)
				continue
			}
			open(t, b, f, "after")
			if n := b.Info().Skipped; n != gap {
				t.Errorf("gap %d: %d skipped keys", gap, n)
			}
		}
	}
	// A gap at the start of a chain that begins with a DH step.
	r := &stream{}
	a, b := newPair(t, r)
	turn(t, a, b, r)
	for range 1001 {
		seal(t, a, "lost", r)
	}
	steps := b.DHCount()
	refuse(t, b, seal(t, a, "too far", r), contracts.RatchetMaxSkip)
	if b.DHCount() != steps {
		t.Error("a frame that skips too far reached X25519")
	}
}

// Shows RAT-23: the cap holds over chains and restarts; the oldest go first, and
// all after a day.
func TestD3_SkippedKeysAreBounded(t *testing.T) {
	r := &stream{}
	a, b := newPair(t, r)
	var lost [][]byte
	for chain := range 8 {
		for range 600 {
			lost = append(lost, seal(t, a, "lost", r))
		}
		open(t, b, seal(t, a, "here", r), "here")
		open(t, a, seal(t, b, "turn", r), "turn")
		info := b.Info()
		if info.Skipped > ratchet.MaxSkipped || info.OldChains > ratchet.MaxOldChains {
			t.Fatalf("chain %d: %+v", chain, info)
		}
		back, err := ratchet.DecodeState(b.AppendState(nil))
		if err != nil {
			t.Fatal(err)
		}
		b = back
	}
	if n := b.Info().Skipped; n != ratchet.MaxSkipped {
		t.Errorf("%d skipped keys after 4,800 losses", n)
	}
	refuse(t, b, lost[0])
	refuse(t, b, lost[len(lost)-ratchet.MaxSkipped-1])
	open(t, b, lost[len(lost)-ratchet.MaxSkipped], "lost")
	open(t, b, lost[len(lost)-1], "lost")

	if b.Expire(t0.Add(ratchet.SkippedTTL - time.Millisecond)) {
		t.Error("expired too early")
	}
	late := t0.Add(ratchet.SkippedTTL)
	before := b.AppendState(nil)
	if _, err := b.Open(nil, lost[len(lost)-2], late); contracts.CodeOf(err) != contracts.FrameReplay {
		t.Errorf("opened a frame whose key has expired: %v", err)
	}
	if !bytes.Equal(before, b.AppendState(nil)) {
		t.Error("state changed")
	}
	if !b.Expire(late) || b.Info().Skipped != 0 || b.Info().OldChains != 0 {
		t.Errorf("after a day: %+v", b.Info())
	}
}

// Shows RAT-16: with the caller's lock, 64 goroutines get 64 different numbers.
func TestD12_Concurrent(t *testing.T) {
	r := &stream{}
	a, b := newPair(t, r)
	turn(t, a, b, r)
	var mu sync.Mutex
	var wg sync.WaitGroup
	seen := map[uint64]bool{}
	for range 64 {
		wg.Go(func() {
			for range 20 {
				mu.Lock()
				f, rec, err := a.AppendSeal(nil, ratchet.Outgoing{Body: []byte("x")}, t0, r)
				if err == nil {
					_, err = b.Open(nil, f, t0)
					b.Commit()
				}
				if err != nil || seen[rec.Seq] {
					t.Errorf("seq %d: %v", rec.Seq, err)
				}
				seen[rec.Seq] = true
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if len(seen) != 64*20 {
		t.Errorf("%d numbers", len(seen))
	}
}

// Shows RAT-25: no chain of a one-way stream is longer than HealAfter, nor older
// than HealAge once used.
func TestD13_OneWayStreamHeals(t *testing.T) {
	r := &stream{}
	a, b := newPair(t, r)
	for range 10_000 {
		m := open(t, b, seal(t, a, "x", r), "x")
		if m.N >= ratchet.HealAfter {
			t.Fatalf("message %d of a chain", m.N)
		}
		if b.OwesAck() {
			f, _, err := b.AppendSeal(nil, ratchet.Outgoing{Kind: ratchet.KindAck}, t0, r)
			if err != nil {
				t.Fatal(err)
			}
			if m := open(t, a, f, ""); m.Kind != ratchet.KindAck || m.AckWanted {
				t.Fatalf("answer: %v", m)
			}
		}
	}
	turn(t, a, b, r)
	open(t, b, seal(t, a, "x", r), "x")
	if a.NeedsDHStep(t0.Add(ratchet.HealAge-time.Millisecond)) || !a.NeedsDHStep(t0.Add(ratchet.HealAge)) {
		t.Error("the age of a chain is not what counts")
	}
	a.ForceDHStep()
	if !a.NeedsDHStep(t0) {
		t.Error("ForceDHStep has no effect")
	}
}

// Shows RAT-21: the caller's slices are read only, and results are not aliased.
func TestD15_Buffers(t *testing.T) {
	r := &stream{}
	a, b := newPair(t, r)
	prefix := []byte("prefix")
	dst := append(make([]byte, 0, 8192), prefix...)
	body := []byte("the body")
	keep := bytes.Clone(body)
	out, _, err := a.AppendSeal(dst, ratchet.Outgoing{Body: body}, t0, r)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(out[:6], prefix) || !bytes.Equal(body, keep) {
		t.Fatal("sealing wrote where it must not")
	}
	frame := bytes.Clone(out[6:])
	clear(out[6:]) // the frame is the caller's: nothing in the state may point to it
	keepFrame := bytes.Clone(frame)
	plain := append(make([]byte, 0, 8192), prefix...)
	m, err := b.Open(plain, frame, t0)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(frame, keepFrame) || !bytes.Equal(plain[:6], prefix) {
		t.Fatal("opening wrote where it must not")
	}
	clear(frame)
	b.Commit()
	if string(m.Body) != "the body" {
		t.Fatal("the result points into the frame")
	}
	_ = append(m.Body, "more"...) // must not reach what lies behind
	turn(t, a, b, r)
}

// Shows RAT-17, RAT-29.
func TestF2_SequenceThatDoesNotFollow(t *testing.T) {
	r := &stream{}
	a, b := newPair(t, r)
	turn(t, a, b, r)
	open(t, b, seal(t, a, "x", r), "x") // seq 1, n 0 of its chain
	for _, seq := range []uint64{1, 3, 1000} {
		refuse(t, b, a.SealEdited(nil, ratchet.HeaderEdit{Seq: &seq}, r), contracts.RatchetInvalidHeader)
	}
	open(t, a, seal(t, b, "turn", r), "turn")
	for _, seq := range []uint64{0, 1} { // a chain begins at or after its predecessor's end
		refuse(t, b, a.SealEdited(nil, ratchet.HeaderEdit{Seq: &seq}, r), contracts.RatchetInvalidHeader)
	}
	open(t, b, seal(t, a, "y", r), "y")
	p := params(didA, didB)
	p.FirstSeq = ratchet.MaxSeq
	if _, err := ratchet.NewResponder(p, a.OwnKey()); contracts.CodeOf(err) != contracts.SessionState {
		t.Errorf("sender_seq past its end: %v", err)
	}
}

// Shows RAT-18: the peer knows more than this state has sent, or takes an
// acknowledgement back.
func TestF3_RollbackAlarm(t *testing.T) {
	r := &stream{}
	a, b := newPair(t, r)
	turn(t, a, b, r)
	snapshot := a.AppendState(nil)
	sealAck := func(s *ratchet.State, ack uint64) []byte {
		f, _, err := s.AppendSeal(nil, ratchet.Outgoing{RecipientSeq: ack}, t0, r)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	open(t, b, seal(t, a, "a1", r), "a1")
	refuse(t, a, b.SealEdited(nil, ratchet.HeaderEdit{Receipt: ptr(uint64(9))}, r), contracts.SessionRollback)
	older, err := ratchet.DecodeState(snapshot)
	if err != nil {
		t.Fatal(err)
	}
	// The restored snapshot makes its own step: the peer that has seen the first
	// one answers to a key that the snapshot does not have.
	ahead := sealAck(b, 2)
	refuse(t, older, ahead)
	first := sealAck(b, 1) // less than the frame before: only a broken peer does so
	open(t, a, ahead, "")
	refuse(t, a, first, contracts.SessionRollback)
	open(t, a, sealAck(b, 2), "")
}
