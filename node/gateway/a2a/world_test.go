package a2a_test

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
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
	"github.com/talosprotocol/talos/node/gateway/a2a"
)

// authority lets alice and bob do what they are granted, at the expense of a budget.
type authority struct {
	granted map[identity.DID][]string // surface and operation; nil: all
	payers  []gate.Payer

	mu    sync.Mutex
	asked []string // surfaces and calls, as the gate saw them
}

func (a *authority) Decide(_ context.Context, _ time.Time, r *gate.Request, c gate.Call) (gate.Decision, error) {
	what := r.Surface + " " + c.Method
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asked = append(a.asked, what)
	if g, ok := a.granted[r.Who.DID]; ok && !slices.Contains(g, what) {
		return gate.Decision{}, contracts.Errorf(contracts.NoCapability, "no")
	}
	return gate.Decision{Grant: "test", Payers: a.payers}, nil
}

type silent struct{}

func (silent) Enter(context.Context, gate.Event, []gate.Spent, []execution.Row) error { return nil }

const (
	alice = identity.DID("did:key:z6MkAlice")
	bob   = identity.DID("did:key:z6MkBob")
)

type world struct {
	t    testing.TB
	g    *gateway.Gateway
	d    *a2a.Driver
	door *gate.Gate
	who  *authority
}

func newWorld(t testing.TB, limits a2a.Limits, agents ...contracts.AgentExposure) *world {
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
	w := &world{t: t, who: &authority{granted: map[identity.DID][]string{}}}
	w.door = gate.New(gate.Options{Registry: reg, Authority: w.who, Book: silent{}, Ledger: gate.NewLedger(), Log: slog.New(slog.DiscardHandler), Now: time.Now})
	w.g = gateway.New(gateway.Config{DID: "did:talos:zQmGateway", Gate: w.door, Log: slog.New(slog.DiscardHandler), Now: time.Now, Key: func() (identity.InvocationKey, error) { return key, nil }})
	w.d, err = a2a.New(a2a.Config{Agents: agents, Limits: limits, Secret: func(name string) []byte {
		if name == "known" {
			return []byte("the-secret")
		}
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	w.g.Set(gateway.Agent, w.d)
	return w
}

// serve gives a handler as an agent that is exposed.
func serve(t testing.TB, h http.Handler) contracts.AgentExposure {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	yes := true
	return contracts.AgentExposure{Name: "echo", URL: s.URL, Private: &yes}
}

// scripted is an agent whose card is right and whose answers are the test's.
func scripted(t testing.TB, h http.HandlerFunc) contracts.AgentExposure {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("POST /rpc", h)
	mux.HandleFunc("GET /.well-known/agent-card.json", func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprintf(w, `{"name":"x","supportedInterfaces":[{"url":"http://%s/rpc","protocolBinding":"JSONRPC","protocolVersion":"1.0"}]}`, r.Host)
	})
	return serve(t, mux)
}

// says is an agent that answers always the same.
func says(t testing.TB, kind, body string) contracts.AgentExposure {
	return scripted(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", kind)
		_, _ = io.WriteString(w, body)
	})
}

func (w *world) open(ctx context.Context, who identity.DID, method, body string, headers ...contracts.CallHeader) (*gateway.Answer, error) {
	meta := contracts.CallMeta{V: "talos-meta/1", Headers: headers}
	return w.g.Local(ctx, gate.Principal{DID: who, Proof: gate.Channel}, call.Header{Surface: "agent.use", Service: "echo", Method: method, Meta: meta.AppendCanonical(nil)}, []byte(body))
}

// raw makes a call with a body.
func (w *world) raw(ctx context.Context, who identity.DID, method, body string, headers ...contracts.CallHeader) (string, error) {
	a, err := w.open(ctx, who, method, body, headers...)
	if err != nil {
		return "", err
	}
	defer a.Body.Close() //nolint:errcheck // read
	b, err := io.ReadAll(a.Body)
	return string(b), err
}

func request(method, params string) string {
	return fmt.Sprintf(`{"jsonrpc":"2.0","id":"an id","method":%q,"params":%s}`, method, params)
}

func (w *world) do(who identity.DID, method, params string) (string, error) {
	return w.raw(w.t.Context(), who, method, request(method, params))
}

func message(text string, more ...string) string {
	s := `{"message":{"messageId":"m","role":"ROLE_USER","parts":[{"text":` + fmt.Sprintf("%q", text) + `}]`
	for _, m := range more {
		s += "," + m
	}
	return s + `}}`
}

// task has the agent make a task, and gives the ids of it and its context.
func (w *world) task(who identity.DID, text string) (id, within string) {
	w.t.Helper()
	out, err := w.do(who, "SendMessage", message(text))
	var r struct {
		Result struct {
			Task struct{ ID, ContextID string }
		}
	}
	if err != nil || json.Unmarshal([]byte(out), &r) != nil || r.Result.Task.ID == "" {
		w.t.Fatalf("%v\n%s", err, out)
	}
	return r.Result.Task.ID, r.Result.Task.ContextID
}
