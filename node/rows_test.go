package node_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/node"
	"github.com/talosprotocol/talos/node/api"
	"github.com/talosprotocol/talos/node/authority"
	"github.com/talosprotocol/talos/node/call"
	"github.com/talosprotocol/talos/testnet/fake"
)

// Row 14 of the failure list: a token that is good for something else, for somebody else,
// somewhere else or at another time opens no tool, each with its own code.
func TestRow14_CapabilityConfusion(t *testing.T) {
	boot, anchors, _ := mesh(t, 1, 0)
	o := node.InitOptions{Bootstrap: addrs(boot), Anchors: []string{string(anchors[0].DID())}, Interval: 1, Strangers: "ask"}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	gh := initHome(t, o)
	if err := gh.SetGateway(&contracts.GatewayConfig{V: "talos-gateway/1", Tools: []contracts.ToolExposure{{Name: "notes", Command: []string{self, "serve-notes"}, Read: []string{"echo"}}}}); err != nil {
		t.Fatal(err)
	}
	g, a, other := start(t, gh), start(t, initHome(t, o)), start(t, initHome(t, o))
	for _, r := range []*running{g, a, other} {
		wait(t, "readiness", func() bool { return r.Status().Ready })
	}
	grant := func(by *running, terms authority.Terms) string {
		t.Helper()
		if terms.Life == 0 {
			terms.Life = time.Hour
		}
		c, _, err := by.Powers().Grant(t.Context(), terms)
		if err != nil {
			t.Fatal(err)
		}
		return c.Text
	}
	one := int64(1)
	whole := grant(g, authority.Terms{To: other.DID(), Scopes: []string{"tool:notes"}})
	used := grant(g, authority.Terms{To: a.DID(), Scopes: []string{"tool:notes/method:add_note"}, Constraints: []contracts.Constraint{{Op: "calls", N: &one}}})
	tool := func(name, token string) error {
		body := `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"` + name + `","arguments":{"text":"x"}}}`
		resp, err := a.Calls().Do(t.Context(), g.DID(), call.Request{
			Header: call.Header{Surface: "tool.use", Service: "notes", Method: "tools/call", ContentType: "application/json", Capability: []byte(token)}, Body: strings.NewReader(body), Tries: 1,
		})
		if err == nil {
			_ = resp.Body.Close()
		}
		return err
	}
	if err := tool("add_note", used); err != nil {
		t.Fatalf("what is granted: %v", err)
	}
	flip := []byte(used)
	flip[len(flip)/2] ^= 1
	shown := func(names ...contracts.Code) []contracts.Code { // with what else was shown on the connection
		return append(names, contracts.ScopeMismatch, contracts.ConstraintViolation, contracts.BudgetExhausted)
	}
	of := func(c contracts.Code) []contracts.Code { return []contracts.Code{c} }
	payload := used[strings.Index(used, "."):]
	for _, c := range []struct {
		name, tool, token string
		codes             []contracts.Code
	}{
		{"no token", "echo", "", of(contracts.ScopeMismatch)},
		{"used up", "add_note", used, of(contracts.BudgetExhausted)},
		{"another's", "echo", whole, of(contracts.HolderMismatch)},
		{"for another gateway", "echo", grant(g, authority.Terms{To: a.DID(), At: other.DID(), Scopes: []string{"tool:notes"}}), of(contracts.AudienceMismatch)},
		{"by one who is no root", "echo", grant(other, authority.Terms{To: a.DID(), At: g.DID(), Scopes: []string{"tool:notes"}}), of(contracts.IssuerUnresolved)},
		{"one bit changed", "echo", string(flip), []contracts.Code{contracts.Malformed, contracts.SignatureInvalid, contracts.IssuerUnresolved}},
		{"no JWS", "echo", "e30", of(contracts.Malformed)},
		{"alg none", "echo", b64(`{"alg":"none"}`) + "." + strings.Split(used, ".")[1] + ".", of(contracts.Malformed)},
		{"the same member twice", "echo", b64(`{"alg":"EdDSA","alg":"EdDSA"}`) + payload, of(contracts.Malformed)},
		{"another algorithm", "echo", b64(`{"alg":"HS256"}`) + payload, of(contracts.Malformed)},
		{"members by case", "echo", b64(`{"ALG":"EdDSA"}`) + payload, of(contracts.Malformed)},
		{"a header that must be known", "echo", b64(`{"alg":"EdDSA","crit":["x"],"x":1}`) + payload, of(contracts.Malformed)},
		{"two tokens that do not chain", "echo", used + "~" + used, []contracts.Code{contracts.DelegationInvalid, contracts.Malformed}},
		{"another server", "echo", grant(g, authority.Terms{To: a.DID(), Scopes: []string{"tool:note"}}), shown()},
		{"to read, on one that writes", "add_note", grant(g, authority.Terms{To: a.DID(), Scopes: []string{"tool:notes"}, Constraints: []contracts.Constraint{{Op: "ro"}}}), shown()},
		{"another tool", "add_note", grant(g, authority.Terms{To: a.DID(), Scopes: []string{"tool:notes/method:echo"}}), shown()},
	} {
		if err := tool(c.tool, c.token); err == nil || !slices.Contains(c.codes, contracts.CodeOf(err)) {
			t.Errorf("%s: %v, want one of %v", c.name, err, c.codes)
		}
	}
}

// lines keeps what is logged.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// Row 19 of the failure list: words that stand in prompts, arguments, errors of upstreams,
// keys, headers and paths are in no log at its most talkative, no event, and no file of
// either side. GW-3.
func TestRow19_NoLeaks(t *testing.T) {
	const canary = "c4n4ry"
	boot, anchors, _ := mesh(t, 1, 0)
	o := node.InitOptions{Bootstrap: addrs(boot), Anchors: []string{string(anchors[0].DID())}, Interval: 1, Strangers: "ask"}
	upstream := &fake.Model{Key: "sk-" + canary + "-key"}
	gh, ah := gatewayHome(t, o, upstream, ""), initHome(t, o)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := gh.Gateway()
	if err != nil {
		t.Fatal(err)
	}
	cfg.Tools = []contracts.ToolExposure{{Name: "notes", Command: []string{self, "serve-notes"}, Read: []string{"echo"}}}
	if err := gh.SetGateway(cfg); err != nil {
		t.Fatal(err)
	}
	var logged lines
	log := slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug}))
	g, a := startWith(t, gh, log), startWith(t, ah, log)
	for _, r := range []*running{g, a} {
		wait(t, "readiness", func() bool { return r.Status().Ready })
	}
	setTrust(t, a, ah, g)
	p := programOf(t, ah)
	path := "/mcp/" + string(g.DID()) + "/notes"
	prompt := func(stream bool) string {
		return fmt.Sprintf(`{"model":"echo-1","stream":%v,"messages":[{"role":"user","content":"%s-prompt"}],"user":"%s-user"}`, stream, canary, canary)
	}
	use := func() {
		for _, r := range [][2]string{
			{"/v1/chat/completions", prompt(false)}, {"/v1/chat/completions", prompt(true)}, {"/v1/chat/completions?q=" + canary, `{"model":"none"}`},
			{"/v1/chat/completions", `{"` + canary}, {"/v1/" + canary, "{}"},
			{path, `{"jsonrpc":"2.0","id":"` + canary + `","method":"tools/call","params":{"name":"echo","arguments":{"text":"` + canary + `-arg"}}}`},
			{path, addNote(canary + "-note")}, {path, `{"jsonrpc":"2.0","id":1,"method":"none/such"}`},
		} {
			if _, err := p.once(t.Context(), r[0], canary+"-idem", r[1]); err != nil {
				t.Fatal(err)
			}
		}
	}
	use() // without a capability
	if _, _, err := g.Powers().Grant(t.Context(), authority.Terms{To: a.DID(), Scopes: []string{"model:echo-1", "tool:notes"}, Life: time.Hour}); err != nil {
		t.Fatal(err)
	}
	use()
	upstream.Refuse = http.StatusBadRequest // the answer repeats what it was asked, as providers do
	use()
	wait(t, "all calls in the logs", func() bool {
		n := 0
		for _, e := range events(t, g) {
			if strings.HasSuffix(e.Surface, ".use") || strings.HasPrefix(e.Surface, "tool.") {
				n++
			}
		}
		return n > 8
	})
	for _, r := range []*running{a, g} {
		if err := r.stop(); err != nil {
			t.Error(err)
		}
	}
	logged.mu.Lock()
	defer logged.mu.Unlock()
	for _, line := range strings.Split(logged.b.String(), "\n") {
		if strings.Contains(line, canary) {
			t.Errorf("logged: %s", line)
		}
	}
	if !strings.Contains(logged.b.String(), "level=DEBUG") {
		t.Error("nothing was logged")
	}
	for _, h := range []*node.Home{gh, ah} {
		if err := filepath.WalkDir(h.Dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			b, err := os.ReadFile(path)
			if bytes.Contains(b, []byte(canary)) {
				t.Errorf("in %s", path)
			}
			return err
		}); err != nil {
			t.Error(err)
		}
	}
}

// Row 26 of the failure list: when gateways fail, the calls of a node do not multiply.
func TestRow26_NoRetryStorm(t *testing.T) {
	boot, anchors, _ := mesh(t, 1, 0)
	o := node.InitOptions{Bootstrap: addrs(boot), Anchors: []string{string(anchors[0].DID())}, Interval: 1, Strangers: "ask"}
	ah := initHome(t, o)
	g1, g2, a := start(t, gatewayHome(t, o, &fake.Model{}, "")), start(t, gatewayHome(t, o, &fake.Model{}, "")), start(t, ah)
	for _, r := range []*running{g1, g2, a} {
		wait(t, "readiness", func() bool { return r.Status().Ready })
	}
	setTrust(t, a, ah, g1, g2)
	var came atomic.Int64
	for _, g := range []*running{g1, g2} {
		g.ServeCalls(func(ctx context.Context, c *call.Call, w *call.ResponseWriter, honest call.Handler) error {
			if c.Surface != "model.use" {
				return honest(ctx, c, w)
			}
			if came.Add(1)%2 == 0 {
				return contracts.Errorf(contracts.Unavailable, "every second call fails, of those that may have begun")
			}
			return contracts.Errorf(contracts.Malformed, "and every other is wrong")
		})
	}
	p := programOf(t, ah)
	const calls = 200
	for range calls {
		if _, _, _, err := p.post(t.Context(), "/v1/chat/completions", fmt.Sprintf(question, "")); err != nil {
			t.Fatal(err)
		}
	}
	if n := came.Load(); n > calls+calls/10+10 {
		t.Errorf("%d calls came of %d", n, calls)
	}
}

// Row 34 of the failure list: with a full disk nothing is done that must be recorded, the
// caller is told why, and the log says how many it did not take.
func TestRow34_FullDisk(t *testing.T) {
	boot, anchors, _ := mesh(t, 1, 0)
	o := node.InitOptions{Bootstrap: addrs(boot), Anchors: []string{string(anchors[0].DID())}, Interval: 1, Strangers: "ask"}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	gh, ah := initHome(t, o), initHome(t, o)
	if err := gh.SetGateway(&contracts.GatewayConfig{V: "talos-gateway/1", Tools: []contracts.ToolExposure{{Name: "notes", Command: []string{self, "serve-notes"}, Read: []string{"echo"}}}}); err != nil {
		t.Fatal(err)
	}
	var full atomic.Bool
	g := startWith(t, gh, logger(t), node.WithFree(func(string) (uint64, error) {
		if full.Load() {
			return 1 << 20, nil
		}
		return 1 << 40, nil
	}))
	a := start(t, ah)
	for _, r := range []*running{g, a} {
		wait(t, "readiness", func() bool { return r.Status().Ready })
	}
	if _, _, err := g.Powers().Grant(t.Context(), authority.Terms{To: a.DID(), Scopes: []string{"tool:notes"}, Life: time.Hour}); err != nil {
		t.Fatal(err)
	}
	p := programOf(t, ah)
	path := "/mcp/" + string(g.DID()) + "/notes"
	note := func(key, text string) string {
		got, err := p.once(t.Context(), path, key, addNote(text))
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	if got := note("1", "a"); !strings.Contains(got, `"text":"a"`) {
		t.Fatal(got)
	}
	full.Store(true)
	for i := range 3 {
		if got := note(fmt.Sprint("full", i), "lost"); !strings.Contains(got, `"STORAGE_FULL"`) {
			t.Errorf("a write: %s", got)
		}
	}
	full.Store(false)
	var got string
	wait(t, "the gateway to go on", func() bool {
		got = note("2"+fmt.Sprint(time.Now().UnixNano()), "b")
		return !strings.Contains(got, "STORAGE_FULL") && !strings.Contains(got, "UNAVAILABLE")
	})
	if !strings.Contains(got, `"text":"a,b"`) {
		t.Errorf("afterwards: %s", got)
	}
	wait(t, "the gap in the log", func() bool {
		for _, e := range events(t, g) {
			if e.Type == "gap" && e.Count != nil && *e.Count >= 3 {
				return true
			}
		}
		return false
	})
}

func b64(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }

func apiOf(r *running) *api.Client { return api.Dial(filepath.Join(r.home.Dir, "api.sock")) }
