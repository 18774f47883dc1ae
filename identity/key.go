package identity

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"

	"github.com/multiformats/go-multibase"

	"github.com/talosprotocol/talos/contracts"
)

// Purpose tells kinds of keys apart at compile time.
type Purpose interface {
	Control | Peer | Invocation | Log | Witness
	name() string
}

// The purposes of Ed25519 keys. Control keys sign key events and states and may be
// cold; the others are hot, are listed in the DID document and die with its next
// version.
type (
	Control    struct{} // key log, states, delegations
	Peer       struct{} // the libp2p host; authentication only
	Invocation struct{} // handshakes, prekey bundles, invocations
	Log        struct{} // checkpoints of the audit log
	Witness    struct{} // cosignatures of an anchor
)

func (Control) name() string    { return "control" }
func (Peer) name() string       { return "peer" }
func (Invocation) name() string { return "invocation" }
func (Log) name() string        { return "log" }
func (Witness) name() string    { return "witness" }

// Private is an Ed25519 key pair for one purpose. The zero value is invalid; its
// methods panic on it, since using it is a bug of ours.
type Private[P Purpose] struct{ key ed25519.PrivateKey }

// Public is the public half. The zero value is invalid and verifies nothing.
type Public[P Purpose] struct {
	key [ed25519.PublicKeySize]byte
	set bool
}

// Names for the instances that the code speaks of.
type (
	ControlKey       = Private[Control]
	PeerKey          = Private[Peer]
	InvocationKey    = Private[Invocation]
	LogKey           = Private[Log]
	WitnessKey       = Private[Witness]
	ControlPublic    = Public[Control]
	PeerPublic       = Public[Peer]
	InvocationPublic = Public[Invocation]
	LogPublic        = Public[Log]
	WitnessPublic    = Public[Witness]
)

// Generate makes a key from 32 bytes of rand.
func Generate[P Purpose](rand io.Reader) (Private[P], error) {
	var seed [ed25519.SeedSize]byte
	if _, err := io.ReadFull(rand, seed[:]); err != nil {
		return Private[P]{}, fmt.Errorf("reading randomness for a key: %w", err)
	}
	return FromSeed[P](seed[:])
}

// FromSeed makes the key of a 32-byte seed.
func FromSeed[P Purpose](seed []byte) (Private[P], error) {
	if len(seed) != ed25519.SeedSize {
		return Private[P]{}, contracts.Errorf(contracts.KeyInvalid, "an Ed25519 seed has 32 bytes, this one %d", len(seed))
	}
	return Private[P]{ed25519.NewKeyFromSeed(seed)}, nil
}

// Seed gives the 32 secret bytes, for sealing in a keystore and nothing else.
func (k Private[P]) Seed() []byte { return k.key.Seed() }

// Valid reports whether k holds a key.
func (k Private[P]) Valid() bool { return k.key != nil }

// Public gives the public half.
func (k Private[P]) Public() Public[P] {
	p := Public[P]{set: true}
	copy(p.key[:], k.key[ed25519.SeedSize:])
	return p
}

// Sign signs message under a context string of contracts.
func (k Private[P]) Sign(context string, message []byte) []byte {
	return ed25519.Sign(k.key, contracts.Signed(context, message))
}

// Ed25519 gives the standard library's key, for the parts (libp2p, C2SP notes)
// whose signed bytes carry a context of their own.
func (k Private[P]) Ed25519() ed25519.PrivateKey { return k.key }

func (k Private[P]) String() string {
	var p P
	if k.key == nil {
		return p.name() + "-key(none)"
	}
	sum := sha256.Sum256(k.key[ed25519.SeedSize:])
	return p.name() + "-key(" + hex.EncodeToString(sum[:4]) + ")"
}

// Format, MarshalJSON, MarshalText and LogValue keep the secret out of whatever prints it.
func (k Private[P]) Format(f fmt.State, _ rune)   { _, _ = io.WriteString(f, k.String()) }
func (k Private[P]) MarshalJSON() ([]byte, error) { return []byte(`"` + k.String() + `"`), nil }
func (k Private[P]) MarshalText() ([]byte, error) { return []byte(k.String()), nil }
func (k Private[P]) LogValue() slog.Value         { return slog.StringValue(k.String()) }

// NewPublic takes the 32 bytes of an Ed25519 key and refuses those whose
// signatures could mean more than one thing: non-canonical and small-order points
// (the standard library accepts both).
func NewPublic[P Purpose](b []byte) (Public[P], error) {
	var k Public[P]
	if len(b) != len(k.key) {
		return k, contracts.Errorf(contracts.KeyInvalid, "an Ed25519 key has 32 bytes, this one %d", len(b))
	}
	if err := checkPoint(b); err != nil {
		return k, err
	}
	copy(k.key[:], b)
	k.set = true
	return k, nil
}

// Valid reports whether k holds a key.
func (k Public[P]) Valid() bool { return k.set }

// Bytes gives a copy of the 32 bytes.
func (k Public[P]) Bytes() []byte { return bytes.Clone(k.key[:]) }

// Equal reports whether both are the same valid key.
func (k Public[P]) Equal(o Public[P]) bool { return k.set && o.set && k.key == o.key }

// Verify reports whether sig is k's signature of message under context. It is the
// one Ed25519 predicate of Talos: canonical key of large order, the standard
// library's equation.
func (k Public[P]) Verify(context string, message, sig []byte) bool {
	return k.set && len(sig) == ed25519.SignatureSize && ed25519.Verify(k.key[:], contracts.Signed(context, message), sig)
}

// Multikey gives the multibase text with the multicodec prefix: z6Mk….
func (k Public[P]) Multikey() string { return multikey(codecEd25519, k.key[:]) }

func (k Public[P]) String() string {
	var p P
	if !k.set {
		return p.name() + "(none)"
	}
	return k.Multikey()
}

// ParseMultikey reads an Ed25519 Multikey.
func ParseMultikey[P Purpose](s string) (Public[P], error) {
	b, err := parseMultikey(codecEd25519, s)
	if err != nil {
		return Public[P]{}, err
	}
	return NewPublic[P](b)
}

// Multicodec prefixes as unsigned varints (multiformats/multicodec table).
var (
	codecEd25519 = [2]byte{0xed, 0x01}
	codecX25519  = [2]byte{0xec, 0x01}
)

func multikey(codec [2]byte, key []byte) string {
	b := append(codec[:], key...)
	s, _ := multibase.Encode(multibase.Base58BTC, b) // fails for unknown bases only
	return s
}

func parseMultikey(codec [2]byte, s string) ([]byte, error) {
	if len(s) > 128 {
		return nil, contracts.Errorf(contracts.KeyInvalid, "a Multikey of %d characters", len(s))
	}
	base, b, err := multibase.Decode(s)
	if err != nil || base != multibase.Base58BTC {
		return nil, contracts.Errorf(contracts.KeyInvalid, "a Multikey is base58btc with the prefix z")
	}
	if len(b) != 34 || !bytes.Equal(b[:2], codec[:]) {
		return nil, contracts.Errorf(contracts.KeyInvalid, "want a 32-byte key with the multicodec prefix %x", codec)
	}
	if again := multikey(codec, b[2:]); again != s {
		return nil, contracts.Errorf(contracts.KeyInvalid, "not the canonical text of its key")
	}
	return b[2:], nil
}

// AgreementKey is an X25519 key pair. The zero value is invalid.
type AgreementKey struct{ key *ecdh.PrivateKey }

// AgreementPublic is the public half. The zero value is invalid.
type AgreementPublic struct{ key *ecdh.PublicKey }

// GenerateAgreement makes an X25519 key from 32 bytes of rand.
func GenerateAgreement(rand io.Reader) (AgreementKey, error) {
	var b [32]byte
	if _, err := io.ReadFull(rand, b[:]); err != nil {
		return AgreementKey{}, fmt.Errorf("reading randomness for a key: %w", err)
	}
	return AgreementFromSeed(b[:])
}

// AgreementFromSeed makes the key of 32 secret bytes.
func AgreementFromSeed(b []byte) (AgreementKey, error) {
	k, err := ecdh.X25519().NewPrivateKey(b)
	if err != nil {
		return AgreementKey{}, contracts.Errorf(contracts.KeyInvalid, "an X25519 key has 32 bytes, this one %d", len(b))
	}
	return AgreementKey{k}, nil
}

// Valid reports whether k holds a key.
func (k AgreementKey) Valid() bool { return k.key != nil }

// ECDH gives the standard library's key, for the handshake.
func (k AgreementKey) ECDH() *ecdh.PrivateKey { return k.key }

// Seed gives the 32 secret bytes, for sealing in a keystore and nothing else.
func (k AgreementKey) Seed() []byte { return k.key.Bytes() }

// Public gives the public half.
func (k AgreementKey) Public() AgreementPublic { return AgreementPublic{k.key.PublicKey()} }

func (k AgreementKey) String() string {
	if k.key == nil {
		return "agreement-key(none)"
	}
	sum := sha256.Sum256(k.key.PublicKey().Bytes())
	return "agreement-key(" + hex.EncodeToString(sum[:4]) + ")"
}

// Format, MarshalJSON, MarshalText and LogValue keep the secret out of whatever prints it.
func (k AgreementKey) Format(f fmt.State, _ rune)   { _, _ = io.WriteString(f, k.String()) }
func (k AgreementKey) MarshalJSON() ([]byte, error) { return []byte(`"` + k.String() + `"`), nil }
func (k AgreementKey) MarshalText() ([]byte, error) { return []byte(k.String()), nil }
func (k AgreementKey) LogValue() slog.Value         { return slog.StringValue(k.String()) }

// NewAgreementPublic takes the 32 bytes of an X25519 key and refuses non-canonical
// ones (the standard library accepts them).
func NewAgreementPublic(b []byte) (AgreementPublic, error) {
	if len(b) != 32 || !canonicalField(b) {
		return AgreementPublic{}, contracts.Errorf(contracts.KeyInvalid, "not a canonical X25519 key of 32 bytes")
	}
	k, err := ecdh.X25519().NewPublicKey(b)
	if err != nil {
		return AgreementPublic{}, contracts.Errorf(contracts.KeyInvalid, "not an X25519 key")
	}
	return AgreementPublic{k}, nil
}

// ParseAgreementMultikey reads an X25519 Multikey (z6LS…).
func ParseAgreementMultikey(s string) (AgreementPublic, error) {
	b, err := parseMultikey(codecX25519, s)
	if err != nil {
		return AgreementPublic{}, err
	}
	return NewAgreementPublic(b)
}

// Valid reports whether k holds a key.
func (k AgreementPublic) Valid() bool { return k.key != nil }

// ECDH gives the standard library's key.
func (k AgreementPublic) ECDH() *ecdh.PublicKey { return k.key }

// Bytes gives a copy of the 32 bytes.
func (k AgreementPublic) Bytes() []byte { return k.key.Bytes() }

// Equal reports whether both are the same valid key.
func (k AgreementPublic) Equal(o AgreementPublic) bool {
	return k.key != nil && o.key != nil && k.key.Equal(o.key)
}

// Multikey gives the multibase text with the multicodec prefix: z6LS….
func (k AgreementPublic) Multikey() string { return multikey(codecX25519, k.key.Bytes()) }

// fieldPrime is 2^255−19, little endian.
var fieldPrime = func() (p [32]byte) {
	for i := range p {
		p[i] = 0xff
	}
	p[0], p[31] = 0xed, 0x7f
	return
}()

// canonicalField reports whether b, little endian, is below 2^255−19.
func canonicalField(b []byte) bool {
	for i := 31; i >= 0; i-- {
		if b[i] != fieldPrime[i] {
			return b[i] < fieldPrime[i]
		}
	}
	return false
}

// smallOrderY are the y coordinates of the eight points of small order (RFC 8032's
// curve; the list is in "Taming the many EdDSAs", table 6a): 0, 1, −1 and the two
// of order eight.
var smallOrderY = func() (ys [5][32]byte) {
	ys[1][0] = 1
	ys[2] = fieldPrime
	ys[2][0] = 0xec
	for i, s := range []string{
		"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
		"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
	} {
		b, _ := hex.DecodeString(s)
		copy(ys[3+i][:], b)
	}
	return
}()

// checkPoint refuses non-canonical and small-order Ed25519 points.
func checkPoint(b []byte) error {
	var y [32]byte
	copy(y[:], b)
	y[31] &= 0x7f
	if !canonicalField(y[:]) {
		return contracts.Errorf(contracts.KeyInvalid, "a non-canonical Ed25519 key")
	}
	for i := range smallOrderY {
		if subtle.ConstantTimeCompare(y[:], smallOrderY[i][:]) == 1 {
			return contracts.Errorf(contracts.KeyInvalid, "an Ed25519 key of small order")
		}
	}
	return nil
}
