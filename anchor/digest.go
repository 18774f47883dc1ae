package anchor

import (
	"crypto/ed25519"
	"encoding/binary"

	"github.com/talosprotocol/talos/contracts"
)

// DigestSize is the length of a digest.
const DigestSize = idSize + 2 + 8 + 32 + ed25519.SignatureSize

// Digest is the head of an agent's log as gossip and messages carry it, 140 bytes:
//
//	 0  34  what the DID encodes: 12 20 ‖ SHA2-256 of did:talos, ed 01 ‖ key of did:key
//	34   2  incarnation, big-endian, from 1
//	36   8  size, big-endian
//	44  32  root
//	76  64  the log's Ed25519 signature over the checkpoint's text
//
// The signature is the very one of the note, so whoever knows the log's key has
// the note, and a digest can convict.
type Digest struct {
	Checkpoint
	Signature [ed25519.SignatureSize]byte
}

// Digest gives the digest of an agent's note, signed by key. The code is
// CHECKPOINT_INVALID if the origin is no agent's, SIGNATURE_INVALID if the key's
// signature is not in the note; the signature is not verified.
func (n *Note) Digest(key ed25519.PublicKey) (*Digest, error) {
	if _, err := ParseOrigin(n.Origin); err != nil {
		return nil, err
	}
	s := n.logSignature(key)
	if s == nil || len(s.Body) != ed25519.SignatureSize {
		return nil, contracts.Errorf(contracts.SignatureInvalid, "digest of %.80q: the note lacks the log's signature", n.Origin)
	}
	return &Digest{Checkpoint: n.Checkpoint, Signature: [64]byte(s.Body)}, nil
}

// Append appends the 140 bytes.
func (d *Digest) Append(dst []byte) ([]byte, error) {
	o, err := ParseOrigin(d.Origin)
	if err != nil {
		return dst, err
	}
	id, err := didID(o.DID)
	if err != nil {
		return dst, err
	}
	dst = append(dst, id[:]...)
	dst = binary.BigEndian.AppendUint16(dst, o.Incarnation)
	dst = binary.BigEndian.AppendUint64(dst, d.Size)
	dst = append(dst, d.Root[:]...)
	return append(dst, d.Signature[:]...), nil
}

// ParseDigest reads a digest. It checks the form, not the signature: [Digest.Note]
// does that. Codes: MALFORMED, INVALID_DID, CHECKPOINT_INVALID.
func ParseDigest(b []byte) (*Digest, error) {
	if len(b) != DigestSize {
		return nil, contracts.Errorf(contracts.Malformed, "digest: %d bytes, want %d", len(b), DigestSize)
	}
	did, err := didFromID(b[:idSize])
	if err != nil {
		return nil, err
	}
	o := Origin{DID: did, Incarnation: binary.BigEndian.Uint16(b[34:])}
	d := &Digest{
		Checkpoint: Checkpoint{Origin: o.String(), Size: binary.BigEndian.Uint64(b[36:]), Root: Hash(b[44:76])},
		Signature:  [64]byte(b[76:]),
	}
	switch {
	case o.Incarnation == 0:
		return nil, contracts.Errorf(contracts.CheckpointInvalid, "digest: incarnation 0")
	case d.Size > maxSize, d.Size == 0 && d.Root != EmptyRoot:
		return nil, contracts.Errorf(contracts.CheckpointInvalid, "digest: size %d with root %s", d.Size, d.Root)
	}
	return d, nil
}

// Note rebuilds the note that the digest was made of and verifies its signature.
// Codes: KEY_INVALID, SIGNATURE_INVALID.
func (d *Digest) Note(key ed25519.PublicKey) (*Note, error) {
	if len(key) != ed25519.PublicKeySize {
		return nil, contracts.Errorf(contracts.KeyInvalid, "key of %.80q: %d bytes", d.Origin, len(key))
	}
	line := Signature{Name: d.Origin, KeyHash: keyHash(d.Origin, algEd25519, key), Body: d.Signature[:]}
	n := &Note{Checkpoint: d.Checkpoint, Signatures: []Signature{line}}
	if err := n.Verify(key); err != nil {
		return nil, err
	}
	return n, nil
}
