package approval_test

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
	"github.com/talosprotocol/talos/node/approval"
	"github.com/talosprotocol/talos/node/execution"
	"github.com/talosprotocol/talos/node/gate"
)

const (
	caller = identity.DID("did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK")
	owner  = identity.DID("did:talos:zQmdfTbBqBPQ7VNxZEYEj14VmRuZBkqFbiwReogJgS1zR1n")
	peer   = identity.DID("did:talos:zQmYtUc4iTCbbfVSDNKvtQqrfyezPPnFvE33wFmutw9PBBk")
)

type book struct {
	mu     sync.Mutex
	events []gate.Event
}

func (b *book) Enter(_ context.Context, e gate.Event, _ []gate.Spent, _ []execution.Row) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.events = append(b.events, e)
	return nil
}

func (b *book) story() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []string
	for _, e := range b.events {
		out = append(out, strings.TrimSpace(e.Type+" "+e.Outcome))
	}
	return strings.Join(out, ", ")
}

// counted allows everything and counts what a grant would.
type counted struct{ n atomic.Int64 }

func (c *counted) Decide(context.Context, time.Time, *gate.Request, gate.Call) (gate.Decision, error) {
	return gate.Decision{Grant: "test", Commit: func(time.Time) error { c.n.Add(1); return nil }}, nil
}

// node is a gate with a desk, whose rule covers the tool write_file.
type node struct {
	g     *gate.Gate
	d     *approval.Desk
	book  *book
	key   identity.InvocationKey
	taken counted
	ran   atomic.Int64
	ask   func(ctx context.Context, did identity.DID, a *contracts.ActionAsk) (*contracts.ActionDecision, identity.InvocationPublic, error)
}

func newNode(t testing.TB, did, by identity.DID) *node {
	t.Helper()
	key, err := identity.Generate[identity.Invocation](rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	n := &node{book: &book{}, key: key}
	wait := int64(50)
	n.d = approval.New(approval.Config{
		DID: did, Now: time.Now, Key: func() (identity.InvocationKey, error) { return key, nil },
		Rule: func(_ string, c gate.Call) (*contracts.ApprovalRule, error) {
			if c.Method != "write_file" {
				return nil, nil //nolint:nilnil // as the interface says
			}
			return &contracts.ApprovalRule{ID: "r", By: string(by), WaitSeconds: &wait}, nil
		},
		Ask: func(ctx context.Context, did identity.DID, a *contracts.ActionAsk) (*contracts.ActionDecision, identity.InvocationPublic, error) {
			return n.ask(ctx, did, a)
		},
	})
	reg, err := gate.NewRegistry(contracts.Surfaces())
	if err != nil {
		t.Fatal(err)
	}
	n.g = gate.New(gate.Options{Registry: reg, Authority: &n.taken, Approver: n.d, Book: n.book, Ledger: gate.NewLedger(), Log: slog.New(slog.DiscardHandler), Now: time.Now})
	return n
}

func (n *node) call(ctx context.Context, tool, body string) error {
	return n.g.Do(ctx, &gate.Request{
		Surface: "tool.write", Who: gate.Principal{DID: caller, Proof: gate.Channel}, Params: map[string]string{"server": "files", "tool": tool}, Body: []byte(body),
	}, func(context.Context, *gate.Pass) (gate.Result, error) {
		n.ran.Add(1)
		return gate.Result{}, nil
	})
}

// begin makes a call that waits, and gives how it ends.
func (n *node) begin(t testing.TB, body string) <-chan error {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- n.call(t.Context(), "write_file", body) }()
	synctest.Wait()
	if len(done) != 0 {
		t.Fatalf("the call does not wait: %v", <-done)
	}
	return done
}

// EXE-5, EXE-6: nothing that a rule covers begins before somebody has approved it; what is
// approved is done once; a denial stands.
func TestApproval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, owner, "")
		if err := n.call(t.Context(), "read_file", "{}"); err != nil || n.ran.Load() != 1 {
			t.Fatalf("what no rule covers: %v", err)
		}
		done := n.begin(t, `{"path":"a"}`)
		w := n.d.Waiting()
		if len(w) != 1 || string(w[0].Body) != `{"path":"a"}` || w[0].Action.Caller != string(caller) || w[0].Action.Method != "write_file" || n.ran.Load() != 1 || n.taken.n.Load() != 1 {
			t.Fatalf("%+v; ran %d, taken %d", w, n.ran.Load(), n.taken.n.Load())
		}
		it, err := n.d.Decide(w[0].Action.ID, true, "")
		if err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil || n.ran.Load() != 2 || n.taken.n.Load() != 2 {
			t.Fatalf("approved: %v, ran %d", err, n.ran.Load())
		}
		if err := approval.Verify(it.Decision, &it.Action, n.key.Public(), time.Now()); err != nil {
			t.Errorf("the decision: %v", err)
		}
		if _, err := n.d.Decide(w[0].Action.ID, true, ""); contracts.CodeOf(err) != contracts.NotFound {
			t.Errorf("decided again: %v", err)
		}

		done = n.begin(t, `{"path":"a"}`) // the same again has to be asked again
		if _, err := n.d.Decide(n.d.Waiting()[0].Action.ID, false, "not today"); err != nil {
			t.Fatal(err)
		}
		if err := <-done; contracts.CodeOf(err) != contracts.ApprovalDenied || !strings.Contains(err.Error(), "not today") {
			t.Errorf("denied: %v", err)
		}
		if err := n.call(t.Context(), "write_file", `{"path":"a"}`); contracts.CodeOf(err) != contracts.ApprovalDenied {
			t.Errorf("a denial does not stand: %v", err)
		}
		time.Sleep(approval.Standing)
		done = n.begin(t, `{"path":"a"}`)
		time.Sleep(50 * time.Second)
		err = <-done
		if contracts.CodeOf(err) != contracts.ApprovalRequired || !strings.Contains(err.Error(), "talos approval approve") {
			t.Errorf("nobody answers: %v", err)
		}
		// The owner answers when the caller has gone; it is found by whoever asks again.
		if _, err := n.d.Decide(n.d.Waiting()[0].Action.ID, true, ""); err != nil {
			t.Fatal(err)
		}
		if err := n.call(t.Context(), "write_file", `{"path":"a"}`); err != nil || n.ran.Load() != 3 {
			t.Errorf("approved meanwhile: %v", err)
		}
		n.begin(t, `{"path":"a"}`) // that was for once
		if got := n.book.story(); !strings.Contains(got, "approval ok, intent, result ok, denied denied, denied denied, denied denied, approval ok, intent, result ok") {
			t.Errorf("recorded: %s", got)
		}
		time.Sleep(50 * time.Second) // the last one ends
	})
}

// Of two calls of the same content that wait, one approval lets one begin.
func TestOneApprovalOneCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, owner, "")
		a, b := n.begin(t, "{}"), n.begin(t, "{}")
		w := n.d.Waiting()
		if len(w) != 1 {
			t.Fatalf("%d wait", len(w))
		}
		if _, err := n.d.Decide(w[0].Action.ID, true, ""); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(<-a, <-b); n.ran.Load() != 1 || contracts.CodeOf(err) != contracts.ApprovalRequired {
			t.Errorf("ran %d, %v", n.ran.Load(), err)
		}
	})
}

// What waits is bounded, for each caller and altogether, and waits for an hour at most.
func TestDeskIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, owner, "")
		for i := range 16 {
			n.begin(t, fmt.Sprint(i))
		}
		if err := n.call(t.Context(), "write_file", "one more"); contracts.CodeOf(err) != contracts.RateLimited {
			t.Errorf("the 17th: %v", err)
		}
		time.Sleep(approval.Standing)
		if w := n.d.Waiting(); len(w) != 0 {
			t.Errorf("%d wait for more than an hour", len(w))
		}
		n.begin(t, "again")
		time.Sleep(time.Minute)
	})
}

// EXE-6, EXE-7: a governance peer decides over what it has read, with its own key; and
// nothing else that it, or somebody in its place, says counts.
func TestGovernancePeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, p := newNode(t, owner, peer), newNode(t, peer, "")
		var spoil func(*contracts.ActionDecision)
		n.ask = func(ctx context.Context, did identity.DID, a *contracts.ActionAsk) (*contracts.ActionDecision, identity.InvocationPublic, error) {
			if did != peer {
				t.Errorf("asked %s", did)
			}
			raw, err := contracts.ParseActionAsk(a.AppendCanonical(nil)) // as it travels
			if err != nil {
				t.Fatal(err)
			}
			d, err := p.d.Serve(ctx, owner, raw)
			if err == nil && spoil != nil {
				c := *d
				spoil(&c)
				d = &c
			}
			return d, p.key.Public(), err
		}
		done := n.begin(t, "x")
		w := p.d.Waiting()
		if len(w) != 1 || string(w[0].Body) != "x" || w[0].Asker != owner || len(n.d.Waiting()) != 0 {
			t.Fatalf("at the peer %+v, here %d", w, len(n.d.Waiting()))
		}
		if _, err := n.d.Decide(w[0].Action.ID, true, ""); contracts.CodeOf(err) != contracts.NotFound {
			t.Errorf("the node decides itself: %v", err)
		}
		if _, err := p.d.Decide(w[0].Action.ID, true, ""); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil || n.ran.Load() != 1 {
			t.Fatalf("approved: %v", err)
		}
		done = n.begin(t, "no") // a denial stands, and the peer is not asked again
		for _, w := range p.d.Waiting() {
			if w.Decision == nil {
				if _, err := p.d.Decide(w.Action.ID, false, "never"); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := <-done; contracts.CodeOf(err) != contracts.ApprovalDenied {
			t.Errorf("denied: %v", err)
		}
		asked := n.ask
		n.ask = nil
		if err := n.call(t.Context(), "write_file", "no"); contracts.CodeOf(err) != contracts.ApprovalDenied || !strings.Contains(err.Error(), "never") {
			t.Errorf("denied, again: %v", err)
		}
		n.ask = asked
		for name, f := range map[string]func(*contracts.ActionDecision){
			"verdict": func(d *contracts.ActionDecision) { d.Verdict = "approve" }, "somebody else": func(d *contracts.ActionDecision) { d.By = string(owner) },
			"another action": func(d *contracts.ActionDecision) { d.Action = execution.Digest([]byte("x")) }, "signature": func(d *contracts.ActionDecision) { d.Sig = base64.RawURLEncoding.EncodeToString(make([]byte, 64)) },
			"later end": func(d *contracts.ActionDecision) { d.Until = "2099-01-01T00:00:00.000Z" },
		} {
			spoil = nil
			done := n.begin(t, name)
			spoil = f
			if _, err := p.d.Decide(p.d.Waiting()[0].Action.ID, name != "verdict", ""); err != nil {
				// the first that waits is the oldest: decided ones stay until they expire
				for _, w := range p.d.Waiting() {
					if w.Decision == nil {
						_, err = p.d.Decide(w.Action.ID, name != "verdict", "")
					}
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			if err := <-done; contracts.CodeOf(err) != contracts.SignatureInvalid {
				t.Errorf("%s changed: %v", name, err)
			}
		}
		spoil = nil
		done = n.begin(t, "nobody is there")
		time.Sleep(50 * time.Second)
		if err := <-done; contracts.CodeOf(err) != contracts.ApprovalRequired {
			t.Errorf("no decision: %v", err)
		}
		n.ask = func(context.Context, identity.DID, *contracts.ActionAsk) (*contracts.ActionDecision, identity.InvocationPublic, error) {
			return nil, identity.InvocationPublic{}, contracts.Errorf(contracts.Unavailable, "gone")
		}
		if err := n.call(t.Context(), "write_file", "y"); contracts.CodeOf(err) != contracts.ApprovalRequired || n.ran.Load() != 1 {
			t.Errorf("a peer that is gone: %v, ran %d", err, n.ran.Load())
		}
	})
}

// EXE-7: a peer does not decide what it has not read, or what another node does.
func TestServeRefuses(t *testing.T) {
	p := newNode(t, peer, "")
	salt := make([]byte, 32)
	good := func() *contracts.ActionAsk {
		return &contracts.ActionAsk{
			V: "talos-action-ask/1", Salt: base64.RawURLEncoding.EncodeToString(salt), Body: base64.RawURLEncoding.EncodeToString([]byte("b")),
			Action: contracts.Action{V: execution.ActionVersion, ID: "019a0000-0000-7000-8000-000000000001", Caller: string(caller), Executor: string(owner),
				Surface: "tool.write", Access: "write", Request: execution.Commit(salt, []byte("b")), At: "2026-11-23T10:00:00.000Z"},
		}
	}
	if _, err := p.d.Serve(t.Context(), owner, good()); contracts.CodeOf(err) != contracts.ApprovalRequired { // it waits for no time
		t.Errorf("a good one: %v", err)
	}
	for name, c := range map[string]struct {
		change func(*contracts.ActionAsk)
		code   contracts.Code
	}{
		"another body":     {func(a *contracts.ActionAsk) { a.Body = "YQ" }, contracts.Malformed},
		"another salt":     {func(a *contracts.ActionAsk) { a.Salt = strings.Repeat("B", 42) + "E" }, contracts.Malformed},
		"no base64":        {func(a *contracts.ActionAsk) { a.Body = "Y" }, contracts.Malformed},
		"another executor": {func(a *contracts.ActionAsk) { a.Action.Executor = string(peer) }, contracts.Forbidden},
	} {
		a := good()
		c.change(a)
		if _, err := p.d.Serve(t.Context(), owner, a); contracts.CodeOf(err) != c.code {
			t.Errorf("%s: %v", name, err)
		}
	}
}
