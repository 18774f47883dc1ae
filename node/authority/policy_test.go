package authority

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
	"github.com/talosprotocol/talos/identity/capability"
)

const (
	alice = "did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK"
	bob   = "did:key:z6MkpTHR8VNsBxYAAWHut2Geadd9jSwuBV8xRoAnwWsdvktH"
)

func office() *contracts.Policy {
	yes := true
	return &contracts.Policy{
		V: "talos-policy/1",
		Roles: []contracts.Role{
			{ID: "reader", Scopes: []string{"node:audit"}, ReadOnly: &yes},
			{ID: "team-tools", Scopes: []string{"tool:fs/method:read/resource:org/acme/team/red/**"}},
			{ID: "org-tools", Scopes: []string{"tool:fs/method:read/resource:org/acme/**"}},
			{ID: "admin", Scopes: []string{"node:*", "tool:*"}},
		},
		Teams: []contracts.Team{{ID: "red", Members: []string{alice, bob}}},
		Bindings: []contracts.RoleBinding{
			{ID: "b1", Role: "reader", To: "team:red"}, {ID: "b2", Role: "team-tools", To: alice}, {ID: "b3", Role: "org-tools", To: alice},
			{ID: "b4", Role: "admin", To: bob, From: "2030-01-01T00:00:00.000Z", Until: "2031-01-01T00:00:00.000Z"},
		},
	}
}

func decide(t *testing.T, p *policy, who, kind, name, method string, resource []string, access capability.Access, now time.Time) string {
	t.Helper()
	k, err := capability.ParseKind(kind)
	if err != nil {
		t.Fatal(err)
	}
	call, err := capability.NewCall(k, name, method, resource, access)
	if err != nil {
		t.Fatal(err)
	}
	h, err := capability.NewHolder(identity.DID(who), capability.Signed)
	if err != nil {
		t.Fatal(err)
	}
	s := &Service{}
	s.policy.Store(p)
	if d, ok := s.bound(h, &call, now); ok {
		return d.Grant.ID()
	}
	return ""
}

// Rows 51 and 52: what a role covers is allowed and nothing else; the binding that is
// named is the most specific, in whatever order the policy lists them. GATE-10.
func TestRow51_Roles(t *testing.T) {
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	red := []string{"org", "acme", "team", "red", "x"}
	for range 200 {
		o := office()
		rand.Shuffle(len(o.Bindings), func(i, j int) { o.Bindings[i], o.Bindings[j] = o.Bindings[j], o.Bindings[i] })
		rand.Shuffle(len(o.Roles), func(i, j int) { o.Roles[i], o.Roles[j] = o.Roles[j], o.Roles[i] })
		p, err := compile(o)
		if err != nil {
			t.Fatal(err)
		}
		for i, c := range []struct {
			who, kind, name, method string
			resource                []string
			access                  capability.Access
			now                     time.Time
			want                    string
		}{
			{alice, "node", "audit", "read", nil, capability.Read, now, "rbac:b1"},
			{bob, "node", "audit", "read", nil, capability.Read, now, "rbac:b1"},
			{alice, "node", "audit", "erase", nil, capability.Destructive, now, ""},
			{alice, "tool", "fs", "read", red, capability.Read, now, "rbac:b2"},
			{alice, "tool", "fs", "read", red[:2], capability.Read, now, "rbac:b3"},
			{alice, "tool", "fs", "write", red, capability.Write, now, ""},
			{bob, "tool", "fs", "read", red, capability.Read, now, ""},
			{bob, "tool", "fs", "read", red, capability.Read, now.AddDate(4, 0, 0), "rbac:b4"},
			{bob, "tool", "fs", "read", red, capability.Read, now.AddDate(5, 0, 0), ""},
			{"did:key:z6MkjchhfUsD6mmvni8mCdXHw216Xrm9bQe2mBH1P5RDjVJG", "node", "audit", "read", nil, capability.Read, now, ""},
		} {
			if got := decide(t, p, c.who, c.kind, c.name, c.method, c.resource, c.access, c.now); got != c.want {
				t.Fatalf("case %d: %q, want %q", i, got, c.want)
			}
		}
	}
}

// A policy that does not add up is refused as a whole.
func TestBadPolicies(t *testing.T) {
	for name, change := range map[string]func(*contracts.Policy){
		"no such role":   func(p *contracts.Policy) { p.Bindings[0].Role = "boss" },
		"no such team":   func(p *contracts.Policy) { p.Bindings[0].To = "team:blue" },
		"role twice":     func(p *contracts.Policy) { p.Roles = append(p.Roles, p.Roles[0]) },
		"team twice":     func(p *contracts.Policy) { p.Teams = append(p.Teams, p.Teams[0]) },
		"binding twice":  func(p *contracts.Policy) { p.Bindings = append(p.Bindings, p.Bindings[0]) },
		"no DID":         func(p *contracts.Policy) { p.Bindings[1].To = "did:web:example.com" },
		"no scope":       func(p *contracts.Policy) { p.Roles[0].Scopes = []string{"node:a/../b"} },
		"reversed dates": func(p *contracts.Policy) { p.Bindings[3].Until = "2029-01-01T00:00:00.000Z" },
		"budget of none": func(p *contracts.Policy) { p.Budgets = []contracts.SubjectBudget{{To: "x", Unit: "u", Mode: "hard"}} },
	} {
		p := office()
		change(p)
		if _, err := compile(p); contracts.CodeOf(err) != contracts.ConfigInvalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	if p, err := compile(&contracts.Policy{V: "talos-policy/1"}); err != nil || len(p.grants) != 0 {
		t.Error(fmt.Sprint("the empty policy gives nothing: ", err))
	}
}
