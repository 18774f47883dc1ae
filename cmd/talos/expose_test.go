package main

import (
	"bytes"
	"context"
	"io"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/talosprotocol/talos/testnet/fake"
	"github.com/talosprotocol/talos/testnet/fake/agent"
)

// TestMain is also the MCP server that is exposed.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "serve-notes" {
		fake.ServeNotes("1.0")
		return
	}
	os.Exit(m.Run())
}

// with runs a command that reads from in.
func with(t *testing.T, in io.Reader, args ...string) (out string, code int) {
	t.Helper()
	var b, e bytes.Buffer
	a := &app{out: &b, err: &e}
	root := a.root()
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(&b)
	root.SetErr(&e)
	if err := root.ExecuteContext(t.Context()); err != nil {
		return b.String() + err.Error(), 1
	}
	return b.String(), 0
}

// The README's "A model of somebody else".
func TestGatewayCommands(t *testing.T) {
	dir := tempDir(t)
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	model := &fake.Model{Key: "sk-secret"}
	upstream := httptest.NewServer(model)
	defer upstream.Close()
	ok(t, "init", "--home", a, "--kind", "local", "--role", "bootstrap,anchor,agent")
	didA, addr, _ := up(t, "--home", a)
	didB, _, _ := up(t, "--home", b, "--kind", "local", "--bootstrap", addr, "--anchor", didA)
	ready(t, b)

	if out, code := with(t, strings.NewReader(""), "secret", "set", "--home", a, "openai"); code == 0 || !strings.Contains(out, "standard input") {
		t.Errorf("an empty secret: %s", out)
	}
	if out, code := with(t, strings.NewReader("sk-secret\n"), "secret", "set", "--home", a, "openai"); code != 0 {
		t.Fatal(out)
	}
	if out := ok(t, "secret", "list", "--home", a); strings.TrimSpace(out) != "openai" {
		t.Errorf("secrets: %q", out)
	}
	if out := ok(t, "expose", "llm", "--home", a, "gpt-4o", "--url", upstream.URL+"/v1", "--key", "openai", "--price-in", "2500000"); !strings.Contains(out, "in force\n") {
		t.Errorf("expose: %s", out)
	}
	echo := httptest.NewServer(agent.New())
	defer echo.Close()
	exposeAgent(t, a, b, didB, echo.URL) // before b has a list of what a offers, which it keeps for a while
	ok(t, "cap", "grant", "--home", a, didB, "--scope", "model:gpt-4o", "--budget", "tokens=100000")
	if out, code := with(t, nil, "ask", "--home", b, "gpt-4o", "hello"); code == 0 || !strings.Contains(out, "talos find model") {
		t.Errorf("nobody is trusted: %s", out)
	}
	ok(t, "trust", "add", "--home", b, didA)
	if out := ok(t, "trust", "list", "--home", b); strings.TrimSpace(out) != didA {
		t.Errorf("trust: %q", out)
	}
	if out := ok(t, "ask", "--home", b, "gpt-4o", "hello", "there"); out != "echo: hello there\n" {
		t.Errorf("ask: %q", out)
	}
	if out := ok(t, "ask", "--home", b, "--json", didA+"/gpt-4o", "hello"); !strings.Contains(out, `"total_tokens":3`) {
		t.Errorf("ask --json: %q", out)
	}
	if out := ok(t, "find", "model", "--home", b, "gpt-4o"); !strings.Contains(out, didA) || !strings.Contains(out, "$2.50 in") || !strings.Contains(out, " trusted") {
		t.Errorf("find: %s", out)
	}
	if out := ok(t, "audit", "list", "--home", b); !strings.Contains(out, "local.model.use") || strings.Contains(out, "hello there") {
		t.Errorf("audit: %s", out)
	}
	if out := ok(t, "budget", "--home", a); !strings.Contains(out, "tokens") {
		t.Errorf("budget: %s", out)
	}

	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ok(t, "expose", "mcp", "--home", a, "notes", "--read", "echo", "--", self, "serve-notes")
	ok(t, "cap", "grant", "--home", a, didB, "--scope", "tool:notes")
	useNotes(t, b, didA)
	// What is piped in is answered, and the end of the input ends the program.
	wait(t, "the tool among all", func() bool {
		out, code := with(t, strings.NewReader(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"notes__echo","arguments":{"text":"hi"}}}`+"\n"), "mcp", "connect", "--home", b)
		return code == 0 && strings.Contains(out, `"text":"hi"`)
	})
	// A model that is exposed now is there in a moment, although the gateway was asked before.
	began := time.Now()
	ok(t, "expose", "llm", "--home", a, "later", "--url", upstream.URL+"/v1", "--key", "openai", "--upstream-model", "x")
	ok(t, "cap", "grant", "--home", a, didB, "--scope", "model:later")
	wait(t, "the later model", func() bool {
		out, code := with(t, nil, "ask", "--home", b, "later", "hello")
		return code == 0 && out == "echo: hello\n"
	})
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("it was there after %s: when the list was a minute old", took)
	}
	if out := ok(t, "expose", "tools", "--home", a, "notes"); !strings.Contains(out, "add_note") || !strings.Contains(out, "write") || strings.Contains(out, "yes") {
		t.Errorf("tools: %s", out)
	}
	ok(t, "expose", "approve", "--home", a, "notes")
	if out := ok(t, "expose", "tools", "--home", a, "notes"); strings.Count(out, "yes") != 9 {
		t.Errorf("approved: %s", out)
	}
	if out, code := with(t, nil, "expose", "approve", "--home", a, "notes", "nothing"); code == 0 || !strings.Contains(out, "UNKNOWN_TOOL") {
		t.Errorf("approving what is not there: %s", out)
	}

	if out := ok(t, "expose", "list", "--home", a); !strings.Contains(out, "gpt-4o") || !strings.Contains(out, "serve-notes") || strings.Contains(out, "planner") {
		t.Errorf("list: %s", out)
	}
	ok(t, "expose", "remove", "--home", a, "llm", "gpt-4o")
	if out, code := with(t, nil, "expose", "remove", "--home", a, "llm", "gpt-4o"); code == 0 {
		t.Errorf("removed twice: %s", out)
	}
	if out, code := with(t, nil, "ask", "--home", b, didA+"/gpt-4o", "hello"); code == 0 || !strings.Contains(out, "no model") {
		t.Errorf("what is no longer exposed: %s", out)
	}
	ok(t, "secret", "delete", "--home", a, "openai")
	if out := ok(t, "secret", "list", "--home", a); strings.TrimSpace(out) != "" {
		t.Errorf("secrets: %q", out)
	}
}

// useNotes speaks to `talos mcp connect` as a client does that has started it.
func useNotes(t *testing.T, home, gateway string) {
	t.Helper()
	theirs, in := io.Pipe()
	out, ours := io.Pipe()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		a := &app{out: ours, err: io.Discard}
		root := a.root()
		root.SetArgs([]string{"mcp", "connect", "--home", home, gateway + "/notes"})
		root.SetIn(theirs)
		ended <- root.ExecuteContext(ctx)
		_ = ours.Close()
	}()
	c := sdk.NewClient(&sdk.Implementation{Name: "test", Version: "1"}, nil)
	cs, err := c.Connect(ctx, &sdk.IOTransport{Reader: out, Writer: in}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if tools, err := cs.ListTools(ctx, nil); err != nil || len(tools.Tools) != 9 {
		t.Errorf("tools: %+v, %v", tools, err)
	}
	res, err := cs.CallTool(ctx, &sdk.CallToolParams{Name: "add_note", Arguments: map[string]any{"text": "a note"}})
	if err != nil || res.Content[0].(*sdk.TextContent).Text != "a note" {
		t.Errorf("add_note: %+v, %v", res, err)
	}
	_ = cs.Close()
	_ = in.Close()
	if err := <-ended; err != nil {
		t.Errorf("talos mcp connect: %v", err)
	}
}

// exposeAgent exposes an A2A agent, finds it elsewhere, and takes it back.
func exposeAgent(t *testing.T, a, b, didB, url string) {
	t.Helper()
	if out := ok(t, "expose", "a2a", "--home", a, "planner", "--url", url, "--price-call", "20000"); !strings.Contains(out, "in force\n") {
		t.Errorf("expose: %s", out)
	}
	if out := ok(t, "expose", "list", "--home", a); !strings.Contains(out, "a2a") || !strings.Contains(out, "planner") {
		t.Errorf("list: %s", out)
	}
	ok(t, "cap", "grant", "--home", a, didB, "--scope", "agent:planner")
	if out := ok(t, "find", "agent", "--home", b, "planner"); !strings.Contains(out, "planner") || !strings.Contains(out, "$0.0200 a call") {
		t.Errorf("find: %s", out)
	}
	ok(t, "expose", "remove", "--home", a, "a2a", "planner")
}
