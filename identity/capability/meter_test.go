package capability_test

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity/capability"
)

// Rows 33 and 34 of the acceptance table; CAP-20: seen before, older than what is
// remembered, and no room: all refused.
func TestRow33and34_Replay(t *testing.T) {
	r := capability.NewReplay(100)
	sec := now.Unix()
	take := func(s, id string, until, at int64) error { return r.Take(s, id, sec+until, sec+at) }
	wantCode(t, "first", take("s", "a", 60, 0), "")
	wantCode(t, "again", take("s", "a", 60, 0), contracts.Replay)
	wantCode(t, "again, later", take("s", "a", 120, 59), contracts.Replay)
	wantCode(t, "another session", take("t", "a", 60, 59), "")
	wantCode(t, "split elsewhere", take("sa", "", 60, 59), "")
	wantCode(t, "forgotten, and too old", take("s", "a", 60, 60), contracts.Replay)
	wantCode(t, "older than the window after the clock went back", take("s", "a", 60, 0), contracts.Replay)
	for i := range 100 {
		if err := take("s", fmt.Sprint(i), 500, 100); err != nil {
			t.Fatal(err)
		}
	}
	wantCode(t, "full", take("s", "b", 600, 100), contracts.Replay)
	wantCode(t, "full for all", take("u", "b", 600, 100), contracts.Replay)
	if r.Len() != 100 {
		t.Errorf("%d are remembered", r.Len())
	}
	wantCode(t, "after their time", take("s", "b", 600, 500), "")
	if r.Len() != 1 {
		t.Errorf("%d are remembered", r.Len())
	}
	// One session cannot fill the window of all.
	r = capability.NewReplay(capability.MaxReplay)
	for i := range capability.MaxSessionReplay {
		if err := r.Take("s", fmt.Sprint(i), sec+10, sec); err != nil {
			t.Fatal(err)
		}
	}
	wantCode(t, "session full", r.Take("s", "x", sec+10, sec), contracts.Replay)
	wantCode(t, "another session is not", r.Take("t", "x", sec+10, sec), "")
}

// CAP-20: the window after a restart is the window before it, whichever of its rows were
// swept in between because their time was over.
func TestReplaySurvivesARestart(t *testing.T) {
	w := newWorld()
	g := w.grantOf()
	rapid.Check(t, func(t *rapid.T) {
		m, at := capability.NewMeter(capability.NewReplay(50)), now
		var rows []capability.Seen
		request := func(id int, life time.Duration) capability.Request {
			return capability.Request{Session: rapid.SampledFrom([]string{"a", "b"}).Draw(t, "session"), ID: fmt.Sprint(id), Until: at.Add(life)}
		}
		for range rapid.IntRange(0, 80).Draw(t, "n") {
			at = at.Add(time.Duration(rapid.IntRange(0, 5).Draw(t, "wait")) * time.Second)
			taken, err := m.Take(g, request(rapid.IntRange(0, 30).Draw(t, "id"), time.Duration(rapid.IntRange(1, 60).Draw(t, "life"))*time.Second), at)
			if err == nil {
				rows = append(rows, *taken.Seen)
			}
		}
		var left []capability.Seen
		for _, s := range rows {
			if s.Until() > at.Unix() || rapid.Bool().Draw(t, "kept") {
				left = append(left, s, s)
			}
		}
		again := capability.NewMeter(capability.NewReplay(50))
		again.Restore(nil, left)
		for i := range 31 {
			r := request(i, time.Minute)
			_, x := m.Take(g, r, at)
			_, y := again.Take(g, r, at)
			if contracts.CodeOf(x) != contracts.CodeOf(y) {
				t.Fatalf("%v and %v", x, y)
			}
		}
		if m.Remembered() != again.Remembered() {
			t.Fatalf("%d and %d are remembered", m.Remembered(), again.Remembered())
		}
	})
}

// Row 38 of the acceptance table; CAP-21: of a thousand callers exactly n are served.
func TestRow38_CallCount(t *testing.T) {
	w := newWorld()
	g := w.grantOf(contracts.Constraint{Op: "calls", N: ptr(int64(137))})
	m := capability.NewMeter(capability.NewReplay(2000))
	var served, refused atomic.Int64
	var wg sync.WaitGroup
	for i := range 1000 {
		wg.Go(func() {
			_, err := m.Take(g, capability.Request{Session: "s", ID: fmt.Sprint(i), Until: now.Add(time.Minute)}, now)
			switch contracts.CodeOf(err) {
			case "":
				served.Add(1)
			case contracts.BudgetExhausted:
				refused.Add(1)
			}
		})
	}
	wg.Wait()
	if served.Load() != 137 || refused.Load() != 863 {
		t.Errorf("%d served, %d refused", served.Load(), refused.Load())
	}
}

// Row 39 of the acceptance table, for calls: children share what their parent allows.
// And a restart forgets nothing.
func TestRow39_SiblingsShare(t *testing.T) {
	w := newWorld()
	root := w.terms(w.alice.did, "tool:fs")
	root.Constraints = []contracts.Constraint{{Op: "calls", N: ptr(int64(5))}, {Op: "budget", N: ptr(int64(1000)), Unit: "micro-eur"}}
	a := w.issue(w.org.signer(), root)
	parent := must(capability.ParseToken([]byte(a)))
	child := func(sub *agent) *capability.Grant {
		tm := w.terms(sub.did, "tool:fs")
		tm.Delegations, tm.Constraints = 0, []contracts.Constraint{{Op: "calls", N: ptr(int64(4))}}
		b := must(capability.Delegate(w.alice.signer(), parent, tm, w.rnd, now))
		return must(w.v.Verify(join(a, b), holder(sub.did), now))
	}
	bob, carol := child(w.bob), child(w.carol)
	m := capability.NewMeter(capability.NewReplay(10))
	take := func(g *capability.Grant) ([]capability.Used, error) {
		taken, err := m.Take(g, capability.Request{}, now)
		return taken.Used, err
	}
	var last []capability.Used
	for range 3 {
		rows, err := take(bob)
		wantCode(t, "bob", err, "")
		last = rows
	}
	for range 2 {
		_, err := take(carol)
		wantCode(t, "carol", err, "")
	}
	_, err := take(carol)
	wantCode(t, "the parent's are used up", err, contracts.BudgetExhausted)
	_, err = take(bob)
	wantCode(t, "also for bob", err, contracts.BudgetExhausted)
	if len(last) != 2 || last[0].Calls != 3 || last[1].Calls != 3 || last[0].Token != parent.ID.String() {
		t.Errorf("rows %+v", last)
	}
	limits := bob.Limits()
	if len(limits) != 3 || limits[0].Issuer != w.org.did || limits[2].Calls < 0 && limits[2].Unit == "" {
		t.Errorf("limits %+v", limits)
	}
	// After a restart, with the rows of bob's last call.
	m = capability.NewMeter(capability.NewReplay(10))
	m.Restore(last, nil)
	_, err = take(bob)
	wantCode(t, "the fourth", err, "")
	_, err = take(bob)
	wantCode(t, "the child's are used up", err, contracts.BudgetExhausted)
}

// Row 40 of the acceptance table; CAP-22: a refused call consumes nothing, whichever
// check refuses.
func TestRow40_RefusedConsumesNothing(t *testing.T) {
	w := newWorld()
	g := w.grantOf(contracts.Constraint{Op: "calls", N: ptr(int64(2))}, contracts.Constraint{Op: "rate", N: ptr(int64(10)), Per: ptr(int64(10))})
	m := capability.NewMeter(capability.NewReplay(3))
	req := func(id string) capability.Request {
		return capability.Request{Session: "s", ID: id, Until: now.Add(time.Minute)}
	}
	take := func(id string) error { _, err := m.Take(g, req(id), now); return err }
	_, err := m.Take(g, capability.Request{Session: "s", ID: "old", Until: now.Add(-time.Second)}, now)
	wantCode(t, "too old", err, contracts.Replay)
	if m.Remembered() != 0 {
		t.Error("a refused request is remembered")
	}
	wantCode(t, "a", take("a"), "")
	for range 10 {
		wantCode(t, "a again takes no call", take("a"), contracts.Replay)
	}
	wantCode(t, "b", take("b"), "")
	wantCode(t, "c: no calls left", take("c"), contracts.BudgetExhausted)
	if n := m.Remembered(); n != 2 {
		t.Errorf("the refused request is remembered: %d are", n)
	}
}

// Rates: n at once, then one each per/n; nothing is saved up beyond n.
func TestRate(t *testing.T) {
	w := newWorld()
	g := w.grantOf(contracts.Constraint{Op: "rate", N: ptr(int64(3)), Per: ptr(int64(60))})
	m := capability.NewMeter(capability.NewReplay(1))
	take := func(at time.Duration) contracts.Code {
		_, err := m.Take(g, capability.Request{}, now.Add(at))
		return contracts.CodeOf(err)
	}
	for i, e := range []struct {
		at   time.Duration
		want contracts.Code
	}{
		{0, ""}, {0, ""}, {0, ""}, {0, contracts.RateLimited}, {19 * time.Second, contracts.RateLimited}, {20 * time.Second, ""}, {20 * time.Second, contracts.RateLimited},
		{time.Hour, ""}, {time.Hour, ""}, {time.Hour, ""}, {time.Hour, contracts.RateLimited}, {-time.Hour, contracts.RateLimited},
	} {
		if got := take(e.at); got != e.want {
			t.Errorf("%d, at %s: %q, want %q", i, e.at, got, e.want)
		}
	}
	// What is counted is bounded, and what is counted is not forgotten for others.
	m = capability.NewMeter(capability.NewReplay(1))
	var rows []capability.Used
	for i := range capability.MaxCounted {
		rows = append(rows, capability.Used{Token: fmt.Sprint(i), Calls: 1, Until: now.Unix() + 60})
	}
	m.Restore(rows, nil)
	if take(0) != contracts.RateLimited || take(2*time.Minute) != "" {
		t.Error("the bound does not hold, or is for ever")
	}
}

// CAP-23: an explanation is the decision, in words, and says what to change.
func TestExplain(t *testing.T) {
	w := newWorld()
	tm := w.terms(w.alice.did, "tool:fs/method:read/resource:data/**")
	tm.Constraints = []contracts.Constraint{{Op: "range", Arg: "/limit", Min: ptr(int64(1)), Max: ptr(int64(10))}, {Op: "calls", N: ptr(int64(3))}, {Op: "ro"}}
	token := []byte(w.issue(w.org.signer(), tm))
	alice, bob := holder(w.alice.did), holder(w.bob.did)
	ok := call(capability.Tool, "fs", "read", "data", "x")
	ok.Args = args(`{"limit":5}`)
	much := call(capability.Tool, "fs", "read", "data", "x")
	much.Args = args(`{"limit":50}`)
	for name, e := range map[string]struct {
		token []byte
		h     capability.Holder
		c     *capability.Call
		at    time.Duration
		want  contracts.Code
		step  capability.Step
		says  []string
	}{
		"allowed":    {token, alice, ok, 0, "", 0, []string{"Allowed.", "covers tool:fs/method:read/resource:data/x", "at most 3 calls", "its connection"}},
		"scope":      {token, alice, call(capability.Tool, "fs", "write", "data", "x"), 0, contracts.ScopeMismatch, capability.StepScope, []string{"ask for a token with the scope tool:fs/method:write/resource:data/x"}},
		"constraint": {token, alice, much, 0, contracts.ConstraintViolation, capability.StepConstraints, []string{"argument /limit is a whole number from 1 to 10", "change the call"}},
		"holder":     {token, bob, ok, 0, contracts.HolderMismatch, capability.StepHolder, []string{"call as the DID that the token names"}},
		"expired":    {token, alice, ok, 2 * time.Hour, contracts.Expired, capability.StepTimes, []string{"2026-11-23T13:00:00.000Z"}},
		"stale":      {token, alice, ok, 30 * time.Minute, contracts.RevocationStale, capability.StepRevocation, []string{"wait for the issuer's heartbeat"}},
		"no token":   {[]byte("hello"), alice, ok, 0, contracts.Malformed, capability.StepForm, []string{"header.payload.signature"}},
		"nothing":    {nil, alice, ok, 0, contracts.NoCapability, capability.StepSize, []string{"show a token"}},
	} {
		x := w.v.Explain(e.token, e.h, e.c, now.Add(e.at))
		text := x.String()
		if x.Code != e.want || x.Allowed != (e.want == "") {
			t.Errorf("%s: %s\n%s", name, x.Code, text)
		}
		for i, f := range x.Findings {
			if e.want != "" && (f.Reached != (capability.Step(i) <= e.step) || f.Passed != (capability.Step(i) < e.step)) {
				t.Errorf("%s: step %s: %+v", name, capability.Step(i), f)
			}
		}
		if e.want != "" && x.Findings[e.step].Do == "" {
			t.Errorf("%s: it says not what to do", name)
		}
		for _, s := range e.says {
			if !strings.Contains(text, s) {
				t.Errorf("%s: %q is not in\n%s", name, s, text)
			}
		}
		g, err := w.v.Verify(e.token, e.h, now.Add(e.at))
		if err == nil {
			err = g.Decide(&e.h, e.c, now.Add(e.at)).Err()
		}
		wantCode(t, name+": the decision itself", err, x.Code)
		if name == "allowed" {
			t.Log("\n" + text)
		}
	}
}
