package compare_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/cedar-policy/cedar-go"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
	"github.com/talosprotocol/talos/identity/capability"
)

var now = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

const subject = identity.DID("did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK")

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func ptr[T any](v T) *T { return &v }

// cedarPath says in Cedar that a path matches a pattern: there * stands for any text,
// also with slashes.
func cedarPath(value, pattern string) string {
	base, last := "", pattern
	if i := strings.LastIndexByte(pattern, '/'); i >= 0 {
		base, last = pattern[:i], pattern[i+1:]
	}
	switch {
	case last == "**" && base == "":
		return "true"
	case last == "**":
		return fmt.Sprintf(`(%s == "%s" || %s like "%s/*")`, value, base, value, base)
	case last == "*" && base == "":
		return fmt.Sprintf(`!(%s like "*/*")`, value)
	case last == "*":
		return fmt.Sprintf(`(%s like "%s/*" && !(%s like "%s/*/*"))`, value, base, value, base)
	}
	return fmt.Sprintf(`%s == "%s"`, value, pattern)
}

func cedarScope(s string) string {
	head, res, hasRes := strings.Cut(s, "/resource:")
	head, m, hasM := strings.Cut(head, "/method:")
	k, n, _ := strings.Cut(head, ":")
	all := []string{`context.kind == "` + k + `"`}
	if n != "*" {
		all = append(all, `context.name == "`+n+`"`)
	}
	if hasM {
		all = append(all, "context has method")
		if m != "*" {
			all = append(all, `context.method == "`+m+`"`)
		}
	}
	if hasRes {
		all = append(all, "context has path", cedarPath("context.path", res))
	}
	return "(" + strings.Join(all, " && ") + ")"
}

func cedarConstraint(c contracts.Constraint) string {
	v := "context.args." + strings.TrimPrefix(c.Arg, "/")
	has := "context.args has " + strings.TrimPrefix(c.Arg, "/") + " && "
	var any []string
	switch c.Op {
	case "ro":
		return `context.access == "read"`
	case "range":
		return fmt.Sprintf("(%s%s >= %d && %s <= %d)", has, v, *c.Min, v, *c.Max)
	case "eq":
		if c.Bool != nil {
			return fmt.Sprintf("(%s%s == %v)", has, v, *c.Bool)
		}
		return fmt.Sprintf("(%s%s == %d)", has, v, c.Ints[0])
	case "in":
		return fmt.Sprintf(`(%s["%s"].contains(%s))`, has, strings.Join(c.Strs, `","`), v)
	case "prefix":
		for _, s := range c.Strs {
			any = append(any, fmt.Sprintf(`%s like "%s*"`, v, s))
		}
	case "glob":
		for _, s := range c.Strs {
			// A path from the root is a path below "": its first segment is empty.
			if !strings.HasPrefix(s, "/") {
				any = append(any, fmt.Sprintf(`(!(%s like "/*") && %s)`, v, cedarPath(v, s)))
				continue
			}
			any = append(any, cedarPath(v, s))
		}
	}
	return "(" + has + "(" + strings.Join(any, " || ") + "))"
}

func cedarPolicy(scopes []string, cst []contracts.Constraint) *cedar.PolicySet {
	var some, all []string
	for _, s := range scopes {
		some = append(some, cedarScope(s))
	}
	all = append(all, "("+strings.Join(some, " || ")+")")
	for _, c := range cst {
		all = append(all, cedarConstraint(c))
	}
	return must(cedar.NewPolicySetFromBytes("grant", []byte("permit (principal, action, resource) when { "+strings.Join(all, " && ")+" };")))
}

// request is one call in both languages.
type request struct {
	ours  *capability.Call
	cedar cedar.Request
}

var patterns = []string{"p", "q", "p/q", "q/p/p", "*", "**", "p/*", "q/*", "p/**", "p/q/**", "p/q/*"}

func randomScope(r *rand.Rand) string {
	pick := func(s ...string) string { return s[r.IntN(len(s))] }
	s := pick("tool", "agent") + ":" + pick("a", "b", "*")
	if r.IntN(3) == 0 {
		return s
	}
	m := pick("x", "y", "*")
	if m != "*" && r.IntN(2) == 0 {
		return s + "/method:" + m
	}
	return s + "/method:" + m + "/resource:" + pick(patterns...)
}

func randomConstraints(r *rand.Rand) (out []contracts.Constraint) {
	for _, c := range []contracts.Constraint{
		{Op: "ro"}, {Op: "range", Arg: "/n", Min: ptr(int64(r.IntN(4))), Max: ptr(int64(4 + r.IntN(4)))}, {Op: "in", Arg: "/s", Strs: []string{"a", "b/c"}}, {Op: "prefix", Arg: "/s", Strs: []string{"a", "/x"}},
		{Op: "glob", Arg: "/s", Strs: []string{"a/**", "/x/*", "b/c"}}, {Op: "eq", Arg: "/b", Bool: ptr(r.IntN(2) == 0)}, {Op: "eq", Arg: "/n", Ints: []int64{int64(r.IntN(8))}},
	} {
		if r.IntN(6) == 0 {
			out = append(out, c)
		}
	}
	return out
}

func randomRequest(r *rand.Rand) request {
	pick := func(s ...string) string { return s[r.IntN(len(s))] }
	kind, name, method, access := pick("tool", "agent"), pick("a", "b", "c"), pick("", "x", "y", "z"), pick("read", "write", "destructive")
	context := cedar.RecordMap{"kind": cedar.String(kind), "name": cedar.String(name), "access": cedar.String(access)}
	var path []string
	if method != "" {
		context["method"] = cedar.String(method)
		for range r.IntN(4) {
			path = append(path, pick("p", "q", "r"))
		}
		if len(path) > 0 {
			context["path"] = cedar.String(strings.Join(path, "/"))
		}
	}
	values, text := cedar.RecordMap{}, []string{}
	if r.IntN(4) > 0 {
		n := r.IntN(9)
		values["n"], text = cedar.Long(n), append(text, fmt.Sprintf(`"n":%d`, n))
	}
	if r.IntN(4) > 0 {
		s := pick("a", "b/c", "a/b", "a/b/c", "/x/y", "/x/y/z", "/x", "z")
		values["s"], text = cedar.String(s), append(text, fmt.Sprintf(`"s":%q`, s))
	}
	if r.IntN(4) > 0 {
		b := r.IntN(2) == 0
		values["b"], text = cedar.Boolean(b), append(text, fmt.Sprintf(`"b":%v`, b))
	}
	context["args"] = cedar.NewRecord(values)
	c := must(capability.NewCall(must(capability.ParseKind(kind)), name, method, path, must(capability.ParseAccess(access))))
	c.Args = must(capability.ParseArgs([]byte("{" + strings.Join(text, ",") + "}")))
	return request{&c, cedar.Request{
		Principal: cedar.NewEntityUID("DID", "alice"), Action: cedar.NewEntityUID("Action", "call"), Resource: cedar.NewEntityUID("Node", "self"), Context: cedar.NewRecord(context),
	}}
}

// Row 53 of the acceptance table, the Cedar half: no difference in 10^6 random
// decisions.
func TestRow53_AgainstCedar(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	requests := make([]request, 5_000)
	for i := range requests {
		requests[i] = randomRequest(r)
	}
	h := must(capability.NewHolder(subject, capability.Channel))
	rounds, yes := 20_000, 0
	if testing.Short() {
		rounds = 1_000
	}
	for range rounds {
		var scopes []string
		for range 1 + r.IntN(4) {
			scopes = append(scopes, randomScope(r))
		}
		cst := randomConstraints(r)
		g := must(capability.NewGrant(capability.Binding{ID: "x", Subject: subject, Scopes: scopes, Constraints: cst, From: now, Until: now.Add(time.Hour)}))
		policy := cedarPolicy(scopes, cst)
		for range 50 {
			q := &requests[r.IntN(len(requests))]
			d, _ := cedar.Authorize(policy, cedar.EntityMap{}, q.cedar)
			if got := g.Decide(&h, q.ours, now).Allowed(); got != bool(d) {
				t.Fatalf("%s %v: ours %v, Cedar %v\n%s", q.ours, q.cedar.Context, got, d, policy.MarshalCedar())
			} else if got {
				yes++
			}
		}
	}
	t.Logf("%d decisions, %d allowed", rounds*50, yes)
	if yes < rounds/2 {
		t.Error("hardly anything is allowed: the test tells little")
	}
}
