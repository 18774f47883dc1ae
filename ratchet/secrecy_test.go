package ratchet_test

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/ratchet"
)

// twoKeyFrame gives a frame and two states with different message keys for it.
// The forger knows both keys and commits to neither: the states compute their
// own commitment.
func twoKeyFrame(t testing.TB) (frame []byte, one, two *ratchet.State) {
	t.Helper()
	r := &stream{}
	pa, pb := params(didA, didB), params(didB, didA)
	a, one := pairOf(t, r, pa, pb)
	pb.Secrets.FirstChain = fill(99)
	two, err := ratchet.NewResponder(pb, a.OwnKey())
	if err != nil {
		t.Fatal(err)
	}
	payload := make([]byte, 64)
	// Sealed under one's key but with two's commitment: without commitments in
	// the associated data, this is where a frame for both would be ground out.
	mk1, _, _ := ratchet.KDFCK(pa.Secrets.FirstChain)
	mk2, _, _ := ratchet.KDFCK(fill(99))
	return a.SealWithCommitmentOf(mk1, mk2, payload, [12]byte{1}), one, two
}

// Shows RAT-16, RAT-26: what is stored after a message holds no key that opens
// it, on either side, with and without a reserve.
func TestD8_ForwardSecrecyOfTheEncoding(t *testing.T) {
	r := &stream{}
	a, b := newPair(t, r)
	turn(t, a, b, r)
	if err := a.Reserve(t0, r); err != nil {
		t.Fatal(err)
	}
	stored := a.AppendState(nil)
	for i := range ratchet.ReserveAhead {
		used := a.SendKey()
		f := seal(t, a, fmt.Sprint(i), r)
		// Neither the reserve on disk nor today's encoding holds the key of the
		// frame, nor a chain key from which it follows.
		for _, enc := range [][]byte{stored, a.AppendState(nil)} {
			for j := 0; j+32 <= len(enc); j++ {
				ck := [32]byte(enc[j : j+32])
				mk, _, _ := ratchet.KDFCK(ck)
				if ck == used || mk == used {
					t.Fatalf("the stored state leads to the key of message %d", i)
				}
			}
		}
		open(t, b, f, fmt.Sprint(i))
		if bytes.Contains(b.AppendState(nil), used[:]) {
			t.Fatal("the receiver stores a key that it has used")
		}
		thief, err := ratchet.DecodeState(b.AppendState(nil))
		if err != nil {
			t.Fatal(err)
		}
		refuse(t, thief, f, contracts.FrameReplay)
	}
}

// Shows RAT-14: a passive thief of the whole state is out after one round trip.
func TestD9_PostCompromise(t *testing.T) {
	r := &stream{}
	a, b := newPair(t, r)
	turn(t, a, b, r)
	turn(t, a, b, r)
	stolenA, stolenB := a.AppendState(nil), b.AppendState(nil)
	thief := func(enc []byte) *ratchet.State {
		s, err := ratchet.DecodeState(enc)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	ea, eb := thief(stolenA), thief(stolenB)
	// The first frame goes under stolen keys, the answer to it no more.
	f := seal(t, a, "one", r)
	open(t, eb, f, "one")
	open(t, b, f, "one")
	f = seal(t, b, "two", r)
	refuse(t, ea, f) // ea does not know a's fresh key
	open(t, a, f, "two")
	f = seal(t, a, "three", r)
	refuse(t, eb, f) // eb does not know b's fresh key
	open(t, b, f, "three")
	f = seal(t, b, "four", r)
	refuse(t, ea, f)
	open(t, a, f, "four")
}

// Shows RAT-8: a message key gives neither its neighbours nor its chain.
func TestD10_MessageKeysAreIndependent(t *testing.T) {
	ck := fill(5)
	seen := map[[32]byte]bool{}
	for range 1000 {
		mk, next, commit := ratchet.KDFCK(ck)
		for _, k := range [][32]byte{mk, commit, ck} {
			if seen[k] {
				t.Fatal("a derived key repeats")
			}
			seen[k] = true
		}
		for _, c := range []byte{1, 2, 3} {
			if k := ratchet.HMAC(mk, []byte{c}); k == next {
				t.Fatal("a message key leads to the chain")
			}
		}
		ck = next
	}
}

// Shows RAT-11, RAT-26, RAT-27: no key, and no nonce, comes twice, over crashes
// that fall back on the reserve and over clones.
func TestD11_KeysAndNoncesAreUnique(t *testing.T) {
	r := &stream{}
	a, b := newPair(t, r)
	keys := map[[32]byte]bool{}
	nonces := map[[12]byte]bool{}
	sealUnique := func(s *ratchet.State, clone bool) []byte {
		if k := s.SendKey(); !clone && !s.Info().StepDue {
			if keys[k] {
				t.Fatal("a message key was used twice")
			}
			keys[k] = true
		}
		f := seal(t, s, "x", r)
		if n := [12]byte(f[4:16]); nonces[n] {
			t.Fatal("a nonce was used twice")
		} else {
			nonces[n] = true
		}
		return f
	}
	n := 10
	if testing.Short() {
		n = 2
	}
	for round := range n {
		for range 5 {
			if err := a.Reserve(t0, r); err != nil {
				t.Fatal(err)
			}
			disk := a.AppendState(nil)
			for range round * 6 {
				open(t, b, sealUnique(a, false), "x")
			}
			clone, err := ratchet.DecodeState(disk)
			if err != nil {
				t.Fatal(err)
			}
			sealUnique(clone, true) // a clone has the key of another, but its own nonce
			if a, err = ratchet.DecodeState(disk); err != nil {
				t.Fatal(err)
			}
		}
		open(t, a, sealUnique(b, false), "x")
	}
}

// Shows RAT-27: a state that was loaded from a reserve asks for a fresh key and
// steps at the first.
func TestReserveAfterCrash(t *testing.T) {
	r := &stream{}
	a, b := newPair(t, r)
	turn(t, a, b, r)
	if err := a.Reserve(t0, r); err != nil {
		t.Fatal(err)
	}
	disk := a.AppendState(nil)
	for i := range ratchet.ReserveAhead {
		_, rec, err := a.AppendSeal(nil, ratchet.Outgoing{}, t0, r)
		if err != nil || rec.Store {
			t.Fatalf("message %d under a reserve: store %v, %v", i, rec.Store, err)
		}
	}
	if a.Reserved() != 0 {
		t.Fatal("the reserve is not used up")
	}
	if _, rec, _ := a.AppendSeal(nil, ratchet.Outgoing{}, t0, r); !rec.Store {
		t.Fatal("a message past the reserve need not be stored")
	}
	back, err := ratchet.DecodeState(disk)
	if err != nil {
		t.Fatal(err)
	}
	if !back.NeedsDHStep(t0) {
		t.Error("asks for no fresh key after a crash")
	}
	m := open(t, b, seal(t, back, "after the crash", r), "after the crash")
	if !m.AckWanted || m.Seq != 1+ratchet.ReserveAhead || !b.OwesAck() {
		t.Fatalf("got %+v, owes %v", m, b.OwesAck())
	}
	f, _, err := b.AppendSeal(nil, ratchet.Outgoing{Kind: ratchet.KindAck}, t0, r)
	if err != nil {
		t.Fatal(err)
	}
	if open(t, back, f, ""); b.OwesAck() || back.NeedsDHStep(t0) {
		t.Error("the answer did not settle it")
	}
	if m := open(t, b, seal(t, back, "healed", r), "healed"); !m.Stepped || m.AckWanted {
		t.Errorf("no DH step after the answer: %v", m)
	}
	// A clean stop skips nothing.
	if err := back.Reserve(t0, r); err != nil {
		t.Fatal(err)
	}
	final := back.AppendFinal(nil)
	if _, _, err := back.AppendSeal(nil, ratchet.Outgoing{}, t0, r); contracts.CodeOf(err) != contracts.SessionState {
		t.Errorf("sealed with a closed state: %v", err)
	}
	if back, err = ratchet.DecodeState(final); err != nil {
		t.Fatal(err)
	}
	if m := open(t, b, seal(t, back, "on", r), "on"); m.N != 1 {
		t.Errorf("a clean stop skipped to %d", m.N)
	}
}

// Shows RAT-16: keys of dropped lists are erased (best effort).
func TestDiscardLeavesNoTrace(t *testing.T) {
	r := &stream{}
	a, b := newPair(t, r)
	f := seal(t, a, "x", r)
	before := b.AppendState(nil)
	if _, err := b.Open(nil, f, t0); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Open(nil, f, t0); contracts.CodeOf(err) != contracts.SessionState {
		t.Errorf("opened while pending: %v", err)
	}
	if _, _, err := b.AppendSeal(nil, ratchet.Outgoing{}, t0, r); contracts.CodeOf(err) != contracts.SessionState {
		t.Errorf("sealed while pending: %v", err)
	}
	b.Discard()
	if !bytes.Equal(before, b.AppendState(nil)) {
		t.Fatal("Discard left a trace")
	}
	open(t, b, f, "x")
}
