package capability

import (
	"cmp"
	"encoding/binary"
	"slices"
	"time"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
)

// Grant is verified authority in the form that is decided on. A capability chain
// compiles to it, and so does the binding of a role. It does not change and may be
// shared.
//
// What a decision reads lies in the struct itself and in code, one flat run of bytes
// that is read from front to back: with ten thousand sessions the cost of a decision
// is the number of cache lines that it touches, and little else.
type Grant struct {
	from, until int64 // Unix seconds
	holder      Principal
	scopes      uint8
	counted     bool // Meter.Take has something to count
	rules       uint16
	rulesAt     uint16 // where in code they begin
	code        []byte
	about       *about
}

// about is what a decision does not need.
type about struct {
	id     string
	links  []link
	fresh  int64 // seconds, of the whole chain
	scopes []Scope
	rules  []rule
	limits []Limit
}

// link is what revocation asks of one token.
type link struct {
	id       TokenID
	iss, sub identity.DID
	jti      string
	ksn, iat int64
	sn       int64 // of the key log when it was verified
}

// Limit is what one token, or one binding, lets its subject use up. Siblings below one
// token share its limit.
type Limit struct {
	Token   string // token id; of a binding its grant's id
	Issuer  identity.DID
	Subject identity.DID
	Until   int64 // Unix seconds: nothing needs to be remembered after it
	Calls   int64 // -1: not limited
	Rate    int64 // calls in Per seconds; 0: not limited
	Per     int64
	Unit    string // of Budget
	Budget  int64  // -1: not limited
}

// Binding says what a grant gives that no token stands for.
type Binding struct {
	ID          string // for the audit log: "rbac:<binding>"
	Subject     identity.DID
	Scopes      []string
	Constraints []contracts.Constraint
	From, Until time.Time
}

// NewGrant compiles a binding: authority that the executor gives by its own
// configuration. Constraints that are not understood are an error, since here the
// operator can mend them.
func NewGrant(b Binding) (*Grant, error) {
	holder, err := NewPrincipal(b.Subject)
	if err != nil {
		return nil, err
	}
	texts, err := NewScopes(b.Scopes...)
	if err != nil {
		return nil, err
	}
	scopes, err := ParseScopes(texts)
	if err != nil {
		return nil, err
	}
	if err := checkConstraints(b.Constraints); err != nil {
		return nil, err
	}
	rules, _ := compile(b.Constraints)
	if b.ID == "" || !b.From.Before(b.Until) {
		return nil, contracts.Errorf(contracts.Malformed, "a binding has an id, and ends after it begins")
	}
	g := &Grant{from: b.From.Unix(), until: b.Until.Unix(), holder: holder}
	g.about = &about{id: b.ID, scopes: scopes, rules: rules}
	g.about.addLimits(b.ID, "", b.Subject, g.until, rules)
	g.assemble()
	return g, nil
}

// newChainGrant compiles a verified chain. Its scopes are the leaf's, which all links
// contain; its conditions are those of all links together.
func newChainGrant(chain []*Token, issuers []*Issuer, holder Principal) *Grant {
	leaf := chain[len(chain)-1]
	g := &Grant{from: leaf.Nbf, until: leaf.Exp, holder: holder, about: &about{id: "cap:" + leaf.ID.String(), fresh: leaf.Rfs, scopes: leaf.Scopes}}
	seen := map[string]bool{}
	for n, t := range chain {
		g.from, g.until, g.about.fresh = max(g.from, t.Nbf), min(g.until, t.Exp), min(g.about.fresh, t.Rfs)
		g.about.links = append(g.about.links, link{id: t.ID, iss: identity.DID(t.Iss), sub: identity.DID(t.Sub), jti: t.Jti, ksn: t.Ksn, iat: t.Iat, sn: issuers[n].SN})
		rules, _ := compile(t.Cst) // what is not understood denies
		g.about.addLimits(t.ID.String(), identity.DID(t.Iss), identity.DID(t.Sub), t.Exp, rules)
		for i, r := range rules {
			if text := string(t.Cst[i].AppendCanonical(nil)); !seen[text] {
				seen[text] = true
				g.about.rules = append(g.about.rules, r)
			}
		}
	}
	g.assemble()
	return g
}

// addLimits keeps the counts of one token or binding.
func (a *about) addLimits(id string, iss, sub identity.DID, until int64, rules []rule) {
	base := Limit{Token: id, Issuer: iss, Subject: sub, Until: until, Calls: -1, Budget: -1}
	for _, r := range rules {
		l := base
		switch r.op {
		case opCalls:
			l.Calls = r.lo
		case opRate:
			l.Rate, l.Per = r.lo, r.hi
		case opBudget:
			l.Budget, l.Unit = r.lo, r.unit
		default:
			continue
		}
		a.limits = append(a.limits, l)
	}
}

// ID names the grant in the audit log: "cap:<token id of the leaf>", or the binding's.
func (g *Grant) ID() string { return g.about.id }

// Subject gives whose it is.
func (g *Grant) Subject() identity.DID { return g.holder.DID() }

// Until gives when it ends.
func (g *Grant) Until() time.Time { return time.Unix(g.until, 0) }

// Scope gives the text of a scope by its index in a Decision.
func (g *Grant) Scope(i int) string {
	if i < 0 || i >= len(g.about.scopes) {
		return ""
	}
	return g.about.scopes[i].text
}

// Scopes gives all of them.
func (g *Grant) Scopes() []string {
	out := make([]string, len(g.about.scopes))
	for i, s := range g.about.scopes {
		out[i] = s.text
	}
	return out
}

// Tokens gives the ids of the chain, root first; none for a binding.
func (g *Grant) Tokens() []TokenID {
	out := make([]TokenID, len(g.about.links))
	for i := range g.about.links {
		out[i] = g.about.links[i].id
	}
	return out
}

// Limits gives what is counted: calls and rates by Meter, budgets by the caller's
// ledger, each for its own token.
func (g *Grant) Limits() []Limit { return slices.Clone(g.about.limits) }

// assemble writes the code. Scopes first, then conditions; within the conditions those
// that cost least to check.
func (g *Grant) assemble() {
	a := g.about
	slices.SortStableFunc(a.rules, func(x, y rule) int { return cmp.Compare(cost(x.op), cost(y.op)) })
	g.scopes = uint8(len(a.scopes))
	for i := range a.scopes {
		g.code = appendScope(g.code, &a.scopes[i])
	}
	g.rulesAt = uint16(len(g.code))
	for i := range a.rules {
		switch a.rules[i].op {
		case opCalls, opRate:
			g.counted = true
			fallthrough
		case opBudget:
			continue // counted, not decided; they sort last
		}
		g.rules++
		g.code = appendRule(g.code, &a.rules[i])
	}
	g.code = slices.Clip(g.code)
}

func cost(o op) int {
	switch o {
	case opUnknown, opReadOnly, opAfter, opProof:
		return 0
	case opPeers, opGateways:
		return 1
	case opCalls, opRate, opBudget:
		return 4
	case opGlob, opPrefix:
		return 3
	}
	return 2
}

// Flags of a scope in code, above the tail.
const (
	flagAnyName = 1 << (4 + iota)
	flagMethod
	flagAnyMethod
)

func appendScope(b []byte, s *Scope) []byte {
	flags := byte(s.tail)
	name, method := s.name, s.method
	if name == "*" {
		flags, name = flags|flagAnyName, ""
	}
	if s.has {
		flags |= flagMethod
	}
	if method == "*" {
		flags, method = flags|flagAnyMethod, ""
	}
	b = append(b, byte(s.kind), flags, byte(len(name)), byte(len(method)))
	b = binary.LittleEndian.AppendUint16(b, uint16(len(s.path)))
	b = append(b, name...)
	b = append(b, method...)
	return append(b, s.path...)
}

const (
	scopeHead = 6
	ruleHead  = 4
	// rootedFlag stands above the tail of a pattern for paths from the root.
	rootedFlag = 0x80
)

// appendRule writes op, the length of the pointer, the length of the rest, the
// pointer, and the rest: numbers, principals, texts with their lengths.
func appendRule(b []byte, r *rule) []byte {
	var body []byte
	switch r.op {
	case opRange, opAfter, opProof, opBool:
		body = binary.LittleEndian.AppendUint64(body, uint64(r.lo))
		body = binary.LittleEndian.AppendUint64(body, uint64(r.hi))
	}
	for _, s := range r.strs {
		if r.op == opGlob {
			base, t, rooted := splitGlob(s)
			flag := byte(t)
			if rooted {
				flag |= rootedFlag
			}
			body, s = append(body, flag), base
		}
		body = binary.LittleEndian.AppendUint16(body, uint16(len(s)))
		body = append(body, s...)
	}
	for _, v := range r.ints {
		body = binary.LittleEndian.AppendUint64(body, uint64(v))
	}
	for _, p := range r.ids {
		body = append(body, p.id[:]...)
	}
	b = append(b, byte(r.op), byte(len(r.arg)))
	b = binary.LittleEndian.AppendUint16(b, uint16(len(body)))
	b = append(b, r.arg...)
	return append(b, body...)
}
