package identity

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"strconv"
	"strings"
	"time"

	"github.com/multiformats/go-multibase"

	"github.com/talosprotocol/talos/contracts"
)

// DID is a decentralized identifier that ParseDID accepts: a did:talos or an
// Ed25519 did:key in its one canonical text.
type DID string

const (
	methodTalos = "did:talos:"
	methodKey   = "did:key:"
)

// ParseDID checks s and refuses other methods, other keys and other spellings.
func ParseDID(s string) (DID, error) {
	switch {
	case len(s) > 128:
		return "", contracts.Errorf(contracts.InvalidDID, "a DID of %d characters", len(s))
	case strings.HasPrefix(s, methodTalos):
		if _, err := decodeMultihash(s[len(methodTalos):]); err != nil {
			return "", err
		}
	case strings.HasPrefix(s, methodKey):
		if _, err := ParseMultikey[Invocation](s[len(methodKey):]); err != nil {
			return "", contracts.Errorf(contracts.InvalidDID, "did:key: %w", err)
		}
	case strings.HasPrefix(s, "did:") && strings.Count(s, ":") >= 2:
		return "", contracts.Errorf(contracts.MethodUnsupported, "%.80q: Talos speaks did:talos and did:key", s)
	default:
		return "", contracts.Errorf(contracts.InvalidDID, "%.80q is no DID; it starts with did:talos: or did:key:", s)
	}
	return DID(s), nil
}

// KeyDID gives the did:key of an Ed25519 key.
func KeyDID[P Purpose](k Public[P]) DID { return DID(methodKey + k.Multikey()) }

// IsKey reports whether d is a did:key.
func (d DID) IsKey() bool { return strings.HasPrefix(string(d), methodKey) }

// Multihash gives the 34 bytes that identify d on the wire: the sha2-256 multihash
// of a did:talos, the multicodec key of a did:key. d must be valid.
func (d DID) Multihash() [34]byte {
	var out [34]byte
	_, id, _ := strings.Cut(strings.TrimPrefix(string(d), "did:"), ":")
	_, b, err := multibase.Decode(id)
	if err == nil {
		copy(out[:], b)
	}
	return out
}

// DIDFromMultihash is the inverse of Multihash.
func DIDFromMultihash(b []byte) (DID, error) {
	if len(b) != 34 {
		return "", contracts.Errorf(contracts.InvalidDID, "34 bytes name a DID, these are %d", len(b))
	}
	method := methodTalos
	if bytes.Equal(b[:2], codecEd25519[:]) {
		method = methodKey
	}
	id, _ := multibase.Encode(multibase.Base58BTC, b) // fails for unknown bases only
	return ParseDID(method + id)
}

// Short gives the method and the last eight characters, for people.
func (d DID) Short() string {
	if len(d) < 20 {
		return string(d)
	}
	i := strings.LastIndexByte(string(d), ':')
	return string(d[:i+1]) + "…" + string(d[len(d)-8:])
}

var sha256Multihash = [2]byte{0x12, 0x20} // sha2-256, 32 bytes

func didOf(inception []byte) DID {
	sum := sha256.Sum256(inception)
	id, _ := multibase.Encode(multibase.Base58BTC, append(sha256Multihash[:], sum[:]...))
	return DID(methodTalos + id)
}

func decodeMultihash(s string) ([]byte, error) {
	base, b, err := multibase.Decode(s)
	if err != nil || base != multibase.Base58BTC {
		return nil, contracts.Errorf(contracts.InvalidDID, "did:talos is base58btc with the prefix z")
	}
	if len(b) != 34 || !bytes.Equal(b[:2], sha256Multihash[:]) {
		return nil, contracts.Errorf(contracts.InvalidDID, "did:talos names a sha2-256 multihash of 34 bytes")
	}
	if again, _ := multibase.Encode(multibase.Base58BTC, b); again != s {
		return nil, contracts.Errorf(contracts.InvalidDID, "not the canonical text of its hash")
	}
	return b[2:], nil
}

// timeLayout is RFC 3339 in UTC with milliseconds, the only form in signed JSON.
const timeLayout = "2006-01-02T15:04:05.000Z"

// FormatTime gives the text of t in signed JSON, cut to milliseconds.
func FormatTime(t time.Time) string { return t.UTC().Format(timeLayout) }

// ParseTime reads such a text.
func ParseTime(s string) (time.Time, error) {
	t, err := time.Parse(timeLayout, s)
	if err != nil || FormatTime(t) != s {
		return time.Time{}, contracts.Errorf(contracts.Malformed, "%.40q: a time is RFC 3339 in UTC with milliseconds", s)
	}
	return t, nil
}

func digest64(b []byte) string {
	sum := sha256.Sum256(b)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

func decode64(s string) ([]byte, error) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil {
		return nil, contracts.Errorf(contracts.Malformed, "not canonical base64url without padding")
	}
	return b, nil
}

func itoa(n int64) string { return strconv.FormatInt(n, 10) }
