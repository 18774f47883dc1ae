package mcp_test

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
	"github.com/talosprotocol/talos/node/call"
	"github.com/talosprotocol/talos/node/execution"
	"github.com/talosprotocol/talos/node/gate"
	"github.com/talosprotocol/talos/node/gateway"
	"github.com/talosprotocol/talos/node/gateway/mcp"
	"github.com/talosprotocol/talos/testnet/fake"
)

// TestMain is also the MCP server that the tests run as a program: a real one, of the
// official SDK.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "serve-notes" {
		fake.ServeNotes("1.0")
		return
	}
	if len(os.Args) > 1 && strings.HasPrefix(os.Args[1], "misbehave-") {
		misbehave(os.Args[1])
		return
	}
	os.Exit(m.Run())
}

// granted lets callers use tools of servers: "server/tool", or "server/*".
type granted struct {
	mu  sync.Mutex
	all map[identity.DID][]string
}

func (g *granted) Decide(_ context.Context, _ time.Time, r *gate.Request, c gate.Call) (gate.Decision, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, s := range g.all[r.Who.DID] {
		if s == c.Name+"/"+c.Method || s == c.Name+"/*" {
			return gate.Decision{Grant: "test"}, nil
		}
	}
	return gate.Decision{}, contracts.Errorf(contracts.NoCapability, "no")
}

type silent struct{}

func (silent) Enter(context.Context, gate.Event, []gate.Spent, []execution.Row) error { return nil }

const (
	alice = identity.DID("did:key:z6MkAlice")
	bob   = identity.DID("did:key:z6MkBob")
)

type world struct {
	t       testing.TB
	g       *gateway.Gateway
	d       *mcp.Driver
	granted *granted
	dir     string
}

func newWorld(t testing.TB, servers ...contracts.ToolExposure) *world {
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
	w := &world{t: t, dir: t.TempDir(), granted: &granted{all: map[identity.DID][]string{alice: {"notes/*"}, bob: {"notes/echo"}}}}
	door := gate.New(gate.Options{Registry: reg, Authority: w.granted, Book: silent{}, Ledger: gate.NewLedger(), Log: slog.New(slog.DiscardHandler), Now: time.Now})
	w.g = gateway.New(gateway.Config{DID: "did:talos:zQmGateway", Gate: door, Log: slog.New(slog.DiscardHandler), Now: time.Now, Key: func() (identity.InvocationKey, error) { return key, nil }})
	w.d, err = mcp.New(mcp.Config{Servers: servers, Dir: w.dir, Log: slog.New(slog.DiscardHandler), Secret: func(name string) []byte {
		if name == "known" {
			return []byte("the-secret")
		}
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.d.Close(); err != nil {
			t.Error(err)
		}
	})
	w.g.Set(gateway.Tool, w.d)
	return w
}

// program is this test as a server named notes.
func program(t testing.TB, arg string) contracts.ToolExposure {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return contracts.ToolExposure{Name: "notes", Command: []string{self, arg}, Read: []string{"echo", "count", "wait", "big", "environment"}}
}

// remote is the same server behind HTTP, without sessions (2026-07-28) or with them.
func remote(t testing.TB, sessions bool) contracts.ToolExposure {
	t.Helper()
	yes := true
	server := fake.Notes("1.0")
	s := httptest.NewServer(sdk.NewStreamableHTTPHandler(func(*http.Request) *sdk.Server { return server }, &sdk.StreamableHTTPOptions{Stateless: !sessions}))
	t.Cleanup(s.Close)
	return contracts.ToolExposure{Name: "notes", URL: s.URL, Private: &yes, Read: []string{"echo", "count", "wait", "big"}}
}

// raw makes a call with a body.
func (w *world) raw(ctx context.Context, who identity.DID, server, method, body string) (text string, err error) {
	a, err := w.g.Local(ctx, gate.Principal{DID: who, Proof: gate.Channel}, call.Header{Surface: "tool.use", Service: server, Method: method}, []byte(body))
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
	return w.raw(w.t.Context(), who, "notes", method, request(method, params))
}

// tool calls a tool and gives the text of its result.
func (w *world) tool(who identity.DID, name, args string) (string, error) {
	out, err := w.do(who, "tools/call", fmt.Sprintf(`{"name":%q,"arguments":%s}`, name, args))
	if err != nil {
		return "", err
	}
	var r struct {
		ID     string `json:"id"`
		Result struct {
			Content []struct{ Text string }
			IsError bool
		}
		Error *struct{ Message string }
	}
	if err := json.Unmarshal([]byte(out), &r); err != nil || r.ID != "an id" || r.Error != nil || len(r.Result.Content) != 1 {
		return "", fmt.Errorf("%s: %v", out, err)
	}
	return r.Result.Content[0].Text, nil
}

func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("no %s", what)
		}
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// misbehave is a program that is a bad MCP server.
func misbehave(how string) {
	switch how {
	case "misbehave-exits":
		return
	case "misbehave-floods": // without an end of line
		block := strings.Repeat("x", 1<<16)
		for {
			if _, err := fmt.Print(block); err != nil {
				return
			}
		}
	case "misbehave-stays": // ends neither with its input nor with a signal
		ignoreSignals()
		_ = os.WriteFile(filepath.Join(".", "pid"), []byte(fmt.Sprint(os.Getpid())), 0o600)
	case "misbehave-babbles":
		fmt.Println("Welcome to my server!")
		fmt.Fprintln(os.Stderr, strings.Repeat("noise ", 100_000))
		fmt.Println(`{"jsonrpc":"2.0","id":77,"result":{}}`)
		fmt.Println(`{"jsonrpc":"2.0","id":9,"method":"sampling/createMessage","params":{}}`)
	}
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		var m struct {
			ID     json.RawMessage `json:"id"`
			Method string          `json:"method"`
		}
		if json.Unmarshal(in.Bytes(), &m) != nil {
			continue
		}
		switch m.Method {
		case "server/discover":
			fmt.Printf(`{"jsonrpc":"2.0","id":%s,"error":{"code":-32601,"message":"no"}}`+"\n", m.ID)
		case "initialize":
			fmt.Printf(`{"jsonrpc":"2.0","id":%s,"result":{"protocolVersion":"2025-03-26","capabilities":{"tools":{}},"serverInfo":{"name":"bad","version":"0"}}}`+"\n", m.ID)
		case "tools/list":
			fmt.Printf(`{"jsonrpc":"2.0","id":%s,"result":{"tools":[{"name":"echo","inputSchema":{"type":"object"}}]}}`+"\n", m.ID)
		case "tools/call":
			if how == "misbehave-stays" {
				continue
			}
			fmt.Printf(`{"jsonrpc":"2.0","id":%s,"result":{"content":[{"type":"text","text":"hi"}]}}`+"\n", m.ID)
		}
	}
	if how == "misbehave-stays" {
		select {}
	}
}
