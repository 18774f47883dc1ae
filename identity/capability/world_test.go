package capability_test

import (
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
	"github.com/talosprotocol/talos/identity/capability"
)

var now = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// agent is a did:talos with its key log.
type agent struct {
	rnd           *rand.ChaCha8
	did           identity.DID
	control, next identity.ControlKey
	hot           identity.Hot
	log           []contracts.SignedKeyEvent
	seq           int64
	tip           capability.Tip
	raw           [][]byte // its revocation log
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func newAgent(name string) *agent {
	r := rand.NewChaCha8(sha256.Sum256([]byte(name)))
	a := &agent{rnd: r, control: must(identity.Generate[identity.Control](r)), next: must(identity.Generate[identity.Control](r))}
	a.hot = identity.Hot{
		Invocation: must(identity.Generate[identity.Invocation](r)).Public(), Peer: must(identity.Generate[identity.Peer](r)).Public(),
		Log: must(identity.Generate[identity.Log](r)).Public(), Agreement: must(identity.GenerateAgreement(r)).Public(),
	}
	did, icp := identity.Incept(a.control, a.next.Public(), now.Add(-24*time.Hour))
	a.did, a.log = did, []contracts.SignedKeyEvent{icp}
	return a
}

func (a *agent) rotate(void bool, at time.Time) {
	next := must(identity.Generate[identity.Control](a.rnd))
	a.log = append(a.log, must(identity.Rotate(must(identity.VerifyKeyLog(a.did, a.log)), a.next, next.Public(), void, at)))
	a.control, a.next = a.next, next
}

func (a *agent) end(at time.Time) {
	a.log = append(a.log, must(identity.End(must(identity.VerifyKeyLog(a.did, a.log)), a.next, at)))
	a.control = a.next
}

func (a *agent) issuer() *capability.Issuer {
	a.seq++
	ended := a.log[len(a.log)-1].Event.T == "end"
	n := identity.NewState{KeyLog: a.log, Seq: a.seq, Now: now, Valid: 48 * time.Hour, TTL: time.Hour}
	if !ended {
		n.Doc = identity.NewDocument(a.did, []identity.ControlPublic{a.control.Public()}, a.hot, 0, nil)
	}
	return must(capability.NewIssuer(must(identity.SignState(n, a.control))))
}

func (a *agent) signer() capability.Signer {
	return capability.Signer{DID: a.did, KSN: int64(len(a.log) - 1), Key: a.control.Ed25519()}
}

// keyAgent is a did:key.
func keySigner(name string) capability.Signer {
	seed := sha256.Sum256([]byte(name))
	k := must(identity.FromSeed[identity.Control](seed[:]))
	return capability.Signer{DID: identity.KeyDID(k.Public()), Key: k.Ed25519()}
}

// world is an executor, its root of authority org, and some agents.
type world struct {
	exec, org, alice, bob, carol *agent
	issuers                      map[identity.DID]*capability.Issuer
	set                          *capability.Set
	v                            *capability.Verifier
	rnd                          io.Reader
}

func newWorld() *world {
	w := &world{exec: newAgent("exec"), org: newAgent("org"), alice: newAgent("alice"), bob: newAgent("bob"), carol: newAgent("carol")}
	w.issuers = map[identity.DID]*capability.Issuer{}
	for _, a := range []*agent{w.exec, w.org, w.alice, w.bob, w.carol} {
		w.issuers[a.did] = a.issuer()
	}
	w.set = capability.NewSet(w.exec.did)
	w.rnd = rand.NewChaCha8(sha256.Sum256([]byte("jti")))
	w.v = &capability.Verifier{
		Executor: w.exec.did, Revoked: w.set,
		Roots: map[identity.DID][]capability.Kind{w.org.did: {capability.Tool, capability.Model, capability.Agent}},
		Resolve: func(d identity.DID) (*capability.Issuer, error) {
			if i := w.issuers[d]; i != nil {
				return i, nil
			}
			return nil, fmt.Errorf("no state of %s", d)
		},
	}
	return w
}

func (w *world) terms(sub identity.DID, scopes ...string) capability.Terms {
	return capability.Terms{
		Subject: sub, Audience: w.exec.did, Scopes: scopes, Delegations: 3,
		From: now, Life: time.Hour, Fresh: 5 * time.Minute,
	}
}

func (w *world) issue(s capability.Signer, t capability.Terms) string {
	return must(capability.Issue(s, t, w.rnd, now))
}

// chain gives the default chain: org → alice → bob → carol, of n tokens.
func (w *world) chain(n int) []string {
	by := []*agent{w.org, w.alice, w.bob, w.carol, w.exec}
	scopes := []string{"tool:fs", "tool:fs/method:read", "tool:fs/method:read/resource:data/**", "tool:fs/method:read/resource:data/pub/**"}
	var out []string
	for i := range n {
		t := w.terms(by[i+1].did, scopes[i])
		t.Delegations = 3 - i
		if i == 0 {
			out = append(out, w.issue(by[0].signer(), t))
			continue
		}
		out = append(out, must(capability.Delegate(by[i].signer(), must(capability.ParseToken([]byte(out[i-1]))), t, w.rnd, now)))
	}
	return out
}

func holder(did identity.DID) capability.Holder {
	return must(capability.NewHolder(did, capability.Channel))
}

func call(kind capability.Kind, name, method string, resource ...string) *capability.Call {
	return callOf(kind, capability.Read, name, method, resource...)
}

func callOf(kind capability.Kind, access capability.Access, name, method string, resource ...string) *capability.Call {
	c := must(capability.NewCall(kind, name, method, resource, access))
	return &c
}

func args(text string) *capability.Args { return must(capability.ParseArgs([]byte(text))) }

func wantCode(t testing.TB, what string, err error, want contracts.Code) {
	t.Helper()
	if got := contracts.CodeOf(err); got != want {
		t.Errorf("%s: %v, want %q", what, err, want)
	}
}

func ptr[T any](v T) *T { return &v }

func join(tokens ...string) []byte { return []byte(strings.Join(tokens, "~")) }

// revoke lets a revoke something, and gives the record.
func (w *world) revoke(a *agent, s capability.Signer, target capability.Target, at time.Time) *capability.Record {
	text, tip, err := capability.Revoke(s, a.tip, target, "misuse", at.Add(30*24*time.Hour), at)
	if err != nil {
		panic(err)
	}
	a.tip, a.raw = tip, append(a.raw, []byte(text))
	return must(capability.VerifyRecord([]byte(text), w.v.Resolve, at))
}

func (w *world) head(a *agent, at time.Time) *capability.Head {
	return must(capability.VerifyHead([]byte(must(capability.SignHead(a.signer(), a.tip, at))), w.v.Resolve, at))
}

func tokenID(text string) capability.TokenID {
	return must(capability.ParseToken([]byte(text))).ID
}

func hash(s string) capability.TokenID { return sha256.Sum256([]byte(s)) }
