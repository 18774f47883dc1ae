package node_test

import (
	"testing"
	"time"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
	"github.com/talosprotocol/talos/identity/capability"
	"github.com/talosprotocol/talos/node"
	"github.com/talosprotocol/talos/node/authority"
)

// Issuer and executor are never up at the same time after the revocation: the executor
// learns of it from others who heard it, before its first decision. And a log of more
// records than one answer holds is caught up with. AUT-5, AUT-6.
func TestLogsFromOthers(t *testing.T) {
	boot, anchors, _ := mesh(t, 1, 0)
	home := func(roots ...contracts.Root) *node.Home {
		return initHome(t, node.InitOptions{Bootstrap: addrs(boot), Anchors: []string{string(anchors[0].DID())}, Interval: 1, Strangers: "ask", Roots: roots})
	}
	org, a := start(t, home()), start(t, home())
	e := start(t, home(contracts.Root{DID: string(org.DID()), Kinds: []string{"agent"}}))
	for _, r := range []*running{e, org, a} {
		wait(t, "readiness", func() bool { return r.Status().Ready })
	}
	grant := func(to identity.DID) capability.TokenID {
		c, _, err := org.Powers().Grant(t.Context(), authority.Terms{To: to, At: e.DID(), Scopes: []string{sendScope(e.DID())}, Life: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		return c.Leaf().ID
	}
	revoke := func(id capability.TokenID) {
		if err := org.Powers().Revoke(t.Context(), id, "ceased"); err != nil {
			t.Fatal(err)
		}
	}
	kept, gone := grant(a.DID()), grant(a.DID())
	if code := may(t, e, a); code != "" {
		t.Fatalf("before: %q", code)
	}
	if err := e.stop(); err != nil {
		t.Fatal(err)
	}
	for range 300 { // more than one answer holds
		revoke(grant("did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK"))
	}
	revoke(gone)
	wait(t, "what others have heard", func() bool { return boot.Powers().Knows(org.DID()) == 301 && a.Powers().Knows(org.DID()) == 301 })
	if err := org.stop(); err != nil {
		t.Fatal(err)
	}
	e = start(t, e.home)
	wait(t, "readiness", func() bool { return e.Status().Ready })
	// The one that was not revoked still counts, so the log is asked for and not only
	// found wanting.
	if code := may(t, e, a); code != "" {
		t.Errorf("with one of two: %q", code)
	}
	if n := e.Powers().Knows(org.DID()); n != 301 {
		t.Errorf("%d records are known", n)
	}
	x, err := e.Powers().Explain(chainOf(t, a, gone), a.DID(), sendCall(t, e.DID()))
	if err != nil || x.Code != contracts.Revoked {
		t.Errorf("what was taken back: %v\n%s", err, x)
	}
	if x, err := e.Powers().Explain(chainOf(t, a, kept), a.DID(), sendCall(t, e.DID())); err != nil || !x.Allowed {
		t.Errorf("what was not: %v\n%s", err, x)
	}
}

// chainOf gives the text of a token that a node holds.
func chainOf(t *testing.T, r *running, id capability.TokenID) string {
	t.Helper()
	held, err := r.Powers().Held()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range held {
		if c.Leaf().ID == id {
			return c.Text
		}
	}
	t.Fatalf("no token %s", id)
	return ""
}

func sendCall(t *testing.T, to identity.DID) *capability.Call {
	t.Helper()
	c, err := capability.NewCall(capability.Agent, string(to), "send", nil, capability.Write)
	if err != nil {
		t.Fatal(err)
	}
	return &c
}
