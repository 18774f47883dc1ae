package handshake

import (
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/ratchet"
)

// Labels of the transcript and the derivation (spec §5).
const (
	labelPreamble   = "talos-e2ee/2 preamble"
	labelTranscript = "talos-e2ee/2 transcript"
	infoIdentity    = "talos-e2ee/2 identity"
	infoSession     = "talos-e2ee/2 pqxdh"
)

// hashParts is SHA-256 over the parts, each after its length as u32: no two
// different lists have the same input.
func hashParts(parts ...[]byte) (sum [32]byte) {
	h := sha256.New()
	var n [4]byte
	for _, p := range parts {
		binary.BigEndian.PutUint32(n[:], uint32(len(p)))
		h.Write(n[:])
		h.Write(p)
	}
	h.Sum(sum[:0])
	return sum
}

// preambleHash covers all that is in clear, and the bundle that it answers. It
// is the replay id of a flight.
func preambleHash(preamble []byte, bundle *[32]byte) [32]byte {
	return hashParts([]byte(labelPreamble), preamble, bundle[:])
}

// transcript gives T: everything that both parties must agree on.
func transcript(preamble []byte, bundle *[32]byte, didA, didB string, cardA []byte) [32]byte {
	return hashParts([]byte(labelTranscript), preamble, bundle[:], []byte(didA), []byte(didB), cardA)
}

// shared collects the secrets of a handshake in the order of the derivation.
type shared struct {
	dh1, dh2, dh3, dh4 []byte // dh4 nil without a one-time key
	kem                []byte
	psk                *[32]byte
}

// ikm gives 0xFF³² | [DH1] | DH2 | DH3 | [DH4] | ss | [PSK]. What is present is
// said by the preamble, which is in the salt.
func (s *shared) ikm() []byte {
	b := make([]byte, 32, 32*8)
	for i := range b {
		b[i] = 0xff
	}
	for _, p := range [][]byte{s.dh1, s.dh2, s.dh3, s.dh4, s.kem} {
		b = append(b, p...)
	}
	if s.psk != nil {
		b = append(b, s.psk[:]...)
	}
	return b
}

// identityKey seals the initiator's card, from all secrets but DH1, which needs
// the card.
func (s *shared) identityKey(t0 *[32]byte) ([]byte, error) {
	part := *s
	part.dh1 = nil
	return expand(part.ikm(), t0, infoIdentity, chacha20poly1305.KeySize)
}

// session derives the secrets of the ratchet.
func (s *shared) session(t *[32]byte) (out ratchet.Secrets, err error) {
	b, err := expand(s.ikm(), t, infoSession, 7*32)
	if err != nil {
		return out, err
	}
	for i, f := range []*[32]byte{
		&out.Root, &out.FirstChain, &out.HeaderA, &out.NextHeaderA, &out.HeaderB, &out.Confirm, &out.Exporter,
	} {
		copy(f[:], b[32*i:])
	}
	clear(b)
	return out, nil
}

func expand(ikm []byte, salt *[32]byte, info string, n int) ([]byte, error) {
	b, err := hkdf.Key(sha256.New, ikm, salt[:], info, n)
	clear(ikm)
	if err != nil {
		return nil, contracts.Errorf(contracts.Internal, "deriving keys: %w", err)
	}
	return b, nil
}

// Wins reports which of two sessions of one conversation goes on when both
// parties started at once: the one with the smaller transcript. The other
// receives only, until it is empty. Both parties compute the same.
func Wins(mine, other [32]byte) bool {
	for i := range mine {
		if mine[i] != other[i] {
			return mine[i] < other[i]
		}
	}
	return false
}
