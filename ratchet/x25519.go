package ratchet

import (
	"crypto/ecdh"
	"io"

	"github.com/talosprotocol/talos/contracts"
)

// keyPair is an X25519 key of this side. priv is made from secret when it is
// first needed, because loading it costs a scalar multiplication (33 µs).
type keyPair struct {
	secret key
	public [32]byte
	priv   *ecdh.PrivateKey
}

// CheckX25519 reports whether b is the one encoding of an X25519 public key: 32
// bytes, top bit clear, u < 2^255-19, not zero. The standard library accepts
// more, which would give one key several names. Small-order keys show only in
// the zero result of a DH, which is refused there.
// The error's code is RATCHET_INVALID_DH_KEY.
func CheckX25519(b []byte) error {
	if len(b) != 32 || b[31]&0x80 != 0 {
		return errDHKey
	}
	// u >= 2^255-19 needs b = ed…ff ff…ff 7f or above in little-endian order.
	if b[31] == 0x7f && b[0] >= 0xed {
		all := byte(0xff)
		for _, c := range b[1:31] {
			all &= c
		}
		if all == 0xff {
			return errDHKey
		}
	}
	var any byte
	for _, c := range b {
		any |= c
	}
	if any == 0 {
		return errDHKey
	}
	return nil
}

// newKeyPair reads 32 bytes of rand. It does not use ecdh's GenerateKey, which
// ignores its reader.
func newKeyPair(rand io.Reader) (keyPair, error) {
	var p keyPair
	if _, err := io.ReadFull(rand, p.secret[:]); err != nil {
		return keyPair{}, contracts.Errorf(contracts.Internal, "reading randomness: %w", err)
	}
	priv, err := ecdh.X25519().NewPrivateKey(p.secret[:])
	if err != nil {
		return keyPair{}, contracts.Errorf(contracts.Internal, "making an X25519 key: %w", err)
	}
	p.priv = priv
	copy(p.public[:], priv.PublicKey().Bytes())
	return p, nil
}

// load makes priv, and finds a stored pair whose halves do not belong together.
func (p *keyPair) load() error {
	if p.priv != nil {
		return nil
	}
	priv, err := ecdh.X25519().NewPrivateKey(p.secret[:])
	if err != nil || [32]byte(priv.PublicKey().Bytes()) != p.public {
		return contracts.Errorf(contracts.StorageCorrupt, "stored ratchet key does not match its public half")
	}
	p.priv = priv
	return nil
}

// dh gives X25519(p, remote). remote must have passed CheckX25519; a small-order
// one fails here.
func (p *keyPair) dh(remote *[32]byte) (secret key, err error) {
	if err := p.load(); err != nil {
		return key{}, err
	}
	pub, err := ecdh.X25519().NewPublicKey(remote[:])
	if err != nil {
		return key{}, errDHKey
	}
	b, err := p.priv.ECDH(pub)
	if err != nil {
		return key{}, errDHKey
	}
	copy(secret[:], b)
	clear(b)
	return secret, nil
}
