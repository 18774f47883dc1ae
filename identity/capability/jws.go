package capability

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"strconv"
	"strings"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
)

// The kinds of signed texts of this package. The kind stands in the protected header,
// which the signature covers, so that one never passes as another; and no other
// signature of Talos begins as a JWS does.
const (
	typToken  = "talos-cap+jws"
	typRecord = "talos-rev+jws"
	typHead   = "talos-revhead+jws"
)

// MaxTokenBytes bounds one signed text, MaxChainBytes a chain.
const (
	MaxTokenBytes = 8 << 10
	MaxChainBytes = 16 << 10
	MaxLinks      = 4
)

// TokenID is the SHA-256 of a signing input: of what is signed, and never of the
// signature, which its maker can make in many ways.
type TokenID [32]byte

// String gives base64url without padding.
func (id TokenID) String() string { return base64.RawURLEncoding.EncodeToString(id[:]) }

// ParseTokenID reads such a text.
func ParseTokenID(s string) (TokenID, error) {
	var id TokenID
	b, err := decode64(s)
	if err != nil || len(b) != len(id) {
		return id, contracts.Errorf(contracts.Malformed, "%.64q is no id: 32 bytes in base64url", s)
	}
	copy(id[:], b)
	return id, nil
}

// jws is one compact JWS (RFC 7515) in the only form that is read here.
type jws struct {
	header, payload []byte
	sig             []byte
	input           []byte // what is signed: the first two parts
	typ             string
	did             identity.DID
	key             int // index of the control key, -1 for a did:key
}

// splitJWS checks the form alone: three parts in canonical base64url, and a signature
// of 64 bytes.
func splitJWS(text []byte) (*jws, error) {
	if len(text) > MaxTokenBytes {
		return nil, contracts.Errorf(contracts.TooLarge, "a token of %d bytes, at most %d", len(text), MaxTokenBytes)
	}
	a := bytes.IndexByte(text, '.')
	z := bytes.LastIndexByte(text, '.')
	if a < 0 || a == z || bytes.IndexByte(text[a+1:z], '.') >= 0 {
		return nil, contracts.Errorf(contracts.Malformed, "a token is a compact JWS: header.payload.signature")
	}
	j := &jws{input: text[:z]}
	for i, part := range [][]byte{text[:a], text[a+1 : z], text[z+1:]} {
		b, err := decode64(string(part))
		if err != nil {
			return nil, err
		}
		*[]*[]byte{&j.header, &j.payload, &j.sig}[i] = b
	}
	if len(j.sig) != ed25519.SignatureSize {
		return nil, contracts.Errorf(contracts.Malformed, "a signature of %d bytes, an Ed25519 signature has 64", len(j.sig))
	}
	return j, nil
}

var strict64 = base64.RawURLEncoding.Strict()

// decode64 reads base64url and nothing that encodes otherwise: the standard library
// skips line ends, which shows in the length, and spare bits are a second text for the
// same bytes.
func decode64(s string) ([]byte, error) {
	b, err := strict64.DecodeString(s)
	if err != nil || strict64.EncodedLen(len(b)) != len(s) {
		return nil, contracts.Errorf(contracts.Malformed, "not canonical base64url without padding")
	}
	return b, nil
}

const (
	headerA = `{"alg":"EdDSA","kid":"`
	headerB = `","typ":"`
	headerC = `"}`
)

func headerOf(kid, typ string) []byte {
	return []byte(headerA + kid + headerB + typ + headerC)
}

// keyID names a key: <did>#k<index> of a did:talos, <did>#<multikey> of a did:key.
func keyID(did identity.DID, key int) string {
	if did.IsKey() {
		return string(did) + "#" + strings.TrimPrefix(string(did), "did:key:")
	}
	return string(did) + "#k" + strconv.Itoa(key)
}

// readHeader compares the header with the template byte by byte: there is no member
// to confuse, to add or to leave out.
func (j *jws) readHeader(typ string) error {
	bad := func(why string) error {
		return contracts.Errorf(contracts.Malformed, "the header is not %s<key>%s%s%s: %s", headerA, headerB, typ, headerC, why)
	}
	rest, ok := strings.CutPrefix(string(j.header), headerA)
	kid, tail, ok2 := strings.Cut(rest, `"`)
	if !ok || !ok2 || `"`+tail != headerB+typ+headerC {
		return bad("another text")
	}
	did, fragment, ok := strings.Cut(kid, "#")
	if !ok {
		return bad("kid names no key of a DID")
	}
	j.typ, j.did, j.key = typ, identity.DID(did), -1
	if index, ok := strings.CutPrefix(fragment, "k"); ok && !j.did.IsKey() {
		n, err := strconv.ParseUint(index, 10, 8)
		if err != nil {
			return bad("kid names no key of a DID")
		}
		j.key = int(n)
	}
	if keyID(j.did, j.key) != kid {
		return bad("kid is not <did>#k<index>, or <did:key>#<its key>")
	}
	return nil
}

func (j *jws) id() TokenID { return sha256.Sum256(j.input) }

// verify checks the signature with a key of the issuer at the key event that the
// payload names.
func (j *jws) verify(issuer *Issuer, ksn int64) error {
	key, err := issuer.signer(ksn, j.key)
	if err != nil {
		return err
	}
	// The keys were checked when they were read (canonical, not of small order); with
	// the standard library's equation that is the one predicate of Talos.
	if !ed25519.Verify(key, j.input, j.sig) {
		return contracts.Errorf(contracts.SignatureInvalid, "the signature is not of %s at key event %d", issuer.DID.Short(), ksn)
	}
	return nil
}

// Signer signs as a DID. Key is an Ed25519 key, in memory or in a hardware module; it
// is given the message itself (crypto.Hash(0)).
type Signer struct {
	DID   identity.DID
	KSN   int64 // the key event that the key belongs to; 0 for a did:key
	Index int   // of the control key; not used for a did:key
	Key   crypto.Signer
}

// sign makes the compact JWS of a canonical payload.
func (s Signer) sign(typ string, payload []byte) (string, error) {
	enc := base64.RawURLEncoding
	input := enc.EncodeToString(headerOf(keyID(s.DID, s.Index), typ)) + "." + enc.EncodeToString(payload)
	sig, err := s.Key.Sign(nil, []byte(input), crypto.Hash(0))
	if err != nil {
		return "", contracts.Errorf(contracts.Unavailable, "the key of %s does not sign: %w", s.DID.Short(), err)
	}
	if len(sig) != ed25519.SignatureSize {
		return "", contracts.Errorf(contracts.KeyInvalid, "the key of %s is no Ed25519 key", s.DID.Short())
	}
	text := input + "." + enc.EncodeToString(sig)
	if len(text) > MaxTokenBytes {
		return "", contracts.Errorf(contracts.TooLarge, "a token of %d bytes, at most %d; give fewer scopes or shorter lists", len(text), MaxTokenBytes)
	}
	return text, nil
}
