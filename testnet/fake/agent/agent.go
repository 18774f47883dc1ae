// Package agent has an A2A agent of the official SDK, for tests. It is apart from package
// fake, which is part of the program: the SDK is not.
package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/a2aproject/a2a-go/v2/a2a"
	"github.com/a2aproject/a2a-go/v2/a2acompat/a2av0"
	"github.com/a2aproject/a2a-go/v2/a2asrv"
	"github.com/a2aproject/a2a-go/v2/a2asrv/taskstore"
)

// Agent is an A2A agent of the official SDK, for A2A 1.0 and 0.3. What it does the first
// word of a message says: "task" makes a task of four events, "wait" one that does not end
// before it is cancelled, and all else is said back. To it all callers are one.
type Agent struct {
	Key string // that it wants as bearer token, if any

	mux  *http.ServeMux
	open atomic.Int64
	mu   sync.Mutex
	seen []*http.Request // without bodies
}

// New makes an agent.
func New() *Agent {
	a := &Agent{mux: http.NewServeMux()}
	h := a2asrv.NewHandler(a, a2asrv.WithLogger(slog.New(slog.DiscardHandler)), a2asrv.WithTaskStore(taskstore.NewInMemory(&taskstore.InMemoryStoreConfig{
		Authenticator: func(context.Context) (string, error) { return "everybody", nil },
	})), a2asrv.WithExtendedAgentCard(&a2a.AgentCard{Name: "echo, extended", Skills: []a2a.AgentSkill{}}))
	a.mux.Handle("POST /rpc", a2asrv.NewJSONRPCHandler(h))
	a.mux.Handle("POST /rpc/0.3", a2av0.NewJSONRPCHandler(h))
	a.mux.HandleFunc("GET /.well-known/agent-card.json", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = fmt.Fprint(w, Card("http://"+r.Host)) // the client may be gone
	})
	return a
}

// Card is the agent's card at an address. It has what an SDK that reads and writes it
// again does not keep: a false that is the default, and a member that nobody knows.
func Card(base string) string {
	at := func(path string) string {
		b, _ := json.Marshal(base + path) // a text: cannot fail
		return string(b)
	}
	return `{"name":"echo","description":"says it back","version":"1.0","unknown":[1.0],` +
		`"supportedInterfaces":[{"url":` + at("/rest") + `,"protocolBinding":"HTTP+JSON","protocolVersion":"1.0"},` +
		`{"url":` + at("/rpc") + `,"protocolBinding":"JSONRPC","protocolVersion":"1.0"},{"url":` + at("/rpc/0.3") + `,"protocolBinding":"JSONRPC","protocolVersion":"0.3"}],` +
		`"capabilities":{"streaming":true,"pushNotifications":true,"extendedAgentCard":true},"defaultInputModes":["text/plain"],"defaultOutputModes":["text/plain"],` +
		`"securitySchemes":{"key":{"httpAuthSecurityScheme":{"scheme":"bearer"}}},"securityRequirements":[{"schemes":{"key":{"list":[]}}}],` +
		`"skills":[{"id":"say-back","name":"echo","description":"says it back","tags":["test"],"examples":[],"streaming":false}],` +
		`"signatures":[{"protected":"eyJhbGciOiJFZERTQSJ9","signature":"AAAA"}]}`
}

// ServeHTTP answers a request to the agent.
func (a *Agent) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.open.Add(1)
	defer a.open.Add(-1)
	a.mu.Lock()
	a.seen = append(a.seen, r.Clone(context.Background()))
	a.mu.Unlock()
	if a.Key != "" && r.Header.Get("Authorization") != "Bearer "+a.Key {
		http.Error(w, "no", http.StatusUnauthorized)
		return
	}
	a.mux.ServeHTTP(w, r)
}

// Seen gives the requests that came, without their bodies.
func (a *Agent) Seen() []*http.Request {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]*http.Request(nil), a.seen...)
}

// Open gives how many requests are not over yet.
func (a *Agent) Open() int64 { return a.open.Load() }

// Execute answers a message.
func (a *Agent) Execute(ctx context.Context, c *a2asrv.ExecutorContext) iter.Seq2[a2a.Event, error] {
	var text string
	for _, p := range c.Message.Parts {
		text += p.Text()
	}
	return func(yield func(a2a.Event, error) bool) {
		what, _, _ := strings.Cut(text, " ")
		if what != "task" && what != "wait" {
			m := a2a.NewMessage(a2a.MessageRoleAgent, a2a.NewTextPart(text))
			m.ContextID = c.ContextID
			yield(m, nil)
			return
		}
		if c.StoredTask == nil && !yield(a2a.NewSubmittedTask(c, c.Message), nil) || !yield(a2a.NewStatusUpdateEvent(c, a2a.TaskStateWorking, nil), nil) {
			return
		}
		if what == "wait" {
			<-ctx.Done()
			return
		}
		if !yield(a2a.NewArtifactEvent(c, a2a.NewTextPart(text)), nil) {
			return
		}
		yield(a2a.NewStatusUpdateEvent(c, a2a.TaskStateCompleted, nil), nil)
	}
}

// Cancel ends a task.
func (a *Agent) Cancel(_ context.Context, c *a2asrv.ExecutorContext) iter.Seq2[a2a.Event, error] {
	return func(yield func(a2a.Event, error) bool) {
		yield(a2a.NewStatusUpdateEvent(c, a2a.TaskStateCanceled, nil), nil)
	}
}
