package handshake

import (
	"crypto/ed25519"
	"crypto/mlkem"
	"encoding/binary"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/ratchet"
)

// Version is the version of the session protocol that this package offers, the
// only one; Suite is its only suite.
const (
	Version = ratchet.Version
	Suite   = ratchet.Suite
)

// Multicodec prefixes: each key is typed wherever it is hashed or signed, so
// that a key of one kind never passes as another (HS-3).
var (
	codecEd25519 = [2]byte{0xed, 0x01}
	codecX25519  = [2]byte{0xec, 0x01}
	codecMLKEM   = [2]byte{0x8c, 0x24} // mlkem-768-pub, 0x120c
)

var errKey = contracts.Errorf(contracts.KeyInvalid, "key is not of the expected type, not canonical or of small order")

// smallOrderY are the y coordinates of the points of small order on
// edwards25519, little-endian with the sign bit clear: 0, 1, -1 and the two of
// order 8. The standard library verifies signatures under such keys, and under
// the identity one signature fits every message.
var smallOrderY = [5][32]byte{
	{},
	{1},
	{
		0xec, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
		0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f,
	},
	{
		0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0,
		0xd5, 0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05,
	},
	{
		0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f,
		0x2a, 0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a,
	},
}

// checkEd25519 refuses non-canonical and small-order public keys.
func checkEd25519(k *[32]byte) error {
	y := *k
	y[31] &= 0x7f
	for i := range smallOrderY {
		if y == smallOrderY[i] {
			return errKey
		}
	}
	if y[31] == 0x7f && y[0] >= 0xed { // y >= p = 2^255-19 ?
		all := byte(0xff)
		for _, c := range y[1:31] {
			all &= c
		}
		if all == 0xff {
			return errKey
		}
	}
	return nil
}

// verify checks a signature of the given context under a key that passed
// checkEd25519.
func verify(k *[32]byte, context string, message, sig []byte) bool {
	return len(sig) == ed25519.SignatureSize &&
		ed25519.Verify(k[:], contracts.Signed(context, message), sig)
}

// reader takes fields off a byte string; the first error stays.
type reader struct {
	b   []byte
	err error
}

func (r *reader) fail(err error) {
	if r.err == nil {
		r.err = err
	}
}

func (r *reader) take(n int) []byte {
	if r.err == nil && len(r.b) < n {
		r.fail(contracts.Errorf(contracts.Malformed, "input ends early"))
	}
	if r.err != nil {
		return make([]byte, n)
	}
	out := r.b[:n:n]
	r.b = r.b[n:]
	return out
}

func (r *reader) u8() byte      { return r.take(1)[0] }
func (r *reader) u16() uint16   { return binary.BigEndian.Uint16(r.take(2)) }
func (r *reader) u32() uint32   { return binary.BigEndian.Uint32(r.take(4)) }
func (r *reader) u64() uint64   { return binary.BigEndian.Uint64(r.take(8)) }
func (r *reader) b32() [32]byte { return [32]byte(r.take(32)) }

// end requires that nothing is left.
func (r *reader) end() error {
	if r.err == nil && len(r.b) != 0 {
		r.fail(contracts.Errorf(contracts.Malformed, "%d bytes too many", len(r.b)))
	}
	return r.err
}

func (r *reader) codec(want [2]byte) {
	if got := [2]byte(r.take(2)); r.err == nil && got != want {
		r.fail(errKey)
	}
}

// x25519 takes a typed X25519 key.
func (r *reader) x25519() [32]byte {
	r.codec(codecX25519)
	k := r.b32()
	if r.err == nil {
		if err := ratchet.CheckX25519(k[:]); err != nil {
			r.fail(err)
		}
	}
	return k
}

// ed25519 takes a typed Ed25519 key.
func (r *reader) ed25519() [32]byte {
	r.codec(codecEd25519)
	k := r.b32()
	if r.err == nil {
		if err := checkEd25519(&k); err != nil {
			r.fail(err)
		}
	}
	return k
}

// mlkem takes a typed ML-KEM-768 encapsulation key; parsing checks its modulus.
func (r *reader) mlkem() *mlkem.EncapsulationKey768 {
	r.codec(codecMLKEM)
	b := r.take(mlkem.EncapsulationKeySize768)
	if r.err != nil {
		return nil
	}
	k, err := mlkem.NewEncapsulationKey768(b)
	if err != nil {
		r.fail(errKey)
		return nil
	}
	return k
}
