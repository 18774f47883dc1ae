package capability_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
	"github.com/talosprotocol/talos/identity/capability"
)

// grantOf compiles a binding of alice's with conditions.
func (w *world) grantOf(cst ...contracts.Constraint) *capability.Grant {
	return must(capability.NewGrant(capability.Binding{
		ID: "rbac:test", Subject: w.alice.did, Scopes: []string{"tool:fs"}, Constraints: cst, From: now, Until: now.Add(time.Hour),
	}))
}

// Row 35 of the acceptance table; CAP-14: what is missing, renamed, of another type or
// written twice does not hold.
func TestRow35_Arguments(t *testing.T) {
	w := newWorld()
	h := holder(w.alice.did)
	eq := contracts.Constraint{Op: "eq", Arg: "/path", Strs: []string{"a"}}
	limit := contracts.Constraint{Op: "range", Arg: "/limit", Min: ptr(int64(1)), Max: ptr(int64(10))}
	glob := contracts.Constraint{Op: "glob", Arg: "/path", Strs: []string{"/data/**", "notes/*", "exact/file"}}
	for _, e := range []struct {
		c    contracts.Constraint
		args string
		want bool
	}{
		{eq, `{"path":"a"}`, true}, {eq, `{"path":"b"}`, false}, {eq, `{}`, false}, {eq, `{"file":"a"}`, false}, {eq, `{"Path":"a"}`, false}, {eq, `{"path":["a"]}`, false},
		{eq, `{"path":{"path":"a"}}`, false}, {eq, `{"path":null}`, false}, {eq, `{"path":true}`, false}, {eq, `{"path":"\u0061"}`, true}, {eq, `{"path":"a\u0000"}`, false}, {eq, `{"path":"а"}`, false},
		{limit, `{"limit":1}`, true}, {limit, `{"limit":10}`, true}, {limit, `{"limit":11}`, false}, {limit, `{"limit":0}`, false}, {limit, `{"limit":"5"}`, false}, {limit, `{"limit":5.0}`, false},
		{limit, `{"limit":5e0}`, false}, {limit, `{"limit":9007199254740993}`, false}, {limit, `{"limit":[5]}`, false}, {limit, `{"limit":1E400}`, false},
		{glob, `{"path":"/data/x/y"}`, true}, {glob, `{"path":"/data"}`, true}, {glob, `{"path":"/database"}`, false}, {glob, `{"path":"data/x"}`, false}, {glob, `{"path":"/data/../etc/passwd"}`, false},
		{glob, `{"path":"/data/./x"}`, false}, {glob, `{"path":"/data//x"}`, false}, {glob, `{"path":"/data/"}`, false}, {glob, `{"path":"/data/%2e%2e/etc"}`, false}, {glob, `{"path":"/data\\..\\x"}`, false},
		{glob, `{"path":"//data/x"}`, false}, {glob, `{"path":"/data/a\u0000b"}`, false}, {glob, `{"path":"notes/a"}`, true}, {glob, `{"path":"notes/a/b"}`, false}, {glob, `{"path":"notes"}`, false},
		{glob, `{"path":"exact/file"}`, true}, {glob, `{"path":"exact/file/x"}`, false}, {glob, `{"path":""}`, false}, {glob, `{"path":"/"}`, false}, {glob, `{"path":"/data/100%"}`, true},
		{contracts.Constraint{Op: "prefix", Arg: "/q", Strs: []string{"select ", "show"}}, `{"q":"select 1"}`, true},
		{contracts.Constraint{Op: "prefix", Arg: "/q", Strs: []string{"select ", "show"}}, `{"q":"show"}`, true},
		{contracts.Constraint{Op: "prefix", Arg: "/q", Strs: []string{"select "}}, `{"q":"Select 1"}`, false},
		{contracts.Constraint{Op: "in", Arg: "/m", Strs: []string{"a", "b"}}, `{"m":"b"}`, true},
		{contracts.Constraint{Op: "in", Arg: "/m", Strs: []string{"a", "b"}}, `{"m":"ab"}`, false},
		{contracts.Constraint{Op: "in", Arg: "/m", Ints: []int64{1, -2}}, `{"m":-2}`, true},
		{contracts.Constraint{Op: "in", Arg: "/m", Ints: []int64{1, -2}}, `{"m":2}`, false},
		{contracts.Constraint{Op: "eq", Arg: "/m", Ints: []int64{0}}, `{"m":-0}`, false},
		{contracts.Constraint{Op: "eq", Arg: "/m", Ints: []int64{0}}, `{"m":false}`, false},
		{contracts.Constraint{Op: "eq", Arg: "/m", Strs: []string{""}}, `{"m":""}`, true},
		{contracts.Constraint{Op: "eq", Arg: "/b", Bool: ptr(false)}, `{"b":false}`, true},
		{contracts.Constraint{Op: "eq", Arg: "/b", Bool: ptr(false)}, `{"b":0}`, false},
		{contracts.Constraint{Op: "eq", Arg: "/b", Bool: ptr(false)}, `{}`, false},
		{contracts.Constraint{Op: "eq", Arg: "/a/b/c/d", Ints: []int64{7}}, `{"a":{"b":{"c":{"d":7}}}}`, true},
		{contracts.Constraint{Op: "eq", Arg: "/a/1", Ints: []int64{7}}, `{"a":[6,7]}`, true},
		{contracts.Constraint{Op: "eq", Arg: "/a~1b~0", Ints: []int64{7}}, `{"a/b~":7}`, true},
		{contracts.Constraint{Op: "eq", Arg: "/k7", Ints: []int64{7}}, `{"k0":0,"k1":1,"k2":2,"k3":3,"k4":4,"k5":5,"k6":6,"k7":7,"k8":8,"k9":9}`, true},
		{contracts.Constraint{Op: "eq", Arg: "/k99", Ints: []int64{7}}, `{"k0":0,"k1":1,"k2":2,"k3":3,"k4":4,"k5":5,"k6":6,"k7":7,"k8":8,"k9":9}`, false},
	} {
		c := call(capability.Tool, "fs", "read")
		c.Args = args(e.args)
		d := w.grantOf(e.c).Decide(&h, c, now)
		if d.Allowed() != e.want || !e.want && d.Code != contracts.ConstraintViolation {
			t.Errorf("%s of %s: %v, want %v", e.c.AppendCanonical(nil), e.args, d.Err(), e.want)
		}
	}
	for _, bad := range []string{`{"path":"a","path":"b"}`, `{"path":"a","p\u0061th":"b"}`, `[]`, `"a"`, ``, `{`, `{"a":1}{}`, "{\"a\":\"\xff\"}", `{"a":"\ud800"}`, strings.Repeat(`{"a":`, 40) + "1" + strings.Repeat("}", 40), `{"a":"` + strings.Repeat("a", 1<<20) + `"}`} {
		_, err := capability.ParseArgs([]byte(bad))
		wantCode(t, fmt.Sprintf("%.40s", bad), err, contracts.ConstraintViolation)
	}
	c := call(capability.Tool, "fs", "read")
	if w.grantOf(eq).Decide(&h, c, now).Allowed() {
		t.Error("no arguments are no violation")
	}
}

// Row 36 of the acceptance table; CAP-14: what a verifier does not understand denies;
// what an issuer does not understand it does not sign.
func TestRow36_UnknownConditions(t *testing.T) {
	w := newWorld()
	for name, cst := range map[string]string{
		"unknown op": `{"op":"moon_phase"}`, "op in capitals": `{"op":"RO"}`, "operand missing": `{"arg":"/a","op":"eq"}`, "operand too many": `{"n":1,"op":"ro"}`, "two kinds of values": `{"arg":"/a","ints":[1],"op":"in","strs":["a"]}`,
		"eq of two": `{"arg":"/a","op":"eq","strs":["a","b"]}`, "empty range": `{"arg":"/a","max":1,"min":2,"op":"range"}`, "no bounds": `{"arg":"/a","op":"range"}`, "pointer": `{"arg":"ab","op":"eq","strs":["a"]}`, "deep": `{"arg":"/a/b/c/d/e","op":"eq","strs":["a"]}`,
		"tilde": `{"arg":"/a~2","op":"eq","strs":["a"]}`, "glob that climbs": `{"arg":"/a","op":"glob","strs":["../x"]}`, "glob in the middle": `{"arg":"/a","op":"glob","strs":["a/*/b"]}`, "peers": `{"op":"peers","strs":["bob"]}`, "proof": `{"op":"proof","strs":["word"]}`, "rate of none": `{"n":0,"op":"rate","per":1}`, "in of bool": `{"arg":"/a","bool":true,"op":"in"}`,
	} {
		h, p := parts(w.chain(1)[0])
		token := forge(w.org.control.Ed25519(), h, replace(p, `"cst":[]`, `"cst":[`+cst+`]`))
		alice := holder(w.alice.did)
		g, err := w.v.Verify([]byte(token), alice, now)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		c := call(capability.Tool, "fs", "read")
		c.Args = args(`{"a":"a"}`)
		wantCode(t, name, g.Decide(&alice, c, now).Err(), contracts.ConstraintViolation)
		var known contracts.Constraint
		if err := json.Unmarshal([]byte(cst), &known); err != nil {
			t.Fatal(err)
		}
		tm := w.terms(w.alice.did, "tool:fs")
		tm.Constraints = []contracts.Constraint{known}
		_, err = capability.Issue(w.org.signer(), tm, w.rnd, now)
		wantCode(t, name+", issued", err, contracts.Malformed)
		_, err = capability.NewGrant(capability.Binding{ID: "x", Subject: w.alice.did, Scopes: tm.Scopes, Constraints: tm.Constraints, From: now, Until: now.Add(1)})
		wantCode(t, name+", bound", err, contracts.Malformed)
	}
	h, p := parts(w.chain(1)[0])
	for name, cst := range map[string]string{"unknown member": `{"op":"ro","x":1}`, "not sorted": `{"op":"ro"},{"op":"peers","strs":["a"]},{"op":"after","n":1}`, "twice": `{"op":"ro"},{"op":"ro"}`} {
		_, err := w.v.Verify([]byte(forge(w.org.control.Ed25519(), h, replace(p, `"cst":[]`, `"cst":[`+cst+`]`))), holder(w.alice.did), now)
		wantCode(t, name, err, contracts.Malformed)
	}
}

// Row 37 of the acceptance table: read-only is what the executor's registry says, not
// what a name sounds like. And the other conditions of the call itself.
func TestRow37_ConditionsOfTheCall(t *testing.T) {
	w := newWorld()
	h := holder(w.alice.did)
	who := func(d identity.DID) capability.Principal { return must(capability.NewPrincipal(d)) }
	ro := w.grantOf(contracts.Constraint{Op: "ro"})
	for a, want := range map[capability.Access]bool{0: false, capability.Read: true, capability.Write: false, capability.Destructive: false} {
		if ro.Decide(&h, callOf(capability.Tool, a, "fs", "read_file"), now).Allowed() != want {
			t.Errorf("access %d", a)
		}
	}
	peers := w.grantOf(contracts.Constraint{Op: "peers", Strs: []string{string(w.alice.did), string(w.bob.did)}}, contracts.Constraint{Op: "gateways", Strs: []string{string(w.exec.did)}})
	for name, e := range map[string]struct {
		peer, gateway capability.Principal
		want          bool
	}{
		"both": {who(w.bob.did), who(w.exec.did), true}, "no peer": {capability.Principal{}, who(w.exec.did), false},
		"another peer": {who(w.carol.did), who(w.exec.did), false}, "another gateway": {who(w.alice.did), who(w.bob.did), false}, "no gateway": {who(w.alice.did), capability.Principal{}, false},
	} {
		c := call(capability.Tool, "fs", "read")
		c.Peer, c.Gateway = e.peer, e.gateway
		if peers.Decide(&h, c, now).Allowed() != e.want {
			t.Error(name)
		}
	}
	after := w.grantOf(contracts.Constraint{Op: "after", N: ptr(now.Unix() + 10)})
	for at, want := range map[int]bool{0: false, 9: false, 10: true} {
		if after.Decide(&h, call(capability.Tool, "fs", "read"), now.Add(time.Duration(at)*time.Second)).Allowed() != want {
			t.Errorf("after %d s", at)
		}
	}
	if who(w.alice.did).DID() != w.alice.did || (capability.Principal{}).DID() != "" {
		t.Error("principals")
	}
	for s, want := range map[string]capability.Access{"read": capability.Read, "write": capability.Write, "destructive": capability.Destructive} {
		if must(capability.ParseAccess(s)) != want {
			t.Error(s)
		}
	}
}

// naive decides in the plainest way that one can write, on the texts themselves.
func naive(scopes []string, cst []contracts.Constraint, kind, name, method string, path []string, access string, values map[string]any) bool {
	covered := false
	for _, s := range scopes {
		head, res, hasRes := strings.Cut(s, "/resource:")
		head, m, hasM := strings.Cut(head, "/method:")
		k, n, _ := strings.Cut(head, ":")
		ok := k == kind && (n == "*" || n == name)
		if hasM {
			ok = ok && method != "" && (m == "*" || m == method)
		}
		if hasRes {
			ok = ok && naivePath(strings.Split(res, "/"), path)
		}
		covered = covered || ok
	}
	for _, c := range cst {
		if !naiveHolds(c, access, values[strings.TrimPrefix(c.Arg, "/")]) {
			return false
		}
	}
	return covered
}

func naivePath(pattern, path []string) bool {
	if len(path) == 0 {
		return false
	}
	for i, seg := range pattern {
		switch {
		case seg == "**":
			return true
		case i >= len(path):
			return false
		case seg != "*" && seg != path[i]:
			return false
		}
		if i+1 < len(pattern) && pattern[i+1] == "**" && i+1 == len(path) {
			return true
		}
	}
	return len(pattern) == len(path)
}

func naiveHolds(c contracts.Constraint, access string, v any) bool {
	text, isText := v.(string)
	num, isNum := v.(int64)
	switch c.Op {
	case "ro":
		return access == "read"
	case "range":
		return isNum && (c.Min == nil || num >= *c.Min) && (c.Max == nil || num <= *c.Max)
	case "eq", "in":
		for _, s := range c.Strs {
			if isText && s == text {
				return true
			}
		}
		for _, n := range c.Ints {
			if isNum && n == num {
				return true
			}
		}
		b, isBool := v.(bool)
		return c.Bool != nil && isBool && b == *c.Bool
	case "prefix":
		for _, s := range c.Strs {
			if isText && strings.HasPrefix(text, s) {
				return true
			}
		}
	case "glob":
		for _, s := range c.Strs {
			if isText && strings.HasPrefix(s, "/") == strings.HasPrefix(text, "/") && naivePath(strings.Split(strings.TrimPrefix(s, "/"), "/"), strings.Split(strings.TrimPrefix(text, "/"), "/")) {
				return true
			}
		}
	}
	return false
}

// Row 53 of the acceptance table, the naive half: 10^6 random decisions; the half with
// Cedar is in the module compare.
func TestRow53_AgainstANaiveEvaluator(t *testing.T) {
	w := newWorld()
	h := holder(w.alice.did)
	r := rand.New(rand.NewPCG(3, 4))
	pick := func(s ...string) string { return s[r.IntN(len(s))] }
	all, _ := universe()
	rounds, yes := 20_000, 0
	if testing.Short() {
		rounds = 2_000
	}
	for range rounds {
		var texts []string
		for range 1 + r.IntN(4) {
			texts = append(texts, all[r.IntN(len(all))].String())
		}
		var cst []contracts.Constraint
		for _, c := range []contracts.Constraint{
			{Op: "ro"}, {Op: "range", Arg: "/n", Min: ptr(int64(r.IntN(4))), Max: ptr(int64(4 + r.IntN(4)))}, {Op: "in", Arg: "/s", Strs: []string{"a", "b/c"}}, {Op: "prefix", Arg: "/s", Strs: []string{"a", "/x"}},
			{Op: "glob", Arg: "/s", Strs: []string{"a/**", "/x/*", "b/c"}}, {Op: "eq", Arg: "/b", Bool: ptr(r.IntN(2) == 0)}, {Op: "eq", Arg: "/n", Ints: []int64{int64(r.IntN(8))}},
		} {
			if r.IntN(5) == 0 {
				cst = append(cst, c)
			}
		}
		g := must(capability.NewGrant(capability.Binding{ID: "x", Subject: w.alice.did, Scopes: texts, Constraints: cst, From: now, Until: now.Add(time.Hour)}))
		for range 50 {
			kind, name, method, access := pick("tool", "agent"), pick("a", "b", "c"), pick("", "x", "y", "z"), pick("read", "write", "destructive")
			var path []string
			for range r.IntN(4) {
				path = append(path, pick("p", "q", "r"))
			}
			if method == "" {
				path = nil
			}
			values, text := map[string]any{}, []string{}
			if r.IntN(4) > 0 {
				n := int64(r.IntN(9))
				values["n"], text = n, append(text, fmt.Sprintf(`"n":%d`, n))
			}
			if r.IntN(4) > 0 {
				s := pick("a", "b/c", "a/b", "a/b/c", "/x/y", "/x/y/z", "/x", "z")
				values["s"], text = s, append(text, fmt.Sprintf(`"s":%q`, s))
			}
			if r.IntN(4) > 0 {
				b := r.IntN(2) == 0
				values["b"], text = b, append(text, fmt.Sprintf(`"b":%v`, b))
			}
			c := must(capability.NewCall(must(capability.ParseKind(kind)), name, method, path, must(capability.ParseAccess(access))))
			c.Args = args("{" + strings.Join(text, ",") + "}")
			got, want := g.Decide(&h, &c, now).Allowed(), naive(texts, cst, kind, name, method, path, access, values)
			if got != want {
				t.Fatalf("%v %+v %s %s %v: %v, want %v", texts, cst, c.String(), access, values, got, want)
			}
			if got {
				yes++
			}
		}
	}
	t.Logf("%d decisions, %d allowed", rounds*50, yes)
	if yes < rounds/2 {
		t.Error("hardly anything is allowed: the test tells little")
	}
}

func FuzzArgs(f *testing.F) {
	for _, s := range []string{`{"a":1,"b":["x",true],"c":{"d":"/e"}}`, `{"a":1,"a":2}`, `{"a":1e9}`, `{}`, `[`} {
		f.Add([]byte(s))
	}
	w := newWorld()
	h := holder(w.alice.did)
	g := w.grantOf(contracts.Constraint{Op: "glob", Arg: "/a", Strs: []string{"/x/**", "y"}})
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := capability.ParseArgs(b)
		if err != nil {
			wantCode(t, "args", err, contracts.ConstraintViolation)
			return
		}
		var v map[string]any
		others := json.NewDecoder(bytes.NewReader(b))
		others.UseNumber() // 1e999 is a number of JSON, though of no machine
		if err := others.Decode(&v); err != nil {
			t.Errorf("%q is no object for others: %v", b, err)
		}
		c := call(capability.Tool, "fs", "read")
		c.Args = a
		s, _ := v["a"].(string)
		if got := g.Decide(&h, c, now).Allowed(); got && s != "y" && s != "/x" && !strings.HasPrefix(s, "/x/") || got && strings.Contains(s, "/..") {
			t.Errorf("%q is allowed", b)
		}
	})
}

// FuzzConstraint hunts for conditions that panic when they are compiled or checked.
func FuzzConstraint(f *testing.F) {
	f.Add([]byte(`{"arg":"/a","op":"eq","strs":["x"]}`), []byte(`{"a":"x"}`))
	f.Add([]byte(`{"arg":"/a","max":3,"min":1,"op":"range"}`), []byte(`{"a":2}`))
	f.Add([]byte(`{"arg":"/a","op":"glob","strs":["/data/**"]}`), []byte(`{"a":"/data/x"}`))
	f.Add([]byte(`{"n":1,"op":"rate","per":1}`), []byte(`{}`))
	w := newWorld()
	h := holder(w.alice.did)
	f.Fuzz(func(t *testing.T, cst, arguments []byte) {
		var c contracts.Constraint
		if json.Unmarshal(cst, &c) != nil {
			return
		}
		g, err := capability.NewGrant(capability.Binding{ID: "x", Subject: w.alice.did, Scopes: []string{"tool:fs"}, Constraints: []contracts.Constraint{c}, From: now, Until: now.Add(time.Hour)})
		if err != nil {
			return
		}
		k := call(capability.Tool, "fs", "read")
		k.Args, _ = capability.ParseArgs(arguments)
		d := g.Decide(&h, k, now)
		if d.Code != "" && d.Code != contracts.ConstraintViolation {
			t.Errorf("%v", d.Err())
		}
	})
}
