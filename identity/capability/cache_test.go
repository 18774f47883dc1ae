package capability_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity/capability"
)

// Row 32 of the acceptance table; CAP-16: a session is of its holder, and known here.
func TestRow32_SessionsOfOthers(t *testing.T) {
	w := newWorld()
	cache := capability.NewCache(w.v, 10)
	s, h := capability.SessionOf("s"), holder(w.alice.did)
	c := call(capability.Tool, "fs", "read")
	wantCode(t, "unknown", cache.Decide(s, &h, c, now).Err(), contracts.NoCapability)
	if _, err := cache.Authorize(s, join(w.chain(1)...), h, now); err != nil {
		t.Fatal(err)
	}
	wantCode(t, "its own", cache.Decide(s, &h, c, now).Err(), "")
	bob, nobody := holder(w.bob.did), capability.Holder{}
	wantCode(t, "guessed", cache.Decide(s, &bob, c, now).Err(), contracts.HolderMismatch)
	wantCode(t, "nobody", cache.Decide(s, &nobody, c, now).Err(), contracts.HolderMismatch)
	_, err := cache.Authorize(s, join(w.chain(2)...), bob, now)
	wantCode(t, "taken over", err, contracts.HolderMismatch)
	_, err = cache.Authorize(s, join(w.chain(2)...), h, now)
	wantCode(t, "with another's chain", err, contracts.HolderMismatch)
	cache.Drop(s)
	wantCode(t, "its connection is gone", cache.Decide(s, &h, c, now).Err(), contracts.NoCapability)
	if _, err := cache.Authorize(s, join(w.chain(1)...), h, now); err != nil {
		t.Fatal(err)
	}
	// A tool's manifest has changed: what was granted for it is looked at anew.
	cache.Purge(func(g *capability.Grant) bool { return slices.Contains(g.Scopes(), "tool:fs") })
	wantCode(t, "purged", cache.Decide(s, &h, c, now).Err(), contracts.NoCapability)
	if d := (capability.Decision{}); d.Allowed() || d.Err() == nil {
		t.Error("no decision is a yes")
	}
}

// Row 24 of the acceptance table; CAP-17: a clock that goes back lengthens nothing.
func TestRow24_ClockSteps(t *testing.T) {
	w := newWorld()
	cache := capability.NewCache(w.v, 10)
	s, h := capability.SessionOf("s"), holder(w.alice.did)
	tm := w.terms(w.alice.did, "tool:fs")
	tm.Life, tm.Fresh = 5*time.Minute, time.Hour
	token := []byte(w.issue(w.org.signer(), tm))
	bind := func(at time.Duration) error { _, err := cache.Authorize(s, token, h, now.Add(at)); return err }
	decide := func(at time.Duration) error {
		return cache.Decide(s, &h, call(capability.Tool, "fs", "read"), now.Add(at)).Err()
	}
	wantCode(t, "bind", bind(0), "")
	wantCode(t, "in time", decide(4*time.Minute), "")
	wantCode(t, "a day forward", decide(24*time.Hour), contracts.Expired)
	wantCode(t, "and back", decide(4*time.Minute), contracts.Expired)
	wantCode(t, "nor shown again", bind(4*time.Minute), contracts.Expired)
	if d := cache.ClockBehind(now.Add(4 * time.Minute)); d != 24*time.Hour-4*time.Minute {
		t.Errorf("behind by %s", d)
	}
	cache.Confirm(now.Add(4 * time.Minute))
	wantCode(t, "confirmed: shown again", decide(4*time.Minute), contracts.NoCapability)
	wantCode(t, "confirmed", bind(4*time.Minute), "")
	wantCode(t, "an hour back", decide(-56*time.Minute), "")
	wantCode(t, "its end", decide(5*time.Minute), contracts.Expired)
	wantCode(t, "an hour back after its end", decide(-56*time.Minute), contracts.Expired)
	// A session ends after 15 minutes, however long its token lives.
	tm.Life = time.Hour
	token = []byte(w.issue(w.org.signer(), tm))
	wantCode(t, "long", bind(5*time.Minute), "")
	wantCode(t, "14:59", decide(20*time.Minute-time.Second), "")
	wantCode(t, "15:00", decide(20*time.Minute), contracts.NoCapability)
}

// Row 52 of the acceptance table; CAP-18: the order in which grants came changes
// nothing.
func TestRow52_OrderOfGrants(t *testing.T) {
	w := newWorld()
	h := holder(w.alice.did)
	var grants []*capability.Grant
	for i, scopes := range [][]string{{"tool:fs", "model:*"}, {"tool:*"}, {"tool:fs/method:read", "agent:x"}, {"model:m"}, {"tool:fs/method:read/resource:a/**"}} {
		b := capability.Binding{ID: fmt.Sprintf("rbac:%d", i), Subject: w.alice.did, Scopes: scopes, From: now, Until: now.Add(time.Hour)}
		if i == 1 {
			b.Constraints = []contracts.Constraint{{Op: "ro"}}
		}
		grants = append(grants, must(capability.NewGrant(b)))
	}
	calls := []*capability.Call{
		call(capability.Tool, "fs", "read", "a", "b"), callOf(capability.Tool, capability.Write, "git", "push"), call(capability.Tool, "git", "log"),
		call(capability.Model, "m", ""), call(capability.Topic, "t", ""), callOf(capability.Tool, capability.Write, "fs", "write"),
	}
	r := rand.New(rand.NewPCG(5, 6))
	var want string
	for round := range 10_000 {
		r.Shuffle(len(grants), func(i, j int) { grants[i], grants[j] = grants[j], grants[i] })
		cache := capability.NewCache(w.v, 10)
		s := capability.SessionOf("s")
		for _, g := range grants {
			if err := cache.Bind(s, g, now); err != nil {
				t.Fatal(err)
			}
		}
		var got strings.Builder
		for _, c := range calls {
			d := cache.Decide(s, &h, c, now)
			fmt.Fprintf(&got, "%s %s %v;", d.Code, d.Step, d.Err())
			if d.Grant != nil {
				fmt.Fprintf(&got, "%s %s;", d.Grant.ID(), d.Grant.Scope(d.Index))
			}
		}
		if round == 0 {
			want = got.String()
			t.Log(want)
		} else if got.String() != want {
			t.Fatalf("round %d: %s, want %s", round, got.String(), want)
		}
	}
}

// Rows 40 and 55 of the acceptance table: deciding takes nothing and allocates nothing,
// denied or not.
func TestRow55_NoAllocations(t *testing.T) {
	w := newWorld()
	p := populate(t, w, 100)
	stranger, denied := holder(w.bob.did), call(capability.Tool, "fs", "write", "x")
	i := 0
	for name, f := range map[string]func(){
		"grant":       func() { p.cache.Decide(p.sessions[i%100], &p.holders[i%100], p.calls[i%16], now) },
		"deny scope":  func() { p.cache.Decide(p.sessions[i%100], &p.holders[i%100], denied, now) },
		"deny holder": func() { p.cache.Decide(p.sessions[i%100], &stranger, p.calls[i%16], now) },
		"unknown":     func() { p.cache.Decide(capability.SessionID{1}, &stranger, p.calls[i%16], now) },
	} {
		if n := testing.AllocsPerRun(1000, func() { f(); i++ }); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
	chain, h := join(w.chain(3)...), holder(w.carol.did)
	if n := testing.AllocsPerRun(20, func() { _, _ = w.v.Verify(chain, h, now) }); n > 160 {
		t.Errorf("a chain of three: %v allocations", n)
	}
}

// CAP-19: what a cache holds is bounded; what it drops is asked for again.
func TestCacheIsBounded(t *testing.T) {
	w := newWorld()
	cache := capability.NewCache(w.v, 64)
	h := holder(w.alice.did)
	g := w.grantOf()
	for i := range 10_000 {
		if err := cache.Bind(capability.SessionOf(fmt.Sprint(i)), g, now); err != nil {
			t.Fatal(err)
		}
		if cache.Len() > 64 {
			t.Fatalf("%d sessions", cache.Len())
		}
		if d := cache.Decide(capability.SessionOf(fmt.Sprint(i)), &h, call(capability.Tool, "fs", "read"), now); !d.Allowed() {
			t.Fatal(d.Err())
		}
	}
	s := capability.SessionOf("s")
	for i := range 9 {
		b := capability.Binding{ID: fmt.Sprint(i), Subject: w.alice.did, Scopes: []string{"tool:fs"}, From: now, Until: now.Add(time.Hour)}
		want := contracts.Code("")
		if i == 8 {
			want = contracts.TooLarge
		}
		wantCode(t, "grants of a session", cache.Bind(s, must(capability.NewGrant(b)), now), want)
	}
	cache.Sweep(now.Add(2 * time.Hour))
	if cache.Len() != 0 {
		t.Errorf("%d sessions after all have ended", cache.Len())
	}
}

// The table of sessions is a map: the same operations on both give the same.
func TestCacheIsAMap(t *testing.T) {
	w := newWorld()
	g := w.grantOf()
	h := holder(w.alice.did)
	c := call(capability.Tool, "fs", "read")
	rapid.Check(t, func(t *rapid.T) {
		cache, model := capability.NewCache(w.v, 1000), map[int]bool{}
		for _, op := range rapid.SliceOfN(rapid.IntRange(0, 599), 0, 400).Draw(t, "ops") {
			k := op % 200
			s := capability.SessionOf(fmt.Sprint(k))
			if op < 400 {
				if err := cache.Bind(s, g, now); err != nil {
					t.Fatal(err)
				}
				model[k] = true
			} else {
				cache.Drop(s)
				delete(model, k)
			}
		}
		if cache.Len() != len(model) {
			t.Fatalf("%d sessions, want %d", cache.Len(), len(model))
		}
		for k := range 200 {
			if got := cache.Decide(capability.SessionOf(fmt.Sprint(k)), &h, c, now).Allowed(); got != model[k] {
				t.Fatalf("session %d: %v", k, got)
			}
		}
	})
}

// Decisions run beside sessions that come and go.
func TestCacheBesideWriters(t *testing.T) {
	w := newWorld()
	cache := capability.NewCache(w.v, 5000)
	g := w.grantOf()
	h := holder(w.alice.did)
	keep := capability.SessionOf("keep")
	if err := cache.Bind(keep, g, now); err != nil {
		t.Fatal(err)
	}
	var writers, readers sync.WaitGroup
	done := make(chan struct{})
	for k := range 2 {
		writers.Go(func() {
			for i := range 3000 {
				s := capability.SessionOf(fmt.Sprint(k, i%700))
				if i%3 == 0 {
					cache.Drop(s)
				} else if err := cache.Bind(s, g, now); err != nil {
					t.Error(err)
				}
			}
		})
		readers.Go(func() {
			c := call(capability.Tool, "fs", "read")
			for {
				select {
				case <-done:
					return
				default:
				}
				if d := cache.Decide(keep, &h, c, now); !d.Allowed() {
					t.Error(d.Err())
					return
				}
			}
		})
	}
	writers.Wait()
	close(done)
	readers.Wait()
}

// Row 51 of the acceptance table: what the published cases of role bindings say, where
// they agree with each other, in scopes. A binding's attributes are segments of a path.
func TestRow51_Roles(t *testing.T) {
	w := newWorld()
	h := holder(w.alice.did)
	for name, e := range map[string]struct {
		scope string
		call  *capability.Call
		want  bool
	}{
		"exact":              {"node:repo/method:read/resource:talosprotocol/talos", call(capability.Node, "repo", "read", "talosprotocol", "talos"), true},
		"type mismatch":      {"node:team/method:read/resource:platform", call(capability.Node, "repo", "read", "talosprotocol", "talos"), false},
		"attribute mismatch": {"node:repo/method:read/resource:talosprotocol/other", call(capability.Node, "repo", "read", "talosprotocol", "talos"), false},
		"wildcard":           {"node:repo/method:read/resource:**", call(capability.Node, "repo", "read", "talosprotocol", "talos"), true},
		"global":             {"node:*", call(capability.Node, "repo", "read", "talosprotocol", "talos"), true},
		"org covers team":    {"node:audit/method:read/resource:org/acme/**", call(capability.Node, "audit", "read", "org", "acme", "team", "x"), true},
		"team, not org":      {"node:audit/method:read/resource:org/acme/team/x/**", call(capability.Node, "audit", "read", "org", "acme"), false},
		"another permission": {"node:audit/method:read", callOf(capability.Node, capability.Write, "audit", "export"), false},
	} {
		g := must(capability.NewGrant(capability.Binding{ID: "rbac:x", Subject: w.alice.did, Scopes: []string{e.scope}, From: now, Until: now.Add(time.Hour)}))
		if got := g.Decide(&h, e.call, now).Allowed(); got != e.want {
			t.Errorf("%s: %v", name, got)
		}
		nobody := capability.Holder{}
		wantCode(t, name+", anonymous", g.Decide(&nobody, e.call, now).Err(), contracts.HolderMismatch)
	}
	for name, b := range map[string]capability.Binding{
		"no id": {Subject: w.alice.did, Scopes: []string{"tool:a"}, From: now, Until: now.Add(1)}, "no scope": {ID: "x", Subject: w.alice.did, From: now, Until: now.Add(1)},
		"reversed": {ID: "x", Subject: w.alice.did, Scopes: []string{"tool:a"}, From: now, Until: now}, "scope": {ID: "x", Subject: w.alice.did, Scopes: []string{"a.b"}, From: now, Until: now.Add(1)},
	} {
		_, err := capability.NewGrant(b)
		wantCode(t, name, err, contracts.Malformed)
	}
	_, err := capability.NewGrant(capability.Binding{ID: "x", Subject: "did:web:a", Scopes: []string{"tool:a"}, From: now, Until: now.Add(1)})
	wantCode(t, "subject", err, contracts.MethodUnsupported)
}
