package gate_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/node/execution"
	"github.com/talosprotocol/talos/node/gate"
)

// book keeps what was entered.
type book struct {
	mu     sync.Mutex
	events []gate.Event
	rows   [][]gate.Spent
	fail   error
}

func (b *book) Enter(_ context.Context, e gate.Event, rows []gate.Spent, _ []execution.Row) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.fail != nil {
		return b.fail
	}
	b.events, b.rows = append(b.events, e), append(b.rows, rows)
	return nil
}

func (b *book) types() (out []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range b.events {
		out = append(out, e.Type+" "+e.Outcome)
	}
	return out
}

// some allows what its function says.
type some func(r *gate.Request, c gate.Call) (gate.Decision, error)

func (f some) Decide(_ context.Context, _ time.Time, r *gate.Request, c gate.Call) (gate.Decision, error) {
	return f(r, c)
}

func all(*gate.Request, gate.Call) (gate.Decision, error) { return gate.Decision{Grant: "all"}, nil }

var now = time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC)

func ptr[T any](v T) *T { return &v }

func door(t testing.TB, auth some, surfaces ...contracts.Surface) (*gate.Gate, *book) {
	t.Helper()
	reg, err := gate.NewRegistry(surfaces)
	if err != nil {
		t.Fatal(err)
	}
	b := &book{}
	return gate.New(gate.Options{
		Registry: reg, Authority: auth, Book: b, Ledger: gate.NewLedger(), Log: slog.New(slog.DiscardHandler), Now: func() time.Time { return now },
	}), b
}

func surface(id string, change ...func(*contracts.Surface)) contracts.Surface {
	s := contracts.Surface{ID: id, Why: "A test.", Kind: "tool", Name: "fs", Method: "write", Access: "write", Record: "intent", Audit: []string{"peer", "code"}}
	for _, f := range change {
		f(&s)
	}
	return s
}

func nothing(context.Context, *gate.Pass) (gate.Result, error) { return gate.Result{}, nil }

var who = gate.Principal{DID: "did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK", Proof: gate.Channel}

// GATE-1, GATE-2, GATE-4: what is not registered and what nobody granted is denied, and
// the work never runs; what is allowed has its intent durable before it runs.
func TestDenyByDefault(t *testing.T) {
	deny := func(*gate.Request, gate.Call) (gate.Decision, error) {
		return gate.Decision{}, contracts.Errorf(contracts.NoCapability, "no")
	}
	ran := false
	work := func(context.Context, *gate.Pass) (gate.Result, error) { ran = true; return gate.Result{}, nil }
	g, b := door(t, deny, surface("a"), surface("open", func(s *contracts.Surface) { s.Open = ptr(true) }))
	for _, c := range []struct {
		id   string
		code contracts.Code
	}{{"b", contracts.Forbidden}, {"", contracts.Forbidden}, {"a", contracts.NoCapability}} {
		if err := g.Do(t.Context(), &gate.Request{Surface: c.id, Who: who}, work); contracts.CodeOf(err) != c.code || ran {
			t.Errorf("%q: %v, ran %v", c.id, err, ran)
		}
	}
	if got := b.types(); !slices.Equal(got, []string{"denied denied"}) {
		t.Errorf("recorded %q", got)
	}
	if err := g.Do(t.Context(), &gate.Request{Surface: "open"}, work); err != nil || !ran {
		t.Errorf("an open surface: %v", err)
	}
	g, b = door(t, all, surface("a"))
	err := g.Do(t.Context(), &gate.Request{Surface: "a", Who: who}, func(context.Context, *gate.Pass) (gate.Result, error) {
		if got := b.types(); !slices.Equal(got, []string{"intent "}) {
			t.Errorf("before the work: %q", got)
		}
		return gate.Result{}, nil
	})
	if err != nil || len(b.events) != 2 || b.events[1].Intent != b.events[0].ID {
		t.Errorf("%v, %+v", err, b.events)
	}
}

// GATE-5: the outcome is recorded whatever happens, and a failing book stops the work
// before it begins. Row 11 of the failure list: what cannot be recorded, with the budgets
// that it holds, is not done.
func TestOutcomeIsAlwaysRecorded(t *testing.T) {
	for name, c := range map[string]struct {
		work    func(context.Context, *gate.Pass) (gate.Result, error)
		outcome string
		code    contracts.Code
	}{
		"ok": {nothing, "ok", ""},
		"error": {func(context.Context, *gate.Pass) (gate.Result, error) {
			return gate.Result{}, contracts.Errorf(contracts.NotFound, "x")
		}, "error", contracts.NotFound},
		"cancelled": {func(context.Context, *gate.Pass) (gate.Result, error) { return gate.Result{}, context.Canceled }, "cancelled", contracts.Internal},
		"timeout":   {func(context.Context, *gate.Pass) (gate.Result, error) { return gate.Result{}, context.DeadlineExceeded }, "timeout", contracts.Internal},
		"panic":     {func(context.Context, *gate.Pass) (gate.Result, error) { panic("secret") }, "error", contracts.Internal},
	} {
		t.Run(name, func(t *testing.T) {
			g, b := door(t, all, surface("a"))
			err := g.Do(t.Context(), &gate.Request{Surface: "a", Who: who}, c.work)
			last := b.events[len(b.events)-1]
			if last.Type != "result" || last.Outcome != c.outcome || last.Code != c.code || contracts.CodeOf(err) != c.code {
				t.Errorf("%+v, %v", last, err)
			}
		})
	}
	g, b := door(t, all, surface("a"))
	b.fail = contracts.Errorf(contracts.StorageFull, "full")
	err := g.Do(t.Context(), &gate.Request{Surface: "a", Who: who}, func(context.Context, *gate.Pass) (gate.Result, error) {
		t.Error("ran without a record")
		return gate.Result{}, nil
	})
	if contracts.CodeOf(err) != contracts.StorageFull {
		t.Errorf("%v", err)
	}
}

// Row 13 of the failure list: a limit is the subject's, whatever connection it comes over,
// whatever token it shows, and however it proves who it is.
func TestRow13_LimitsFollowTheSubject(t *testing.T) {
	g, _ := door(t, func(r *gate.Request, _ gate.Call) (gate.Decision, error) {
		return gate.Decision{Grant: "cap:" + string(r.Token)}, nil
	}, surface("a", func(s *contracts.Surface) { s.Burst, s.PerMinute, s.Record = ptr(int64(5)), ptr(int64(60)), "none" }))
	passed := 0
	for i := range 20 {
		w := gate.Principal{DID: who.DID, Proof: []gate.Proof{gate.Channel, gate.Signed, gate.Attested}[i%3], Session: string(rune('a' + i))}
		err := g.Do(t.Context(), &gate.Request{Surface: "a", Who: w, Token: []byte{byte(i)}, ID: string(rune('a' + i))}, nothing)
		if err == nil {
			passed++
		} else if contracts.CodeOf(err) != contracts.RateLimited {
			t.Fatal(err)
		}
	}
	if passed != 5 {
		t.Errorf("%d calls of one subject passed a limit of 5", passed)
	}
	if err := g.Do(t.Context(), &gate.Request{Surface: "a", Who: gate.Principal{DID: "did:key:z6MkiTBz1ymuepAQ4HEHYSF1H8quG5GLVVQR3djdX3mDooWp", Proof: gate.Channel}}, nothing); err != nil {
		t.Errorf("another subject: %v", err)
	}
}

// GATE-3: a call is built of the surface's own template and the parameters that it names.
func TestTemplates(t *testing.T) {
	var got gate.Call
	see := func(_ *gate.Request, c gate.Call) (gate.Decision, error) { got = c; return gate.Decision{}, nil }
	g, _ := door(t, see, surface("a", func(s *contracts.Surface) {
		s.Name, s.Method, s.Resource, s.Record = "{tool}", "{method}", []string{"data", "{what}"}, "none"
	}))
	if err := g.Do(t.Context(), &gate.Request{Surface: "a", Who: who, Params: map[string]string{"tool": "fs/method:read", "method": "write", "what": "../x"}}, nothing); err != nil {
		t.Fatal(err)
	}
	// The texts stay texts: whoever makes a scope of them encodes them.
	if got.Name != "fs/method:read" || got.Method != "write" || !slices.Equal(got.Resource, []string{"data", "../x"}) {
		t.Errorf("%+v", got)
	}
	for _, params := range []map[string]string{
		nil, {"tool": "x"}, {"tool": "x", "method": "", "what": "y"}, {"tool": "x", "method": "y", "what": "z", "more": "w"},
	} {
		if err := g.Do(t.Context(), &gate.Request{Surface: "a", Who: who, Params: params}, nothing); contracts.CodeOf(err) != contracts.Malformed {
			t.Errorf("%v: %v", params, err)
		}
	}
	for _, bad := range [][]contracts.Surface{
		{surface("a"), surface("a")},
		{surface("a", func(s *contracts.Surface) { s.HTTP = []string{"GET /x"} }), surface("b", func(s *contracts.Surface) { s.HTTP = []string{"GET /x"} })},
		{surface("a", func(s *contracts.Surface) { s.Name = "x{y}" })},
	} {
		if _, err := gate.NewRegistry(bad); err == nil {
			t.Errorf("a registry that contradicts itself: %+v", bad)
		}
	}
}

// GATE-6: token buckets, exact to the token, by subject and surface.
func TestRates(t *testing.T) {
	clock := now
	reg, _ := gate.NewRegistry([]contracts.Surface{surface("a", func(s *contracts.Surface) { s.Burst, s.PerMinute, s.Record = ptr(int64(3)), ptr(int64(60)), "none" })})
	g := gate.New(gate.Options{Registry: reg, Authority: some(all), Book: &book{}, Ledger: gate.NewLedger(), Log: slog.New(slog.DiscardHandler), Now: func() time.Time { return clock }})
	try := func(who gate.Principal) bool {
		err := g.Do(t.Context(), &gate.Request{Surface: "a", Who: who}, nothing)
		if err != nil && contracts.CodeOf(err) != contracts.RateLimited {
			t.Fatal(err)
		}
		return err == nil
	}
	other := who
	other.DID = "did:key:z6MkpTHR8VNsBxYAAWHut2Geadd9jSwuBV8xRoAnwWsdvktH"
	for i, want := range []bool{true, true, true, false, false} {
		if try(who) != want {
			t.Errorf("call %d", i)
		}
	}
	if !try(other) {
		t.Error("another subject pays for the first")
	}
	clock = clock.Add(2 * time.Second)
	for i, want := range []bool{true, true, false} {
		if try(who) != want {
			t.Errorf("two seconds are two tokens: call %d", i)
		}
	}
}

// Row 38 and 40: in a thousand goroutines exactly as many pass as there are tokens and
// units; refused calls take none.
func TestLimitsAreExactUnderConcurrency(t *testing.T) {
	payers := []gate.Payer{{Account: "parent", Unit: "calls", Max: 70, Mode: gate.Hard}, {Account: "child", Unit: "calls", Max: 100, Mode: gate.Hard}}
	g, _ := door(t, func(*gate.Request, gate.Call) (gate.Decision, error) { return gate.Decision{Payers: payers}, nil }, surface("a", func(s *contracts.Surface) { s.Record = "none" }))
	var passed atomic.Int64
	var wg sync.WaitGroup
	for range 1000 {
		wg.Go(func() {
			err := g.Do(t.Context(), &gate.Request{Surface: "a", Who: who, Cost: gate.Amounts{gate.Calls: 1}}, func(context.Context, *gate.Pass) (gate.Result, error) {
				passed.Add(1)
				return gate.Result{Used: gate.Amounts{gate.Calls: 1}}, nil
			})
			if err != nil && contracts.CodeOf(err) != contracts.BudgetExhausted {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	// Denials lower the ceiling, so it may end below the budget, never above it.
	if n := passed.Load(); n > 70 || g.Ledger().Spent("parent", "calls").Used != n || g.Ledger().Spent("child", "calls").Used != n {
		t.Errorf("%d passed; parent %+v, child %+v", n, g.Ledger().Spent("parent", "calls"), g.Ledger().Spent("child", "calls"))
	}
}

// Row 39: whatever reserves, tops up and settles in whatever order, no hard budget is
// ever passed by what is held and what settled within its hold, and nothing is lost.
// GATE-7.
func TestLedger(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := gate.NewLedger()
		budgets := map[string]int64{"root": rapid.Int64Range(0, 1000).Draw(t, "root"), "a": rapid.Int64Range(0, 1000).Draw(t, "a"), "b": rapid.Int64Range(0, 1000).Draw(t, "b")}
		used, held := map[string]int64{}, map[string]int64{}
		type open struct {
			r      *gate.Reservation
			payers []gate.Payer
			held   int64
		}
		var running []*open
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			if len(running) > 0 && rapid.Bool().Draw(t, "settle") {
				i := rapid.IntRange(0, len(running)-1).Draw(t, "which")
				o := running[i]
				n := rapid.Int64Range(0, o.held).Draw(t, "used")
				o.r.Settle(gate.Amounts{"u": n, "other": 9})
				o.r.Settle(gate.Amounts{"u": n}) // twice is once
				for _, p := range o.payers {
					used[p.Account], held[p.Account] = used[p.Account]+n, held[p.Account]-o.held
				}
				running = slices.Delete(running, i, i+1)
			} else {
				payers := []gate.Payer{{Account: "root", Unit: "u", Max: budgets["root"], Mode: gate.Hard}}
				child := rapid.SampledFrom([]string{"a", "b"}).Draw(t, "child")
				payers = append(payers, gate.Payer{Account: child, Unit: "u", Max: budgets[child], Mode: gate.Hard})
				n := rapid.Int64Range(0, 400).Draw(t, "amount")
				fits := true
				for _, p := range payers {
					fits = fits && used[p.Account]+held[p.Account]+n <= p.Max
				}
				r, err := l.Reserve(payers, gate.Amounts{"u": n, "other": 1 << 40})
				if (err == nil) != fits {
					t.Fatalf("reserve %d of %+v with %v used, %v held: %v", n, payers, used, held, err)
				}
				if err != nil {
					continue
				}
				for _, p := range payers {
					held[p.Account] += n
				}
				running = append(running, &open{r, payers, n})
			}
			for name := range budgets {
				if s := l.Spent(name, "u"); s.Used != used[name] || s.Held != held[name] {
					t.Fatalf("%s: %+v, want %d used, %d held", name, s, used[name], held[name])
				}
			}
		}
		// After a restart what was held counts as used.
		again := gate.NewLedger()
		for name := range budgets {
			again.Load([]gate.Spent{l.Spent(name, "u")})
			if s := again.Spent(name, "u"); s.Used != used[name]+held[name] {
				t.Fatalf("after a restart %+v", s)
			}
		}
	})
}

// GATE-8: the ceiling falls when more than half of 32 outcomes failed, to an eighth at
// the least, and comes back by an eighth for 16 good ones in a row.
func TestCeilingFallsAndRecovers(t *testing.T) {
	l := gate.NewLedger()
	p := []gate.Payer{{Account: "a", Unit: "u", Max: 801, Mode: gate.Hard}}
	fail := func(n int, failed bool) {
		for range n {
			l.Outcome(p, failed)
		}
	}
	steps := []struct {
		n      int
		failed bool
		want   int64
	}{{31, true, 801}, {1, true, 400}, {32, true, 200}, {32, true, 100}, {64, true, 100}, {15, false, 100}, {1, false, 200}, {6 * 16, false, 801}, {100, false, 801}}
	for i, s := range steps {
		if fail(s.n, s.failed); l.Ceiling("a", "u", 801) != s.want {
			t.Errorf("step %d: ceiling %d, want %d", i, l.Ceiling("a", "u", 801), s.want)
		}
	}
	if _, err := l.Reserve([]gate.Payer{{Account: "x", Unit: "u", Max: 5, Mode: gate.Warn}}, gate.Amounts{"u": 9}); err != nil {
		t.Errorf("warn refuses: %v", err)
	}
	if _, err := l.Reserve([]gate.Payer{{Account: "x", Unit: "u", Max: 5, Mode: "often"}}, gate.Amounts{"u": 1}); contracts.CodeOf(err) != contracts.ConfigInvalid {
		t.Errorf("an unknown mode: %v", err)
	}
	if _, err := l.Reserve(p, gate.Amounts{"u": -1}); contracts.CodeOf(err) != contracts.Malformed {
		t.Errorf("a negative amount: %v", err)
	}
}

// A running stream is cut at the limit: what is topped up is refused, and the work ends.
func TestTopUp(t *testing.T) {
	g, _ := door(t, func(*gate.Request, gate.Call) (gate.Decision, error) {
		return gate.Decision{Payers: []gate.Payer{{Account: "a", Unit: "u", Max: 25, Mode: gate.Hard}}}, nil
	}, surface("a", func(s *contracts.Surface) { s.Record = "none" }))
	slices := 0
	err := g.Do(t.Context(), &gate.Request{Surface: "a", Who: who, Cost: gate.Amounts{"u": 10}}, func(_ context.Context, p *gate.Pass) (gate.Result, error) {
		for {
			if err := p.TopUp(gate.Amounts{"u": 10}); err != nil {
				return gate.Result{Used: gate.Amounts{"u": 20}}, err
			}
			slices++
		}
	})
	if contracts.CodeOf(err) != contracts.BudgetExhausted || slices != 1 || g.Ledger().Spent("a", "u") != (gate.Spent{Account: "a", Unit: "u", Used: 20}) {
		t.Errorf("%v after %d slices, %+v", err, slices, g.Ledger().Spent("a", "u"))
	}
	if errors.Is(err, context.Canceled) {
		t.Error("the cause is the budget")
	}
}

func BenchmarkDo(b *testing.B) {
	g, _ := door(b, all, surface("a", func(s *contracts.Surface) { s.Record = "none" }))
	r := &gate.Request{Surface: "a", Who: who}
	b.ReportAllocs()
	for b.Loop() {
		if err := g.Do(b.Context(), r, nothing); err != nil {
			b.Fatal(err)
		}
	}
}
