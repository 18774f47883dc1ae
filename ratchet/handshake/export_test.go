package handshake

import (
	"crypto/mlkem"
	"crypto/mlkem/mlkemtest"

	"github.com/talosprotocol/talos/ratchet"
)

// Doors for the tests of package handshake_test, nothing more.

// WithKEMRandom fixes the randomness of the encapsulation.
func (p Initiator) WithKEMRandom(random [32]byte) Initiator {
	p.encapsulate = func(k *mlkem.EncapsulationKey768) ([]byte, []byte) {
		ss, ct, err := mlkemtest.Encapsulate768(k, random[:])
		if err != nil {
			panic(err)
		}
		return ss, ct
	}
	return p
}

// WithKEM fixes its result.
func (p Initiator) WithKEM(ss, ct []byte) Initiator {
	p.encapsulate = func(*mlkem.EncapsulationKey768) ([]byte, []byte) { return ss, ct }
	return p
}

// CheckEd25519 is the strict check of a signing key.
func CheckEd25519(k [32]byte) error { return checkEd25519(&k) }

// Derive gives T and the session secrets for fixed shared secrets.
func Derive(preamble []byte, bundle [32]byte, didA, didB string, cardA, ss []byte, psk *[32]byte) ([32]byte, ratchet.Secrets) {
	t := transcript(preamble, &bundle, didA, didB, cardA)
	sh := shared{dh1: make([]byte, 32), dh2: make([]byte, 32), dh3: make([]byte, 32), kem: ss, psk: psk}
	out, err := sh.session(&t)
	if err != nil {
		panic(err)
	}
	return t, out
}

// PreambleLen gives the length of the clear part of a flight.
func PreambleLen(flightBytes []byte) int {
	var f flight
	if err := f.parse(flightBytes); err != nil {
		panic(err)
	}
	return len(f.raw)
}

// Resign gives an edited bundle, signed anew by sign.
func Resign(b *Bundle, sign func([]byte) ([]byte, error)) []byte {
	raw, _, err := signBundle(b, sign)
	if err != nil {
		panic(err)
	}
	return raw
}
