package capability_test

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
	"github.com/talosprotocol/talos/identity/capability"
)

func signatureKey() (ed25519.PublicKey, []byte, []byte) {
	k := ed25519.NewKeyFromSeed(make([]byte, 32))
	msg := make([]byte, 900)
	return k.Public().(ed25519.PublicKey), msg, ed25519.Sign(k, msg)
}

// BenchmarkSignature is what one signature costs here: the floor of BenchmarkCold.
func BenchmarkSignature(b *testing.B) {
	pub, msg, sig := signatureKey()
	for b.Loop() {
		ed25519.Verify(pub, msg, sig)
	}
}

// BenchmarkCold verifies chains from bytes.
func BenchmarkCold(b *testing.B) {
	for n := 1; n <= 4; n++ {
		w := newWorld()
		c := join(w.chain(n)...)
		sub := []identity.DID{w.alice.did, w.bob.did, w.carol.did, w.exec.did}[n-1]
		h := holder(sub)
		b.Run(fmt.Sprintf("links=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := w.v.Verify(c, h, now); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkParseToken(b *testing.B) {
	w := newWorld()
	c := []byte(w.chain(1)[0])
	b.ReportAllocs()
	b.SetBytes(int64(len(c)))
	for b.Loop() {
		if _, err := capability.ParseToken(c); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkScope(b *testing.B) {
	p, c := must(capability.ParseScope("tool:fs/method:read/resource:data/**")), must(capability.ParseScope("tool:fs/method:read/resource:data/pub/x"))
	b.Run("parse", func(b *testing.B) {
		for b.Loop() {
			_, _ = capability.ParseScope("tool:fs/method:read/resource:data/**")
		}
	})
	b.Run("contains", func(b *testing.B) {
		for b.Loop() {
			if !p.Contains(c) {
				b.Fatal()
			}
		}
	})
}

// population fills a cache: each session has a subject of its own, and a grant of two
// scopes and three conditions on arguments.
type population struct {
	cache    *capability.Cache
	sessions []capability.SessionID
	holders  []capability.Holder
	calls    [16]*capability.Call
}

func populate(b testing.TB, w *world, n int) *population {
	p := &population{cache: capability.NewCache(w.v, 2*n)}
	for i := range n {
		seed := sha256.Sum256(binary.BigEndian.AppendUint64(nil, uint64(i)))
		did := must(identity.DIDFromMultihash(append([]byte{0x12, 0x20}, seed[:]...)))
		g := must(capability.NewGrant(capability.Binding{
			ID: fmt.Sprintf("rbac:%d", i), Subject: did, From: now, Until: now.Add(time.Hour),
			Scopes: []string{"tool:fs/method:read/resource:data/public/**", "tool:search/method:query"},
			Constraints: []contracts.Constraint{
				{Op: "eq", Arg: "/mode", Strs: []string{"text"}},
				{Op: "range", Arg: "/limit", Min: ptr(int64(1)), Max: ptr(int64(1000))},
				{Op: "glob", Arg: "/path", Strs: []string{"/data/public/**"}},
			},
		}))
		var s capability.SessionID
		copy(s[:], seed[16:])
		if err := p.cache.Bind(s, g, now); err != nil {
			b.Fatal(err)
		}
		p.sessions, p.holders = append(p.sessions, s), append(p.holders, holder(did))
	}
	for i := range p.calls {
		p.calls[i] = call(capability.Tool, "fs", "read", "data", "public", fmt.Sprint("file", i))
		p.calls[i].Args = args(fmt.Sprintf(`{"limit":%d,"mode":"text","path":"/data/public/file%d"}`, i+1, i))
	}
	rand.New(rand.NewPCG(1, 2)).Shuffle(n, func(i, j int) {
		p.sessions[i], p.sessions[j] = p.sessions[j], p.sessions[i]
		p.holders[i], p.holders[j] = p.holders[j], p.holders[i]
	})
	return p
}

// BenchmarkDecide decides on cached authority, each time of another session.
func BenchmarkDecide(b *testing.B) {
	for _, n := range []int{1, 1000, 10_000, 100_000} {
		w := newWorld()
		p := populate(b, w, n)
		stranger := holder(w.bob.did)
		denied := call(capability.Tool, "fs", "write", "data", "public", "x")
		for _, kind := range []string{"grant", "deny-scope", "deny-holder"} {
			b.Run(fmt.Sprintf("sessions=%d/%s", n, kind), func(b *testing.B) {
				b.ReportAllocs()
				calls, want, k, i := p.calls, contracts.Code(""), 0, 0
				if kind == "deny-scope" {
					want = contracts.ScopeMismatch
					for i := range calls {
						calls[i] = denied
					}
				}
				for b.Loop() {
					h := &p.holders[k]
					if kind == "deny-holder" {
						h, want = &stranger, contracts.HolderMismatch
					}
					if d := p.cache.Decide(p.sessions[k], h, calls[i&15], now); d.Code != want {
						b.Fatal(d.Code)
					}
					if i, k = i+1, k+1; k == n {
						k = 0
					}
				}
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds()/1e6, "M/s")
			})
		}
		runtime.KeepAlive(p)
	}
}

// BenchmarkArgs reads the arguments of a call: from bytes to what conditions see.
func BenchmarkArgs(b *testing.B) {
	text := []byte(`{"limit":10,"mode":"text","options":{"deep":true,"follow":false},"path":"/data/public/report.txt","query":"a longer text of somebody who looks for something"}`)
	b.ReportAllocs()
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		if _, err := capability.ParseArgs(text); err != nil {
			b.Fatal(err)
		}
	}
}

// unsignedLog makes a long log of org's quickly: signatures that catching up does not
// look at are left out.
func unsignedLog(w *world, n int) (raw [][]byte, head *capability.Head) {
	signer := w.org.signer()
	dummy := b64.EncodeToString(make([]byte, 64))
	header := b64.EncodeToString([]byte(`{"alg":"EdDSA","kid":"` + string(signer.DID) + `#k0","typ":"talos-rev+jws"}`))
	tip := capability.Tip{}
	for i := range n {
		var id capability.TokenID
		binary.BigEndian.PutUint64(id[:], uint64(i)*0x9e3779b97f4a7c15+1)
		p := contracts.Revocation{V: "talos-rev/1", Iss: string(signer.DID), Seq: tip.Seq + 1, Iat: now.Unix(), Until: now.Unix() + 86400, Reason: "misuse", Tid: id.String()}
		if tip.Seq > 0 {
			p.Prev = tip.Last.String()
		}
		input := header + "." + b64.EncodeToString(p.AppendCanonical(nil))
		raw = append(raw, []byte(input+"."+dummy))
		tip = capability.Tip{Seq: tip.Seq + 1, Last: hash(input)}
	}
	return raw, must(capability.VerifyHead([]byte(must(capability.SignHead(signer, tip, now))), w.v.Resolve, now))
}

// BenchmarkRevocations asks a set of a million records about the tokens of a chain of
// three: what a decision pays after something was revoked, by anybody.
func BenchmarkRevocations(b *testing.B) {
	const n = 1_000_000
	w := newWorld()
	raw, head := unsignedLog(w, n)
	set := capability.NewSet(w.exec.did)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	start := time.Now()
	if err := set.CatchUp(head, raw); err != nil {
		b.Fatal(err)
	}
	took := time.Since(start)
	runtime.GC()
	runtime.ReadMemStats(&after)
	runtime.KeepAlive(raw) // on both sides, so that the set alone is measured
	b.Logf("%d records were taken in %s; %d MB", set.Records(), took.Round(time.Millisecond), (int64(after.HeapAlloc)-int64(before.HeapAlloc))>>20)
	w.v.Revoked = set
	g := must(w.v.Verify(join(w.chain(3)...), holder(w.carol.did), now))
	b.Run("check", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := set.Check(g, now); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("apply", func(b *testing.B) {
		org := *w.org
		org.tip = set.Tip(w.org.did)
		r := w.revoke(&org, w.org.signer(), capability.Target{Token: capability.TokenID{7}}, now)
		if err := set.Apply(r); err != nil {
			b.Fatal(err)
		}
		b.ReportAllocs()
		for b.Loop() {
			_ = set.Apply(r) // known: the look-up alone
		}
	})
	runtime.KeepAlive(set)
}
