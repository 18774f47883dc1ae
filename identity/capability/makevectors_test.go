package capability_test

import (
	"encoding/base64"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
	"github.com/talosprotocol/talos/identity/capability"
)

// makeVectors makes the scenarios from the fixed keys and times of the tests.
func makeVectors() (vectorWorld, []vector) {
	w := newWorld()
	rotated, voided, ended := newAgent("rotated"), newAgent("voided"), newAgent("ended")
	old := map[*agent]capability.Signer{rotated: rotated.signer(), voided: voided.signer(), ended: ended.signer()}
	rotated.rotate(false, now.Add(time.Second))
	voided.rotate(true, now.Add(time.Second))
	ended.end(now.Add(time.Second))
	vw := vectorWorld{Name: "world", Must: []string{"CAP-11"}, Time: now.Unix(), Executor: w.exec.did, Roots: map[string][]string{
		string(w.org.did): {"tool", "model", "agent"}, string(rotated.did): {"tool"}, string(voided.did): {"tool"}, string(ended.did): {"tool"},
	}}
	for _, a := range []*agent{w.exec, w.org, w.alice, w.bob, w.carol, rotated, voided, ended} {
		s := a.state()
		w.issuers[a.did] = must(capability.NewIssuer(s))
		vw.States = append(vw.States, base64.RawURLEncoding.EncodeToString(s.Raw))
	}
	m := &maker{w: w}
	m.scopes()
	m.tokens()
	m.chains()
	for _, e := range []struct {
		name string
		by   *agent
		s    capability.Signer
		at   time.Duration
		want string
	}{
		{"key made before its rotation", rotated, old[rotated], 0, "ok"}, {"key made after its rotation", rotated, old[rotated], time.Second, "KEY_STATE_VOID"},
		{"key that is new", rotated, rotated.signer(), time.Second, "ok"}, {"key that was voided", voided, old[voided], 0, "KEY_STATE_VOID"}, {"key of an ended DID", ended, old[ended], 0, "DEACTIVATED"},
	} {
		token := must(capability.Issue(e.s, w.terms(w.alice.did, "tool:fs"), w.rnd, now.Add(e.at)))
		m.chain(e.name, e.want, w.alice.did, []string{token}, "CAP-7")
		m.last().After = 2
	}
	m.revocations()
	m.decisions()
	return vw, m.out
}

func (a *agent) state() *identity.State {
	n := identity.NewState{KeyLog: a.log, Seq: 1, Now: now, Valid: 48 * time.Hour, TTL: time.Hour}
	if a.log[len(a.log)-1].Event.T != "end" {
		n.Doc = identity.NewDocument(a.did, []identity.ControlPublic{a.control.Public()}, a.hot, 0, nil)
	}
	return must(identity.SignState(n, a.control))
}

type maker struct {
	w   *world
	out []vector
}

func (m *maker) last() *vector { return &m.out[len(m.out)-1] }

func (m *maker) chain(name, want string, sub identity.DID, tokens []string, musts ...string) {
	v := vector{Name: name, Must: musts, Kind: "chain", Expect: want, Input: strings.Join(tokens, "~"), Holder: sub, Proof: "channel"}
	if want == "ok" {
		v.ID = tokenID(tokens[len(tokens)-1]).String()
	}
	m.out = append(m.out, v)
}

func (m *maker) scopes() {
	table := func(name, expect string, texts []string, musts ...string) {
		v := vector{Name: name, Must: musts, Kind: "scopes", Expect: "ok"}
		for _, s := range texts {
			v.Cases = append(v.Cases, vectorCase{Children: []string{s}, Expect: expect})
		}
		m.out = append(m.out, v)
	}
	all, _ := universe()
	var valid []string
	for i := 0; i < len(all); i += 7 {
		valid = append(valid, all[i].String())
	}
	table("scopes", "ok", append(valid, "model:anthropic%2Fclaude", "tool:%C3%A4", "tool:%2A", "topic:a.b_c~d-e", "node:*/method:read/resource:**"), "SCO-1", "SCO-2")
	table("scopes, refused", "MALFORMED", []string{
		"", "tool", "tool:", "file:x", "TOOL:fs", "tool:fs/", "tool:fs/method:*", "tool:fs/resource:x", "tool:fs/method:read/resource:", "tool:f\u0455", "tool:e\u0301", "tool:%66s", "tool:%2f", "tool:a%00", "tool:%FF", "tool:a b",
		"tool:fs*", "tool:**", "tool:fs/method:read/resource:..", "tool:fs/method:read/resource:a/./b", "tool:fs/method:read/resource:a//b", "tool:fs/method:read/resource:/a", "tool:fs/method:read/resource:a/", "tool:fs/method:read/resource:a%2Fb",
		"tool:fs/method:read/resource:a%5Cb", "tool:fs/method:read/resource:%2e%2e", "tool:fs/method:read/resource:*/a", "tool:fs/method:read/resource:**/a", "tool:fs/method:read/resource:a*", "tool:fs/method:read/resource:" + strings.Repeat("a/", 16) + "a",
	}, "SCO-1", "SCO-2", "SCO-3")
	pairs := vector{Name: "containment", Must: []string{"SCO-5"}, Kind: "scopes", Expect: "ok"}
	for i := 0; i < len(all); i += 5 {
		for j := 0; j < len(all); j += 9 {
			if yes := all[i].Contains(all[j]); yes && i != j || (i*31+j)%40 == 0 {
				pairs.Cases = append(pairs.Cases, vectorCase{Parents: []string{all[i].String()}, Children: []string{all[j].String()}, Contains: yes, Expect: "ok"})
			}
		}
	}
	m.out = append(m.out, pairs, vector{Name: "containment of sets", Must: []string{"SCO-6"}, Kind: "scopes", Expect: "ok", Cases: []vectorCase{
		{Parents: []string{"tool:a", "tool:b"}, Children: []string{"tool:a/method:x", "tool:b/method:y"}, Contains: true, Expect: "ok"},
		{Parents: []string{"tool:a", "tool:b"}, Children: []string{"tool:*"}, Contains: false, Expect: "ok"},
		{Parents: []string{"tool:a/method:x/resource:p", "tool:a/method:x/resource:p/**"}, Children: []string{"tool:a/method:x/resource:p/q/r"}, Contains: true, Expect: "ok"},
		{Parents: []string{"tool:a/method:x/resource:p", "tool:a/method:x/resource:p/*"}, Children: []string{"tool:a/method:x/resource:p/**"}, Contains: false, Expect: "ok"},
		{Parents: []string{"tool:a/method:x/resource:**"}, Children: []string{"tool:a/method:x"}, Contains: false, Expect: "ok"},
	}})
}

func (m *maker) tokens() {
	w := m.w
	good := w.chain(1)[0]
	header, payload := parts(good)
	m.chain("token", "ok", w.alice.did, []string{good}, "CAP-1", "CAP-2", "CAP-5")
	for _, e := range mutations(w) {
		h, p := e.edit(header, payload)
		m.chain("token with "+e.name, string(e.want), w.alice.did, []string{forge(w.org.control.Ed25519(), h, p)}, "CAP-1", "CAP-2", "CAP-13")
	}
	bad := unsigned(good)
	for _, name := range slices.Sorted(maps.Keys(bad)) {
		_, err := w.v.Verify([]byte(bad[name]), holder(w.alice.did), now)
		m.chain("text with "+name, string(contracts.CodeOf(err)), w.alice.did, []string{bad[name]}, "CAP-1")
	}
	m.chain("token of a stranger as root", "ISSUER_UNRESOLVED", w.bob.did, []string{w.issue(w.alice.signer(), w.terms(w.bob.did, "tool:fs"))}, "CAP-11")
	m.chain("token of a root for another kind", "ISSUER_UNRESOLVED", w.bob.did, []string{w.issue(w.org.signer(), w.terms(w.bob.did, "node:keys"))}, "CAP-11")
	m.chain("token of the executor", "ok", w.bob.did, []string{w.issue(w.exec.signer(), w.terms(w.bob.did, "node:keys"))}, "CAP-11")
	m.chain("token held by another", "HOLDER_MISMATCH", w.bob.did, []string{good}, "CAP-12")
	m.chain("token held by nobody", "HOLDER_MISMATCH", w.alice.did, []string{good}, "CAP-12")
	m.last().Proof = ""
	for _, e := range []struct {
		after int64
		want  string
	}{{-61, "NOT_YET_VALID"}, {-60, "ok"}, {300, "ok"}, {301, "REVOCATION_STALE"}, {3599, "REVOCATION_STALE"}, {3600, "EXPIRED"}} {
		m.chain(fmt.Sprintf("token at %d s", e.after), e.want, w.alice.did, []string{good}, "CAP-3", "REV-7")
		m.last().After = e.after
	}
}

func (m *maker) chains() {
	w := m.w
	c := w.chain(4)
	subs := []identity.DID{w.alice.did, w.bob.did, w.carol.did, w.exec.did}
	for n := 2; n <= 4; n++ {
		m.chain(fmt.Sprintf("chain of %d", n), "ok", subs[n-1], c[:n], "CAP-8", "CAP-9")
	}
	exp, nbf := fmt.Sprint(`"exp":`, now.Unix()+3600), fmt.Sprint(`"nbf":`, now.Unix())
	second := func(edits ...string) []string { return []string{c[0], resign(w.alice, c[1], edits...)} }
	scope := `"tool:fs/method:read"`
	for _, e := range []struct {
		name   string
		tokens []string
		want   string
		sub    identity.DID
	}{
		{"wider scope", second(scope, `"tool:*"`), "DELEGATION_INVALID", w.bob.did},
		{"another scope", second(scope, `"tool:git"`), "DELEGATION_INVALID", w.bob.did},
		{"later end", second(exp, fmt.Sprint(`"exp":`, now.Unix()+3601)), "DELEGATION_INVALID", w.bob.did},
		{"earlier begin", second(nbf, fmt.Sprint(`"nbf":`, now.Unix()-1)), "DELEGATION_INVALID", w.bob.did},
		{"dlg that does not fall", second(`"dlg":2`, `"dlg":3`), "DELEGATION_INVALID", w.bob.did},
		{"larger rfs", second(`"rfs":300`, `"rfs":301`), "DELEGATION_INVALID", w.bob.did},
		{"another executor", second(`"aud":"`+string(w.exec.did), `"aud":"`+string(w.carol.did)), "DELEGATION_INVALID", w.bob.did},
		{"another parent", second(tokenID(c[0]).String(), tokenID(c[1]).String()), "DELEGATION_INVALID", w.bob.did},
		{"no parent", second(`"prf":"`+tokenID(c[0]).String()+`",`, ""), "DELEGATION_INVALID", w.bob.did},
		{"its root as subject", second(`"sub":"`+string(w.bob.did), `"sub":"`+string(w.org.did)), "DELEGATION_INVALID", w.org.did},
		{"a gap", []string{c[0], c[2]}, "DELEGATION_INVALID", w.carol.did},
		{"a token twice", []string{c[0], c[0]}, "DELEGATION_INVALID", w.alice.did},
		{"five tokens", append(slices.Clone(c), c[3]), "DELEGATION_INVALID", w.exec.did},
		{"a link signed by a third", []string{c[0], resign(w.carol, c[1])}, "SIGNATURE_INVALID", w.bob.did},
		{"the holder of its first token", c[:2], "HOLDER_MISMATCH", w.alice.did},
	} {
		m.chain("chain with "+e.name, e.want, e.sub, e.tokens, "CAP-8", "CAP-9", "CAP-13")
	}
	m.chain("chain reversed", "ISSUER_UNRESOLVED", w.alice.did, []string{c[1], c[0]}, "CAP-11", "CAP-13")
	m.chain("chain without its root", "ISSUER_UNRESOLVED", w.bob.did, []string{c[1]}, "CAP-11", "CAP-13")
}

func (m *maker) revocations() {
	w := m.w
	c := w.chain(2)
	with := func(name, want string, by *agent, target capability.Target, musts ...string) {
		a := *by
		a.tip = capability.Tip{}
		r := w.revoke(&a, by.signer(), target, now)
		m.out = append(m.out, vector{Name: "record " + name, Must: []string{"REV-10"}, Kind: "record", Expect: "ok", Input: string(r.Raw), ID: r.ID.String()})
		m.chain("chain revoked "+name, want, w.bob.did, c, musts...)
		m.last().Records = []string{string(r.Raw)}
	}
	jti := must(capability.ParseToken([]byte(c[1]))).Jti
	with("by its issuer", "REVOKED", w.alice, capability.Target{Token: tokenID(c[1])}, "REV-1")
	with("by its root", "REVOKED", w.org, capability.Target{Token: tokenID(c[1])}, "REV-1")
	with("with its parent", "REVOKED", w.org, capability.Target{Token: tokenID(c[0])}, "REV-2")
	with("by its subject", "REVOKED", w.bob, capability.Target{Token: tokenID(c[1])}, "REV-1")
	with("by jti", "REVOKED", w.alice, capability.Target{JTI: jti}, "REV-1")
	with("by key event", "REVOKED", w.alice, capability.Target{Below: 1}, "REV-1")
	with("by subject", "REVOKED", w.org, capability.Target{Subject: w.alice.did}, "REV-1")
	with("by a stranger", "ok", w.carol, capability.Target{Token: tokenID(c[1])}, "REV-1")
	with("above by a delegate", "ok", w.bob, capability.Target{Token: tokenID(c[0])}, "REV-1")
	m.chain("chain with heads", "ok", w.bob.did, c, "REV-7")
	m.last().Heads, m.last().After = []string{must(capability.SignHead(w.org.signer(), capability.Tip{}, now.Add(200*time.Second))), must(capability.SignHead(w.alice.signer(), capability.Tip{}, now.Add(200*time.Second)))}, 500
	m.chain("chain with one head", "REVOCATION_STALE", w.bob.did, c, "REV-7")
	m.last().Heads, m.last().After = []string{must(capability.SignHead(w.org.signer(), capability.Tip{}, now.Add(200*time.Second)))}, 500
	fork := *w.org
	fork.tip = capability.Tip{}
	a := w.revoke(&fork, w.org.signer(), capability.Target{Token: capability.TokenID{1}}, now)
	fork.tip = capability.Tip{}
	b := w.revoke(&fork, w.org.signer(), capability.Target{Token: capability.TokenID{2}}, now)
	m.chain("chain with a log of two histories", "ISSUER_DUPLICITOUS", w.bob.did, c, "REV-5")
	m.last().Records = []string{string(a.Raw), string(b.Raw)}
	h, p := parts(string(a.Raw))
	for _, e := range []struct{ name, old, by, want string }{
		{"without a target", `"tid":"` + a.Tid + `",`, "", "MALFORMED"}, {"with another reason", "misuse", "because", "MALFORMED"}, {"of number 0", `"seq":1`, `"seq":0`, "MALFORMED"}, {"of version 2", "talos-rev/1", "talos-rev/2", "UNSUPPORTED_VERSION"},
		{"of another issuer", `"iss":"` + string(w.org.did), `"iss":"` + string(w.bob.did), "SIGNATURE_INVALID"}, {"of the future", fmt.Sprint(`"iat":`, a.Iat), fmt.Sprint(`"iat":`, a.Iat+61), "NOT_YET_VALID"}, {"with a space", `":`, `": `, "MALFORMED"},
	} {
		m.out = append(m.out, vector{Name: "record " + e.name, Must: []string{"REV-10"}, Kind: "record", Expect: e.want, Input: forge(w.org.control.Ed25519(), h, replace(p, e.old, e.by))})
	}
	head := must(capability.SignHead(w.org.signer(), capability.Tip{}, now))
	m.out = append(m.out, vector{Name: "head", Must: []string{"REV-10"}, Kind: "head", Expect: "ok", Input: head}, vector{Name: "head as a record", Must: []string{"REV-10"}, Kind: "record", Expect: "MALFORMED", Input: head})
}

func (m *maker) decisions() {
	w := m.w
	tm := w.terms(w.alice.did, "tool:fs/method:*/resource:data/**", "tool:search")
	tm.Constraints = []contracts.Constraint{
		{Op: "range", Arg: "/limit", Min: ptr(int64(1)), Max: ptr(int64(100))}, {Op: "glob", Arg: "/path", Strs: []string{"/data/**", "notes/*"}},
		{Op: "in", Arg: "/mode", Strs: []string{"bin", "text"}}, {Op: "ro"}, {Op: "gateways", Strs: []string{string(w.exec.did)}}, {Op: "proof", Strs: []string{"channel", "signed"}},
	}
	token := w.issue(w.org.signer(), tm)
	good := vectorCall{Kind: "tool", Name: "fs", Method: "read", Resource: []string{"data", "a"}, Access: "read", Args: `{"limit":10,"mode":"text","path":"/data/a"}`, Gateway: w.exec.did}
	for _, e := range []struct {
		name, want string
		edit       func(*vectorCall)
	}{
		{"allowed", "ok", func(*vectorCall) {}},
		{"allowed, the path itself", "ok", func(c *vectorCall) { c.Resource = []string{"data"} }},
		{"another tool", "SCOPE_MISMATCH", func(c *vectorCall) { c.Name = "git" }},
		{"another kind", "SCOPE_MISMATCH", func(c *vectorCall) { c.Kind = "agent" }},
		{"a name that is a scope", "SCOPE_MISMATCH", func(c *vectorCall) { c.Name = "search/method:x" }},
		{"no resource", "SCOPE_MISMATCH", func(c *vectorCall) { c.Resource = nil }},
		{"a resource beside", "SCOPE_MISMATCH", func(c *vectorCall) { c.Resource = []string{"database"} }},
		{"a resource that climbs", "MALFORMED", func(c *vectorCall) { c.Resource = []string{"data", "..", "etc"} }},
		{"a write", "CONSTRAINT_VIOLATION", func(c *vectorCall) { c.Access = "write" }},
		{"another gateway", "CONSTRAINT_VIOLATION", func(c *vectorCall) { c.Gateway = w.bob.did }},
		{"no gateway", "CONSTRAINT_VIOLATION", func(c *vectorCall) { c.Gateway = "" }},
		{"no arguments", "CONSTRAINT_VIOLATION", func(c *vectorCall) { c.Args = "" }},
		{"an argument renamed", "CONSTRAINT_VIOLATION", func(c *vectorCall) { c.Args = strings.Replace(c.Args, "limit", "Limit", 1) }},
		{"an argument twice", "CONSTRAINT_VIOLATION", func(c *vectorCall) { c.Args = strings.Replace(c.Args, `{"limit"`, `{"limit":1,"limit"`, 1) }},
		{"a number as a text", "CONSTRAINT_VIOLATION", func(c *vectorCall) { c.Args = strings.Replace(c.Args, "10", `"10"`, 1) }},
		{"a float", "CONSTRAINT_VIOLATION", func(c *vectorCall) { c.Args = strings.Replace(c.Args, "10", "10.0", 1) }},
		{"too much", "CONSTRAINT_VIOLATION", func(c *vectorCall) { c.Args = strings.Replace(c.Args, "10", "101", 1) }},
		{"a value that is not listed", "CONSTRAINT_VIOLATION", func(c *vectorCall) { c.Args = strings.Replace(c.Args, "text", "Text", 1) }},
		{"a path that climbs", "CONSTRAINT_VIOLATION", func(c *vectorCall) { c.Args = strings.Replace(c.Args, "/data/a", "/data/../etc", 1) }},
		{"a path with an escape", "CONSTRAINT_VIOLATION", func(c *vectorCall) { c.Args = strings.Replace(c.Args, "/data/a", "/data/%2e%2e/etc", 1) }},
		{"a relative path", "CONSTRAINT_VIOLATION", func(c *vectorCall) { c.Args = strings.Replace(c.Args, "/data/a", "data/a", 1) }},
		{"the other path", "ok", func(c *vectorCall) { c.Args = strings.Replace(c.Args, "/data/a", "notes/x", 1) }},
		{"one segment too many", "CONSTRAINT_VIOLATION", func(c *vectorCall) { c.Args = strings.Replace(c.Args, "/data/a", "notes/x/y", 1) }},
	} {
		c := good
		e.edit(&c)
		m.chain("decision, "+e.name, e.want, w.alice.did, []string{token}, "CAP-14", "SCO-4")
		m.last().Kind, m.last().Call, m.last().ID = "decision", &c, tokenID(token).String()
		if e.want == "ok" {
			m.last().Scope = "tool:fs/method:*/resource:data/**"
		}
	}
	m.chain("decision, the proof of a session", "CONSTRAINT_VIOLATION", w.alice.did, []string{token}, "CAP-12", "CAP-14")
	m.last().Kind, m.last().Call, m.last().ID, m.last().Proof = "decision", &good, tokenID(token).String(), "session"
	h, p := parts(w.chain(1)[0])
	unknown := forge(w.org.control.Ed25519(), h, replace(p, `"cst":[]`, `"cst":[{"op":"moon_phase"}]`))
	m.chain("decision, a condition nobody knows", "CONSTRAINT_VIOLATION", w.alice.did, []string{unknown}, "CAP-14")
	m.last().Kind, m.last().Call, m.last().ID = "decision", &good, tokenID(unknown).String()
}
