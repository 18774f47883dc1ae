package api_test

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
	"github.com/talosprotocol/talos/node/api"
	"github.com/talosprotocol/talos/node/execution"
	"github.com/talosprotocol/talos/node/gate"
)

// scripted is a Node whose answers a test sets: what is tested here is the door, not
// the house behind it (see cmd/talos for both).
type scripted struct {
	api.Node
	err  error
	sent []string
}

func (s *scripted) Anchoring(context.Context, int) (json.RawMessage, error) {
	return json.RawMessage("{}"), nil
}

func (s *scripted) Status(context.Context) api.Status {
	return api.Status{DID: "did:x", NotReady: []string{"because"}}
}
func (s *scripted) Peers(context.Context) []api.Peer { return nil }
func (s *scripted) Send(_ context.Context, to string, body []byte, _ time.Duration) (*api.Sent, error) {
	s.sent = append(s.sent, to+" "+string(body))
	return &api.Sent{}, s.err
}
func (s *scripted) Resolve(context.Context, string, bool) (*api.Resolution, error) {
	return &api.Resolution{Document: json.RawMessage(`{"id":"x"}`)}, s.err
}
func (s *scripted) Inbox(ctx context.Context, _ uint64, _ int, wait bool) ([]api.Message, error) {
	if wait {
		<-ctx.Done()
	}
	return nil, nil
}

// authority is a function that decides.
type authority func(*gate.Request) error

func (f authority) Decide(_ context.Context, _ time.Time, r *gate.Request, _ gate.Call) (gate.Decision, error) {
	return gate.Decision{}, f(r)
}

func owner(r *gate.Request) error {
	if r.Who.Proof != gate.Owner {
		return contracts.Errorf(contracts.NoCapability, "no")
	}
	return nil
}

type noBook struct{}

func (noBook) Enter(context.Context, gate.Event, []gate.Spent, []execution.Row) error { return nil }

func door(t testing.TB, a authority) *gate.Gate {
	t.Helper()
	reg, err := gate.NewRegistry(contracts.Surfaces())
	if err != nil {
		t.Fatal(err)
	}
	return gate.New(gate.Options{Registry: reg, Authority: a, Book: noBook{}, Ledger: gate.NewLedger(), Log: slog.New(slog.DiscardHandler), Now: time.Now})
}

type served struct {
	node  *scripted
	url   string
	token string
	sock  string
}

func serve(t *testing.T) *served { return serveWithin(t, 0) }

// serveWithin gives requests a time to be there; 0: the usual one.
func serveWithin(t *testing.T, within time.Duration) *served {
	t.Helper()
	dir, err := os.MkdirTemp("", "api")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	v := &served{node: &scripted{}, sock: filepath.Join(dir, "s")}
	s, err := api.New(api.Config{Socket: v.sock, Address: "127.0.0.1:0", TokenFile: filepath.Join(dir, "token"), AddressFile: filepath.Join(dir, "address"), Gate: door(t, owner), HeaderWithin: within, BodyWithin: within}, v.node, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	read := func(name string) string {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(b))
	}
	v.url, v.token = read("address"), read("token")
	for _, f := range []string{"s", "token"} {
		if st, err := os.Stat(filepath.Join(dir, f)); err != nil || st.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s: mode %v, %v: others may use it", f, st.Mode(), err)
		}
	}
	return v
}

func (v *served) do(t *testing.T, method, path, body string, change func(*http.Request)) (int, string, http.Header) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, v.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+v.token)
	if change != nil {
		change(req)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close() //nolint:errcheck // read only
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b), resp.Header
}

// API-1: who may speak on the loopback address.
func TestWhoMayAsk(t *testing.T) {
	v := serve(t)
	for name, c := range map[string]struct {
		path   string
		change func(*http.Request)
		want   int
	}{
		"with the token":     {"/v1/status", nil, 200},
		"localhost by name":  {"/v1/status", func(r *http.Request) { r.Host = "localhost:1" }, 200},
		"no token":           {"/v1/status", func(r *http.Request) { r.Header.Del("Authorization") }, 401},
		"wrong token":        {"/v1/status", func(r *http.Request) { r.Header.Set("Authorization", "Bearer x") }, 401},
		"rebound DNS name":   {"/v1/status", func(r *http.Request) { r.Host = "evil.example:80" }, 403},
		"other address":      {"/v1/status", func(r *http.Request) { r.Host = "10.0.0.1:80" }, 403},
		"a web page":         {"/v1/status", func(r *http.Request) { r.Header.Set("Origin", "https://evil.example") }, 403},
		"health needs none":  {"/health/live", func(r *http.Request) { r.Header.Del("Authorization") }, 200},
		"health of a page":   {"/health/live", func(r *http.Request) { r.Header.Set("Origin", "https://evil.example") }, 403},
		"not ready":          {"/health/ready", nil, 503},
		"unknown route":      {"/v1/nothing", nil, 404},
		"a number too large": {"/a2a/messages?limit=99999999", nil, 400},
		"no number":          {"/v1/audit/events?after=x", nil, 400},
	} {
		if code, body, _ := v.do(t, "GET", c.path, "", c.change); code != c.want {
			t.Errorf("%s: %d %s, want %d", name, code, body, c.want)
		}
	}
}

// API-2: strict requests.
func TestSendIsStrict(t *testing.T) {
	v := serve(t)
	did := "did:talos:zQmZL8Vbds1oVbbACXowp7ecaVACWo8rseX5xXziyAasFAZ"
	for body, want := range map[string]int{
		`{"to":"` + did + `","text":"hi"}`:                   200,
		`{"to":"` + did + `","body_b64u":"aGk"}`:             200,
		`{"to":"` + did + `","text":"hi","body_b64u":"aGk"}`: 400,
		`{"to":"` + did + `"}`:                               400,
		`{"to":"` + did + `","body_b64u":"aGl"}`:             400,
		`{"to":"bob","text":"hi"}`:                           400,
		`{"to":"` + did + `","text":"hi","cc":"x"}`:          400,
		`{"to":"` + did + `","text":"hi","text":"ho"}`:       400,
		`{"to":"` + did + `","text":1}`:                      400,
		`[]`:                                                 400, ``: 400, `{"to":"` + did + `","text":"\ud800"}`: 400,
		`{"to":"` + did + `","text":"` + strings.Repeat("x", 200<<10) + `"}`: 413,
	} {
		if code, answer, _ := v.do(t, "POST", "/a2a/messages", body, nil); code != want {
			t.Errorf("%.80s: %d %s, want %d", body, code, answer, want)
		}
	}
	if len(v.node.sent) != 2 {
		t.Errorf("sent %q", v.node.sent)
	}
}

// API-3, and Row 49: errors of DID Resolution.
func TestErrorsAndResolution(t *testing.T) {
	v := serve(t)
	for code, want := range map[contracts.Code]int{
		contracts.InvalidDID: 400, contracts.MethodUnsupported: 501, contracts.NotFound: 404, contracts.Deactivated: 410, contracts.Unavailable: 500, "": 200,
	} {
		v.node.err = nil
		if code != "" {
			v.node.err = contracts.Errorf(code, "detail")
		}
		status, body, h := v.do(t, "GET", "/1.0/identifiers/did:x", "", nil)
		if status != want || h.Get("Content-Type") != "application/did-resolution" {
			t.Errorf("%s: %d %s %s", code, status, h.Get("Content-Type"), body)
		}
	}
	v.node.err = nil
	accept := func(a string) func(*http.Request) { return func(r *http.Request) { r.Header.Set("Accept", a) } }
	if status, body, h := v.do(t, "GET", "/1.0/identifiers/did:x", "", accept("application/did")); status != 200 || body != `{"id":"x"}` || h.Get("Content-Type") != "application/did" {
		t.Errorf("bare document: %d %s", status, body)
	}
	if status, _, _ := v.do(t, "GET", "/1.0/identifiers/did:x", "", accept("text/html")); status != 406 {
		t.Errorf("text/html: %d", status)
	}
	for code, want := range map[contracts.Code]int{contracts.Unavailable: 503, contracts.OutboxFull: 429, contracts.SessionState: 409, contracts.Internal: 500} {
		v.node.err = contracts.Errorf(code, "detail")
		status, body, _ := v.do(t, "POST", "/a2a/messages", `{"to":"did:talos:zQmZL8Vbds1oVbbACXowp7ecaVACWo8rseX5xXziyAasFAZ","text":"x"}`, nil)
		var f api.Failure
		if err := json.Unmarshal([]byte(body), &f); err != nil || status != want || f.Code != string(code) || f.Message != "detail" || f.Retryable != code.Retryable() {
			t.Errorf("%s: %d %s", code, status, body)
		}
	}
	v.node.err = contracts.Errorf(contracts.Internal, "detail")
	_, err := api.Dial(v.sock).Send(t.Context(), "did:talos:zQmZL8Vbds1oVbbACXowp7ecaVACWo8rseX5xXziyAasFAZ", "x")
	if contracts.CodeOf(err) != contracts.Internal || err.Error() != "INTERNAL: detail" {
		t.Errorf("the client sees %v", err)
	}
	if _, err := api.Dial(v.sock + "x").Status(t.Context()); contracts.CodeOf(err) != contracts.Unavailable {
		t.Errorf("no node: %v", err)
	}
}

func TestALongPollEndsWithTheClientAndTheNode(t *testing.T) {
	v := serve(t)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := api.Dial(v.sock).Inbox(ctx, 0, 30*time.Second); err == nil {
		t.Error("the poll outlived its client")
	}
}

// GATE-1, GATE-2: every route passes the gate: where nobody has a grant, only what the
// registry calls open is answered, and the node behind is not touched.
func TestEveryRoutePassesTheGate(t *testing.T) {
	nobody := func(*gate.Request) error { return contracts.Errorf(contracts.NoCapability, "no") }
	s, err := api.New(api.Config{Gate: door(t, nobody)}, untouched{&scripted{}}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	routes := s.Patterns()
	if len(routes) < 16 {
		t.Fatalf("%d routes", len(routes))
	}
	for _, pattern := range routes {
		method, path, _ := strings.Cut(pattern, " ")
		path = strings.NewReplacer("{did}", "did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK", "{index}", "1", "{name}", "n", "{gateway}", "did:x", "{server}", "s", "{agent}", "a").Replace(path)
		var in io.Reader
		if pattern == "POST /a2a/messages" || pattern == "POST /a2a/frames" {
			in = strings.NewReader(`{"text":"x","to":"did:talos:zQmNsuhRfWp6DUQjmF1LAx2Zw1jBrKdhHdkyKu8H9vu3Fxz"}`)
		}
		if strings.HasPrefix(gateSurface(t, pattern).ID, "local.model.use") {
			in = strings.NewReader(`{"model":"m"}`)
		}
		if strings.HasPrefix(pattern, "POST /mcp") || pattern == "POST /a2a/agents/{gateway}/{agent}" {
			in = strings.NewReader(`{"jsonrpc":"2.0","id":1,"method":"tools/list"}`)
		}
		r := httptest.NewRequest(method, path, in)
		r.Header.Set("Content-Type", "application/json")
		r = r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, net.Addr(&net.UnixAddr{Net: "unix"})))
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		surface := gateSurface(t, pattern)
		if open := surface.Open != nil && *surface.Open; open != (w.Code != http.StatusForbidden) {
			t.Errorf("%s: %d %s", pattern, w.Code, w.Body)
		}
	}
}

// A signed request is its signer's: what that may do the authority says. GATE-9.
func TestAttestedRequest(t *testing.T) {
	pub, priv, _ := ed25519.GenerateKey(nil)
	key, err := identity.NewPublic[identity.Invocation](pub)
	if err != nil {
		t.Fatal(err)
	}
	var asked []gate.Principal
	see := func(r *gate.Request) error { asked = append(asked, r.Who); return nil }
	s, err := api.New(api.Config{Gate: door(t, see), Attester: gate.NewAttester(func(context.Context, string) (identity.DID, identity.InvocationPublic, error) {
		return identity.KeyDID(key), key, nil
	}, time.Now())}, &scripted{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	do := func(sign, target string) int {
		r := httptest.NewRequest("GET", target, nil)
		r.Host = "127.0.0.1:80"
		a := gate.Attestation{Nonce: "nonce-" + sign, Timestamp: time.Now().Unix()}
		input, err := a.SigningInput("GET", sign, "node.peers", nil)
		if err != nil {
			t.Fatal(err)
		}
		for k, v := range map[string]string{
			gate.HeaderVersion: "v1", gate.HeaderAlgorithm: "ed25519", gate.HeaderKey: string(identity.KeyDID(key)), gate.HeaderNonce: a.Nonce,
			gate.HeaderTime: strconv.FormatInt(a.Timestamp, 10), gate.HeaderSignature: base64.RawURLEncoding.EncodeToString(ed25519.Sign(priv, input)),
		} {
			r.Header.Set(k, v)
		}
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		return w.Code
	}
	if code := do("/v1/peers", "/v1/peers"); code != http.StatusOK || len(asked) != 1 || asked[0].DID != identity.KeyDID(key) || asked[0].Proof != gate.Attested {
		t.Errorf("%d, %+v", code, asked)
	}
	if code := do("/v1/peers?x=1", "/v1/peers"); code == http.StatusOK || len(asked) != 1 {
		t.Errorf("another target: %d", code)
	}
	if code := do("/v1/status", "/v1/status"); code == http.StatusOK {
		t.Errorf("another surface: %d", code)
	}
}

// untouched fails for whatever is asked of it but health and resolution.
type untouched struct{ *scripted }

func (untouched) Peers(context.Context) []api.Peer { panic("peers") }
func (untouched) Send(context.Context, string, []byte, time.Duration) (*api.Sent, error) {
	panic("send")
}
func (untouched) Inbox(context.Context, uint64, int, bool) ([]api.Message, error) { panic("inbox") }

func gateSurface(t *testing.T, pattern string) *contracts.Surface {
	t.Helper()
	reg, err := gate.NewRegistry(contracts.Surfaces())
	if err != nil {
		t.Fatal(err)
	}
	return reg.HTTP(pattern)
}
