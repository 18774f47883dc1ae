package node_test

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/node"
	"github.com/talosprotocol/talos/node/api"
	"github.com/talosprotocol/talos/node/authority"
	"github.com/talosprotocol/talos/testnet/fake"
)

// TestMain is also the MCP server that tests expose as a program.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "serve-notes" {
		fake.ServeNotes("1.0")
		return
	}
	os.Exit(m.Run())
}

// withToken sends a program's token.
type withToken string

func (t withToken) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+string(t))
	return http.DefaultTransport.RoundTrip(r)
}

// The official SDK's client uses the official SDK's server on another node, in both
// revisions, as if it were here: what it may use it sees, and no more. GW-1, GW-16, GW-17.
func TestMCPAcrossNodes(t *testing.T) {
	boot, anchors, _ := mesh(t, 1, 0)
	o := node.InitOptions{Bootstrap: addrs(boot), Anchors: []string{string(anchors[0].DID())}, Interval: 1, Strangers: "ask"}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	gh, ah := initHome(t, o), initHome(t, o)
	if err := gh.SetGateway(&contracts.GatewayConfig{V: "talos-gateway/1", Tools: []contracts.ToolExposure{
		{Name: "notes", Command: []string{self, "serve-notes"}, Read: []string{"echo", "count", "wait"}},
	}}); err != nil {
		t.Fatal(err)
	}
	g, a := start(t, gh), start(t, ah)
	for _, r := range []*running{g, a} {
		wait(t, "readiness", func() bool { return r.Status().Ready })
	}
	p := programOf(t, ah)
	connect := func(version string, options *sdk.ClientOptions) (*sdk.ClientSession, error) {
		c := sdk.NewClient(&sdk.Implementation{Name: "test", Version: "1"}, options)
		return c.Connect(t.Context(), &sdk.StreamableClientTransport{
			Endpoint: p.url + "/mcp/" + string(g.DID()) + "/notes", HTTPClient: &http.Client{Transport: withToken(p.token)}, DisableStandaloneSSE: true,
		}, &sdk.ClientSessionOptions{ProtocolVersion: version})
	}
	if _, err := connect("", nil); err == nil || !strings.Contains(err.Error(), "talos cap request") {
		t.Fatalf("without a capability: %v", err)
	}
	if _, _, err := g.Powers().Grant(t.Context(), authority.Terms{To: a.DID(), Scopes: []string{"tool:notes/method:count", "tool:notes/method:echo", "tool:notes/method:wait"}, Life: time.Hour}); err != nil {
		t.Fatal(err)
	}
	for _, version := range []string{"2026-07-28", "2025-11-25"} {
		t.Run(version, func(t *testing.T) {
			var progress atomic.Int64
			cs, err := connect(version, &sdk.ClientOptions{ProgressNotificationHandler: func(context.Context, *sdk.ProgressNotificationClientRequest) { progress.Add(1) }})
			if err != nil {
				t.Fatal(err)
			}
			defer cs.Close() //nolint:errcheck // nothing to lose
			if v := cs.InitializeResult(); v.ProtocolVersion != version || v.ServerInfo.Name != "notes" || v.Instructions != "keeps notes" {
				t.Errorf("the server says %+v", v)
			}
			tools, err := cs.ListTools(t.Context(), nil)
			if err != nil || len(tools.Tools) != 3 {
				t.Fatalf("tools: %+v, %v", tools, err)
			}
			call := func(name string, args map[string]any, token any) (string, error) {
				params := &sdk.CallToolParams{Name: name, Arguments: args}
				if token != nil {
					params.Meta = sdk.Meta{"progressToken": token}
				}
				res, err := cs.CallTool(t.Context(), params)
				if err != nil {
					return "", err
				}
				return res.Content[0].(*sdk.TextContent).Text, nil
			}
			if got, err := call("echo", map[string]any{"text": "hello"}, nil); err != nil || got != "hello" {
				t.Errorf("echo: %q, %v", got, err)
			}
			if got, err := call("count", map[string]any{"n": 5}, "token"); err != nil || got != "5" {
				t.Errorf("count: %q, %v", got, err)
			}
			wait(t, "progress", func() bool { return progress.Load() == 5 })
			if _, err := call("add_note", map[string]any{"text": "x"}, nil); err == nil || !strings.Contains(err.Error(), "talos cap request") {
				t.Errorf("a tool that is not granted: %v", err)
			}
			// A call that is given up is given up over there too.
			file := filepath.Join(t.TempDir(), "gone")
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() {
				_, err := cs.CallTool(ctx, &sdk.CallToolParams{Name: "wait", Arguments: map[string]any{"text": file}})
				done <- err
			}()
			wait(t, "start of the tool", func() bool { _, err := os.Stat(file + ".began"); return err == nil })
			began := time.Now()
			cancel()
			<-done
			wait(t, "word to the tool", func() bool { _, err := os.Stat(file); return err == nil })
			t.Logf("the tool knew %s after its caller had gone", time.Since(began).Round(time.Millisecond))
		})
	}
	found, err := api.Dial(filepath.Join(ah.Dir, "api.sock")).FindServices(t.Context(), "tool", "echo")
	if err != nil || len(found) != 1 || found[0].Name != "notes" || len(found[0].Operations) != 9 {
		t.Errorf("found %+v, %v", found, err)
	}
	wait(t, "all calls in the logs", func() bool {
		seen := map[string]int{}
		for _, r := range []*running{g, a} {
			for _, e := range events(t, r) {
				seen[fmt.Sprint(e.Surface, " ", e.Type)]++
			}
		}
		return seen["tool.read intent"] == 6 && seen["tool.read result"] == 6 && seen["local.tool.use result"] > 6
	})
}

// A gateway holds more than its callers: it passes on, under its own name, a server of
// another node for which it has a broad capability. A caller with a narrow one gets what
// that covers and nothing else; the gateway's own token is of no use to the caller.
// Row 15 of the failure list: the confused deputy.
func TestConfusedDeputy(t *testing.T) {
	boot, anchors, _ := mesh(t, 1, 0)
	o := node.InitOptions{Bootstrap: addrs(boot), Anchors: []string{string(anchors[0].DID())}, Interval: 1, Strangers: "ask"}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	eh, gh, ah := initHome(t, o), initHome(t, o), initHome(t, o)
	if err := eh.SetGateway(&contracts.GatewayConfig{V: "talos-gateway/1", Tools: []contracts.ToolExposure{{Name: "notes", Command: []string{self, "serve-notes"}, Read: []string{"echo"}}}}); err != nil {
		t.Fatal(err)
	}
	e, g, a := start(t, eh), start(t, gh), start(t, ah)
	for _, r := range []*running{e, g, a} {
		wait(t, "readiness", func() bool { return r.Status().Ready })
	}
	broad, _, err := e.Powers().Grant(t.Context(), authority.Terms{To: g.DID(), Scopes: []string{"tool:*"}, Life: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	gp := programOf(t, gh)
	yes := true
	if err := gh.SetGateway(&contracts.GatewayConfig{V: "talos-gateway/1", Tools: []contracts.ToolExposure{
		{Name: "relay", URL: gp.url + "/mcp/" + string(e.DID()) + "/notes", Key: "own", Private: &yes, Read: []string{"echo"}},
	}}); err != nil {
		t.Fatal(err)
	}
	c := api.Dial(filepath.Join(gh.Dir, "api.sock"))
	if err := c.SetSecret(t.Context(), "own", []byte(gp.token)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.ReloadServices(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, _, err := g.Powers().Grant(t.Context(), authority.Terms{To: a.DID(), Scopes: []string{"tool:relay/method:echo"}, Life: time.Hour}); err != nil {
		t.Fatal(err)
	}
	p := programOf(t, ah)
	call := func(gateway *running, server, tool string) string {
		_, text, _, err := p.post(t.Context(), "/mcp/"+string(gateway.DID())+"/"+server, `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"`+tool+`","arguments":{"text":"x"}}}`)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	if got := call(g, "relay", "echo"); !strings.Contains(got, `"text":"x"`) {
		t.Fatalf("what is granted: %s", got)
	}
	for what, got := range map[string]string{
		"another tool of the gateway": call(g, "relay", "add_note"), "a server that only the gateway may use": call(g, "notes", "echo"), "that server itself": call(e, "notes", "echo"),
	} {
		if !strings.Contains(got, `"error":{`) {
			t.Errorf("%s: %s", what, got)
		}
	}
	if _, err := a.Powers().Import(t.Context(), broad.Text); contracts.CodeOf(err) != contracts.HolderMismatch {
		t.Errorf("the gateway's token in the caller's wallet: %v", err)
	}
	for _, ev := range events(t, e) {
		if ev.Surface == "tool.write" {
			t.Errorf("the server was asked to write: %+v", ev)
		}
	}
}

// One MCP server of all: tools of several gateways under the names of their servers, what
// may not be used is not there, and a server that does not answer takes no other down.
// Row 31 of the failure list.
func TestRow31_AllServersTogether(t *testing.T) {
	boot, anchors, _ := mesh(t, 1, 0)
	o := node.InitOptions{Bootstrap: addrs(boot), Anchors: []string{string(anchors[0].DID())}, Interval: 1, Strangers: "ask"}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ah := initHome(t, o)
	a := start(t, ah)
	notes := contracts.ToolExposure{Name: "notes", Command: []string{self, "serve-notes"}, Read: []string{"echo"}}
	dead := contracts.ToolExposure{Name: "dead", Command: []string{self, "-test.run=^$"}}
	var gs []*running
	for _, tools := range [][]contracts.ToolExposure{{notes, dead}, {{Name: "other", Command: notes.Command, Read: notes.Read}}} {
		h := initHome(t, o)
		if err := h.SetGateway(&contracts.GatewayConfig{V: "talos-gateway/1", Tools: tools}); err != nil {
			t.Fatal(err)
		}
		gs = append(gs, start(t, h))
	}
	for _, r := range append(gs, a) {
		wait(t, "readiness", func() bool { return r.Status().Ready })
	}
	for i, scopes := range [][]string{{"tool:dead", "tool:notes/method:add_note", "tool:notes/method:echo"}, {"tool:other/method:echo"}} {
		if _, _, err := gs[i].Powers().Grant(t.Context(), authority.Terms{To: a.DID(), Scopes: scopes, Life: time.Hour}); err != nil {
			t.Fatal(err)
		}
	}
	p := programOf(t, ah)
	for _, version := range []string{"2026-07-28", "2025-11-25"} {
		c := sdk.NewClient(&sdk.Implementation{Name: "test", Version: "1"}, nil)
		cs, err := c.Connect(t.Context(), &sdk.StreamableClientTransport{Endpoint: p.url + "/mcp", HTTPClient: &http.Client{Transport: withToken(p.token)}, DisableStandaloneSSE: true}, &sdk.ClientSessionOptions{ProtocolVersion: version})
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		wait(t, "the tools", func() bool {
			list, err := cs.ListTools(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			names = nil
			for _, tool := range list.Tools {
				names = append(names, tool.Name)
			}
			return len(names) == 3
		})
		if got := strings.Join(names, " "); got != "notes__add_note notes__echo other__echo" {
			t.Errorf("%s: %s", version, got)
		}
		res, err := cs.CallTool(t.Context(), &sdk.CallToolParams{Name: "other__echo", Arguments: map[string]any{"text": "x"}})
		if err != nil || res.Content[0].(*sdk.TextContent).Text != "x" {
			t.Errorf("%s: %+v, %v", version, res, err)
		}
		for _, name := range []string{"other__add_note", "nothing__echo", "echo", "dead__x"} {
			if _, err := cs.CallTool(t.Context(), &sdk.CallToolParams{Name: name, Arguments: map[string]any{"text": "x"}}); err == nil {
				t.Errorf("%s: %s is called", version, name)
			}
		}
		_ = cs.Close()
	}
}
