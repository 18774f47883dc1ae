package handshake_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"testing"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/ratchet/handshake"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Small-order X25519 keys that are canonical: they pass the parser and must fail
// at the zero result of a DH.
var lowOrder = []string{
	"0100000000000000000000000000000000000000000000000000000000000000",
	"e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
	"5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
	"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
}

// Shows HS-8: as IK, SPK or OPK in a bundle that its owner has signed, as IK or
// EK of an initiator.
func TestB1_SmallOrderKeys(t *testing.T) {
	for _, s := range lowOrder {
		bad := [32]byte(unhex(t, s))
		for _, place := range []func(b *handshake.Bundle){
			func(b *handshake.Bundle) { b.Card.Agreement = bad },
			func(b *handshake.Bundle) { b.Signed = bad },
			func(b *handshake.Bundle) { b.OneTime = bad },
		} {
			a, b := newParty(t, "Alice", 1), newParty(t, "Bob", 2)
			bundle, err := handshake.DecodeBundle(b.bundle(t, true))
			if err != nil {
				t.Fatal(err)
			}
			place(bundle)
			b.card = bundle.Card
			_, err = handshake.Initiate(initiator(a, b), handshake.Resign(bundle, b.sign), hello("x"))
			wantCode(t, err, contracts.RatchetInvalidDHKey)
		}
		a, b := newParty(t, "Alice", 1), newParty(t, "Bob", 2)
		i := initiate(t, initiator(a, b), b.bundle(t, true))
		for _, at := range []int{71 + 2, 71 + 34 + 2} { // EK, then the ratchet key
			f := bytes.Clone(i.Flight)
			copy(f[at:], bad[:])
			refuseFlight(t, responder(a, b), f, contracts.RatchetInvalidDHKey, contracts.HandshakeFailed)
		}
	}
}

// Shows HS-8: two names of one point are told apart, or refused.
func TestB2_NonCanonicalAndTorsionedKeys(t *testing.T) {
	a, b := newParty(t, "Alice", 1), newParty(t, "Bob", 2)
	i := initiate(t, initiator(a, b), b.bundle(t, true))
	f := bytes.Clone(i.Flight)
	f[71+2+31] |= 0x80 // the same point to X25519
	refuseFlight(t, responder(a, b), f, contracts.RatchetInvalidDHKey)
	card := a.card
	card.Agreement[31] |= 0x80
	if _, err := card.Append(nil); contracts.CodeOf(err) != contracts.RatchetInvalidDHKey {
		t.Errorf("card with a set top bit: %v", err)
	}
	// A torsioned key gives the same DH under clamping, but another transcript:
	// any change of the 32 bytes is refused.
	for bit := range 255 {
		f := bytes.Clone(i.Flight)
		f[73+bit/8] ^= 1 << (bit % 8)
		refuseFlight(t, responder(a, b), f, contracts.HandshakeFailed, contracts.RatchetInvalidDHKey)
	}
}

// Shows HS-8: the 14 encodings of small-order points, and non-canonical ones.
func TestB3_Ed25519Keys(t *testing.T) {
	y := []string{
		"0000000000000000000000000000000000000000000000000000000000000000",
		"0100000000000000000000000000000000000000000000000000000000000000",
		"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
		"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
	}
	for _, s := range y {
		for _, sign := range []byte{0, 0x80} {
			k := [32]byte(unhex(t, s))
			k[31] |= sign
			if handshake.CheckEd25519(k) == nil {
				t.Errorf("accepted %x", k)
			}
			c := newParty(t, "Alice", 1).card
			c.Signing = k
			if _, err := c.Append(nil); contracts.CodeOf(err) != contracts.KeyInvalid {
				t.Errorf("card with %x: %v", k, err)
			}
		}
	}
	for u := byte(0xed); u != 0; u++ {
		k := [32]byte(bytes.Repeat([]byte{0xff}, 32))
		k[0], k[31] = u, 0x7f
		if handshake.CheckEd25519(k) == nil {
			t.Errorf("accepted y = %x", k)
		}
	}
	pub, _, err := ed25519.GenerateKey(nil)
	if err != nil || handshake.CheckEd25519([32]byte(pub)) != nil {
		t.Error("an honest key is refused")
	}
}

// Shows HS-5: S + L is not another signature of the same bundle.
func TestB4_SignatureMalleability(t *testing.T) {
	a, b := newParty(t, "Alice", 1), newParty(t, "Bob", 2)
	raw := b.bundle(t, true)
	l := unhex(t, "edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010")
	s := raw[len(raw)-32:]
	carry := 0
	for i := range s {
		carry += int(s[i]) + int(l[i])
		s[i], carry = byte(carry), carry>>8
	}
	_, err := handshake.Initiate(initiator(a, b), raw, hello("x"))
	wantCode(t, err, contracts.HandshakeSignature)
}

// Shows HS-3: a key of one type is no key of another.
func TestB5_KeyTypes(t *testing.T) {
	b := newParty(t, "Bob", 2)
	raw := b.bundle(t, true)
	card, _ := b.card.Append(nil)
	at := 1 + 2 + 2 + 2 // version, suite, versions, length
	ik := at + 1 + 2 + len(b.card.DID) + 8
	for name, edit := range map[string]func(r []byte){
		"Ed25519 for IK":      func(r []byte) { r[ik], r[ik+1] = 0xed, 0x01 },
		"X25519 for signing":  func(r []byte) { r[ik+34], r[ik+35] = 0xec, 0x01 },
		"ML-KEM for SPK":      func(r []byte) { r[at+len(card)+4], r[at+len(card)+5] = 0x8c, 0x24 },
		"X25519 for PQSPK":    func(r []byte) { r[at+len(card)+38+4], r[at+len(card)+38+5] = 0xec, 0x01 },
		"ML-KEM-1024 (0x25…)": func(r []byte) { r[at+len(card)+38+4] = 0x8d },
	} {
		bad := bytes.Clone(raw)
		edit(bad)
		if _, err := handshake.DecodeBundle(bad); contracts.CodeOf(err) != contracts.KeyInvalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Shows HS-9: coefficients that are not reduced, wrong lengths, a flipped
// ciphertext.
func TestB6_MLKEM(t *testing.T) {
	a, b := newParty(t, "Alice", 1), newParty(t, "Bob", 2)
	raw := b.bundle(t, true)
	card, _ := b.card.Append(nil)
	ek := 7 + len(card) + 38 + 6
	bad := bytes.Clone(raw)
	bad[ek], bad[ek+1] = 0x01, 0x0d // first coefficient = 3329
	if _, err := handshake.DecodeBundle(bad); contracts.CodeOf(err) != contracts.KeyInvalid {
		t.Errorf("coefficient q: %v", err)
	}
	if _, err := handshake.DecodeBundle(append(raw[:ek:ek], raw[ek+1:]...)); err == nil {
		t.Error("accepted a short ML-KEM key")
	}
	i := initiate(t, initiator(a, b), raw)
	ct := 71 + 2*34
	for _, at := range []int{ct, ct + 500, ct + 1087} {
		f := bytes.Clone(i.Flight)
		f[at] ^= 1
		refuseFlight(t, responder(a, b), f, contracts.HandshakeFailed) // implicit rejection, then no tag
	}
}

// Shows HS-23.
func TestB7_OwnKeyReflected(t *testing.T) {
	a, b := newParty(t, "Alice", 1), newParty(t, "Bob", 2)
	mirror := *b
	mirror.card.Agreement = a.card.Agreement
	bundle, _ := handshake.DecodeBundle(b.bundle(t, true))
	bundle.Card = mirror.card
	_, err := handshake.Initiate(initiator(a, &mirror), handshake.Resign(bundle, b.sign), hello("x"))
	wantCode(t, err, contracts.RatchetInvalidDHKey)
	p := initiator(a, b)
	p.Card.DID = b.card.DID
	_, err = handshake.Initiate(p, b.bundle(t, true), hello("x"))
	wantCode(t, err, contracts.HandshakeFailed)
	i := initiate(t, initiator(a, b), b.bundle(t, true))
	f := bytes.Clone(i.Flight)
	copy(f[73:], b.card.Agreement[:])
	refuseFlight(t, responder(a, b), f, contracts.RatchetInvalidDHKey)
}
