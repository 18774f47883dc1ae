package authority

import (
	"slices"
	"strings"
	"time"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
	"github.com/talosprotocol/talos/identity/capability"
	"github.com/talosprotocol/talos/node/gate"
)

// policy is a compiled policy: bindings become the same grants that capability chains
// become, so that there is one matcher. It does not change.
type policy struct {
	raw    *contracts.Policy
	grants map[identity.DID][]*capability.Grant // the most specific first, then by id
	payers map[identity.DID][]gate.Payer
	rules  []rule
}

// rule is a compiled rule for approvals.
type rule struct {
	raw   contracts.ApprovalRule
	scope capability.Scope
}

// far is the end of a binding that has none.
var far = time.Date(2099, 1, 1, 0, 0, 0, 0, time.UTC)

// compile checks a policy and makes its grants. Whatever does not add up is an error:
// half a policy is none.
func compile(p *contracts.Policy) (*policy, error) {
	out := &policy{raw: p, grants: map[identity.DID][]*capability.Grant{}, payers: map[identity.DID][]gate.Payer{}}
	bad := func(format string, args ...any) error {
		return contracts.Errorf(contracts.ConfigInvalid, "policy: "+format, args...)
	}
	roles, teams, ids := map[string]contracts.Role{}, map[string][]string{}, map[string]bool{}
	for _, r := range p.Roles {
		if _, twice := roles[r.ID]; twice {
			return nil, bad("the role %s is there twice", r.ID)
		}
		roles[r.ID] = r
	}
	for _, t := range p.Teams {
		if _, twice := teams[t.ID]; twice {
			return nil, bad("the team %s is there twice", t.ID)
		}
		teams[t.ID] = t.Members
	}
	for _, b := range p.Bindings {
		role, ok := roles[b.Role]
		if !ok {
			return nil, bad("binding %s: there is no role %s", b.ID, b.Role)
		}
		if ids[b.ID] {
			return nil, bad("the binding %s is there twice", b.ID)
		}
		ids[b.ID] = true
		members := []string{b.To}
		if team, ok := strings.CutPrefix(b.To, "team:"); ok {
			if members = teams[team]; members == nil {
				return nil, bad("binding %s: there is no team %s", b.ID, team)
			}
		}
		for _, m := range members {
			g, err := bind(b, role, m)
			if err != nil {
				return nil, bad("binding %s: %w", b.ID, err)
			}
			out.grants[g.Subject()] = append(out.grants[g.Subject()], g)
		}
	}
	for _, list := range out.grants {
		slices.SortFunc(list, moreSpecific)
	}
	for _, b := range p.Budgets {
		did, err := identity.ParseDID(b.To)
		if err != nil {
			return nil, bad("a budget: %w", err)
		}
		out.payers[did] = append(out.payers[did], gate.Payer{Account: string(did), Unit: b.Unit, Max: b.Max, Mode: gate.Mode(b.Mode)})
	}
	for _, r := range p.Approvals {
		c, err := compileRule(r)
		if err != nil {
			return nil, bad("the approval rule %s: %w", r.ID, err)
		}
		out.rules = append(out.rules, c)
	}
	return out, nil
}

func compileRule(r contracts.ApprovalRule) (rule, error) {
	texts, err := capability.NewScopes(r.Scope)
	if err != nil {
		return rule{}, err
	}
	scope, err := capability.ParseScope(texts[0])
	if err != nil {
		return rule{}, err
	}
	if r.By != "" {
		if _, err := identity.ParseDID(r.By); err != nil {
			return rule{}, err
		}
	}
	for _, id := range r.Surfaces {
		if !canWait(id) {
			return rule{}, contracts.Errorf(contracts.ConfigInvalid, "calls of %s cannot wait for an approval; those of %s can", id, strings.Join(surfacesThatWait, ", "))
		}
	}
	return rule{r, scope}, nil
}

// surfacesThatWait are those whose calls may wait for an approval.
var surfacesThatWait = []string{"agent.read", "agent.use", "local.agent.use", "local.model.use", "local.tool.use", "model.use", "tool.read", "tool.write"}

func canWait(surface string) bool { return slices.Contains(surfacesThatWait, surface) }

// Rule gives the first rule for approvals that covers a call on a surface, nil if none
// does.
func (s *Service) Rule(surface string, c gate.Call) (*contracts.ApprovalRule, error) {
	rules := s.policy.Load().rules
	if len(rules) == 0 || !canWait(surface) {
		return nil, nil //nolint:nilnil // most calls have none
	}
	call, err := s.call(&c, s.dir.Self().DID)
	if err != nil {
		return nil, err
	}
	for i := range rules {
		if slices.Contains(rules[i].raw.Surfaces, surface) && rules[i].scope.Covers(&call) {
			return &rules[i].raw, nil
		}
	}
	return nil, nil //nolint:nilnil // see above
}

func bind(b contracts.RoleBinding, role contracts.Role, member string) (*capability.Grant, error) {
	did, err := identity.ParseDID(member)
	if err != nil {
		return nil, err
	}
	binding := capability.Binding{ID: "rbac:" + b.ID, Subject: did, Scopes: role.Scopes, From: time.Unix(0, 0), Until: far}
	for _, at := range []struct {
		text string
		to   *time.Time
	}{{b.From, &binding.From}, {b.Until, &binding.Until}} {
		if at.text != "" {
			if *at.to, err = identity.ParseTime(at.text); err != nil {
				return nil, err
			}
		}
	}
	if role.ReadOnly != nil && *role.ReadOnly {
		binding.Constraints = []contracts.Constraint{{Op: "ro"}}
	}
	return capability.NewGrant(binding)
}

// moreSpecific orders grants for the audit log: the one whose scopes name most comes
// first, then the smaller id. Which calls are allowed does not depend on it.
func moreSpecific(a, b *capability.Grant) int {
	depth := func(g *capability.Grant) (n int) {
		for _, s := range g.Scopes() {
			n = max(n, strings.Count(s, "/")*2-strings.Count(s, "*"))
		}
		return n
	}
	if d := depth(b) - depth(a); d != 0 {
		return d
	}
	return strings.Compare(a.ID(), b.ID())
}

// SetPolicy replaces the policy, at once and as a whole.
func (s *Service) SetPolicy(p *contracts.Policy) error {
	c, err := compile(p)
	if err != nil {
		return err
	}
	s.policy.Store(c)
	return nil
}

// Policy gives the policy in force.
func (s *Service) Policy() *contracts.Policy { return s.policy.Load().raw }

// bound decides by the bindings of a principal.
func (s *Service) bound(h capability.Holder, call *capability.Call, now time.Time) (capability.Decision, bool) {
	for _, g := range s.policy.Load().grants[h.DID()] {
		if d := g.Decide(&h, call, now); d.Allowed() {
			return d, true
		}
	}
	return capability.Decision{}, false
}
