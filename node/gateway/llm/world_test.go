package llm_test

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
	"github.com/talosprotocol/talos/node/call"
	"github.com/talosprotocol/talos/node/execution"
	"github.com/talosprotocol/talos/node/gate"
	"github.com/talosprotocol/talos/node/gateway"
	"github.com/talosprotocol/talos/node/gateway/llm"
	"github.com/talosprotocol/talos/testnet/fake"
)

// payer lets everybody pass, at the expense of some budgets.
type payer []gate.Payer

func (p payer) Decide(context.Context, time.Time, *gate.Request, gate.Call) (gate.Decision, error) {
	return gate.Decision{Grant: "test", Payers: p}, nil
}

// notes keeps what the gate records.
type notes struct {
	mu     sync.Mutex
	events []gate.Event
}

func (n *notes) Enter(_ context.Context, e gate.Event, _ []gate.Spent, _ []execution.Row) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.events = append(n.events, e)
	return nil
}

func (n *notes) last() gate.Event {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.events[len(n.events)-1]
}

type world struct {
	t     testing.TB
	g     *gateway.Gateway
	gate  *gate.Gate
	notes *notes
}

// newWorld is a gateway with the driver under test, and one payer of an account "a".
func newWorld(t testing.TB, d *llm.Driver, payers ...gate.Payer) *world {
	t.Helper()
	surfaces := slices.Clone(contracts.Surfaces())
	for i := range surfaces {
		surfaces[i].PerMinute = nil // the tests are quicker than any caller may be
	}
	reg, err := gate.NewRegistry(surfaces)
	if err != nil {
		t.Fatal(err)
	}
	key, err := identity.Generate[identity.Invocation](rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	control, err := identity.Generate[identity.Control](rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	did, _ := identity.Incept(control, control.Public(), time.Now())
	w := &world{t: t, notes: &notes{}}
	w.gate = gate.New(gate.Options{Registry: reg, Authority: payer(payers), Book: w.notes, Ledger: gate.NewLedger(), Log: slog.New(slog.DiscardHandler), Now: time.Now})
	w.g = gateway.New(gateway.Config{DID: did, Gate: w.gate, Log: slog.New(slog.DiscardHandler), Now: time.Now, Key: func() (identity.InvocationKey, error) { return key, nil }})
	w.g.Set(gateway.Model, d)
	return w
}

// last gives the last thing that was recorded, when all is.
func (w *world) last() gate.Event {
	w.gate.Wait()
	return w.notes.last()
}

func tokens(most int64) gate.Payer {
	return gate.Payer{Account: "a", Unit: gate.Tokens, Max: most, Mode: gate.Hard}
}

// serve runs an upstream.
func serve(t testing.TB, h http.Handler) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL + "/v1"
}

func exposure(url string) contracts.ModelExposure {
	yes := true
	return contracts.ModelExposure{Name: "m", API: "openai", URL: url, Private: &yes}
}

func driver(t testing.TB, limits llm.Limits, all ...contracts.ModelExposure) *llm.Driver {
	t.Helper()
	d, err := llm.New(all, func(name string) []byte {
		if name == "known" {
			return []byte("the-secret-key")
		}
		return nil
	}, limits)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// call makes a call and reads its answer.
func (w *world) call(ctx context.Context, op, body string) (status int, text string, err error) {
	w.t.Helper()
	a, err := w.g.Local(ctx, gate.Principal{DID: "did:key:z6MkTest", Proof: gate.Channel}, call.Header{Surface: "model.use", Service: "m", Method: op}, []byte(body))
	if err != nil {
		return 0, "", err
	}
	defer a.Body.Close() //nolint:errcheck // read
	b, err := io.ReadAll(a.Body)
	return a.Status, string(b), err
}

func (w *world) spent() gate.Spent { return w.gate.Ledger().Spent("a", gate.Tokens) }

func chat(content string, more ...string) string {
	b, _ := json.Marshal(content)
	s := `{"model":"m","messages":[{"role":"user","content":` + string(b) + `}]`
	for _, m := range more {
		s += "," + m
	}
	return s + "}"
}

func openAI(t testing.TB, m *fake.Model, limits llm.Limits, payers ...gate.Payer) *world {
	t.Helper()
	return newWorld(t, driver(t, limits, exposure(serve(t, m))), payers...)
}
