package capability_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity/capability"
)

// Rows 12, 13 and 14 of the acceptance table; SCO-1, SCO-2, SCO-3.
func TestRow12to14_ScopesThatAreRefused(t *testing.T) {
	for _, bad := range []string{
		"", "tool", "tool:", "fs", "file:x", "TOOL:fs", "tool:fs/", "tool:fs/method:", "tool:fs/resource:x", "tool:fs/method:*", "tool::fs",
		"tool:fs/read", "tool:fs/method:read/", "tool:fs/method:read/resource:", "tool:fs/method:read/method:write", " tool:fs", "tool:fs ", "tool:fs\n",
		// look-alikes and other spellings
		"tool:f\u0455", "tool:\uff46s", "tool:e\u0301", "tool:%66s", "tool:%2f", "tool:%2", "tool:%", "tool:%G0", "tool:a%00", "tool:a%7F", "tool:%C2%80", "tool:%FF", "tool:a b", "tool:fs\x00",
		// paths that climb or can be read in two ways
		"tool:fs/method:read/resource:..", "tool:fs/method:read/resource:a/../b", "tool:fs/method:read/resource:./a", "tool:fs/method:read/resource:a/.",
		"tool:fs/method:read/resource:%2e%2e", "tool:fs/method:read/resource:%2E%2E/a", "tool:fs/method:read/resource:a//b", "tool:fs/method:read/resource:/a",
		"tool:fs/method:read/resource:a/", `tool:fs/method:read/resource:a\b`, "tool:fs/method:read/resource:a%5Cb", "tool:fs/method:read/resource:a%2Fb", "tool:fs/method:read/resource:C:/a",
		// wildcards anywhere but at the end
		"tool:fs*", "tool:*fs", "tool:**", "tool:fs/method:re*", "tool:fs/method:read/resource:*/a", "tool:fs/method:read/resource:**/a", "tool:fs/method:read/resource:a*", "tool:fs/method:read/resource:a/***", "tool:fs/method:read/resource:a/**/",
		"tool:fs/method:read/resource:" + strings.Repeat("a/", 16) + "a", "tool:" + strings.Repeat("a", 129),
	} {
		if _, err := capability.ParseScope(bad); contracts.CodeOf(err) != contracts.Malformed {
			t.Errorf("%q: %v", bad, err)
		}
	}
	_, err := capability.ParseScope("tool:fs/method:read/resource:" + strings.Repeat("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa/", 12) + "a")
	wantCode(t, "513 bytes", err, contracts.TooLarge)
	// What is written otherwise means otherwise.
	a, b := must(capability.ParseScope("tool:a%2Fb")), must(capability.ParseScope("tool:a"))
	if a.Contains(b) || b.Contains(a) {
		t.Error("%2F is read as a slash")
	}
}

// Row 14: a call that contains a literal * is covered by no exact scope but its own.
func TestRow14_LiteralStar(t *testing.T) {
	c := call(capability.Tool, "*", "*", "*")
	for text, want := range map[string]bool{
		"tool:*": true, "tool:fs": false, "tool:%2A": true, "tool:%2A/method:%2A/resource:%2A": true, "tool:%2A/method:%2A/resource:a": false, "tool:%2A/method:%2A/resource:*": true,
	} {
		if s := must(capability.ParseScope(text)); s.Covers(c) != want {
			t.Errorf("%s covers %s: %v", text, c, !want)
		}
	}
}

// Row 15 of the acceptance table: a name cannot pass for a name and a method. SCO-4.
func TestRow15_InjectionIsAName(t *testing.T) {
	c := call(capability.Tool, "fs/method:read", "write")
	if got := c.String(); got != "tool:fs%2Fmethod%3Aread/method:write" {
		t.Error(got)
	}
	if must(capability.ParseScope("tool:fs/method:read")).Covers(c) || must(capability.ParseScope("tool:fs")).Covers(c) {
		t.Error("covered")
	}
	for what, f := range map[string]func() error{
		"dots": func() error {
			_, err := capability.NewCall(capability.Tool, "fs", "read", []string{"a", ".."}, 0)
			return err
		},
		"slash": func() error {
			_, err := capability.NewCall(capability.Tool, "fs", "read", []string{"a/b"}, 0)
			return err
		},
		"backslash": func() error {
			_, err := capability.NewCall(capability.Tool, "fs", "read", []string{`a\b`}, 0)
			return err
		},
		"empty":     func() error { _, err := capability.NewCall(capability.Tool, "fs", "read", []string{""}, 0); return err },
		"nul":       func() error { _, err := capability.NewCall(capability.Tool, "fs\x00", "", nil, 0); return err },
		"utf-8":     func() error { _, err := capability.NewCall(capability.Tool, "\xff", "", nil, 0); return err },
		"no name":   func() error { _, err := capability.NewCall(capability.Tool, "", "read", nil, 0); return err },
		"no kind":   func() error { _, err := capability.NewCall(0, "fs", "read", nil, 0); return err },
		"no method": func() error { _, err := capability.NewCall(capability.Tool, "fs", "", []string{"a"}, 0); return err },
	} {
		wantCode(t, what, f(), contracts.Malformed)
	}
	_, err := capability.NewCall(capability.Tool, strings.Repeat("\u00e4", 50), "", nil, 0)
	wantCode(t, "encoded", err, contracts.TooLarge)
}

// Row 16 of the acceptance table: a prefix ends at a separator.
func TestRow16_PrefixConfusion(t *testing.T) {
	for scope, path := range map[string][]string{
		"tool:fs/method:read/resource:data/pub/**": {"data", "public"},
		"tool:fs/method:read/resource:data/pub":    {"data", "public"},
		"tool:fs/method:read/resource:data/*":      {"data", "a", "b"},
		"tool:f":                                   {"data"},
		"tool:fs/method:rea/resource:**":           {"data"},
	} {
		if must(capability.ParseScope(scope)).Covers(call(capability.Tool, "fs", "read", path...)) {
			t.Errorf("%s covers %v", scope, path)
		}
	}
}

// universe gives 378 canonical scopes, and the calls that tell them apart: with names
// that no scope has.
func universe() (scopes []capability.Scope, calls []*capability.Call) {
	patterns := []string{
		"p", "q", "p/p", "p/q", "q/p", "q/q", "p/p/p", "p/p/q", "p/q/p", "*", "**", "p/*", "q/*", "p/**", "q/**", "p/p/*", "p/q/*", "p/p/**", "p/q/**", "q/p/**",
	}
	for _, kind := range []string{"tool", "agent"} {
		for _, name := range []string{"a", "b", "*"} {
			base := kind + ":" + name
			texts := []string{base}
			for _, m := range []string{"x", "y", "*"} {
				if m != "*" {
					texts = append(texts, base+"/method:"+m)
				}
				for _, p := range patterns {
					texts = append(texts, base+"/method:"+m+"/resource:"+p)
				}
			}
			for _, text := range texts {
				scopes = append(scopes, must(capability.ParseScope(text)))
			}
		}
	}
	paths := [][]string{nil}
	for level, from := 0, 0; level < 4; level++ {
		end := len(paths)
		for _, p := range paths[from:end] {
			for _, seg := range []string{"p", "q", "fresh"} {
				paths = append(paths, append(slices.Clone(p), seg))
			}
		}
		from = end
	}
	for _, kind := range []capability.Kind{capability.Tool, capability.Agent} {
		for _, name := range []string{"a", "b", "fresh"} {
			calls = append(calls, call(kind, name, ""))
			for _, m := range []string{"x", "y", "fresh"} {
				for _, p := range paths {
					calls = append(calls, call(kind, name, m, p...))
				}
			}
		}
	}
	return scopes, calls
}

// bits says which calls a scope covers.
type bits []uint64

func (b bits) subset(o bits) bool {
	for i := range b {
		if b[i]&^o[i] != 0 {
			return false
		}
	}
	return true
}

func (b bits) add(o bits) {
	for i := range b {
		b[i] |= o[i]
	}
}

func coverage(scopes []capability.Scope, calls []*capability.Call) []bits {
	out := make([]bits, len(scopes))
	for i, s := range scopes {
		out[i] = make(bits, (len(calls)+63)/64)
		for j, c := range calls {
			if s.Covers(c) {
				out[i][j/64] |= 1 << (j % 64)
			}
		}
	}
	return out
}

// SCO-5: containment is exactly "covers every call that the other covers", over all
// pairs of the universe; reflexive, transitive, and antisymmetric.
func TestContainmentIsExactOverAllPairs(t *testing.T) {
	scopes, calls := universe()
	cov := coverage(scopes, calls)
	if n := len(scopes) * len(scopes); n < 140_000 {
		t.Fatalf("%d pairs", n)
	}
	contains := make([]bits, len(scopes))
	for i, p := range scopes {
		contains[i] = make(bits, (len(scopes)+63)/64)
		for j, c := range scopes {
			got, want := p.Contains(c), cov[j].subset(cov[i])
			if got != want {
				t.Fatalf("%s contains %s: %v, want %v", p, c, got, want)
			}
			if got {
				contains[i][j/64] |= 1 << (j % 64)
			}
			if got && i != j && c.Contains(p) {
				t.Fatalf("%s and %s mean the same", p, c)
			}
		}
		if !p.Contains(p) {
			t.Fatalf("%s does not contain itself", p)
		}
	}
	for i := range scopes {
		for j := range scopes {
			if contains[i][j/64]&(1<<(j%64)) != 0 && !contains[j].subset(contains[i]) {
				t.Fatalf("not transitive below %s and %s", scopes[i], scopes[j])
			}
		}
	}
	t.Logf("%d scopes, %d pairs, %d calls", len(scopes), len(scopes)*len(scopes), len(calls))
}

// SCO-6: one parent for each child is the same as the union of the parents.
func TestSetContainmentIsSoundAndComplete(t *testing.T) {
	scopes, calls := universe()
	cov := coverage(scopes, calls)
	r := rand.New(rand.NewPCG(1, 2))
	rounds, yes := 300_000, 0
	if testing.Short() {
		rounds = 30_000
	}
	pick := func(n int) (list []capability.Scope, union bits) {
		union = make(bits, len(cov[0]))
		for range 1 + r.IntN(n) {
			k := r.IntN(len(scopes))
			list = append(list, scopes[k])
			union.add(cov[k])
		}
		return list, union
	}
	for range rounds {
		parents, pu := pick(12)
		children, cu := pick(2)
		got, want := capability.ContainsAll(parents, children), cu.subset(pu)
		if got != want {
			t.Fatalf("%v contain %v: %v, want %v", parents, children, got, want)
		}
		if got {
			yes++
		}
	}
	if yes < rounds/100 {
		t.Errorf("only %d of %d are contained: the test tells little", yes, rounds)
	}
}

var (
	part    = rapid.SampledFrom([]string{"a", "b", "data", "pub", "public", "x%2Fy", "%C3%A4", "A-._~9"})
	anyPart = rapid.OneOf(part, rapid.Just("*"))
)

var genScope = rapid.Custom(func(t *rapid.T) string {
	s := rapid.SampledFrom([]string{"tool", "agent", "model", "topic", "node"}).Draw(t, "kind") + ":" + anyPart.Draw(t, "name")
	if !rapid.Bool().Draw(t, "method?") {
		return s
	}
	m := anyPart.Draw(t, "method")
	if m != "*" && !rapid.Bool().Draw(t, "resource?") {
		return s + "/method:" + m
	}
	segs := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "data", "pub", "%C3%A4"}), 0, 5).Draw(t, "path")
	end := rapid.SampledFrom([]string{"", "*", "**"}).Draw(t, "tail")
	if end != "" || len(segs) == 0 {
		segs = append(segs, max(end, "*"))
	}
	return s + "/method:" + m + "/resource:" + strings.Join(segs, "/")
})

// SCO-5 on scopes of any depth: reflexive, transitive, antisymmetric; SCO-1: a text
// that reads is written as it was.
func TestContainmentIsAnOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b, c := genScope.Draw(t, "a"), genScope.Draw(t, "b"), genScope.Draw(t, "c")
		x, y, z := must(capability.ParseScope(a)), must(capability.ParseScope(b)), must(capability.ParseScope(c))
		switch {
		case x.String() != a:
			t.Fatalf("%s is written %s", a, x)
		case !x.Contains(x):
			t.Fatalf("%s does not contain itself", x)
		case x.Contains(y) && y.Contains(x) && a != b:
			t.Fatalf("%s and %s contain each other", x, y)
		case x.Contains(y) && y.Contains(z) && !x.Contains(z):
			t.Fatalf("%s, %s, %s", x, y, z)
		}
		set, err := capability.NewScopes(a, b, c)
		if err != nil {
			t.Fatal(err)
		}
		canon, err := capability.ParseScopes(set)
		if err != nil || !capability.ContainsAll(canon, []capability.Scope{x, y, z}) || !capability.ContainsAll([]capability.Scope{x, y, z}, canon) {
			t.Fatalf("%v is not the same as %s, %s, %s: %v", set, a, b, c, err)
		}
	})
}

// SCO-7: a set has one text.
func TestScopeSetsHaveOneText(t *testing.T) {
	for name, set := range map[string][]string{
		"order": {"tool:b", "tool:a"}, "twice": {"tool:a", "tool:a"}, "contained": {"tool:*", "tool:a"}, "contained later": {"tool:a", "tool:a/method:x"}, "none": {}, "many": manyScopes(33),
	} {
		_, err := capability.ParseScopes(set)
		wantCode(t, name, err, contracts.Malformed)
	}
	if _, err := capability.ParseScopes(manyScopes(32)); err != nil {
		t.Error(err)
	}
}

func manyScopes(n int) (out []string) {
	for i := range n {
		out = append(out, fmt.Sprintf("tool:t%05d", i))
	}
	return out
}

func FuzzScope(f *testing.F) {
	for _, s := range []string{"tool:fs", "tool:*", "tool:fs/method:read/resource:data/**", "model:a%2Fb/method:*/resource:*", "node:x/method:y/resource:**"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := capability.ParseScope(text)
		if err != nil {
			if c := contracts.CodeOf(err); c != contracts.Malformed && c != contracts.TooLarge {
				t.Errorf("%q: %v", text, err)
			}
			return
		}
		if s.String() != text || !s.Contains(s) {
			t.Errorf("%q is read as %q", text, s)
		}
	})
}
