package capability_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
	"github.com/talosprotocol/talos/identity/capability"
)

// resign edits a payload and signs it again as by: what a dishonest delegator sends.
func resign(by *agent, token string, edits ...string) string {
	h, p := parts(token)
	for i := 0; i+1 < len(edits); i += 2 {
		p = replace(p, edits[i], edits[i+1])
	}
	return forge(by.control.Ed25519(), h, p)
}

// Rows 17, 19, 20 and 21 of the acceptance table; CAP-8, CAP-9: no link widens, and
// any violation refuses the whole chain.
func TestRow17to21_ChainsThatWiden(t *testing.T) {
	w := newWorld()
	c := w.chain(4)
	h := holder(w.exec.did)
	if _, err := w.v.Verify(join(c...), h, now); err != nil {
		t.Fatal(err)
	}
	exp, nbf := fmt.Sprint(`"exp":`, now.Unix()+3600), fmt.Sprint(`"nbf":`, now.Unix())
	second := func(edits ...string) []byte { return join(c[0], resign(w.alice, c[1], edits...)) }
	bob := holder(w.bob.did)
	scope := `"tool:fs/method:read"`
	for name, e := range map[string]struct {
		chain []byte
		h     capability.Holder
	}{
		"17 wider scope":            {second(scope, `"tool:*"`), bob},
		"17 another scope":          {second(scope, `"tool:git"`), bob},
		"17 one extra scope":        {second(scope, `"agent:x",`+scope), bob},
		"17 wildcard for exact":     {join(c[0], c[1], c[2], resign(w.carol, c[3], "resource:data/pub/**", "resource:**")), h},
		"19 ends later":             {second(exp, fmt.Sprint(`"exp":`, now.Unix()+3601)), bob},
		"19 begins earlier":         {second(nbf, fmt.Sprint(`"nbf":`, now.Unix()-1)), bob},
		"19 dlg not decreasing":     {second(`"dlg":2`, `"dlg":3`), bob},
		"19 rfs larger":             {second(`"rfs":300`, `"rfs":301`), bob},
		"19 another executor":       {second(`"aud":"`+string(w.exec.did), `"aud":"`+string(w.carol.did)), bob},
		"20 five tokens":            {join(c[0], c[1], c[2], c[3], c[3]), h},
		"20 the same token twice":   {join(c[0], c[0]), holder(w.alice.did)},
		"20 gap":                    {join(c[0], c[2]), holder(w.carol.did)},
		"20 reversed":               {join(c[1], c[0]), holder(w.alice.did)},
		"20 without its root":       {[]byte(c[1]), bob},
		"20 another parent":         {second(`"prf":"`+tokenID(c[0]).String(), `"prf":"`+tokenID(c[1]).String()), bob},
		"20 no parent":              {second(`"prf":"`+tokenID(c[0]).String()+`",`, ""), bob},
		"20 comes back to its root": {second(`"sub":"`+string(w.bob.did), `"sub":"`+string(w.org.did)), holder(w.org.did)},
		"20 for its own issuer":     {second(`"sub":"`+string(w.bob.did), `"sub":"`+string(w.alice.did)), holder(w.alice.did)},
		"21 not delegable":          {join(resign(w.org, c[0], `"dlg":3`, `"dlg":0`), c[1]), bob},
	} {
		// A root whose issuer is no authority here is found before the chain is looked at.
		w.v.Roots[w.alice.did] = []capability.Kind{capability.Tool}
		_, err := w.v.Verify(e.chain, e.h, now)
		wantCode(t, name, err, contracts.DelegationInvalid)
	}
	// 21: with the link re-made, so that only dlg is wrong.
	root := w.terms(w.alice.did, "tool:fs")
	root.Delegations = 0
	r := w.issue(w.org.signer(), root)
	bad := resign(w.alice, c[1], tokenID(c[0]).String(), tokenID(r).String(), `"dlg":2`, `"dlg":0`)
	_, err := w.v.Verify(join(r, bad), bob, now)
	wantCode(t, "21", err, contracts.DelegationInvalid)
	_, err = capability.Delegate(w.alice.signer(), must(capability.ParseToken([]byte(r))), w.terms(w.bob.did, "tool:fs"), w.rnd, now)
	wantCode(t, "21, when it is made", err, contracts.DelegationInvalid)
	// A link signed by somebody else than the subject before it.
	_, err = w.v.Verify(join(c[0], resign(w.carol, c[1])), bob, now)
	wantCode(t, "signed by a third", err, contracts.SignatureInvalid)
}

// Row 20 of the acceptance table: a loop A→B→A.
func TestRow20_Loop(t *testing.T) {
	w := newWorld()
	tm := w.terms(w.alice.did, "tool:fs")
	a := w.issue(w.org.signer(), tm)
	tm.Subject, tm.Delegations = w.bob.did, 2
	b := must(capability.Delegate(w.alice.signer(), must(capability.ParseToken([]byte(a))), tm, w.rnd, now))
	tm.Subject, tm.Delegations = w.alice.did, 1
	c := must(capability.Delegate(w.bob.signer(), must(capability.ParseToken([]byte(b))), tm, w.rnd, now))
	tm.Subject, tm.Delegations = w.carol.did, 0
	d := must(capability.Delegate(w.alice.signer(), must(capability.ParseToken([]byte(c))), tm, w.rnd, now))
	for name, chain := range map[string][]byte{"back": join(a, b, c), "and on": join(a, b, c, d)} {
		sub := w.alice.did
		if name == "and on" {
			sub = w.carol.did
		}
		_, err := w.v.Verify(chain, holder(sub), now)
		wantCode(t, name, err, contracts.DelegationInvalid)
	}
}

// Row 18 of the acceptance table; CAP-10: what a parent asks holds below it, whatever
// the child says.
func TestRow18_ConditionsOfAllLinks(t *testing.T) {
	w := newWorld()
	root := w.terms(w.alice.did, "tool:fs")
	root.Constraints = []contracts.Constraint{{Op: "range", Arg: "/limit", Max: ptr(int64(10))}, {Op: "ro"}}
	a := w.issue(w.org.signer(), root)
	for name, cst := range map[string][]contracts.Constraint{
		"missing": nil, "looser": {{Op: "range", Arg: "/limit", Max: ptr(int64(1000))}}, "tighter": {{Op: "range", Arg: "/limit", Max: ptr(int64(5))}},
	} {
		tm := w.terms(w.bob.did, "tool:fs")
		tm.Delegations, tm.Constraints = 0, cst
		b := must(capability.Delegate(w.alice.signer(), must(capability.ParseToken([]byte(a))), tm, w.rnd, now))
		g := must(w.v.Verify(join(a, b), holder(w.bob.did), now))
		h := holder(w.bob.did)
		for limit, want := range map[int]bool{5: true, 10: name != "tighter", 11: false, 1000: false} {
			c := call(capability.Tool, "fs", "read")
			c.Args = args(fmt.Sprintf(`{"limit":%d}`, limit))
			if d := g.Decide(&h, c, now); d.Allowed() != want {
				t.Errorf("%s: %d: %v", name, limit, d.Err())
			}
			c.Access = capability.Write
			if g.Decide(&h, c, now).Allowed() {
				t.Errorf("%s: ro was lost", name)
			}
		}
	}
}

// Row 22 of the acceptance table; CAP-11: roots of authority are configured.
func TestRow22_Roots(t *testing.T) {
	w := newWorld()
	for name, e := range map[string]struct {
		by    *agent
		scope string
		want  contracts.Code
	}{
		"the executor itself":     {w.exec, "node:*", ""},
		"a root, for its kind":    {w.org, "tool:*", ""},
		"a root, for another":     {w.org, "node:*", contracts.IssuerUnresolved},
		"somebody":                {w.bob, "tool:fs", contracts.IssuerUnresolved},
		"the caller for itself":   {w.alice, "tool:fs", contracts.IssuerUnresolved},
		"a root for itself alone": {w.org, "tool:fs", ""},
	} {
		tm := w.terms(w.alice.did, e.scope)
		_, err := w.v.Verify([]byte(w.issue(e.by.signer(), tm)), holder(w.alice.did), now)
		wantCode(t, name, err, e.want)
	}
	delete(w.issuers, w.org.did)
	_, err := w.v.Verify([]byte(w.chain(1)[0]), holder(w.alice.did), now)
	wantCode(t, "a root that cannot be resolved", err, contracts.IssuerUnresolved)
	w.v.Resolve = nil
	_, err = w.v.Verify([]byte(w.chain(1)[0]), holder(w.alice.did), now)
	wantCode(t, "no resolver", err, contracts.IssuerUnresolved)
}

// Row 23 of the acceptance table; CAP-3: the times of all tokens, at their boundaries.
func TestRow23_Times(t *testing.T) {
	w := newWorld()
	root := w.terms(w.alice.did, "tool:fs")
	root.Fresh = 24 * time.Hour
	a := w.issue(w.org.signer(), root)
	tm := w.terms(w.bob.did, "tool:fs")
	tm.Delegations, tm.Life, tm.Fresh = 0, 10*time.Minute, time.Hour
	b := must(capability.Delegate(w.alice.signer(), must(capability.ParseToken([]byte(a))), tm, w.rnd, now))
	for at, want := range map[time.Duration]contracts.Code{
		-61 * time.Second: contracts.NotYetValid, -60 * time.Second: "", 0: "", 599 * time.Second: "",
		600 * time.Second: contracts.Expired, 601 * time.Second: contracts.Expired, 2 * time.Hour: contracts.Expired,
	} {
		_, err := w.v.Verify(join(a, b), holder(w.bob.did), now.Add(at))
		wantCode(t, at.String(), err, want)
	}
	// An expired parent with a leaf that says it is valid.
	short := w.terms(w.alice.did, "tool:fs")
	short.Life = 10 * time.Second
	p := w.issue(w.org.signer(), short)
	h, payload := parts(b)
	leaf := forge(w.alice.control.Ed25519(), h, replace(payload, tokenID(a).String(), tokenID(p).String()))
	_, err := w.v.Verify(join(p, leaf), holder(w.bob.did), now.Add(20*time.Second))
	wantCode(t, "expired parent", err, contracts.Expired)
}

// Row 31 of the acceptance table; CAP-12: a token is no secret and proves nothing.
func TestRow31_Holder(t *testing.T) {
	w := newWorld()
	token := []byte(w.chain(1)[0])
	for name, h := range map[string]capability.Holder{"nobody": {}, "bob": holder(w.bob.did), "its issuer": holder(w.org.did)} {
		_, err := w.v.Verify(token, h, now)
		wantCode(t, name, err, contracts.HolderMismatch)
	}
	_, err := capability.NewHolder(w.alice.did, 0)
	wantCode(t, "no proof", err, contracts.HolderMismatch)
	// A condition on the proof: relayed calls need an invocation that was signed.
	tm := w.terms(w.alice.did, "tool:fs")
	tm.Constraints = []contracts.Constraint{{Op: "proof", Strs: []string{"signed"}}}
	g := must(w.v.Verify([]byte(w.issue(w.org.signer(), tm)), holder(w.alice.did), now))
	for p, want := range map[capability.Proof]contracts.Code{capability.Channel: contracts.ConstraintViolation, capability.SessionMAC: contracts.ConstraintViolation, capability.Signed: ""} {
		h := must(capability.NewHolder(w.alice.did, p))
		if h.DID() != w.alice.did || h.Proof() != p {
			t.Errorf("%v", h)
		}
		wantCode(t, p.String(), g.Decide(&h, call(capability.Tool, "fs", "read"), now).Err(), want)
	}
}

// CAP-13: the code is that of the first check in the fixed order, whatever else is
// wrong: each row breaks its own check and all later ones.
func TestOrderOfChecks(t *testing.T) {
	w := newWorld()
	c := w.chain(2)
	h, p := parts(c[1])
	all := []struct {
		step capability.Step
		edit func(h, p string) (string, string)
		want contracts.Code
	}{
		{capability.StepAudience, inPayload(`"aud":"`+string(w.exec.did), `"aud":"`+string(w.carol.did)), contracts.DelegationInvalid},
		{capability.StepChain, inPayload(`"tool:fs/method:read"`, `"tool:*"`), contracts.DelegationInvalid},
		{capability.StepIssuer, inPayload(`"ksn":0`, `"ksn":9`), contracts.IssuerUnresolved},
		{capability.StepTimes, func(h, p string) (string, string) {
			return h, replace(replace(replace(p, fmt.Sprint(`"nbf":`, now.Unix()), fmt.Sprint(`"nbf":`, now.Unix()-90)), fmt.Sprint(`"iat":`, now.Unix()), fmt.Sprint(`"iat":`, now.Unix()-90)), fmt.Sprint(`"exp":`, now.Unix()+3600), fmt.Sprint(`"exp":`, now.Unix()-1))
		}, contracts.Expired},
		{capability.StepCanonical, inPayload(`"dlg":2`, `"dlg":2.0`), contracts.Malformed},
		{capability.StepHeader, inHeader(`"alg":"EdDSA"`, `"alg":"none"`), contracts.Malformed},
		{capability.StepVersion, inPayload(`talos-cap/1`, `talos-cap/9`), contracts.UnsupportedVersion},
	}
	wrong := capability.Holder{}
	for _, e := range all {
		h, p = e.edit(h, p)
		_, err := w.v.Verify(join(c[0], forge(w.alice.control.Ed25519(), h, p)), wrong, now)
		wantCode(t, e.step.String(), err, e.want)
	}
	_, err := w.v.Verify(append(join(c[0], forge(w.alice.control.Ed25519(), h, p)), '='), wrong, now)
	wantCode(t, "form", err, contracts.Malformed)
	_, err = w.v.Verify([]byte(strings.Repeat("=", 16<<10+1)), wrong, now)
	wantCode(t, "size", err, contracts.TooLarge)
}

// CAP-8 as a property: whatever chain Delegate makes allows nothing that a shorter one
// does not; what it refuses to make, a verifier refuses.
func TestDelegationNeverWidens(t *testing.T) {
	w := newWorld()
	chainOf := []*agent{w.org, w.alice, w.bob, w.carol, w.exec}
	w.v.Roots[w.org.did] = []capability.Kind{capability.Tool, capability.Agent, capability.Model, capability.Topic, capability.Node}
	_, calls := universe()
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 3).Draw(t, "links")
		var tokens []string
		var last *capability.Grant
		for i := range n {
			tm := w.terms(chainOf[i+1].did, rapid.SliceOfN(genScope, 1, 3).Draw(t, "scopes")...)
			tm.Delegations = rapid.IntRange(0, 3).Draw(t, "dlg")
			tm.Fresh = time.Duration(rapid.IntRange(0, 600).Draw(t, "rfs")) * time.Second
			if rapid.Bool().Draw(t, "ro") {
				tm.Constraints = []contracts.Constraint{{Op: "ro"}}
			}
			var text string
			var err error
			if i == 0 {
				text, err = capability.Issue(chainOf[0].signer(), tm, w.rnd, now)
			} else {
				text, err = capability.Delegate(chainOf[i].signer(), must(capability.ParseToken([]byte(tokens[i-1]))), tm, w.rnd, now)
			}
			if contracts.CodeOf(err) == contracts.DelegationInvalid {
				_, verr := w.v.Verify(join(append(slices.Clone(tokens), text)...), holder(chainOf[i+1].did), now)
				if contracts.CodeOf(verr) != contracts.DelegationInvalid {
					t.Fatalf("Delegate refuses (%v), Verify says %v", err, verr)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			tokens = append(tokens, text)
			g, err := w.v.Verify(join(tokens...), holder(chainOf[i+1].did), now)
			if err != nil {
				t.Fatal(err)
			}
			h := holder(chainOf[i+1].did)
			for _, c := range calls {
				c.Access = capability.Access(1 + i%2)
				if last == nil || !g.Decide(&h, c, now).Allowed() {
					continue
				}
				before := holder(identity.DID(last.Subject()))
				if d := last.Decide(&before, c, now); !d.Allowed() {
					t.Fatalf("%s is allowed by %v and not by %v", c, g.Scopes(), last.Scopes())
				}
			}
			last = g
		}
	})
}
