package capability

import (
	"bytes"
	"slices"
	"strings"
	"time"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
)

// chainSeparator stands between the tokens of a chain, root first. It is in no token.
const chainSeparator = "~"

// JoinChain makes the text of a chain, root first.
func JoinChain(tokens ...string) string { return strings.Join(tokens, chainSeparator) }

// Verifier makes grants of chains. It keeps nothing; what it asks is given here.
type Verifier struct {
	// Executor is the DID that acts on the tokens: their audience, and a root of
	// authority for everything.
	Executor identity.DID
	// Roots says which other DIDs are roots of authority here, and for which kinds of
	// scopes. It comes from the executor's own configuration, never from a token.
	Roots map[identity.DID][]Kind
	// Resolve gives the keys of issuers.
	Resolve Resolve
	// Revoked is what is known to be taken back. Nil: every chain is REVOCATION_STALE.
	Revoked *Set
}

// check is one verification on its way.
type check struct {
	*Verifier
	raw     []byte
	holder  Holder
	now     int64 // the one clock sample
	tokens  []*Token
	issuers []*Issuer
	grant   *Grant
}

// steps are the checks of a chain, in order. Within each, tokens are looked at root
// first; signatures leaf first, since the leaf's is whatever a stranger sends.
var steps = [...]func(*check) error{
	StepSize:       (*check).size,
	StepForm:       (*check).form,
	StepVersion:    func(c *check) error { return c.each((*Token).version) },
	StepHeader:     func(c *check) error { return c.each((*Token).header) },
	StepCanonical:  func(c *check) error { return c.each((*Token).canonical) },
	StepTimes:      func(c *check) error { return c.each(func(t *Token) error { return t.inTime(c.now) }) },
	StepIssuer:     (*check).resolve,
	StepSignature:  (*check).signatures,
	StepChain:      (*check).chain,
	StepAudience:   (*check).audience,
	StepHolder:     (*check).held,
	StepRevocation: (*check).revocation,
}

// Verify checks a chain for holder at now, in the order of the steps, and gives what
// it grants. The error's code is that of the first check that fails; time and memory
// are bounded by MaxChainBytes and MaxLinks. It consumes nothing.
func (v *Verifier) Verify(chain []byte, holder Holder, now time.Time) (*Grant, error) {
	g, _, err := v.verify(chain, holder, now.Unix())
	return g, err
}

func (v *Verifier) verify(chain []byte, holder Holder, now int64) (*Grant, Step, error) {
	c := &check{Verifier: v, raw: chain, holder: holder, now: now}
	for i, step := range steps {
		if err := step(c); err != nil {
			return nil, Step(i), err
		}
	}
	return c.grant, StepRevocation, nil
}

func (c *check) size() error {
	if len(c.raw) > MaxChainBytes {
		return contracts.Errorf(contracts.TooLarge, "a chain of %d bytes, at most %d", len(c.raw), MaxChainBytes)
	}
	if len(c.raw) == 0 {
		return contracts.Errorf(contracts.NoCapability, "no token was shown")
	}
	return nil
}

func (c *check) form() error {
	parts := bytes.Split(c.raw, []byte(chainSeparator))
	if len(parts) > MaxLinks {
		return contracts.Errorf(contracts.DelegationInvalid, "a chain of %d tokens, at most %d", len(parts), MaxLinks)
	}
	for i, p := range parts {
		j, err := splitJWS(p)
		if err != nil {
			return nameLink(i, err)
		}
		t := &Token{jws: j}
		if i > 0 {
			t.prev = c.tokens[i-1]
		}
		c.tokens = append(c.tokens, t)
	}
	return nil
}

func nameLink(i int, err error) error {
	return contracts.Errorf(contracts.CodeOf(err), "token %d of the chain: %s", i+1, contracts.Message(err))
}

func (c *check) each(f func(*Token) error) error {
	for i, t := range c.tokens {
		if err := f(t); err != nil {
			return nameLink(i, err)
		}
	}
	return nil
}

// resolve looks the issuers up, and asks whether the first is a root here.
func (c *check) resolve() error {
	for i, t := range c.tokens {
		did := identity.DID(t.Iss)
		if t.jws.did != did {
			return nameLink(i, contracts.Errorf(contracts.SignatureInvalid, "the key in its header is of %s, its issuer is %s", t.jws.did.Short(), did.Short()))
		}
		if i == 0 {
			if err := c.isRoot(t); err != nil {
				return nameLink(i, err)
			}
		}
		issuer, err := c.Resolve.find(did)
		if err == nil {
			err = issuer.speaksAt(t.Ksn, t.Iat)
		}
		if err != nil {
			return nameLink(i, err)
		}
		c.issuers = append(c.issuers, issuer)
	}
	return nil
}

func (c *check) isRoot(t *Token) error {
	if identity.DID(t.Iss) == c.Executor {
		return nil
	}
	kinds := c.Roots[identity.DID(t.Iss)]
	for _, s := range t.Scopes {
		if !slices.Contains(kinds, s.kind) {
			return contracts.Errorf(contracts.IssuerUnresolved, "%s is no root of authority here for %s; the operator can name it in the configuration, or the executor itself can issue",
				identity.DID(t.Iss).Short(), s.kind)
		}
	}
	return nil
}

func (c *check) signatures() error {
	for i := len(c.tokens) - 1; i >= 0; i-- {
		if err := c.tokens[i].jws.verify(c.issuers[i], c.tokens[i].Ksn); err != nil {
			return nameLink(i, err)
		}
	}
	return nil
}

// chain holds the rules between tokens. Any violation refuses the whole chain.
func (c *check) chain() error {
	if c.tokens[0].Prf != "" {
		return contracts.Errorf(contracts.DelegationInvalid, "token 1 follows another one, which is not in the chain")
	}
	seen := map[string]bool{}
	for i, t := range c.tokens {
		if seen[t.Iss] {
			return nameLink(i, contracts.Errorf(contracts.DelegationInvalid, "%s issues twice in one chain", identity.DID(t.Iss).Short()))
		}
		seen[t.Iss] = true
		if i > 0 {
			if err := follows(c.tokens[i-1], t); err != nil {
				return nameLink(i, err)
			}
		}
	}
	if leaf := c.tokens[len(c.tokens)-1]; seen[leaf.Sub] {
		return contracts.Errorf(contracts.DelegationInvalid, "the chain comes back to %s, who issued in it", identity.DID(leaf.Sub).Short())
	}
	return nil
}

// follows says why t may not stand below p, nil if it may: nothing may become wider.
func follows(p, t *Token) error {
	bad := func(format string, args ...any) error {
		return contracts.Errorf(contracts.DelegationInvalid, format, args...)
	}
	switch {
	case t.Prf != p.ID.String():
		return bad("it does not name the token before it")
	case t.Iss != p.Sub:
		return bad("its issuer is not the subject of the token before it")
	case t.Aud != p.Aud:
		return bad("it is for another executor than the token before it")
	case p.Dlg < 1:
		return bad("the token before it may not be delegated")
	case t.Dlg >= p.Dlg:
		return bad("it allows %d further tokens, at most %d are left", t.Dlg, p.Dlg-1)
	case t.Nbf < p.Nbf:
		return bad("it begins before the token before it")
	case t.Exp > p.Exp:
		return bad("it ends after the token before it")
	case t.Rfs > p.Rfs:
		return bad("it lets knowledge of revocations be older (rfs) than the token before it")
	}
	if i := uncovered(p.Scopes, t.Scopes); i >= 0 {
		return bad("its scope %s is in no scope of the token before it", t.Scopes[i])
	}
	return nil
}

func (c *check) audience() error {
	if aud := c.tokens[0].Aud; aud != string(c.Executor) {
		return contracts.Errorf(contracts.AudienceMismatch, "the token is for %s, this is %s", identity.DID(aud).Short(), c.Executor.Short())
	}
	return nil
}

func (c *check) held() error {
	leaf := c.tokens[len(c.tokens)-1]
	sub, err := NewPrincipal(identity.DID(leaf.Sub))
	if err != nil {
		return err
	}
	if c.holder.proof == noProof || c.holder.who != sub {
		return contracts.Errorf(contracts.HolderMismatch, "the token is of %s, and the caller has not proved to be it", identity.DID(leaf.Sub).Short())
	}
	c.grant = newChainGrant(c.tokens, c.issuers, sub)
	return nil
}

func (c *check) revocation() error {
	if c.Revoked == nil {
		return contracts.Errorf(contracts.RevocationStale, "nothing is known of revocations")
	}
	for _, i := range c.issuers {
		c.Revoked.Note(i)
	}
	_, err := c.Revoked.check(c.grant.about, c.now)
	return err
}
