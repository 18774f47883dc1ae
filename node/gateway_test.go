package node_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/node"
	"github.com/talosprotocol/talos/node/api"
	"github.com/talosprotocol/talos/node/authority"
	"github.com/talosprotocol/talos/testnet/fake"
)

// gatewayHome makes the home of a gateway with one model, behind a key of its keystore.
func gatewayHome(t *testing.T, o node.InitOptions, m *fake.Model, region string) *node.Home {
	t.Helper()
	if m.Key == "" {
		m.Key = "sk-some-key"
	}
	s := httptest.NewServer(m)
	t.Cleanup(s.Close)
	o.Roles = []string{"agent", "gateway"}
	h := initHome(t, o)
	yes := true
	if err := h.SetGateway(&contracts.GatewayConfig{V: "talos-gateway/1", Region: region, Models: []contracts.ModelExposure{
		{Name: "echo-1", API: "openai", URL: s.URL + "/v1", Key: "upstream", Private: &yes},
	}}); err != nil {
		t.Fatal(err)
	}
	if err := h.SetSecret("upstream", []byte(m.Key)); err != nil {
		t.Fatal(err)
	}
	return h
}

// program speaks to a node's loopback address as the clients that people have.
type program struct{ url, token string }

func programOf(t testing.TB, h *node.Home) *program {
	t.Helper()
	read := func(name string) string {
		b, err := os.ReadFile(filepath.Join(h.Dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(b))
	}
	return &program{url: read("api.address"), token: read("api.token")}
}

func (p *program) post(ctx context.Context, path, body string) (status int, text string, header http.Header, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.url+path, strings.NewReader(body))
	if err != nil {
		return 0, "", nil, err
	}
	req.Header.Set("Authorization", "Bearer "+p.token)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "", nil, err
	}
	defer resp.Body.Close() //nolint:errcheck // read
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), resp.Header, err
}

// setTrust has a node's programs use gateways.
func setTrust(t testing.TB, r *running, h *node.Home, to ...*running) {
	t.Helper()
	c, err := h.Gateway()
	if err != nil {
		t.Fatal(err)
	}
	c.PromptsTo = nil
	for _, g := range to {
		c.PromptsTo = append(c.PromptsTo, string(g.DID()))
	}
	if err := h.SetGateway(c); err != nil {
		t.Fatal(err)
	}
	if _, err := api.Dial(filepath.Join(h.Dir, "api.sock")).ReloadServices(t.Context()); err != nil {
		t.Fatal(err)
	}
}

const question = `{"model":"echo-1","messages":[{"role":"user","content":"a b c"}]%s}`

// An agent that has no key of its own uses a model of another node: denied without a
// capability, answered with one, streamed, stopped by a budget; and both logs have it.
// GW-1, GW-2, GW-3, GW-5, GW-7, GW-8.
func TestModelAcrossNodes(t *testing.T) {
	boot, anchors, _ := mesh(t, 1, 0)
	o := node.InitOptions{Bootstrap: addrs(boot), Anchors: []string{string(anchors[0].DID())}, Interval: 1, Strangers: "ask"}
	m := &fake.Model{Key: "sk-upstream-secret"}
	gh := gatewayHome(t, o, m, "eu")
	ah := initHome(t, o)
	g, a := start(t, gh), start(t, ah)
	for _, r := range []*running{g, a} {
		wait(t, "readiness", func() bool { return r.Status().Ready })
	}
	p := programOf(t, ah)
	// Prompts go to nobody whom the owner has not named.
	status, text, _, err := p.post(t.Context(), "/v1/chat/completions", fmt.Sprintf(question, ""))
	if err != nil || status != http.StatusNotFound || !strings.Contains(text, string(contracts.UnknownTool)) {
		t.Fatalf("nobody is trusted: %d %s, %v", status, text, err)
	}
	direct := strings.Replace(fmt.Sprintf(question, ""), "echo-1", string(g.DID())+"/echo-1", 1)
	if status, text, _, err = p.post(t.Context(), "/v1/chat/completions", direct); err != nil || status != http.StatusForbidden || !strings.Contains(text, "talos trust add") {
		t.Fatalf("not trusted: %d %s, %v", status, text, err)
	}
	setTrust(t, a, ah, g)
	if status, text, _, err = p.post(t.Context(), "/v1/chat/completions", fmt.Sprintf(question, "")); err != nil || status != http.StatusForbidden || !strings.Contains(text, string(contracts.NoCapability)) {
		t.Fatalf("without a capability: %d %s, %v", status, text, err)
	}
	if n := m.Answers.Load(); n != 0 {
		t.Fatalf("%d requests went upstream", n)
	}
	most := int64(400)
	if _, _, err := g.Powers().Grant(t.Context(), authority.Terms{To: a.DID(), Scopes: []string{"model:echo-1"}, Life: time.Hour,
		Constraints: []contracts.Constraint{{Op: "budget", N: &most, Unit: "tokens"}}}); err != nil {
		t.Fatal(err)
	}
	status, text, header, err := p.post(t.Context(), "/v1/chat/completions", fmt.Sprintf(question, `,"max_tokens":50`))
	if err != nil || status != http.StatusOK || !strings.Contains(text, "echo: a b c") || header.Get("Talos-Gateway") != string(g.DID()) {
		t.Fatalf("with a capability: %d %s %v, %v", status, text, header, err)
	}
	status, text, _, err = p.post(t.Context(), "/v1/chat/completions", fmt.Sprintf(question, `,"stream":true,"max_tokens":50`))
	if err != nil || status != http.StatusOK || !strings.HasSuffix(text, "data: [DONE]\n\n") {
		t.Fatalf("streamed: %d %s, %v", status, text, err)
	}
	// A hard budget ends a stream in the middle.
	long := fmt.Sprintf(strings.Replace(question, "a b c", "count 2000", 1), `,"stream":true`)
	status, text, _, err = p.post(t.Context(), "/v1/chat/completions", long)
	if err != nil || status != http.StatusOK || !strings.Contains(text, string(contracts.BudgetExhausted)) || strings.Contains(text, "[DONE]") {
		t.Fatalf("cut: %d …%s, %v", status, text[max(0, len(text)-400):], err)
	}
	if status, text, _, err = p.post(t.Context(), "/v1/chat/completions", fmt.Sprintf(question, "")); err != nil || status != http.StatusPaymentRequired {
		t.Fatalf("after that: %d %s, %v", status, text, err)
	}
	inBothLogs(t, g, a)
	noWordInLogs(t, g, a)
}

// inBothLogs looks for calls of which the two logs say the same: the digests of request
// and result, and what was used.
func inBothLogs(t *testing.T, g, a *running) {
	t.Helper()
	results := func(r *running, surface string) map[string]string {
		out := map[string]string{}
		for _, e := range events(t, r) {
			if e.Type == "result" && e.Surface == surface && e.ResultDigest != "" {
				out[e.RequestDigest] = fmt.Sprint(e.ResultDigest, *e.UnitsIn, *e.UnitsOut)
			}
		}
		return out
	}
	var theirs, ours map[string]string
	wait(t, "three calls in both logs", func() bool {
		theirs, ours = results(g, "model.use"), results(a, "local.model.use")
		return len(theirs) == 3 && len(ours) == 3
	})
	for req, res := range ours {
		if theirs[req] != res {
			t.Errorf("call %s: %s here, %s at the gateway", req, res, theirs[req])
		}
	}
}

func events(t *testing.T, r *running) []contracts.AuditEvent {
	t.Helper()
	page, err := api.Dial(filepath.Join(r.home.Dir, "api.sock")).Events(t.Context(), 0, 1000, false)
	if err != nil {
		t.Fatal(err)
	}
	var out []contracts.AuditEvent
	for _, e := range page.Events {
		var ev contracts.AuditEvent
		if err := json.Unmarshal(e.Event, &ev); err != nil {
			t.Fatal(err)
		}
		out = append(out, ev)
	}
	return out
}

// noWordInLogs: nothing of prompts, answers and keys is in the homes of the two nodes.
func noWordInLogs(t *testing.T, all ...*running) {
	t.Helper()
	for _, r := range all {
		err := filepath.WalkDir(r.home.Dir, func(path string, d os.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			b, err := os.ReadFile(path)
			for _, word := range []string{"echo: a b c", "a b c", "sk-upstream-secret"} {
				if bytes.Contains(b, []byte(word)) {
					t.Errorf("%q is in %s", word, path)
				}
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
}

// One of two gateways is killed in the middle of a call: the other answers, soon.
func TestGatewayFailover(t *testing.T) {
	boot, anchors, _ := mesh(t, 1, 0)
	o := node.InitOptions{Bootstrap: addrs(boot), Anchors: []string{string(anchors[0].DID())}, Interval: 1}
	slow, quick := &fake.Model{Pace: time.Hour}, &fake.Model{}
	ah := initHome(t, o)
	// The own region is asked first: the gateway that will die.
	g1, g2, a := start(t, gatewayHome(t, o, slow, "here")), start(t, gatewayHome(t, o, quick, "elsewhere")), start(t, ah)
	for _, r := range []*running{g1, g2, a} {
		wait(t, "readiness", func() bool { return r.Status().Ready })
	}
	for _, g := range []*running{g1, g2} {
		if _, _, err := g.Powers().Grant(t.Context(), authority.Terms{To: a.DID(), Scopes: []string{"model:*"}, Life: time.Hour}); err != nil {
			t.Fatal(err)
		}
	}
	if err := ah.SetGateway(&contracts.GatewayConfig{V: "talos-gateway/1", Region: "here"}); err != nil {
		t.Fatal(err)
	}
	setTrust(t, a, ah, g1, g2)
	p := programOf(t, ah)
	type outcome struct {
		status int
		text   string
		from   string
		err    error
	}
	done := make(chan outcome, 1)
	go func() {
		status, text, header, err := p.post(context.Background(), "/v1/chat/completions", fmt.Sprintf(question, `,"stream":true`))
		done <- outcome{status, text, header.Get("Talos-Gateway"), err}
	}()
	wait(t, "the call at the first gateway", func() bool { return slow.Running.Load() == 1 })
	if err := g1.Host().Host.Close(); err != nil { // its connections are gone, as after kill -9
		t.Fatal(err)
	}
	began := time.Now()
	select {
	case got := <-done:
		if got.err != nil || got.status != http.StatusOK || !strings.Contains(got.text, "[DONE]") || got.from != string(g2.DID()) {
			t.Errorf("%+v", got)
		}
		t.Logf("answered by the other gateway after %s", time.Since(began).Round(time.Millisecond))
	case <-time.After(30 * time.Second):
		t.Fatal("no answer")
	}
}

// A gateway and what it offers is found by whoever knows nobody. GW-4, GW-6.
func TestFindServices(t *testing.T) {
	boot, anchors, _ := mesh(t, 1, 0)
	o := node.InitOptions{Bootstrap: addrs(boot), Anchors: []string{string(anchors[0].DID())}, Interval: 1}
	gh, ah := gatewayHome(t, o, &fake.Model{}, "eu"), initHome(t, o)
	g, a := start(t, gh), start(t, ah)
	for _, r := range []*running{g, a} {
		wait(t, "readiness", func() bool { return r.Status().Ready })
	}
	c := api.Dial(filepath.Join(ah.Dir, "api.sock"))
	var found []api.Service
	for _, name := range []string{"echo-1", "ECHO-1", ""} {
		wait(t, "the service "+name, func() bool {
			var err error
			found, err = c.FindServices(t.Context(), "model", name)
			return err == nil && len(found) == 1
		})
		if f := found[0]; f.Gateway != string(g.DID()) || f.Name != "echo-1" || f.Region != "eu" || f.Trusted || len(f.Operations) != 3 {
			t.Errorf("found %+v", f)
		}
	}
	if found, err := c.FindServices(t.Context(), "model", "no-such"); err != nil || len(found) != 0 {
		t.Errorf("found %+v, %v", found, err)
	}
	if _, err := c.FindServices(t.Context(), "planet", ""); contracts.CodeOf(err) != contracts.Malformed {
		t.Errorf("another kind: %v", err)
	}
}

// Row 29 of the failure list: a gateway that is stopped lets the streams that run come to
// their end, takes no new ones, and has the result of each in its log.
func TestRow29_Drain(t *testing.T) {
	const streams = 40
	boot, anchors, _ := mesh(t, 1, 0)
	o := node.InitOptions{Bootstrap: addrs(boot), Anchors: []string{string(anchors[0].DID())}, Interval: 1}
	m := &fake.Model{Pace: 2 * time.Millisecond}
	gh, ah := gatewayHome(t, o, m, ""), initHome(t, o)
	g, a := start(t, gh), start(t, ah)
	for _, r := range []*running{g, a} {
		wait(t, "readiness", func() bool { return r.Status().Ready })
	}
	if _, _, err := g.Powers().Grant(t.Context(), authority.Terms{To: a.DID(), Scopes: []string{"model:*"}, Life: time.Hour}); err != nil {
		t.Fatal(err)
	}
	setTrust(t, a, ah, g)
	p := programOf(t, ah)
	m.Hold()
	done := make(chan string, streams)
	for range streams {
		go func() {
			status, text, _, err := p.post(context.Background(), "/v1/chat/completions", fmt.Sprintf(strings.Replace(question, "a b c", "count 100", 1), `,"stream":true`))
			if err != nil || status != http.StatusOK || !strings.HasSuffix(text, "data: [DONE]\n\n") {
				done <- fmt.Sprintf("%d %v …%s", status, err, text[max(0, len(text)-300):])
				return
			}
			done <- ""
		}()
	}
	wait(t, "all streams", func() bool { return m.Running.Load() == streams })
	stopped := make(chan error, 1)
	go func() { stopped <- g.stop() }()
	wait(t, "refusal of a new call", func() bool {
		status, _, _, err := p.post(t.Context(), "/v1/chat/completions", fmt.Sprintf(question, ""))
		return err == nil && status == http.StatusServiceUnavailable
	})
	m.Release()
	for range streams {
		if bad := <-done; bad != "" {
			t.Error(bad)
		}
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	again := start(t, gh)
	results := 0
	for _, e := range events(t, again) {
		if e.Surface == "model.use" && e.Type == "result" && e.Outcome == "ok" {
			results++
		}
	}
	if results != streams {
		t.Errorf("%d results of %d streams are in the log", results, streams)
	}
}
