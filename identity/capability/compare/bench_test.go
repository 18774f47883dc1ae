package compare_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/biscuit-auth/biscuit-go/v2"
	"github.com/biscuit-auth/biscuit-go/v2/parser"
	"github.com/cedar-policy/cedar-go"
	"github.com/superfly/macaroon"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
	"github.com/talosprotocol/talos/identity/capability"
)

// One question for all: may alice read data/public/report of the tool fs, with a limit
// of at most 1000? Cold is from the bytes of a token that its holder has narrowed once
// (two signatures, or two MACs), decided is with all verified and parsed.

func BenchmarkDecided(b *testing.B) {
	b.Run("talos", func(b *testing.B) {
		_, g, h, c := ours(b)
		b.ReportAllocs()
		for b.Loop() {
			if !g.Decide(&h, c, now).Allowed() {
				b.Fatal()
			}
		}
	})
	for _, n := range []int{1, 20} {
		b.Run(fmt.Sprintf("cedar-%d-policies", n), func(b *testing.B) {
			set := cedar.NewPolicySet()
			for i := range n {
				p := cedarPolicy([]string{fmt.Sprintf("tool:fs%d/method:read/resource:data/public/**", n-1-i)}, nil)
				for _, policy := range p.All() {
					set.Add(cedar.PolicyID(fmt.Sprint(i)), policy)
				}
			}
			q := cedar.Request{
				Principal: cedar.NewEntityUID("DID", "alice"), Action: cedar.NewEntityUID("Action", "call"), Resource: cedar.NewEntityUID("Node", "self"),
				Context: cedar.NewRecord(cedar.RecordMap{"kind": cedar.String("tool"), "name": cedar.String("fs0"), "method": cedar.String("read"), "path": cedar.String("data/public/report")}),
			}
			b.ReportAllocs()
			for b.Loop() {
				if d, _ := cedar.Authorize(set, cedar.EntityMap{}, q); !d {
					b.Fatal()
				}
			}
		})
	}
	b.Run("macaroon", func(b *testing.B) {
		key, token := narrowedMacaroon(b)
		m := must(macaroon.Decode(token))
		set := must(m.Verify(key, nil, nil))
		a := &access{path: "data/public/report", limit: 10}
		b.ReportAllocs()
		for b.Loop() {
			if err := set.Validate(a); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkCold(b *testing.B) {
	b.Run("talos", func(b *testing.B) {
		v, _, h, c := ours(b)
		b.ReportAllocs()
		for b.Loop() {
			g, err := v.Verify(chain, h, now)
			if err != nil || !g.Decide(&h, c, now).Allowed() {
				b.Fatal(err)
			}
		}
	})
	b.Run("biscuit", benchBiscuit)
	b.Run("macaroon", func(b *testing.B) {
		key, token := narrowedMacaroon(b)
		a := &access{path: "data/public/report", limit: 10}
		b.ReportAllocs()
		for b.Loop() {
			m, err := macaroon.Decode(token)
			if err != nil {
				b.Fatal(err)
			}
			set, err := m.Verify(key, nil, nil)
			if err != nil {
				b.Fatal(err)
			}
			if err := set.Validate(a); err != nil {
				b.Fatal(err)
			}
		}
	})
}

var chain []byte

// ours makes a chain of two did:key issuers, the first of which is the executor.
func ours(b *testing.B) (*capability.Verifier, *capability.Grant, capability.Holder, *capability.Call) {
	signer := func(seed byte) capability.Signer {
		k := must(identity.FromSeed[identity.Control]([]byte(strings.Repeat(string(rune('a'+seed)), 32))))
		return capability.Signer{DID: identity.KeyDID(k.Public()), Key: k.Ed25519()}
	}
	exec, alice, bob := signer(1), signer(2), signer(3)
	terms := capability.Terms{Subject: alice.DID, Audience: exec.DID, Scopes: []string{"tool:fs"}, Delegations: 1, Life: time.Hour, Fresh: time.Hour}
	first := must(capability.Issue(exec, terms, rand.Reader, now))
	terms.Subject, terms.Delegations, terms.Scopes = bob.DID, 0, []string{"tool:fs/method:read/resource:data/public/**"}
	terms.Constraints = []contracts.Constraint{{Op: "range", Arg: "/limit", Max: ptr(int64(1000))}}
	chain = []byte(capability.JoinChain(first, must(capability.Delegate(alice, must(capability.ParseToken([]byte(first))), terms, rand.Reader, now))))
	v := &capability.Verifier{Executor: exec.DID, Revoked: capability.NewSet(exec.DID)}
	h := must(capability.NewHolder(bob.DID, capability.Channel))
	g, err := v.Verify(chain, h, now)
	if err != nil {
		b.Fatal(err)
	}
	c := must(capability.NewCall(capability.Tool, "fs", "read", []string{"data", "public", "report"}, capability.Read))
	c.Args = must(capability.ParseArgs([]byte(`{"limit":10}`)))
	return v, g, h, &c
}

// benchBiscuit narrows a token once and authorizes from its bytes. The library gives
// up after 2 ms of wall clock; on a busy machine that is part of what it does, so it is
// counted and not hidden.
func benchBiscuit(b *testing.B) {
	public, private, _ := ed25519.GenerateKey(rand.Reader)
	builder := biscuit.NewBuilder(private)
	authority := must(parser.FromStringBlockWithParams(`right("fs", "read", "data/public");`, nil))
	if err := builder.AddBlock(authority); err != nil {
		b.Fatal(err)
	}
	first := must(builder.Build())
	narrow := first.CreateBlock()
	if err := narrow.AddBlock(must(parser.FromStringBlockWithParams(`check if limit($n), $n <= 1000;`, nil))); err != nil {
		b.Fatal(err)
	}
	token := must(must(first.Append(rand.Reader, narrow.Build())).Serialize())
	question := must(parser.FromStringAuthorizerWithParams(`resource("data/public/report"); limit(10); allow if right("fs", "read", $p), resource($r), $r.starts_with($p);`, nil))
	gaveUp := 0
	b.ReportAllocs()
	b.ResetTimer()
	for b.Loop() {
		t, err := biscuit.Unmarshal(token)
		if err != nil {
			b.Fatal(err)
		}
		a, err := t.Authorizer(public)
		if err != nil {
			b.Fatal(err)
		}
		a.AddAuthorizer(question)
		if err := a.Authorize(); err != nil {
			if !strings.Contains(err.Error(), "timeout") {
				b.Fatal(err)
			}
			gaveUp++
		}
	}
	b.ReportMetric(float64(gaveUp), "gave-up")
}

// access and limit are the least that the macaroon library asks of its users.
type access struct {
	path  string
	limit int
}

func (*access) Now() time.Time  { return now }
func (*access) Validate() error { return nil }

type limit struct {
	Prefix string
	Max    int
}

func init() { macaroon.RegisterCaveatType(&limit{}) }

func (*limit) CaveatType() macaroon.CaveatType { return macaroon.CavMinUserDefined }
func (*limit) Name() string                    { return "Limit" }
func (l *limit) Prohibits(f macaroon.Access) error {
	a, ok := f.(*access)
	if !ok || !strings.HasPrefix(a.path, l.Prefix) || a.limit > l.Max {
		return macaroon.ErrUnauthorized
	}
	return nil
}

func narrowedMacaroon(b *testing.B) (macaroon.SigningKey, []byte) {
	key := macaroon.NewSigningKey()
	m := must(macaroon.New([]byte("kid"), "here", key))
	for _, c := range []macaroon.Caveat{&limit{"data/", 5000}, &limit{"data/public/", 1000}} {
		if err := m.Add(c); err != nil {
			b.Fatal(err)
		}
	}
	return key, must(m.Encode())
}
