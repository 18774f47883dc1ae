package capability_test

import (
	"strings"
	"testing"
	"time"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
	"github.com/talosprotocol/talos/identity/capability"
)

// The cases of the original project's capability and authorization vectors in tokens of
// this one, since theirs are placeholders: issuer key, subject and scopes are theirs
// (docs/conformance.md).
func TestOriginalCapabilityCases(t *testing.T) {
	seed := make([]byte, 32)
	seed[31] = 1
	key := must(identity.FromSeed[identity.Control](seed))
	issuer := capability.Signer{DID: identity.KeyDID(key.Public()), Key: key.Ed25519()}
	if issuer.DID != "did:key:z6MkjchhfUsD6mmvni8mCdXHw216Xrm9bQe2mBH1P5RDjVJG" {
		t.Fatalf("the issuer is %s", issuer.DID)
	}
	subject := identity.DID("did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK")
	end := time.Unix(1767504000, 0)
	at := end.Add(-time.Hour)
	terms := capability.Terms{Subject: subject, Audience: issuer.DID, Scopes: []string{"tool:filesystem/method:read", "tool:filesystem/method:write"}, Life: time.Hour, Fresh: time.Hour}
	terms.Constraints = []contracts.Constraint{{Op: "eq", Arg: "/title", Strs: []string{"Bug report"}}}
	token := must(capability.Issue(issuer, terms, newWorld().rnd, at))
	v := &capability.Verifier{Executor: issuer.DID, Revoked: capability.NewSet(issuer.DID)}
	h := must(capability.NewHolder(subject, capability.Channel))
	cache := capability.NewCache(v, 4)
	s := capability.SessionOf("018d0a5a-5a5d-7a5a-8a5a-5a5a5a5a5a5d")
	if _, err := cache.Authorize(s, []byte(token), h, at); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		tool, action, args string
		want               contracts.Code
	}{
		"authorize_fast_filesystem_read, warm": {"filesystem", "read", `{"title":"Bug report"}`, ""},
		"authorize_fast_filesystem_delete":     {"filesystem", "delete", `{"title":"Bug report"}`, contracts.ScopeMismatch},
		"deny_constraint_mismatch_server":      {"malicious-server", "read", `{"title":"Bug report"}`, contracts.ScopeMismatch},
		"deny_constraint_mismatch_args":        {"filesystem", "read", `{"title":"Illegal content"}`, contracts.ConstraintViolation},
	} {
		c2 := call(capability.Tool, c.tool, c.action)
		c2.Args = args(c.args)
		wantCode(t, name, cache.Decide(s, &h, c2, at).Err(), c.want)
	}
	verify := func(v *capability.Verifier, text string, at time.Time) error {
		_, err := v.Verify([]byte(text), h, at)
		return err
	}
	wantCode(t, "capability_expired", verify(v, token, end), contracts.Expired)
	p := strings.Split(token, ".")
	wantCode(t, "capability_bad_signature", verify(v, p[0]+"."+p[1]+"."+b64.EncodeToString(make([]byte, 64)), at), contracts.SignatureInvalid)
	other := keySigner("other")
	wantCode(t, "capability_wrong_issuer", verify(&capability.Verifier{Executor: other.DID, Revoked: capability.NewSet(other.DID)}, token, at), contracts.IssuerUnresolved)
}

// The original's cases of role enforcement that need more than equal scopes: its scopes
// are paths here, so that an organisation's covers its teams', and the platform's all.
func TestOriginalRoleCases(t *testing.T) {
	w := newWorld()
	h := holder(w.alice.did)
	team := []string{"org", "org-1", "team", "team-1"}
	for name, c := range map[string]struct {
		scope, permission string
		path              []string
		want              bool
	}{
		"viewer cannot create a key":       {"node:keys/method:read/resource:org/org-1/team/team-1/**", "write", team, false},
		"team admin can":                   {"node:keys/method:write/resource:org/org-1/team/team-1/**", "write", team, true},
		"org admin through the parent":     {"node:keys/method:write/resource:org/org-1/**", "write", team, true},
		"another org's admin":              {"node:keys/method:write/resource:org/org-2/**", "write", team, false},
		"platform admin overrides":         {"node:*", "write", team, true},
		"a scope that only looks the same": {"node:keys/method:write/resource:org/org-1/team/team-10/**", "write", team, false},
	} {
		g := must(capability.NewGrant(capability.Binding{ID: "rbac:x", Subject: w.alice.did, Scopes: []string{c.scope}, From: now, Until: now.Add(time.Hour)}))
		if got := g.Decide(&h, callOf(capability.Node, capability.Write, "keys", c.permission, c.path...), now).Allowed(); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
