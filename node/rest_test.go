package node_test

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/talosprotocol/talos/node"
	"github.com/talosprotocol/talos/node/api"
)

// Programs that do not speak MCP use tools of other nodes in plain HTTP, with the errors
// of HTTP.
func TestToolsInPlainHTTP(t *testing.T) {
	boot, anchors, _ := mesh(t, 1, 0)
	g, a, _ := withNotes(t, node.InitOptions{Bootstrap: addrs(boot), Anchors: []string{string(anchors[0].DID())}, Interval: 1, Strangers: "ask"})
	p := programOf(t, a.home)
	get := func(path string, v any) int {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, p.url+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+p.token)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close() //nolint:errcheck // read
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		if v != nil {
			if err := json.Unmarshal(b, v); err != nil {
				t.Fatalf("%s: %v", b, err)
			}
		}
		return resp.StatusCode
	}
	var servers []api.MCPServer
	if status := get("/v1/mcp/servers", &servers); status != 200 || len(servers) != 1 || servers[0].ID != string(g.DID())+"/notes" {
		t.Fatalf("%d %+v", status, servers)
	}
	var tools struct {
		Tools []struct{ Name string }
	}
	if status := get("/v1/mcp/servers/"+servers[0].ID+"/tools", &tools); status != 200 || len(tools.Tools) < 5 {
		t.Errorf("%d %+v", status, tools)
	}
	for _, c := range []struct {
		tool, body, want string
		status           int
	}{
		{"echo", `{"arguments":{"text":"plain"}}`, `"text":"plain"`, 200},
		{"add_note", `{"arguments":{"text":"one"}}`, `"text":"one"`, 200},
		{"environment", ``, `"content"`, 200},
		{"echo", `{"args":{}}`, `MALFORMED`, 400},
		{"echo", `{"arguments":{}} {}`, `MALFORMED`, 400},
		{"nothing_like_it", `{}`, `UNKNOWN_TOOL`, 404},
	} {
		status, text, header, err := p.post(t.Context(), "/v1/mcp/tools/"+servers[0].ID+"/"+c.tool+"/call", c.body)
		if err != nil || status != c.status || !strings.Contains(text, c.want) {
			t.Errorf("%s %s: %d %s, %v", c.tool, c.body, status, text, err)
		}
		if status == 200 && header.Get("Talos-Gateway") != string(g.DID()) {
			t.Errorf("%s: by %q", c.tool, header.Get("Talos-Gateway"))
		}
	}
	if status := get("/a2a/frames", nil); status != 200 {
		t.Errorf("frames: %d", status)
	}
}
