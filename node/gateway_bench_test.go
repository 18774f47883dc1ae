package node_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/node"
	"github.com/talosprotocol/talos/node/authority"
)

// timed measures each call apart: a mean says little of latency.
func timed(b *testing.B, f func()) {
	b.Helper()
	took := make([]time.Duration, 0, 1<<14)
	f() // connections are made, programs are started
	b.ReportAllocs()
	b.ResetTimer()
	for b.Loop() {
		begin := time.Now()
		f()
		took = append(took, time.Since(begin))
	}
	b.StopTimer()
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
}

// mock answers at once: 1.1 KB, or a stream of 100 chunks.
func mock(w http.ResponseWriter, r *http.Request) {
	b, _ := io.ReadAll(r.Body)
	if !strings.Contains(string(b), `"stream":true`) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = fmt.Fprintf(w, `{"id":"x","object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":%q},"finish_reason":"stop"}],"usage":{"prompt_tokens":50,"completion_tokens":200,"total_tokens":250}}`, strings.Repeat("word ", 200))
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	c := http.NewResponseController(w)
	for range 100 {
		_, _ = io.WriteString(w, `data: {"id":"x","choices":[{"index":0,"delta":{"content":"word "},"finish_reason":null}]}`+"\n\n")
		_ = c.Flush()
	}
	_, _ = io.WriteString(w, "data: [DONE]\n\n")
}

// BenchmarkGateway is one call after the other, with the same upstream and client: direct,
// through the standard library's reverse proxy, through the own node's gateway, and across
// the mesh through another node's. Whole answers of 1.1 KB, and streams of 100 chunks.
func BenchmarkGateway(b *testing.B) {
	upstream := httptest.NewServer(http.HandlerFunc(mock))
	defer upstream.Close()
	target, err := url.Parse(upstream.URL)
	if err != nil {
		b.Fatal(err)
	}
	rp := httputil.NewSingleHostReverseProxy(target)
	rp.FlushInterval = -1
	proxy := httptest.NewServer(rp)
	defer proxy.Close()
	a, g := gatewayPair(b, &contracts.GatewayConfig{V: "talos-gateway/1", Models: []contracts.ModelExposure{modelAt(upstream.URL)}}, "model:*")
	local, mesh := programOf(b, g.home), programOf(b, a.home)
	ask := func(url, token, body string) func() {
		return func() {
			req, err := http.NewRequestWithContext(context.Background(), http.MethodPost, url+"/v1/chat/completions", strings.NewReader(body))
			if err != nil {
				b.Fatal(err)
			}
			req.Header.Set("Authorization", "Bearer "+token)
			req.Header.Set("Content-Type", "application/json")
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				b.Fatal(err)
			}
			n, err := io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
			if err != nil || resp.StatusCode != http.StatusOK || n < 1000 {
				b.Fatalf("%d bytes, status %d, %v", n, resp.StatusCode, err)
			}
		}
	}
	whole := `{"model":"m","max_tokens":1000,"messages":[{"role":"user","content":"` + strings.Repeat("question ", 30) + `"}]}`
	for _, kind := range []struct{ name, body string }{{"whole", whole}, {"stream", strings.Replace(whole, `"model"`, `"stream":true,"model"`, 1)}} {
		for _, c := range []struct{ name, url, token string }{{"direct", upstream.URL, ""}, {"reverse proxy", proxy.URL, ""}, {"own gateway", local.url, local.token}, {"across the mesh", mesh.url, mesh.token}} {
			b.Run(kind.name+"/"+c.name, func(b *testing.B) { timed(b, ask(c.url, c.token, kind.body)) })
		}
	}
}

func modelAt(url string) contracts.ModelExposure {
	yes := true
	return contracts.ModelExposure{Name: "m", API: "openai", URL: url + "/v1", Private: &yes}
}

// gatewayPair is an agent and a gateway of one network; the agent may use scopes of it.
func gatewayPair(b *testing.B, c *contracts.GatewayConfig, scopes ...string) (a, g *running) {
	boot, _, _ := mesh(b, 1, 0)
	o := node.InitOptions{Bootstrap: addrs(boot), Strangers: "ask"}
	gh, ah := initHome(b, o), initHome(b, o)
	if err := gh.SetGateway(c); err != nil {
		b.Fatal(err)
	}
	a, g = start(b, ah), start(b, gh)
	for _, r := range []*running{a, g} {
		wait(b, "readiness", func() bool { return r.Status().Ready })
	}
	if _, _, err := g.Powers().Grant(b.Context(), authority.Terms{To: a.DID(), Scopes: scopes, Life: time.Hour}); err != nil {
		b.Fatal(err)
	}
	setTrust(b, a, ah, g)
	return a, g
}

// BenchmarkMCP is a call of a tool: agent, mesh, gateway, and a program that runs.
func BenchmarkMCP(b *testing.B) {
	self, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	a, g := gatewayPair(b, &contracts.GatewayConfig{V: "talos-gateway/1", Tools: []contracts.ToolExposure{{Name: "notes", Command: []string{self, "serve-notes"}, Read: []string{"echo"}}}}, "tool:*")
	p := programOf(b, a.home)
	timed(b, func() {
		status, text, _, err := p.post(b.Context(), "/mcp/"+string(g.DID())+"/notes", `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{"text":"x"}}}`)
		if err != nil || status != http.StatusOK || !strings.Contains(text, `"text":"x"`) {
			b.Fatalf("%d %s %v", status, text, err)
		}
	})
}
