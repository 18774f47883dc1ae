package gateway

import (
	"context"
	"crypto/rand"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
	"github.com/talosprotocol/talos/node/call"
	"github.com/talosprotocol/talos/node/execution"
	"github.com/talosprotocol/talos/node/receipt"
)

func newKey(t *testing.T) identity.InvocationKey {
	t.Helper()
	key, err := identity.Generate[identity.Invocation](rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

const someDID = "did:talos:zQmQ6rdi7iPAaPgCmVP34JymAtKeQzULaBLjEpwkeWSSxQk"

// GW-7, GW-8: a receipt verifies as it was signed and in no other way, and for the call
// that it is of alone.
func TestReceipts(t *testing.T) {
	key := newKey(t)
	salt := newSalt()
	r := &contracts.CallReceipt{
		Call: "019a0000-0000-7000-8000-000000000000", Caller: someDID, Executor: someDID, Surface: "model.use", Service: "m",
		Request: execution.Commit(salt, []byte("question")), Response: execution.Commit(salt, []byte("answer")), Outcome: "ok", At: instant(time.Now()),
	}
	want := *r
	raw := receipt.Sign(r, key)
	got, err := receipt.Verify(raw, key.Public())
	if err != nil || expect(got, &want) != nil {
		t.Fatalf("%v, %v", err, expect(got, &want))
	}
	for i := range raw {
		bad := []byte(string(raw))
		bad[i] ^= 1
		if _, err := receipt.Verify(bad, key.Public()); err == nil {
			t.Fatalf("byte %d flipped: verifies", i)
		}
	}
	if _, err := receipt.Verify(raw, newKey(t).Public()); contracts.CodeOf(err) != contracts.SignatureInvalid {
		t.Errorf("another key: %v", err)
	}
	for what, change := range map[string]func(*contracts.CallReceipt){
		"call": func(r *contracts.CallReceipt) { r.Call = "x" }, "caller": func(r *contracts.CallReceipt) { r.Caller = "x" }, "executor": func(r *contracts.CallReceipt) { r.Executor = "x" },
		"service": func(r *contracts.CallReceipt) { r.Service = "x" }, "request": func(r *contracts.CallReceipt) { r.Request = execution.Commit(salt, []byte("another")) },
		"response": func(r *contracts.CallReceipt) { r.Response = execution.Commit(newSalt(), []byte("answer")) },
	} {
		other := want
		change(&other)
		if err := expect(got, &other); contracts.CodeOf(err) != contracts.SignatureInvalid || !strings.Contains(err.Error(), what) {
			t.Errorf("another %s: %v", what, err)
		}
	}
}

// GW-4: a list counts if it is signed by whom it is asked of, and while it holds.
func TestLists(t *testing.T) {
	key, now := newKey(t), time.Now()
	g := New(Config{DID: someDID, Key: func() (identity.InvocationKey, error) { return key, nil }, Now: func() time.Time { return now }})
	g.Set(Model, listing{"b", "a"})
	raw, err := g.List()
	if err != nil {
		t.Fatal(err)
	}
	l, err := VerifyList(raw, someDID, key.Public(), now)
	if err != nil || len(l.Services) != 2 || l.Services[0].Name != "a" {
		t.Fatalf("%+v, %v", l, err)
	}
	other := identity.DID(strings.Replace(someDID, "zQmQ", "zQmR", 1))
	for name, c := range map[string]struct {
		from identity.DID
		key  identity.InvocationPublic
		at   time.Time
		want contracts.Code
	}{
		"another issuer": {other, key.Public(), now, contracts.SignatureInvalid}, "another key": {someDID, newKey(t).Public(), now, contracts.SignatureInvalid},
		"too old": {someDID, key.Public(), now.Add(listValid), contracts.Expired}, "of the future": {someDID, key.Public(), now.Add(-2 * time.Minute), contracts.NotYetValid},
	} {
		if _, err := VerifyList(raw, c.from, c.key, c.at); contracts.CodeOf(err) != c.want {
			t.Errorf("%s: %v", name, err)
		}
	}
	for i := range raw {
		bad := []byte(string(raw))
		bad[i] ^= 1
		if _, err := VerifyList(bad, someDID, key.Public(), now); err == nil {
			t.Fatalf("byte %d flipped: verifies", i)
		}
	}
	// GW-6: a list of a gateway that drains says so at once.
	g.Drain()
	if raw, err = g.List(); err != nil || !strings.Contains(string(raw), `"draining":true`) {
		t.Errorf("%s, %v", raw, err)
	}
}

type listing []string

func (l listing) Services() (out []contracts.ServiceEntry) {
	for _, name := range l {
		out = append(out, contracts.ServiceEntry{Kind: Model, Name: name})
	}
	return out
}

func (listing) Plan(context.Context, *Asked) (*Plan, error) { return nil, errors.New("not called") }

var errDown error = contracts.Errorf(contracts.Unavailable, "down")

// GW-10: three failures in a row close the door for five seconds; then one call tries.
func TestBreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, k := newHealth(), serviceKey{"did", Model, "m"}
		call := func(err error) error {
			done, e := h.begin(k)
			if e != nil {
				return e
			}
			done(err, time.Millisecond)
			return nil
		}
		refused := contracts.Errorf(contracts.NoCapability, "not you")
		for range 10 {
			if err := call(refused); err != nil {
				t.Fatalf("refusals count: %v", err)
			}
		}
		for range openAfter {
			for range 5 { // that callers go away says nothing, not even that it is well
				if err := call(context.Canceled); err != nil {
					t.Fatalf("callers that go away count: %v", err)
				}
			}
			if err := call(errDown); err != nil {
				t.Fatal(err)
			}
		}
		if err := call(nil); contracts.CodeOf(err) != contracts.Unavailable || !h.open(k) {
			t.Fatalf("after %d failures: %v", openAfter, err)
		}
		time.Sleep(openFor + time.Millisecond)
		probe, err := h.begin(k)
		if err != nil {
			t.Fatalf("the probe: %v", err)
		}
		if _, err := h.begin(k); err == nil {
			t.Error("two probes at once")
		}
		probe(context.Canceled, 0)
		if probe, err = h.begin(k); err != nil {
			t.Fatalf("the probe after one that was given up: %v", err)
		}
		probe(errDown, 0)
		if err := call(nil); err == nil {
			t.Error("a failed probe opens")
		}
		time.Sleep(openFor + time.Millisecond)
		for range 5 {
			if err := call(nil); err != nil {
				t.Errorf("after a good probe: %v", err)
			}
		}
	})
}

// GW-9: when another gateway may be asked, and that calls do not multiply.
func TestElsewhere(t *testing.T) {
	once, twice := &Use{}, &Use{Repeatable: true}
	for name, c := range map[string]struct {
		u    *Use
		err  error
		want bool
	}{
		"not begun":                 {once, call.NotBegun(errDown), true},
		"perhaps begun":             {once, errDown, false},
		"perhaps begun, repeatable": {twice, errDown, true},
		"refused there":             {once, call.NotBegun(contracts.Errorf(contracts.NoCapability, "no")), true},
		"not as it should be":       {twice, call.NotBegun(contracts.Errorf(contracts.Malformed, "no")), false},
		"a budget, in the middle":   {twice, contracts.Errorf(contracts.BudgetExhausted, "no"), false},
		"lies":                      {twice, contracts.Errorf(contracts.SignatureInvalid, "no"), true},
	} {
		if got := elsewhere(c.u, c.err); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	h := newHealth()
	retried := 0
	for range 1000 {
		h.called()
		if h.mayRetry() {
			retried++
		}
	}
	if retried < 90 || retried > 1000/10+retryBurst {
		t.Errorf("%d of 1000 calls were made again", retried)
	}
}

// The own region comes first, a broken gateway last, and of the others the quicker one
// more often.
func TestOrder(t *testing.T) {
	h := newHealth()
	all := []candidate{{serviceKey{"slow", Model, "m"}, "here"}, {serviceKey{"quick", Model, "m"}, "here"}, {serviceKey{"far", Model, "m"}, "there"}, {serviceKey{"down", Model, "m"}, "here"}}
	for i, took := range []time.Duration{time.Second, time.Millisecond, time.Microsecond} {
		done, err := h.begin(all[i].key)
		if err != nil {
			t.Fatal(err)
		}
		done(nil, took)
	}
	for range openAfter {
		done, err := h.begin(all[3].key)
		if err != nil {
			t.Fatal(err)
		}
		done(errDown, 0)
	}
	for range 50 {
		var names []string
		for _, c := range h.order(all, "here") {
			names = append(names, string(c.key.did))
		}
		if got := strings.Join(names, " "); got != "quick slow far down" {
			t.Fatal(got)
		}
	}
}

func TestNearest(t *testing.T) {
	names := []string{"gpt-4o", "gpt-4o-mini", "claude", "read_file", "write_file"}
	for asked, want := range map[string]string{
		"gpt4o": "; did you mean gpt-4o?", "GPT-4o": "; did you mean gpt-4o, gpt-4o-mini?", "readfile": "; did you mean read_file?", "zzzzzzzz": "", "": "", strings.Repeat("x", 500): "",
	} {
		if got := Nearest(asked, names); got != want {
			t.Errorf("%.20q: %q, want %q", asked, got, want)
		}
	}
}
