package node_test

import (
	"bufio"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
	"github.com/talosprotocol/talos/identity/capability"
	"github.com/talosprotocol/talos/node"
	"github.com/talosprotocol/talos/node/authority"
	"github.com/talosprotocol/talos/node/gate"
	"github.com/talosprotocol/talos/node/p2p"
)

// sendScope is the scope of sending messages to a DID.
func sendScope(to identity.DID) string {
	return "agent:" + strings.ReplaceAll(string(to), ":", "%3A") + "/method:send"
}

// connect waits for a connection: a node that has just come back may be found under an
// address that it had before.
func connect(t *testing.T, who, to *running) (id peer.ID) {
	t.Helper()
	wait(t, "a connection", func() (ok bool) {
		var err error
		id, _, err = who.Directory().Connect(t.Context(), to.DID())
		return err == nil
	})
	return id
}

// may asks an executor's gate whether a node may send to it, after the node has shown
// what its wallet holds.
func may(t *testing.T, executor, who *running) contracts.Code {
	t.Helper()
	id := connect(t, who, executor)
	_ = who.Powers().Present(t.Context(), id, executor.DID(), false)
	_, err := executor.Gate().Check(t.Context(), &gate.Request{
		Surface: "a2a.message.receive", Params: map[string]string{"self": string(executor.DID())},
		Who: gate.Principal{DID: who.DID(), Proof: gate.Channel, Session: string(peer.ID(who.Host().ID()))},
	})
	return contracts.CodeOf(err)
}

// Grant, use, delegate narrower, use, widen, revoke: denied within five seconds, and by a
// node that was down during the revocation from its first request on. GATE-2, AUT-1,
// AUT-4, AUT-5.
func TestAuthorityAcrossNodes(t *testing.T) {
	boot, anchors, _ := mesh(t, 1, 0)
	home := func(strangers string) *node.Home {
		return initHome(t, node.InitOptions{Bootstrap: addrs(boot), Anchors: []string{string(anchors[0].DID())}, Interval: 1, Strangers: strangers})
	}
	e, a, b, c := start(t, home("ask")), start(t, home("ask")), start(t, home("ask")), start(t, home("ask"))
	for _, r := range []*running{e, a, b, c} {
		wait(t, "readiness", func() bool { return r.Status().Ready })
	}
	if code := may(t, e, a); code != contracts.NoCapability {
		t.Fatalf("a stranger: %s", code)
	}
	if _, err := a.Send(t.Context(), e.DID(), []byte("hello")); contracts.CodeOf(err) != contracts.NoCapability {
		t.Fatalf("a stranger sends: %v", err)
	}
	scope := sendScope(e.DID())
	chain, delivered, err := e.Powers().Grant(t.Context(), authority.Terms{To: a.DID(), Scopes: []string{scope}, Delegations: 1, Life: time.Hour})
	if err != nil || !delivered {
		t.Fatalf("granting: delivered %v, %v", delivered, err)
	}
	if code := may(t, e, a); code != "" {
		t.Fatalf("with a capability: %s", code)
	}
	// The token is of no use to somebody else (row 31).
	if _, err := c.Powers().Import(t.Context(), chain.Text); contracts.CodeOf(err) != contracts.HolderMismatch {
		t.Errorf("somebody else's token in the wallet: %v", err)
	}
	// Delegation: never wider, only as far as the parent allows (rows 17, 21).
	if _, _, err := a.Powers().Delegate(t.Context(), chain.Leaf().ID, authority.Terms{To: b.DID(), Scopes: []string{"agent:*"}, Life: time.Minute}); contracts.CodeOf(err) != contracts.DelegationInvalid {
		t.Errorf("a wider delegation: %v", err)
	}
	given := map[*running]capability.TokenID{}
	for _, r := range []*running{b, c} {
		d, delivered, err := a.Powers().Delegate(t.Context(), chain.Leaf().ID, authority.Terms{To: r.DID(), Scopes: []string{scope}, Life: time.Minute})
		if err != nil || !delivered {
			t.Fatalf("delegating: delivered %v, %v", delivered, err)
		}
		given[r] = d.Leaf().ID
		if code := may(t, e, r); code != "" {
			t.Fatalf("with a delegated capability: %s", code)
		}
		if _, _, err := r.Powers().Delegate(t.Context(), d.Leaf().ID, authority.Terms{To: a.DID(), Scopes: []string{scope}, Life: time.Minute}); contracts.CodeOf(err) != contracts.DelegationInvalid {
			t.Errorf("a delegation that the parent does not allow: %v", err)
		}
	}
	if _, err := b.Send(t.Context(), e.DID(), []byte("from b")); err != nil {
		t.Fatal(err)
	}
	receive(t, e, 0, 1)

	begin := time.Now()
	if err := a.Powers().Revoke(t.Context(), given[b], "misuse"); err != nil {
		t.Fatal(err)
	}
	wait(t, "the revocation at the executor", func() bool { return may(t, e, b) == contracts.Revoked })
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("denied after %s, at most 5 s are promised", took)
	} else {
		t.Logf("denied after %s", took.Round(time.Millisecond))
	}
	if code := may(t, e, c); code != "" {
		t.Errorf("a sibling of the revoked token: %s", code)
	}

	// The executor is down while the other token is revoked.
	if err := e.stop(); err != nil {
		t.Fatal(err)
	}
	if err := a.Powers().Revoke(t.Context(), given[c], "ceased"); err != nil {
		t.Fatal(err)
	}
	e = start(t, e.home)
	wait(t, "readiness", func() bool { return e.Status().Ready })
	if code := may(t, e, c); code == "" {
		t.Error("the first request after the restart is allowed")
	}
	if code := may(t, e, b); code == "" {
		t.Error("what was revoked before the restart is allowed after it")
	}
	if code := may(t, e, a); code != "" {
		t.Errorf("what was never revoked: %s", code)
	}
	// The root of it all.
	if err := e.Powers().Revoke(t.Context(), chain.Leaf().ID, "ceased"); err != nil {
		t.Fatal(err)
	}
	if code := may(t, e, a); code != contracts.Revoked {
		t.Errorf("after the root was revoked: %s", code)
	}
}

// A request of a stranger waits for the owner; there is room for a few of each. Tokens
// are taken only from those who may give them. AUT-2, AUT-3.
func TestRequestsWait(t *testing.T) {
	_, _, ags := mesh(t, 1, 2)
	a, b := ags[0], ags[1]
	ask := func(scope string) error {
		return b.Powers().Request(t.Context(), a.DID(), authority.Wanted{Scopes: []string{scope}, Hours: 2, Why: "please"})
	}
	for range 3 { // the same one is kept once
		if err := ask(sendScope(a.DID())); err != nil {
			t.Fatal(err)
		}
	}
	for i, scope := range []string{"tool:a", "tool:b", "tool:c", "tool:d"} {
		if err := ask(scope); (err != nil) != (i == 3) || err != nil && contracts.CodeOf(err) != contracts.RateLimited {
			t.Errorf("request %d: %v", i, err)
		}
	}
	for _, bad := range []authority.Wanted{{Hours: 1}, {Scopes: []string{"x"}, Hours: 1}, {Scopes: []string{"tool:a"}}, {Scopes: []string{"tool:a"}, Hours: 9999}} {
		if err := b.Powers().Request(t.Context(), a.DID(), bad); err == nil {
			t.Errorf("%+v is asked for", bad)
		}
	}
	list, err := a.Powers().Requests()
	if err != nil || len(list) != 4 || list[0].From != b.DID() || list[0].Why != "please" {
		t.Fatalf("%+v, %v", list, err)
	}
	if _, delivered, err := a.Powers().Settle(t.Context(), list[0].ID, true); err != nil || !delivered {
		t.Errorf("approving: %v, %v", delivered, err)
	}
	if held, err := b.Powers().For(a.DID()); err != nil || len(held) != 1 {
		t.Errorf("%d held, %v", len(held), err)
	}
	if _, _, err := a.Powers().Settle(t.Context(), list[1].ID, false); err != nil {
		t.Error(err)
	}
	if list, _ := a.Powers().Requests(); len(list) != 2 {
		t.Errorf("%d left", len(list))
	}
	// A token for use elsewhere that was passed on by hand: imported by its subject, and
	// refused by everybody else.
	c, _, err := a.Powers().Grant(t.Context(), authority.Terms{To: b.DID(), Scopes: []string{"tool:x"}, Life: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Powers().Import(t.Context(), c.Text); contracts.CodeOf(err) != contracts.HolderMismatch {
		t.Errorf("its issuer imports it: %v", err)
	}
	for range 2 {
		if _, err := b.Powers().Import(t.Context(), " "+c.Text+"\n"); err != nil {
			t.Errorf("its subject imports it: %v", err)
		}
	}
	if _, err := b.Powers().Import(t.Context(), c.Text[:len(c.Text)-3]); err == nil {
		t.Error("a cut token is imported")
	}
}

// Whatever a peer says on the capability stream, it gets an answer with a code or a reset,
// gains nothing, and harms nobody. AUT-2, AUT-3.
func TestHostileQuestions(t *testing.T) {
	_, _, ags := mesh(t, 1, 3)
	a, b, c := ags[0], ags[1], ags[2]
	id, _, err := b.Directory().Connect(t.Context(), a.DID())
	if err != nil {
		t.Fatal(err)
	}
	ask := func(frame []byte) []byte {
		t.Helper()
		s, err := b.Host().NewStream(t.Context(), id, b.Host().Protocol("capability", "1.0.0"))
		if err != nil {
			t.Fatal(err)
		}
		defer s.Reset() //nolint:errcheck // the test is over with it
		_ = s.SetDeadline(time.Now().Add(10 * time.Second))
		if _, err := s.Write(frame); err != nil {
			return nil
		}
		out, err := p2p.ReadFrame(bufio.NewReader(s), 1<<20)
		if err != nil {
			return nil
		}
		return out
	}
	foreign, _, err := c.Powers().Grant(t.Context(), authority.Terms{To: a.DID(), Scopes: []string{"tool:x"}, Life: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	held, _ := a.Powers().Held()
	frame := func(kind byte, body string) []byte { return p2p.AppendFrame(nil, append([]byte{kind}, body...)) }
	for name, q := range map[string][]byte{
		"empty": p2p.AppendFrame(nil, nil), "unknown kind": frame(9, ""), "too long": frame(1, strings.Repeat("a", 1<<20)), "no chain": frame(1, "a.b.c"),
		"ten thousand links": frame(1, strings.Repeat("a.b.c~", 2500)), "somebody else's": frame(1, foreign.Text), "no JSON": frame(2, "{"),
		"two values": frame(2, `{"scopes":["tool:a"],"hours":1}{}`), "unknown member": frame(2, `{"scopes":["tool:a"],"hours":1,"admin":true}`),
		"a member twice": frame(2, `{"scopes":["tool:a"],"hours":1,"hours":2}`), "twice, escaped": frame(2, `{"scopes":["tool:a"],"hours":1,"\u0068ours":2}`), "another case": frame(2, `{"Scopes":["tool:a"],"hours":1}`),
		"no hours": frame(2, `{"scopes":["tool:a"]}`), "look-alike": frame(2, `{"scopes":["tооl:a"],"hours":1}`), "offered by a third": frame(3, foreign.Text),
		"record 0": frame(4, "0"), "no number": frame(4, "abc"), "far": frame(4, "-9223372036854775808"),
	} {
		if out := ask(q); len(out) > 0 && out[0] != 0x01 {
			t.Errorf("%s: %.80q", name, out)
		}
	}
	if list, err := a.Powers().Requests(); err != nil || len(list) != 0 {
		t.Errorf("requests %+v, %v", list, err)
	}
	if now, err := a.Powers().Held(); err != nil || len(now) != len(held) {
		t.Errorf("%d tokens held, before %d, %v", len(now), len(held), err)
	}
	if out := ask(frame(4, "1")); len(out) < 2 || out[0] != 0 {
		t.Errorf("the log of a node that has revoked nothing: %.80q", out)
	}
}

// A peer that opens more streams of an open surface than the registry allows is refused,
// and alone. GATE-12.
func TestOpenStreamsPassTheGate(t *testing.T) {
	_, _, ags := mesh(t, 1, 3)
	a, b, c := ags[0], ags[1], ags[2]
	ask := func(who *running) bool {
		s, err := who.Host().NewStream(t.Context(), a.Host().ID(), who.Host().Protocol("capability", "1.0.0"))
		if err != nil {
			return false
		}
		defer s.Reset() //nolint:errcheck // the test is over with it
		_ = s.SetDeadline(time.Now().Add(10 * time.Second))
		if _, err := s.Write(p2p.AppendFrame(nil, []byte("\x041"))); err != nil {
			return false
		}
		out, err := p2p.ReadFrame(bufio.NewReader(s), 1<<20)
		return err == nil && len(out) > 0
	}
	for _, r := range []*running{b, c} {
		connect(t, r, a)
	}
	wait(t, "a refusal", func() bool { return !ask(b) })
	if !ask(c) {
		t.Error("another peer is refused with it")
	}
}
