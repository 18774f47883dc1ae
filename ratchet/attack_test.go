package ratchet_test

import (
	"bytes"
	"crypto/ecdh"
	"encoding/hex"
	"testing"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/ratchet"
)

// lowOrder are the X25519 inputs of small order, canonical ones first.
var lowOrder = []string{
	"0000000000000000000000000000000000000000000000000000000000000000",
	"0100000000000000000000000000000000000000000000000000000000000000",
	"e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
	"5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
	"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// nextChain gives a peer whose next frame brings a new key, and the other side.
func nextChain(t testing.TB, r *stream) (a, b *ratchet.State) {
	t.Helper()
	a, b = newPair(t, r)
	turn(t, a, b, r)
	return a, b // a's next frame makes a DH step
}

// Shows RAT-13.
func TestB1_SmallOrderKeys(t *testing.T) {
	r := &stream{}
	a, b := nextChain(t, r)
	for _, s := range lowOrder {
		for _, top := range []byte{0, 0x80} {
			k := [32]byte(unhex(t, s))
			k[31] |= top
			refuse(t, b, a.SealEdited(nil, ratchet.HeaderEdit{DH: &k}, r), contracts.RatchetInvalidDHKey)
			if top == 0x80 || s[:2] == "00" {
				if _, err := ratchet.NewResponder(params(didB, didA), k); contracts.CodeOf(err) != contracts.RatchetInvalidDHKey {
					t.Errorf("first key %x: %v", k, err)
				}
			}
		}
	}
	open(t, b, seal(t, a, "genuine", r), "genuine")
}

// Shows RAT-13.
func TestB2_NonCanonicalKeys(t *testing.T) {
	for u := byte(0xed); u != 0; u++ {
		k := bytes.Repeat([]byte{0xff}, 32)
		k[0], k[31] = u, 0x7f
		if ratchet.CheckX25519(k) == nil {
			t.Errorf("accepted u = %x", k)
		}
	}
	good := bytes.Repeat([]byte{0xff}, 32)
	good[0], good[31] = 0xeb, 0x7f // 2^255 - 21
	if err := ratchet.CheckX25519(good); err != nil {
		t.Errorf("largest canonical keys: %v", err)
	}
	good[31] |= 0x80
	if ratchet.CheckX25519(good) == nil || ratchet.CheckX25519(good[:31]) == nil {
		t.Error("accepted a set top bit or a short key")
	}
	r := &stream{}
	a, b := nextChain(t, r)
	k := a.OwnKey()
	k[31] |= 0x80 // the same point to X25519
	refuse(t, b, a.SealEdited(nil, ratchet.HeaderEdit{DH: &k}, r), contracts.RatchetInvalidDHKey)
}

// Shows RAT-13.
func TestB7_OwnKeyReflected(t *testing.T) {
	r := &stream{}
	a, b := nextChain(t, r)
	own, old := b.OwnKey(), b.RemoteKey()
	refuse(t, b, a.SealEdited(nil, ratchet.HeaderEdit{DH: &own}, r), contracts.RatchetInvalidDHKey)
	refuse(t, b, a.SealEdited(nil, ratchet.HeaderEdit{DH: &old}, r), contracts.RatchetInvalidDHKey)
}

// Shows RAT-20, RAT-21: a forged frame costs no allocation and no X25519.
func TestD4_ForgedFrameNoAllocNoX25519(t *testing.T) {
	r := &stream{}
	b, forged := fiveOldChains(t)
	steps := b.DHCount()
	before := b.AppendState(nil)
	for range 20_000 {
		_, _ = r.Read(forged[4:78])
		if _, err := b.Open(nil, forged, t0); contracts.CodeOf(err) != contracts.RatchetAuthFailed {
			t.Fatalf("forged frame: %v", err)
		}
	}
	if n := testing.AllocsPerRun(100, func() { _, _ = b.Open(nil, forged, t0) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if b.DHCount() != steps {
		t.Error("a forged frame reached X25519")
	}
	if !bytes.Equal(before, b.AppendState(nil)) {
		t.Error("state changed")
	}
}

// Shows RAT-16, RAT-21.
func TestD5_ForgedCopyOfLateFrame(t *testing.T) {
	r := &stream{}
	a, b := newPair(t, r)
	late := seal(t, a, "late", r)
	turn(t, a, b, r)
	turn(t, a, b, r)
	for _, i := range []int{5, 30, 100, len(late) - 1} {
		bad := bytes.Clone(late)
		bad[i] ^= 1
		refuse(t, b, bad, contracts.RatchetAuthFailed)
	}
	open(t, b, late, "late")
	refuse(t, b, late, contracts.RatchetAuthFailed, contracts.FrameReplay)
}

// Shows RAT-16.
func TestD6_Replay(t *testing.T) {
	r := &stream{}
	a, b := newPair(t, r)
	first := seal(t, a, "first", r)
	second := seal(t, a, "second", r)
	open(t, b, first, "first")
	refuse(t, b, first, contracts.FrameReplay)
	open(t, b, second, "second")
	refuse(t, b, first, contracts.FrameReplay)
	restarted, err := ratchet.DecodeState(b.AppendState(nil))
	if err != nil {
		t.Fatal(err)
	}
	refuse(t, restarted, second, contracts.FrameReplay)
	open(t, a, seal(t, b, "step", r), "step")
	open(t, b, seal(t, a, "step", r), "step")
	refuse(t, b, first, contracts.RatchetAuthFailed) // its header key is gone
	refuse(t, b, second, contracts.RatchetAuthFailed)
}

// Shows RAT-10: reflection, another session, another direction, conversation,
// transcript or pair of DIDs.
func TestD7_WrongPlace(t *testing.T) {
	r := &stream{}
	a, b := newPair(t, r)
	frame := seal(t, a, "hello", r)
	refuse(t, a, frame, contracts.RatchetAuthFailed)
	for name, change := range map[string]func(p *ratchet.Params){
		"conversation": func(p *ratchet.Params) { p.Conversation[0]++ },
		"transcript":   func(p *ratchet.Params) { p.Transcript[0]++ },
		"peer":         func(p *ratchet.Params) { p.Remote = "did:key:zMallory" },
		"self":         func(p *ratchet.Params) { p.Local = "did:key:zMallory" },
		"direction":    func(p *ratchet.Params) { p.Local, p.Remote = p.Remote, p.Local },
		"header key":   func(p *ratchet.Params) { p.Secrets.HeaderA[0]++ },
		"chain key":    func(p *ratchet.Params) { p.Secrets.FirstChain[0]++ },
	} {
		t.Run(name, func(t *testing.T) {
			p := params(didB, didA)
			change(&p)
			other, err := ratchet.NewResponder(p, a.OwnKey())
			if err != nil {
				t.Fatal(err)
			}
			refuse(t, other, frame, contracts.RatchetAuthFailed)
		})
	}
	open(t, b, frame, "hello")
	p := params(didA, didA)
	if _, err := ratchet.NewResponder(p, a.OwnKey()); contracts.CodeOf(err) != contracts.InvalidDID {
		t.Errorf("a session with oneself: %v", err)
	}
}

// Shows RAT-15: a peer that steps twice without our key breaks the protocol.
func TestPeerMayNotStepTwice(t *testing.T) {
	r := &stream{}
	a, b := nextChain(t, r)
	open(t, b, seal(t, a, "step", r), "step") // b owes a step now
	open(t, a, seal(t, b, "answer", r), "answer")
	again := seal(t, a, "second chain", r)
	open(t, b, again, "second chain")
	// b has not sent since: the next header key opens only a frame by a peer
	// that made a key of its own accord.
	k, err := ecdh.X25519().NewPrivateKey(bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	pub := [32]byte(k.PublicKey().Bytes())
	refuse(t, b, a.SealNextChain(pub, r), contracts.RatchetInvalidHeader)
}

// Shows RAT-19: without the right tag the initiator believes no reply.
func TestReplyWithoutConfirmation(t *testing.T) {
	r := &stream{}
	pa, pb := params(didA, didB), params(didB, didA)
	pb.Secrets.Confirm[0]++
	a, b := pairOf(t, r, pa, pb)
	open(t, b, seal(t, a, "hello", r), "hello")
	refuse(t, a, seal(t, b, "reply", r), contracts.RatchetAuthFailed)
	if a.Confirmed() || b.Confirmed() {
		t.Error("confirmed")
	}
}

// Shows RAT-12: a payload that would open under two keys does not authenticate
// under either, because each key's commitment is in the associated data.
func TestD14_Commitment(t *testing.T) {
	k1, k2 := fill(1), fill(2)
	mk1, _, c1 := ratchet.KDFCK(k1)
	mk2, _, c2 := ratchet.KDFCK(k2)
	if mk1 == mk2 || c1 == c2 {
		t.Fatal("two keys with one commitment")
	}
	if want := ratchet.HMAC(mk1, []byte{3}); !bytes.Equal(c1[:16], want[:16]) {
		t.Error("the commitment is not HMAC(mk, 3)[:16]")
	}
	frame, one, two := twoKeyFrame(t)
	refuse(t, one, frame, contracts.RatchetAuthFailed)
	refuse(t, two, frame, contracts.RatchetAuthFailed)
}
