package capability

import (
	"bytes"
	"encoding/hex"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
)

// Limits of tokens (spec/capability.md).
const (
	TokenVersion = "talos-cap/1"
	MaxLifetime  = 30 * 24 * time.Hour
	ClockSkew    = 60 * time.Second // of grace at a beginning; none at an end
)

// Token is one token of a chain: its form was checked, its signature was not. Only
// Verify makes authority of it.
type Token struct {
	contracts.CapabilityToken
	ID     TokenID
	Scopes []Scope
	jws    *jws
	prev   *Token // the one before it in a chain
}

// ParseToken reads one token completely and strictly, and believes nothing of it.
func ParseToken(text []byte) (*Token, error) {
	j, err := splitJWS(text)
	if err != nil {
		return nil, err
	}
	t := &Token{jws: j}
	for _, step := range []func() error{t.version, t.header, t.canonical} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// version tells a version that we do not speak from a text that is none. In canonical
// JSON the member v is the last.
func (t *Token) version() error { return checkVersion(t.jws.payload, TokenVersion) }

func checkVersion(payload []byte, want string) error {
	name, _, _ := strings.Cut(want, "/")
	at := bytes.LastIndex(payload, []byte(`"v":"`+name+`/`))
	if at < 0 {
		return contracts.Errorf(contracts.Malformed, "the payload is no %s", name)
	}
	if end := payload[at+len(`"v":"`):]; string(end) != want+`"}` {
		return contracts.Errorf(contracts.UnsupportedVersion, "%.32q: this program speaks %s", bytes.TrimSuffix(end, []byte(`"}`)), want)
	}
	return nil
}

func (t *Token) header() error { return t.jws.readHeader(typToken) }

// canonical reads the payload and all that the token alone can have wrong.
func (t *Token) canonical() error {
	p, err := contracts.DecodeCapabilityToken(t.jws.payload)
	if err != nil {
		return err
	}
	t.CapabilityToken, t.ID = *p, t.jws.id()
	for _, did := range [...]string{p.Aud, p.Iss, p.Sub} {
		if t.prev != nil && (did == t.prev.Aud || did == t.prev.Sub) {
			continue // it was read there
		}
		if _, err := identity.ParseDID(did); err != nil {
			return contracts.Errorf(contracts.Malformed, "a DID in the token: %w", err)
		}
	}
	if p.Prf != "" {
		if _, err := ParseTokenID(p.Prf); err != nil {
			return err
		}
	}
	if err := checkTimes(p); err != nil {
		return err
	}
	if t.Scopes, err = ParseScopes(p.Scp); err != nil {
		return err
	}
	return checkOrder(p.Cst)
}

func checkTimes(p *contracts.CapabilityToken) error {
	switch {
	case p.Exp <= p.Nbf || p.Exp <= p.Iat:
		return contracts.Errorf(contracts.Malformed, "the token ends before it begins")
	case p.Exp-p.Iat > int64(MaxLifetime/time.Second):
		return contracts.Errorf(contracts.Malformed, "the token lives longer than 30 days after iat")
	}
	return nil
}

// checkOrder holds constraints to their one order.
func checkOrder(list []contracts.Constraint) error {
	var last, next []byte
	for i := range list {
		next = list[i].AppendCanonical(next[:0])
		if i > 0 && bytes.Compare(last, next) >= 0 {
			return contracts.Errorf(contracts.Malformed, "constraints are ascending by their canonical bytes, none twice")
		}
		last, next = next, last
	}
	return nil
}

// inTime checks the token against the one clock sample of a decision.
func (t *Token) inTime(now int64) error {
	skew := int64(ClockSkew / time.Second)
	switch {
	case t.Iat > now+skew || t.Nbf > now+skew:
		return contracts.Errorf(contracts.NotYetValid, "the token is valid from %s", clock(max(t.Iat, t.Nbf)))
	case now >= t.Exp:
		return contracts.Errorf(contracts.Expired, "the token expired at %s; ask its issuer for a new one", clock(t.Exp))
	}
	return nil
}

func clock(sec int64) string { return identity.FormatTime(time.Unix(sec, 0)) }

// Terms say what a new token gives.
type Terms struct {
	Subject     identity.DID
	Audience    identity.DID // of a root; a delegation has its parent's
	Scopes      []string     // in any order
	Constraints []contracts.Constraint
	Delegations int // how many further tokens may follow, 0 to 3
	From        time.Time
	Life        time.Duration // at most MaxLifetime; a delegation ends with its parent at the latest
	Fresh       time.Duration // how old knowledge of revocations may be, whole seconds
}

// Issue makes a root token. rand gives the 16 bytes of jti; now is its iat. A program
// that understands the terms refuses to sign those that no verifier would accept.
func Issue(s Signer, terms Terms, rand io.Reader, now time.Time) (string, error) {
	return issue(s, terms, nil, rand, now)
}

// Delegate makes the token that follows parent, signed by parent's subject. It refuses
// whatever a verifier would refuse as widening. Constraints of the parent go on to
// hold and need not be repeated.
func Delegate(s Signer, parent *Token, terms Terms, rand io.Reader, now time.Time) (string, error) {
	return issue(s, terms, parent, rand, now)
}

func issue(s Signer, terms Terms, parent *Token, rand io.Reader, now time.Time) (string, error) {
	var jti [16]byte
	if _, err := io.ReadFull(rand, jti[:]); err != nil {
		return "", contracts.Errorf(contracts.Unavailable, "reading randomness for a token: %w", err)
	}
	scopes, err := NewScopes(terms.Scopes...)
	if err != nil {
		return "", err
	}
	p := contracts.CapabilityToken{
		V: TokenVersion, Aud: string(terms.Audience), Iss: string(s.DID), Sub: string(terms.Subject), Scp: scopes, Cst: sortConstraints(terms.Constraints),
		Dlg: int64(terms.Delegations), Iat: now.Unix(), Nbf: terms.From.Unix(), Exp: terms.From.Add(terms.Life).Unix(),
		Jti: "cap_" + hex.EncodeToString(jti[:]), Ksn: s.KSN, Rfs: int64(terms.Fresh / time.Second),
	}
	if terms.From.IsZero() {
		p.Nbf, p.Exp = now.Unix(), now.Add(terms.Life).Unix()
	}
	if parent != nil {
		p.Aud, p.Prf = parent.Aud, parent.ID.String()
		p.Nbf, p.Exp, p.Rfs = max(p.Nbf, parent.Nbf), min(p.Exp, parent.Exp), min(p.Rfs, parent.Rfs)
	}
	if err := checkConstraints(p.Cst); err != nil {
		return "", err
	}
	text, err := s.sign(typToken, p.AppendCanonical(nil))
	if err != nil {
		return "", err
	}
	t, err := ParseToken([]byte(text))
	if err != nil {
		return "", err
	}
	if parent != nil {
		return text, follows(parent, t)
	}
	return text, nil
}

func sortConstraints(list []contracts.Constraint) []contracts.Constraint {
	out := slices.Clone(list)
	slices.SortFunc(out, func(a, b contracts.Constraint) int {
		return bytes.Compare(a.AppendCanonical(nil), b.AppendCanonical(nil))
	})
	return out
}
