package e2e

import (
	"context"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/node"
	"github.com/talosprotocol/talos/testnet"
	"github.com/talosprotocol/talos/testnet/fake"
)

// The clients that people have use services of another node, unchanged: the official
// libraries of OpenAI and Anthropic, and the official MCP client over HTTP and standard
// streams with the official file server. TALOS_CLIENTS names the folder where `npm ci` has
// installed them (testnet/clients); without it there is nothing to test with.
func TestClients(t *testing.T) {
	clients := os.Getenv("TALOS_CLIENTS")
	if clients == "" {
		t.Skip("TALOS_CLIENTS names no folder with the clients; see .ci/run")
	}
	nodejs, err := exec.LookPath("node")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	ps := start(t, ctx)
	alice, bob := ps.Agents[0].(*testnet.Process), ps.Agents[1].(*testnet.Process)

	model := &fake.Model{Key: "sk-of-the-gateway"}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: model, ReadHeaderTimeout: time.Minute}
	go srv.Serve(l)   //nolint:errcheck // until it is closed
	defer srv.Close() //nolint:errcheck // of the test

	data := t.TempDir()
	file := filepath.Join(data, "hello.txt")
	if err := os.WriteFile(file, []byte("hello from the other node\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	yes, url := true, "http://"+l.Addr().String()+"/v1"
	exe := ps.Notes[0]
	set := func(p *testnet.Process, c *contracts.GatewayConfig) {
		h, err := node.OpenHome(p.Home())
		if err != nil {
			t.Fatal(err)
		}
		if err := h.SetGateway(c); err != nil {
			t.Fatal(err)
		}
		if _, err := p.ReloadServices(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if err := bob.SetSecret(ctx, "upstream", []byte(model.Key)); err != nil {
		t.Fatal(err)
	}
	set(bob, &contracts.GatewayConfig{V: "talos-gateway/1",
		Models: []contracts.ModelExposure{
			{Name: "echo-1", API: "openai", URL: url, Key: "upstream", Private: &yes}, {Name: "claude-echo", API: "anthropic", URL: url, Key: "upstream", Private: &yes},
		},
		Tools: []contracts.ToolExposure{
			{Name: "notes", Command: []string{exe, "testnet", "notes"}, Read: []string{"count", "echo"}},
			{Name: "files", Command: []string{nodejs, filepath.Join(clients, "node_modules/@modelcontextprotocol/server-filesystem/dist/index.js"), data}, Read: []string{"read_text_file", "list_directory"}},
		},
	})
	st, err := bob.Status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	set(alice, &contracts.GatewayConfig{V: "talos-gateway/1", PromptsTo: []string{st.DID}})
	us, err := alice.Status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	g, err := bob.Grant(ctx, &contracts.GrantRequest{To: us.DID, Seconds: 3600, Scopes: []string{"model:*", "tool:files/method:list_directory", "tool:files/method:read_text_file", "tool:notes"}}, "")
	if err != nil || !g.Delivered {
		t.Fatalf("granting: delivered %v, %v", g.Delivered, err)
	}
	read := func(name string) string {
		b, err := os.ReadFile(filepath.Join(alice.Home(), name))
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(b))
	}
	for _, script := range []string{"models.mjs", "mcp.mjs"} {
		c := exec.CommandContext(ctx, nodejs, script)
		c.Dir = clients
		c.Env = append(os.Environ(), "TALOS_URL="+read("api.address"), "TALOS_TOKEN="+read("api.token"), "TALOS_BINARY="+exe, "TALOS_HOME="+alice.Home(), "GATEWAY="+st.DID, "FILE="+file)
		out, err := c.CombinedOutput()
		if err != nil {
			t.Errorf("%s: %v\n%s", script, err, out)
		}
		t.Logf("%s", out)
	}
	until(t, "end of the stream that its reader has left", func() bool { return model.Running.Load() == 0 })
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("no %s", what)
		}
	}
}
