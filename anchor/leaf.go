package anchor

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"

	"github.com/talosprotocol/talos/contracts"
)

// Hash is a node of the tree: SHA-256 (RFC 6962 section 2.1).
type Hash [32]byte

// String gives the hash in hexadecimal, for people.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// b64u is the base64 of our JSON: no padding, and no spare bits that could differ.
var b64u = base64.RawURLEncoding.Strict()

// EncodeHash gives a hash as our JSON writes it: base64url, 43 characters.
func EncodeHash(h Hash) string { return b64u.EncodeToString(h[:]) }

// DecodeHash reads what EncodeHash wrote and nothing else. The code is MALFORMED.
func DecodeHash(s string) (h Hash, err error) {
	if len(s) != 43 {
		return h, contracts.Errorf(contracts.Malformed, "hash: %d characters, want 43", len(s))
	}
	n, err := b64u.Decode(h[:], []byte(s))
	if err != nil || n != len(h) { // decoders skip line breaks
		return Hash{}, contracts.Errorf(contracts.Malformed, "hash: not canonical base64url")
	}
	return h, nil
}

// Salt is the secret of one entry: 32 random bytes. It keeps short events from
// being guessed from their leaf, and forgetting it erases the event.
type Salt [32]byte

// LeafSize is the length of leaf data.
const LeafSize = 1 + 1 + 8 + sha256.Size

// leafVersion is the first byte of leaf data.
const leafVersion = 0x01

// Leaf is leaf data: version ‖ type ‖ index ‖ HMAC-SHA256(salt, event), that is
// 1 + 1 + 8 + 32 bytes, the index big-endian (spec/audit-log.md section 3).
type Leaf [LeafSize]byte

// Commit makes the leaf data of an event at an index. typ is the byte of the
// event's type, event its canonical bytes.
func Commit(typ byte, index uint64, salt *Salt, event []byte) (l Leaf) {
	l[0], l[1] = leafVersion, typ
	binary.BigEndian.PutUint64(l[2:], index)
	m := mac(salt, event)
	copy(l[10:], m[:])
	return l
}

// mac is HMAC-SHA256 (RFC 2104) with a key shorter than a block, in two hashes over
// one buffer: crypto/hmac allocates seven times a leaf, and this is the path of
// every event.
func mac(salt *Salt, event []byte) [32]byte {
	buf := make([]byte, sha256.BlockSize, 1024)
	for i := range buf {
		buf[i] = 0x36
	}
	for i := range salt {
		buf[i] ^= salt[i]
	}
	inner := sha256.Sum256(append(buf, event...))
	var outer [sha256.BlockSize + 32]byte
	for i := range sha256.BlockSize {
		outer[i] = 0x5c
	}
	for i := range salt {
		outer[i] ^= salt[i]
	}
	copy(outer[sha256.BlockSize:], inner[:])
	return sha256.Sum256(outer[:])
}

// Index gives the index that the leaf is bound to.
func (l *Leaf) Index() uint64 { return binary.BigEndian.Uint64(l[2:]) }

// Type gives the byte of the event's type.
func (l *Leaf) Type() byte { return l[1] }

// Hash gives the leaf's hash in the tree: SHA-256(0x00 ‖ leaf data).
func (l *Leaf) Hash() Hash {
	var b [1 + LeafSize]byte
	copy(b[1:], l[:])
	return sha256.Sum256(b[:])
}

// Opens reports whether salt and the event's canonical bytes are what the leaf
// commits to. The error has the code PROOF_INVALID.
func (l *Leaf) Opens(salt *Salt, event []byte) error {
	if l[0] != leafVersion {
		return contracts.Errorf(contracts.UnsupportedVersion, "leaf data: version %d, want %d", l[0], leafVersion)
	}
	if want := Commit(l.Type(), l.Index(), salt, event); want != *l {
		return contracts.Errorf(contracts.ProofInvalid, "leaf %d does not commit to this event and salt", l.Index())
	}
	return nil
}

// nodeHash is SHA-256(0x01 ‖ left ‖ right): RFC 6962 section 2.1.
func nodeHash(left, right *Hash) Hash {
	var b [65]byte
	b[0] = 1
	copy(b[1:], left[:])
	copy(b[33:], right[:])
	return sha256.Sum256(b[:])
}
