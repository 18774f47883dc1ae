package authority

import (
	"context"
	"crypto/rand"
	"strings"
	"time"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
	"github.com/talosprotocol/talos/identity/capability"
)

// Chain is a token with those above it, root first, as it is shown and passed on.
type Chain struct {
	Text   string
	Tokens []*capability.Token
}

// ParseChain reads a chain strictly, and believes nothing of it.
func ParseChain(text string) (*Chain, error) {
	text = strings.TrimSpace(text)
	if len(text) > capability.MaxChainBytes {
		return nil, contracts.Errorf(contracts.TooLarge, "a chain of %d bytes, at most %d", len(text), capability.MaxChainBytes)
	}
	c := &Chain{Text: text}
	for _, part := range strings.Split(text, "~") {
		t, err := capability.ParseToken([]byte(part))
		if err != nil {
			return nil, err
		}
		if c.Tokens = append(c.Tokens, t); len(c.Tokens) > capability.MaxLinks {
			return nil, contracts.Errorf(contracts.DelegationInvalid, "a chain of more than %d tokens", capability.MaxLinks)
		}
	}
	return c, nil
}

// Leaf gives the token whose subject may use the chain.
func (c *Chain) Leaf() *capability.Token { return c.Tokens[len(c.Tokens)-1] }

// Wallet rows: cap/held/<token id> and cap/gave/<token id>, chains.
const (
	rowHeld = "cap/held/"
	rowGave = "cap/gave/"
)

// Terms of a grant.
type Terms struct {
	To          identity.DID
	At          identity.DID // the executor of a root; empty: this node
	Scopes      []string
	Constraints []contracts.Constraint
	Delegations int
	Life        time.Duration
	Fresh       time.Duration // how old knowledge of revocations may be; 0: 5 minutes
}

func (t Terms) capability(audience identity.DID) capability.Terms {
	if t.Fresh == 0 {
		t.Fresh = 5 * time.Minute
	}
	return capability.Terms{
		Subject: t.To, Audience: audience, Scopes: t.Scopes, Constraints: t.Constraints, Delegations: t.Delegations, Life: t.Life, Fresh: t.Fresh,
	}
}

// Grant issues a root token for use at this node, or at another one whose configuration
// names this one as a root, and brings it to its subject if that is reached. The token is
// in the wallet as given, and the grant in the audit log, before anybody has it.
func (s *Service) Grant(ctx context.Context, t Terms) (chain *Chain, delivered bool, err error) {
	signer, err := s.cfg.Signer()
	if err != nil {
		return nil, false, err
	}
	if t.At == "" {
		t.At = s.dir.Self().DID
	}
	text, err := capability.Issue(signer, t.capability(t.At), rand.Reader, s.now())
	if err != nil {
		return nil, false, err
	}
	return s.give(ctx, text)
}

// Delegate gives part of a token of the wallet on.
func (s *Service) Delegate(ctx context.Context, parent capability.TokenID, t Terms) (chain *Chain, delivered bool, err error) {
	signer, err := s.cfg.Signer()
	if err != nil {
		return nil, false, err
	}
	held, err := s.held(parent)
	if err != nil {
		return nil, false, err
	}
	text, err := capability.Delegate(signer, held.Leaf(), t.capability(""), rand.Reader, s.now())
	if err != nil {
		return nil, false, err
	}
	return s.give(ctx, held.Text+"~"+text)
}

// give records a new token, and offers it to its subject.
func (s *Service) give(ctx context.Context, text string) (*Chain, bool, error) {
	c, err := ParseChain(text)
	if err != nil {
		return nil, false, err
	}
	leaf := c.Leaf()
	if err := s.cfg.Record(ctx, "cap_grant", identity.DID(leaf.Sub), leaf.ID); err != nil {
		return nil, false, err
	}
	s.write.Lock()
	err = s.cfg.Rows.Put(ctx, []byte(rowGave+leaf.ID.String()), []byte(c.Text))
	s.write.Unlock()
	if err != nil {
		return nil, false, err
	}
	if err := s.beat(ctx); err != nil { // whoever verifies it needs a fresh head
		s.log.Debug("the head of the revocation log was not told", "err", err)
	}
	err = s.offer(ctx, identity.DID(leaf.Sub), c.Text)
	if err != nil {
		s.log.Debug("a capability waits for its subject to import it", "to", leaf.Sub, "err", err)
	}
	return c, err == nil, nil
}

// Import takes a token whose subject this node is into the wallet. That it verifies is
// for its executor to say; what is checked here is that it is ours and in form.
func (s *Service) Import(ctx context.Context, text string) (*Chain, error) {
	c, err := ParseChain(text)
	if err != nil {
		return nil, err
	}
	leaf := c.Leaf()
	if identity.DID(leaf.Sub) != s.dir.Self().DID {
		return nil, contracts.Errorf(contracts.HolderMismatch, "the token is of %s, this is %s", identity.DID(leaf.Sub).Short(), s.dir.Self().DID.Short())
	}
	if leaf.Exp <= s.now().Unix() {
		return nil, contracts.Errorf(contracts.Expired, "the token has expired; ask its issuer for a new one")
	}
	s.write.Lock()
	defer s.write.Unlock()
	held, err := s.list(rowHeld)
	if err != nil {
		return nil, err
	}
	same := 0
	for _, h := range held {
		switch {
		case h.Leaf().ID == leaf.ID:
			return c, nil
		case h.Leaf().Exp <= s.now().Unix():
			if err := s.cfg.Rows.Delete(ctx, []byte(rowHeld+h.Leaf().ID.String())); err != nil {
				return nil, err
			}
		case h.Leaf().Iss == leaf.Iss:
			same++
		}
	}
	if len(held) >= maxHeld || same >= maxHeldOf {
		return nil, contracts.Errorf(contracts.TooLarge, "the wallet holds %d tokens, %d of this issuer; remove some", len(held), same)
	}
	return c, s.cfg.Rows.Put(ctx, []byte(rowHeld+leaf.ID.String()), []byte(c.Text))
}

// Held lists the tokens that this node may use.
func (s *Service) Held() ([]*Chain, error) { return s.list(rowHeld) }

// Given lists the tokens that this node has issued.
func (s *Service) Given() ([]*Chain, error) { return s.list(rowGave) }

func (s *Service) list(prefix string) (out []*Chain, err error) {
	var failed error
	err = s.cfg.Rows.Scan([]byte(prefix), func(_, v []byte) bool {
		c, e := ParseChain(string(v))
		if e != nil {
			failed = contracts.Errorf(contracts.StorageCorrupt, "a token of the wallet is not as it was written: %w", e)
			return false
		}
		out = append(out, c)
		return true
	})
	if err == nil {
		err = failed
	}
	return out, err
}

func (s *Service) held(id capability.TokenID) (*Chain, error) {
	b, err := s.cfg.Rows.Get([]byte(rowHeld + id.String()))
	if err != nil {
		return nil, err
	}
	if b == nil {
		return nil, contracts.Errorf(contracts.NotFound, "the wallet holds no token %s", id)
	}
	return ParseChain(string(b))
}

// For gives the tokens of the wallet that are for use at an executor, the one that lasts
// longest first.
func (s *Service) For(executor identity.DID) ([]*Chain, error) {
	all, err := s.list(rowHeld)
	var out []*Chain
	for _, c := range all {
		if identity.DID(c.Leaf().Aud) == executor && c.Leaf().Exp > s.now().Unix() {
			out = append(out, c)
		}
	}
	return out, err
}

// Remove takes a token out of the wallet. It stays valid: the issuer revokes.
func (s *Service) Remove(ctx context.Context, id capability.TokenID) error {
	s.write.Lock()
	defer s.write.Unlock()
	if _, err := s.held(id); err != nil {
		return err
	}
	return s.cfg.Rows.Delete(ctx, []byte(rowHeld+id.String()))
}

// Explain says step by step what this node would decide of a chain and a call.
func (s *Service) Explain(text string, by identity.DID, call *capability.Call) (capability.Explanation, error) {
	holder, err := capability.NewHolder(by, capability.Channel)
	if err != nil {
		return capability.Explanation{}, err
	}
	return s.verifier.Explain([]byte(strings.TrimSpace(text)), holder, call, s.now()), nil
}
