package node_test

import (
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/talosprotocol/talos/anchor"
	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity/capability"
	"github.com/talosprotocol/talos/node"
	"github.com/talosprotocol/talos/node/authority"
	"github.com/talosprotocol/talos/node/gate"
)

// An organisation's node that the executor's configuration names gives capabilities for
// use at the executor, for the kinds that are named and no others; nobody else does.
// CAP-11.
func TestRootsOfTheConfiguration(t *testing.T) {
	boot, anchors, _ := mesh(t, 1, 0)
	home := func(roots ...contracts.Root) *node.Home {
		return initHome(t, node.InitOptions{Bootstrap: addrs(boot), Anchors: []string{string(anchors[0].DID())}, Interval: 1, Strangers: "ask", Roots: roots})
	}
	org, other, a := start(t, home()), start(t, home()), start(t, home())
	e := start(t, home(contracts.Root{DID: string(org.DID()), Kinds: []string{"agent", "tool"}}))
	for _, r := range []*running{e, org, other, a} {
		wait(t, "readiness", func() bool { return r.Status().Ready })
	}
	grant := func(by *running, scope string) *authority.Chain {
		c, delivered, err := by.Powers().Grant(t.Context(), authority.Terms{To: a.DID(), At: e.DID(), Scopes: []string{scope}, Life: time.Hour})
		if err != nil || !delivered {
			t.Fatalf("granting: delivered %v, %v", delivered, err)
		}
		return c
	}
	call, err := capability.NewCall(capability.Node, "audit", "read", nil, capability.Read)
	if err != nil {
		t.Fatal(err)
	}
	for by, scope := range map[*running]string{other: sendScope(e.DID()), org: "node:audit"} {
		x, err := e.Powers().Explain(grant(by, scope).Text, a.DID(), &call)
		if err != nil || x.Code != contracts.IssuerUnresolved || !strings.Contains(x.String(), "no root of authority here") {
			t.Errorf("%s: %v\n%s", scope, err, x)
		}
	}
	if code := may(t, e, a); code != contracts.NoCapability {
		t.Errorf("with what is no root's: %q", code)
	}
	c := grant(org, sendScope(e.DID()))
	if code := may(t, e, a); code != "" {
		t.Errorf("with the root's: %q", code)
	}
	if err := org.Powers().Revoke(t.Context(), c.Leaf().ID, "ceased"); err != nil {
		t.Fatal(err)
	}
	wait(t, "the revocation at the executor", func() bool { return may(t, e, a) == contracts.Revoked })
}

// A configuration that does not add up does not start.
func TestBadRoots(t *testing.T) {
	good := contracts.Root{DID: "did:talos:zQmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnPbdG", Kinds: []string{"tool"}}
	for name, roots := range map[string][]contracts.Root{
		"did:key": {{DID: "did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK", Kinds: []string{"tool"}}}, "no kinds": {{DID: good.DID}}, "no such kind": {{DID: good.DID, Kinds: []string{"all"}}},
	} {
		if _, err := node.Init(t.TempDir(), node.InitOptions{Roots: roots}); contracts.CodeOf(err) != contracts.ConfigInvalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What a token has counted and which requests were seen is known after a restart: the
// third of three calls is the last, and an id comes once. CAP-20, CAP-21.
func TestRow33_ReplayAfterARestart(t *testing.T) {
	boot, anchors, _ := mesh(t, 1, 0)
	home := func() *node.Home {
		return initHome(t, node.InitOptions{Bootstrap: addrs(boot), Anchors: []string{string(anchors[0].DID())}, Interval: 1, Strangers: "ask"})
	}
	e, a := start(t, home()), start(t, home())
	for _, r := range []*running{e, a} {
		wait(t, "readiness", func() bool { return r.Status().Ready })
	}
	three := int64(3)
	terms := authority.Terms{To: a.DID(), Scopes: []string{sendScope(e.DID())}, Life: time.Hour, Constraints: []contracts.Constraint{{Op: "calls", N: &three}}}
	if _, delivered, err := e.Powers().Grant(t.Context(), terms); err != nil || !delivered {
		t.Fatalf("granting: delivered %v, %v", delivered, err)
	}
	ask := func(id string) contracts.Code {
		t.Helper()
		remote := connect(t, a, e)
		if err := a.Powers().Present(t.Context(), remote, e.DID(), true); err != nil {
			t.Fatal(err)
		}
		_, err := e.Gate().Check(t.Context(), &gate.Request{
			Surface: "a2a.message.receive", Params: map[string]string{"self": string(e.DID())}, ID: id,
			Who: gate.Principal{DID: a.DID(), Proof: gate.Channel, Session: string(peer.ID(a.Host().ID()))},
		})
		return contracts.CodeOf(err)
	}
	id := func(at time.Duration, n byte) string { return anchor.NewID(time.Now().Add(at), [10]byte{n}) }
	first, second := id(0, 1), id(0, 2)
	for i, c := range []struct {
		id   string
		want contracts.Code
	}{
		{first, ""}, {first, contracts.Replay}, {id(-11*time.Minute, 3), contracts.Replay}, {id(2*time.Minute, 4), contracts.NotYetValid},
		{"1", contracts.Malformed}, {strings.ToUpper(second), contracts.Malformed}, {second, ""},
	} {
		if got := ask(c.id); got != c.want {
			t.Errorf("request %d: %q, want %q", i, got, c.want)
		}
	}
	if err := e.stop(); err != nil {
		t.Fatal(err)
	}
	e = start(t, e.home)
	wait(t, "readiness", func() bool { return e.Status().Ready })
	for i, c := range []struct {
		id   string
		want contracts.Code
	}{{first, contracts.Replay}, {second, contracts.Replay}, {id(0, 5), ""}, {id(0, 6), contracts.BudgetExhausted}, {first, contracts.Replay}} {
		if got := ask(c.id); got != c.want {
			t.Errorf("request %d after the restart: %q, want %q", i, got, c.want)
		}
	}
}
