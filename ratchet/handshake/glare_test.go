package handshake_test

import (
	"testing"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/ratchet"
	"github.com/talosprotocol/talos/ratchet/handshake"
)

// Shows HS-18: rotation joins the sessions; its presence is in T.
func TestRotation(t *testing.T) {
	a, b := newParty(t, "Alice", 1), newParty(t, "Bob", 2)
	i := initiate(t, initiator(a, b), b.bundle(t, true))
	acc, err := handshake.Accept(responder(a, b), i.Flight)
	if err != nil {
		t.Fatal(err)
	}
	psk, _ := i.State.Export(ratchet.ExportRotation)
	p, q := initiator(a, b), responder(a, b)
	p.PSK, p.FirstSeq = &psk, i.State.Info().NextSeq
	next := initiate(t, p, b.bundle(t, true))
	refuseFlight(t, q, next.Flight, contracts.HandshakeFailed)
	q.PSK = func([16]byte) ([32]byte, bool) { return [32]byte{}, true }
	refuseFlight(t, q, next.Flight, contracts.HandshakeFailed)
	q.PSK = func([16]byte) ([32]byte, bool) { return [32]byte{}, false }
	refuseFlight(t, q, next.Flight, contracts.HandshakeFailed)
	q.PSK = func(c [16]byte) ([32]byte, bool) {
		x, err := acc.State.Export(ratchet.ExportRotation)
		return x, err == nil && c == acc.Conversation
	}
	second, err := handshake.Accept(q, next.Flight)
	if err != nil || !second.Rotation || second.First.Seq != 1 {
		t.Fatalf("rotation: %v", err)
	}
	exchange(t, second.State, next.State, b.rand, "reply")
}

// Shows HS-19: whichever order the four flights and replies arrive in, lost or
// repeated, both sides choose the same session and read all that arrived.
func TestC12_Glare(t *testing.T) {
	a, b := newParty(t, "Alice", 1), newParty(t, "Bob", 2)
	ab := initiate(t, initiator(a, b), b.bundle(t, true))
	ba := initiate(t, initiator(b, a), a.bundle(t, true))
	if handshake.Wins(ab.Transcript, ba.Transcript) == handshake.Wins(ba.Transcript, ab.Transcript) ||
		handshake.Wins(ab.Transcript, ab.Transcript) {
		t.Fatal("the winner is not decided by T")
	}
	g := &glare{ab: ab, ba: ba, begunA: ab.State.AppendState(nil), begunB: ba.State.AppendState(nil)}
	for _, x := range []struct {
		enc    *[]byte
		p      handshake.Responder
		flight []byte
	}{{&g.acceptedA, responder(b, a), ba.Flight}, {&g.acceptedB, responder(a, b), ab.Flight}} {
		acc, err := handshake.Accept(x.p, x.flight)
		if err != nil {
			t.Fatal(err)
		}
		*x.enc = acc.State.AppendState(nil)
	}
	runs := 0
	for order := range 720 {
		for mask := range 16 { // bits: this event comes twice, or is lost at first
			g.run(t, order, mask)
			runs++
		}
		if testing.Short() && order > 20 {
			break
		}
	}
	t.Logf("%d interleavings", runs)
}

// glare holds the four states that two crossing flights make.
type glare struct {
	ab, ba               *handshake.Initiation
	begunA, begunB       []byte // of the session that this side began
	acceptedA, acceptedB []byte // of the one that it accepted
}

// run delivers six messages (two flights, two messages of each side in the
// session that it holds for active) in the order-th permutation. Both states of
// a side start from their encoding.
func (g *glare) run(t *testing.T, order, mask int) {
	t.Helper()
	type side struct {
		own, other *ratchet.State // sessions that it began, that it accepted
		ownT, othT [32]byte
	}
	load := func(enc []byte) *ratchet.State {
		s, err := ratchet.DecodeState(enc)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	sa := &side{own: load(g.begunA), ownT: g.ab.Transcript}
	sb := &side{own: load(g.begunB), ownT: g.ba.Transcript}
	active := func(s *side) *ratchet.State {
		if s.other != nil && handshake.Wins(s.othT, s.ownT) {
			return s.other
		}
		return s.own
	}
	accept := func(s *side, enc []byte, transcript [32]byte) {
		if s.other == nil { // a repeated flight is refused by its spent prekey
			s.other, s.othT = load(enc), transcript
		}
	}
	r := &stream{seed: uint64(order)}
	type letter struct {
		to    *side
		frame []byte
	}
	var wire []letter
	send := func(from, to *side) {
		f, _, err := active(from).AppendSeal(nil, hello("x"), t0, r)
		if err != nil {
			t.Fatal(err)
		}
		wire = append(wire, letter{to, f})
	}
	events := []func(){
		func() { accept(sb, g.acceptedB, g.ab.Transcript) },
		func() { accept(sa, g.acceptedA, g.ba.Transcript) },
		func() { send(sa, sb) },
		func() { send(sb, sa) },
		func() { send(sa, sb) },
		func() { send(sb, sa) },
	}
	left := []int{0, 1, 2, 3, 4, 5}
	var seq []int
	for n := 6; n > 0; n-- {
		k := order % n
		order /= n
		seq = append(seq, left[k])
		left = append(left[:k], left[k+1:]...)
	}
	for _, e := range seq {
		events[e]()
		if e < 2 && mask>>e&1 == 1 {
			events[e]() // the flight is repeated
		}
	}
	opened := 0
	for round := 0; round < 4 && opened < len(wire); round++ {
		for i, l := range wire {
			if l.frame == nil || round == 0 && mask>>(2+i%2)&1 == 1 {
				continue // lost for now; the outbox sends it again
			}
			for _, s := range []*ratchet.State{l.to.own, l.to.other} {
				if s == nil {
					continue
				}
				if _, err := s.Open(nil, l.frame, t0); err == nil {
					s.Commit()
					opened++
					wire[i].frame = nil
					break
				}
			}
		}
	}
	if opened != len(wire) {
		t.Fatalf("%d of %d messages arrived", opened, len(wire))
	}
	if active(sa).Transcript() != active(sb).Transcript() {
		t.Fatal("the two sides go on with different sessions")
	}
}
