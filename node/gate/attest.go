package gate

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"strconv"
	"sync"
	"time"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/contracts/jcs"
	"github.com/talosprotocol/talos/identity"
)

// Attested HTTP requests (spec/gate.md §6): the original project's attestation v1, whose
// clients exist. The signature covers the canonical body, method, target, nonce, time and
// the id of the surface, each on a line; in version 2 also the DID of the node that is
// meant, so that nobody who has seen a request can hand it to another one.

// Headers of an attestation.
const (
	HeaderKey       = "X-Talos-Key-ID"
	HeaderTime      = "X-Talos-Timestamp"
	HeaderNonce     = "X-Talos-Nonce"
	HeaderSignature = "X-Talos-Signature"
	HeaderAlgorithm = "X-Talos-Sig-Alg"
	HeaderVersion   = "X-Talos-Sig-Version"
	HeaderAudience  = "X-Talos-Audience" // of v2
)

// Limits of attestations.
const (
	attestSkew = 60 * time.Second
	nonceFor   = 300 * time.Second
	maxNonces  = 1 << 18
)

// Attestation is what the headers say.
type Attestation struct {
	KeyID     string
	Audience  identity.DID // the node that is meant; empty: version 1, which says none
	Nonce     string
	Timestamp int64 // Unix s
	Signature [ed25519.SignatureSize]byte
}

// ReadAttestation reads the headers, by a function that gives them by name; nil if
// there is no attestation at all. The code of an error is MALFORMED.
func ReadAttestation(header func(name string) string) (*Attestation, error) {
	if header(HeaderVersion) == "" && header(HeaderSignature) == "" {
		return nil, nil //nolint:nilnil // most requests have none
	}
	bad := func(name, what string) error {
		return contracts.Errorf(contracts.Malformed, "attestation: %s: want %s", name, what)
	}
	audience := header(HeaderAudience)
	switch version := header(HeaderVersion); {
	case version != "v1" && version != "v2":
		return nil, bad(HeaderVersion, "v1 or v2")
	case (version == "v2") != (audience != ""):
		return nil, bad(HeaderAudience, "the DID of the node, in v2 alone")
	case audience != "":
		if _, err := identity.ParseDID(audience); err != nil {
			return nil, bad(HeaderAudience, "the DID of the node")
		}
	}
	if header(HeaderAlgorithm) != "ed25519" {
		return nil, bad(HeaderAlgorithm, "ed25519")
	}
	a := &Attestation{KeyID: header(HeaderKey), Audience: identity.DID(audience), Nonce: header(HeaderNonce)}
	if len(a.KeyID) == 0 || len(a.KeyID) > 256 {
		return nil, bad(HeaderKey, "the DID or key that signs, up to 256 characters")
	}
	if len(a.Nonce) < 8 || len(a.Nonce) > 128 || !printable(a.Nonce) {
		return nil, bad(HeaderNonce, "8 to 128 printable ASCII characters")
	}
	t := header(HeaderTime)
	var err error
	if a.Timestamp, err = strconv.ParseInt(t, 10, 64); err != nil || strconv.FormatInt(a.Timestamp, 10) != t || a.Timestamp < 0 {
		return nil, bad(HeaderTime, "seconds since 1970, a whole number")
	}
	sig := header(HeaderSignature)
	raw, err := base64.RawURLEncoding.Strict().DecodeString(sig)
	if err != nil || len(raw) != len(a.Signature) || len(sig) != 86 {
		return nil, bad(HeaderSignature, "64 bytes as base64url without padding")
	}
	copy(a.Signature[:], raw)
	return a, nil
}

func printable(s string) bool {
	for i := range len(s) {
		if s[i] < 0x21 || s[i] > 0x7e {
			return false
		}
	}
	return true
}

// SigningInput gives the bytes that are signed. target is path and query as they were
// sent; body may be empty.
func (a *Attestation) SigningInput(method, target, surface string, body []byte) ([]byte, error) {
	var b []byte
	if len(body) > 0 {
		var err error
		if b, err = jcs.Canonicalize(body); err != nil {
			return nil, contracts.Errorf(contracts.Malformed, "attestation: the body: %w", err)
		}
	}
	lines := []string{method, target, a.Nonce, strconv.FormatInt(a.Timestamp, 10), surface}
	if a.Audience != "" {
		lines = append(lines, string(a.Audience))
	}
	for _, line := range lines {
		if bytes.ContainsAny([]byte(line), "\r\n") {
			return nil, contracts.Errorf(contracts.Malformed, "attestation: a line break where none may be")
		}
		b = append(append(b, '\n'), line...)
	}
	return b, nil
}

// Attester verifies attestations. It is safe for concurrent use.
type Attester struct {
	key     func(ctx context.Context, keyID string) (identity.DID, identity.InvocationPublic, error)
	started time.Time
	self    identity.DID

	mu   sync.Mutex
	seen map[string]int64 // key id, space, nonce → until when, Unix s
}

// NewAttester makes an attester. key finds the key that an id names, and whose it is.
// What was seen is not kept over a restart: requests from before started are refused.
func NewAttester(key func(ctx context.Context, keyID string) (identity.DID, identity.InvocationPublic, error), started time.Time) *Attester {
	return &Attester{key: key, started: started, seen: map[string]int64{}}
}

// For says which node v is of: requests that mean another one are refused. It is called
// before the first Verify.
func (v *Attester) For(self identity.DID) *Attester {
	v.self = self
	return v
}

// Verify gives who has signed a request. Codes: EXPIRED, NOT_YET_VALID,
// AUDIENCE_MISMATCH, ISSUER_UNRESOLVED, SIGNATURE_INVALID, REPLAY, MALFORMED. Only a request that is right
// uses up its nonce.
func (v *Attester) Verify(ctx context.Context, now time.Time, a *Attestation, method, target, surface string, body []byte) (Principal, error) {
	made := time.Unix(a.Timestamp, 0)
	switch {
	case now.Sub(made) > attestSkew:
		return Principal{}, contracts.Errorf(contracts.Expired, "attestation: made %s ago; sign anew, and look at the clock", now.Sub(made).Round(time.Second))
	case made.Sub(now) > attestSkew:
		return Principal{}, contracts.Errorf(contracts.NotYetValid, "attestation: made %s from now; look at the clock", made.Sub(now).Round(time.Second))
	case made.Before(v.started.Truncate(time.Second)):
		return Principal{}, contracts.Errorf(contracts.Expired, "attestation: made before this node started, which does not know what it saw then; sign anew")
	}
	if a.Audience != "" && a.Audience != v.self {
		return Principal{}, contracts.Errorf(contracts.AudienceMismatch, "attestation: the request is for %s, this is %s", a.Audience.Short(), v.self.Short())
	}
	did, key, err := v.key(ctx, a.KeyID)
	if err != nil {
		return Principal{}, contracts.Errorf(contracts.IssuerUnresolved, "attestation: the key %.80q: %w", a.KeyID, err)
	}
	input, err := a.SigningInput(method, target, surface, body)
	if err != nil {
		return Principal{}, err
	}
	if !key.Valid() || !ed25519.Verify(key.Bytes(), input, a.Signature[:]) {
		return Principal{}, contracts.Errorf(contracts.SignatureInvalid, "attestation: the signature is not that of this request by %.80q", a.KeyID)
	}
	if err := v.use(now, a); err != nil {
		return Principal{}, err
	}
	return Principal{DID: did, Proof: Attested, Session: "attested " + a.KeyID}, nil
}

// use takes a nonce, once.
func (v *Attester) use(now time.Time, a *Attestation) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	at, name := now.Unix(), a.KeyID+" "+a.Nonce
	if until, ok := v.seen[name]; ok && until >= at {
		return contracts.Errorf(contracts.Replay, "attestation: the nonce was used before")
	}
	if len(v.seen) >= maxNonces {
		for k, until := range v.seen {
			if until < at {
				delete(v.seen, k)
			}
		}
		if len(v.seen) >= maxNonces {
			return contracts.Errorf(contracts.Replay, "attestation: too many requests to remember their nonces; try again later")
		}
	}
	v.seen[name] = at + int64(nonceFor/time.Second)
	return nil
}
