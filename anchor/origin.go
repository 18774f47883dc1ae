package anchor

import (
	"math/big"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/talosprotocol/talos/contracts"
)

// Origin names one agent's log: its owner and the incarnation, from 1. A new
// incarnation is begun only when the one before cannot go on (its key was
// rotated, its store was lost, it was convicted).
type Origin struct {
	DID         string
	Incarnation uint16
}

// String gives the text of the origin: <did>/audit/<incarnation>.
func (o Origin) String() string {
	return o.DID + "/audit/" + strconv.FormatUint(uint64(o.Incarnation), 10)
}

// ParseOrigin reads the text of an agent's origin and refuses any other.
func ParseOrigin(s string) (Origin, error) {
	did, n, ok := strings.Cut(s, "/audit/")
	if ok {
		if _, err := didID(did); err != nil {
			return Origin{}, err
		}
		i, err := strconv.ParseUint(n, 10, 16)
		o := Origin{DID: did, Incarnation: uint16(i)}
		if err == nil && i > 0 && o.String() == s {
			return o, nil
		}
	}
	return Origin{}, contracts.Errorf(contracts.CheckpointInvalid, "origin %.80q: want <did>/audit/<1 to 65535>", s)
}

// MaxName bounds the name of a key, and so an origin: C2SP writes its length in
// one byte.
const MaxName = 255

// checkName refuses what is no key name of a signed note: empty, too long, not
// UTF-8, with a space, a control character or a plus sign.
func checkName(name string) error {
	bad := func(r rune) bool { return r == '+' || unicode.IsSpace(r) || unicode.IsControl(r) }
	if name == "" || len(name) > MaxName || !utf8.ValidString(name) || strings.ContainsFunc(name, bad) {
		return contracts.Errorf(contracts.CheckpointInvalid, "key name %.80q: want 1 to %d bytes without space, control character or plus", name, MaxName)
	}
	return nil
}

// idSize is the length of what a DID encodes: two bytes that say what, then 32.
const idSize = 34

const (
	prefixTalos = "\x12\x20" // multihash: SHA2-256, 32 bytes
	prefixKey   = "\xed\x01" // multicodec: Ed25519 public key
)

// didID gives the 34 bytes in a did:talos or Ed25519 did:key.
func didID(did string) (id [idSize]byte, err error) {
	prefix := prefixTalos
	rest, ok := strings.CutPrefix(did, "did:talos:z")
	if !ok {
		prefix = prefixKey
		rest, ok = strings.CutPrefix(did, "did:key:z")
	}
	if !ok || !base58Decode(id[:], rest) || string(id[:2]) != prefix {
		return id, contracts.Errorf(contracts.InvalidDID, "%.80q is neither a did:talos nor an Ed25519 did:key", did)
	}
	return id, nil
}

// didFromID is the inverse of didID.
func didFromID(id []byte) (string, error) {
	switch string(id[:2]) {
	case prefixTalos:
		return "did:talos:z" + base58Encode(id), nil
	case prefixKey:
		return "did:key:z" + base58Encode(id), nil
	}
	return "", contracts.Errorf(contracts.InvalidDID, "id begins %x: neither SHA2-256 nor an Ed25519 key", id[:2])
}

// base58btc is the alphabet of multibase z.
const base58btc = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"

// base58Encode writes b in base58btc. Our ids never begin with a zero byte, so the
// leading-zero rule of base58 does not arise.
func base58Encode(b []byte) string {
	n, mod, base := new(big.Int).SetBytes(b), new(big.Int), big.NewInt(58)
	var digits [64]byte
	at := len(digits)
	for n.Sign() > 0 && at > 0 {
		n.QuoRem(n, base, mod)
		at--
		digits[at] = base58btc[mod.Int64()]
	}
	return string(digits[at:])
}

// base58Decode fills dst exactly from s, whose value must need all of dst's bytes:
// then there is one text for each value.
func base58Decode(dst []byte, s string) bool {
	if len(s) > 2*len(dst) {
		return false
	}
	clear(dst)
	for i := range len(s) {
		carry := strings.IndexByte(base58btc, s[i])
		if carry < 0 {
			return false
		}
		for j := len(dst) - 1; j >= 0; j-- {
			carry += int(dst[j]) * 58
			dst[j] = byte(carry)
			carry >>= 8
		}
		if carry != 0 {
			return false
		}
	}
	return dst[0] != 0 && s[0] != '1'
}
