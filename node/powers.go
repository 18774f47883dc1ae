package node

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
	"github.com/talosprotocol/talos/identity/capability"
	"github.com/talosprotocol/talos/identity/keystore"
	"github.com/talosprotocol/talos/node/api"
	"github.com/talosprotocol/talos/node/authority"
	"github.com/talosprotocol/talos/node/directory"
)

// shown gives a chain as the API shows it.
func shown(c *authority.Chain) api.Capability {
	l := c.Leaf()
	out := api.Capability{
		ID: "cap:" + l.ID.String(), Issuer: l.Iss, Subject: l.Sub, Executor: l.Aud, Scopes: l.Scp, Delegations: l.Dlg,
		From: time.Unix(l.Nbf, 0).UTC(), Until: time.Unix(l.Exp, 0).UTC(), Links: len(c.Tokens), Chain: c.Text,
	}
	for _, t := range c.Tokens {
		for i := range t.Cst {
			out.Conditions = append(out.Conditions, string(t.Cst[i].AppendCanonical(nil)))
		}
	}
	return out
}

func (l *local) Capabilities(context.Context) (*api.Capabilities, error) {
	out := &api.Capabilities{Held: []api.Capability{}, Given: []api.Capability{}}
	held, err := l.n.powers.Held()
	if err != nil {
		return nil, err
	}
	given, err := l.n.powers.Given()
	for _, c := range held {
		out.Held = append(out.Held, shown(c))
	}
	for _, c := range given {
		out.Given = append(out.Given, shown(c))
	}
	return out, err
}

// tokenID reads an id as it is shown; the prefix keeps one that begins with a dash from
// being taken for an option.
func tokenID(s string) (capability.TokenID, error) {
	return capability.ParseTokenID(strings.TrimPrefix(s, "cap:"))
}

// terms reads a grant request.
func terms(r *contracts.GrantRequest) (authority.Terms, error) {
	to, err := identity.ParseDID(r.To)
	if err != nil {
		return authority.Terms{}, err
	}
	t := authority.Terms{
		To: to, Scopes: r.Scopes, Delegations: int(orZero(r.Delegations)), Life: time.Duration(r.Seconds) * time.Second,
		Fresh: time.Duration(orZero(r.FreshSeconds)) * time.Second, Constraints: r.Constraints,
	}
	if r.Executor != "" {
		if t.At, err = identity.ParseDID(r.Executor); err != nil {
			return t, err
		}
	}
	if (r.RateCalls == nil) != (r.RateSeconds == nil) || (r.BudgetUnit == "") != (r.BudgetMax == nil) {
		return t, contracts.Errorf(contracts.Malformed, "a rate has calls and seconds, a budget a unit and a maximum")
	}
	if r.ReadOnly != nil && *r.ReadOnly {
		t.Constraints = append(t.Constraints, contracts.Constraint{Op: "ro"})
	}
	if r.MaxCalls != nil {
		t.Constraints = append(t.Constraints, contracts.Constraint{Op: "calls", N: r.MaxCalls})
	}
	if r.RateCalls != nil {
		t.Constraints = append(t.Constraints, contracts.Constraint{Op: "rate", N: r.RateCalls, Per: r.RateSeconds})
	}
	if r.BudgetMax != nil {
		t.Constraints = append(t.Constraints, contracts.Constraint{Op: "budget", N: r.BudgetMax, Unit: r.BudgetUnit})
	}
	return t, nil
}

func (l *local) Grant(ctx context.Context, r *contracts.GrantRequest, parent string) (*api.Granted, error) {
	t, err := terms(r)
	if err != nil {
		return nil, err
	}
	var c *authority.Chain
	var delivered bool
	if parent == "" {
		c, delivered, err = l.n.powers.Grant(ctx, t)
	} else {
		if t.At != "" {
			return nil, contracts.Errorf(contracts.Malformed, "part of a capability counts where the capability does: a delegation names no executor")
		}
		id, e := tokenID(parent)
		if e != nil {
			return nil, e
		}
		c, delivered, err = l.n.powers.Delegate(ctx, id, t)
	}
	return granted(c, delivered, err)
}

func granted(c *authority.Chain, delivered bool, err error) (*api.Granted, error) {
	if err != nil || c == nil {
		return &api.Granted{}, err
	}
	return &api.Granted{Capability: shown(c), Delivered: delivered}, nil
}

func (l *local) ImportCapability(ctx context.Context, chain string) (*api.Capability, error) {
	c, err := l.n.powers.Import(ctx, chain)
	if err != nil {
		return nil, err
	}
	out := shown(c)
	return &out, nil
}

func (l *local) RevokeCapability(ctx context.Context, id, why string) error {
	token, err := tokenID(id)
	if err != nil {
		return err
	}
	return l.n.powers.Revoke(ctx, token, why)
}

func (l *local) ForgetCapability(ctx context.Context, id string) error {
	token, err := tokenID(id)
	if err != nil {
		return err
	}
	return l.n.powers.Remove(ctx, token)
}

func (l *local) ExplainCapability(_ context.Context, r *contracts.ExplainRequest) (*api.Explanation, error) {
	kind, err := capability.ParseKind(r.Kind)
	if err != nil {
		return nil, err
	}
	access, err := capability.ParseAccess(r.Access)
	if err != nil {
		return nil, err
	}
	call, err := capability.NewCall(kind, r.Name, r.Method, r.Resource, access)
	if err != nil {
		return nil, err
	}
	by, err := identity.ParseDID(r.By)
	if err != nil {
		return nil, err
	}
	if r.Args != "" {
		if call.Args, err = capability.ParseArgs([]byte(r.Args)); err != nil {
			return nil, err
		}
	}
	if call.Peer, err = capability.NewPrincipal(by); err != nil {
		return nil, err
	}
	if call.Gateway, err = capability.NewPrincipal(l.n.DID()); err != nil {
		return nil, err
	}
	e, err := l.n.powers.Explain(r.Chain, by, &call)
	if err != nil {
		return nil, err
	}
	return &api.Explanation{Allowed: e.Allowed, Code: string(e.Code), Text: e.String()}, nil
}

func (l *local) Policy(context.Context) (*contracts.Policy, error) { return l.n.powers.Policy(), nil }

// SetPolicy puts a policy in force, and keeps it.
func (l *local) SetPolicy(_ context.Context, p *contracts.Policy) error {
	l.n.mu.Lock()
	defer l.n.mu.Unlock()
	before := l.n.powers.Policy()
	if err := l.n.powers.SetPolicy(p); err != nil {
		return err
	}
	if err := keystore.WriteFile(l.n.home.path(filePolicy), p.AppendCanonical(nil)); err != nil {
		return errors.Join(err, l.n.powers.SetPolicy(before))
	}
	return nil
}

// readPolicy reads the policy of a home, nil if it has none.
func readPolicy(path string) (*contracts.Policy, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil //nolint:nilnil // most homes have none
	}
	if err != nil {
		return nil, contracts.Errorf(contracts.Unavailable, "the policy: %w", err)
	}
	p, err := contracts.ParsePolicy(b)
	if err != nil {
		return nil, contracts.Errorf(contracts.ConfigInvalid, "%s: %w", path, err)
	}
	return p, nil
}

func (l *local) Budgets(context.Context) ([]api.Budget, error) {
	rows, err := l.n.store.Budgets().All()
	out := []api.Budget{}
	for _, r := range rows {
		out = append(out, api.Budget{Account: r.Account, Unit: r.Unit, Used: r.Used, Held: r.Held})
	}
	return out, err
}

func (l *local) Limits(context.Context) ([]api.Limit, error) {
	rates, callers := l.n.gate.Registry().Rates(), map[string][]api.LimitCaller{}
	for _, b := range l.n.gate.Limited(time.Now()) {
		callers[b.Surface] = append(callers[b.Surface], api.LimitCaller{Subject: b.Subject, Left: b.Left})
	}
	out := []api.Limit{}
	for _, id := range slices.Sorted(maps.Keys(rates)) {
		out = append(out, api.Limit{Surface: id, Burst: rates[id].Burst, EveryMS: rates[id].Every.Milliseconds(), Callers: callers[id]})
	}
	return out, nil
}

func (l *local) State(ctx context.Context, text string) (json.RawMessage, error) {
	did, err := identity.ParseDID(text)
	if err != nil {
		return nil, err
	}
	if did == l.n.DID() {
		return l.n.dir.Self().Raw, nil
	}
	r, err := l.n.dir.Resolve(ctx, did, directory.Options{})
	if err != nil {
		return nil, err
	}
	if r.State == nil {
		return nil, contracts.Errorf(contracts.NotFound, "%s has no state record: it is its own key", did.Short())
	}
	return r.State.Raw, nil
}

func (l *local) RequestCapability(ctx context.Context, r *contracts.CapabilityRequest) error {
	to, err := identity.ParseDID(r.To)
	if err != nil {
		return err
	}
	return l.n.powers.Request(ctx, to, authority.Wanted{Scopes: r.Scopes, Hours: int(r.Hours), Why: r.Reason})
}

func (l *local) CapabilityRequests(context.Context) ([]api.CapabilityRequest, error) {
	all, err := l.n.powers.Requests()
	out := []api.CapabilityRequest{}
	for _, w := range all {
		out = append(out, api.CapabilityRequest{ID: w.ID, From: string(w.From), Scopes: w.Scopes, Reason: w.Why, Hours: w.Hours, At: w.At})
	}
	return out, err
}

func (l *local) SettleRequest(ctx context.Context, id string, approve bool) (*api.Granted, error) {
	return granted(l.n.powers.Settle(ctx, id, approve))
}
