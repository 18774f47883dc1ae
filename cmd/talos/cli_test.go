package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/talosprotocol/talos/identity"
	"github.com/talosprotocol/talos/node/gate"
)

// result of one command.
type result struct {
	code     int
	out, err string
}

// safeBuffer is a buffer that a running command writes and a test reads.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}
func (s *safeBuffer) String() string { s.mu.Lock(); defer s.mu.Unlock(); return s.b.String() }

func talos(t testing.TB, args ...string) result {
	t.Helper()
	var out, errOut bytes.Buffer
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	code := run(ctx, args, &out, &errOut)
	return result{code, out.String(), errOut.String()}
}

func ok(t testing.TB, args ...string) string {
	t.Helper()
	r := talos(t, args...)
	if r.code != 0 {
		t.Fatalf("talos %s: exit %d: %s%s", strings.Join(args, " "), r.code, r.out, r.err)
	}
	return r.out
}

// up runs a node until stop; it returns its DID and first address.
func up(t testing.TB, args ...string) (did, addr string, stop func()) {
	t.Helper()
	var out, errOut safeBuffer
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan int, 1)
	go func() { done <- run(ctx, append([]string{"up"}, args...), &out, &errOut) }()
	wait(t, "the node", func() bool {
		select {
		case code := <-done:
			t.Fatalf("talos up ended with %d: %s%s", code, out.String(), errOut.String())
		default:
		}
		return strings.Contains(out.String(), "running")
	})
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if code := <-done; code != 0 {
				t.Errorf("talos up ended with %d: %s", code, errOut.String())
			}
		})
	}
	t.Cleanup(stop)
	return regexp.MustCompile(`did:talos:\w+`).FindString(out.String()), regexp.MustCompile(`/ip4/\S+`).FindString(out.String()), stop
}

func wait(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(40 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("no %s within 40 s", what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// ready waits until the node of a home says that it is.
func ready(t testing.TB, home string) {
	t.Helper()
	says := regexp.MustCompile(`health +ready`)
	wait(t, "readiness", func() bool { return says.MatchString(ok(t, "status", "--home", home)) })
}

func tempDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "talos") // short, for the socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// The README's "Two agents of your own", word for word but for the ports.
func TestTwoAgents(t *testing.T) {
	dir := tempDir(t)
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	ok(t, "init", "--home", a, "--kind", "local", "--role", "bootstrap,anchor,agent")
	didA, addr, _ := up(t, "--home", a)
	didB, _, stopB := up(t, "--home", b, "--kind", "local", "--bootstrap", addr, "--anchor", didA)
	ready(t, b)
	if out := ok(t, "send", "--home", b, "--wait", "20s", didA, "hello"); !strings.Contains(out, "delivered") {
		t.Errorf("send --wait: %s", out)
	}
	if got := ok(t, "listen", "--home", a, "-n", "1"); !strings.Contains(got, "hello") || !strings.Contains(got, didB) {
		t.Errorf("listen: %s", got)
	}
	events := ok(t, "audit", "list", "--home", b)
	if !strings.Contains(events, "message_out") || strings.Contains(events, "hello") {
		t.Errorf("audit list: %s", events)
	}
	proof := filepath.Join(dir, "proof.json")
	if err := os.WriteFile(proof, []byte(ok(t, "audit", "prove", "--home", b, "2")), 0o600); err != nil {
		t.Fatal(err)
	}
	stopB()
	verifyEverywhere(t, proof, didA)

	// What is wrong is said in words, and the exit code says so too.
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"status", "--home", b}, "talos up"},
		{[]string{"send", "--home", a, "did:web:x.example", "x"}, "MALFORMED"},
		{[]string{"resolve", "--home", a, "did:web:x.example"}, "did:talos and did:key"},
		{[]string{"audit", "prove", "--home", a, "9999"}, "NOT_FOUND"},
		{[]string{"audit", "prove", "--home", a, "x"}, "no index"},
		{[]string{"up", "--home", a}, "BUSY"},
		{[]string{"init", "--home", a}, "CONFLICT"},
		{[]string{"key", "recover", "--home", a}, "stop the node first"},
		{[]string{"send"}, "arg"},
		{[]string{"nonsense"}, "unknown command"},
	} {
		if r := talos(t, c.args...); r.code == 0 || !strings.Contains(r.out+r.err, c.want) {
			t.Errorf("talos %s: exit %d, %q; want %q in it", strings.Join(c.args, " "), r.code, r.out+r.err, c.want)
		}
	}
	var f struct{ Code, Message string }
	if r := talos(t, "status", "--json", "--home", b); json.Unmarshal([]byte(r.err), &f) != nil || f.Code != "UNAVAILABLE" {
		t.Errorf("error as JSON: %s", r.err)
	}
}

// verifyEverywhere verifies a bundle where no node is, and shows that a flipped byte
// is named.
func verifyEverywhere(t *testing.T, proof, anchor string) {
	t.Helper()
	nowhere := filepath.Join(tempDir(t), "none")
	if got := ok(t, "audit", "verify", "--home", nowhere, proof); !strings.Contains(got, "valid") {
		t.Errorf("verify: %s", got)
	}
	if got := ok(t, "audit", "verify", "--home", nowhere, proof, "--trust", anchor+"=acme"); !strings.Contains(got, "ED 1/1 organisations") {
		t.Errorf("verify with trust: %s", got)
	}
	b, err := os.ReadFile(proof)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(b); i += 37 {
		flipped := bytes.Clone(b)
		flipped[i] ^= 1
		file := filepath.Join(t.TempDir(), "flipped.json")
		if err := os.WriteFile(file, flipped, 0o600); err != nil {
			t.Fatal(err)
		}
		if r := talos(t, "audit", "verify", file); r.code == 0 || !strings.Contains(r.out, "INVALID") || len(r.out) < 20 {
			t.Fatalf("byte %d flipped: exit %d, %q", i, r.code, r.out+r.err)
		}
	}
}

func TestKeysWithoutANode(t *testing.T) {
	home := filepath.Join(tempDir(t), "h")
	ok(t, "init", "--home", home)
	did := ok(t, "id", "--home", home)
	ok(t, "key", "rotate", "--home", home)
	ok(t, "key", "recover", "--home", home)
	if again := ok(t, "id", "--home", home); again != did {
		t.Errorf("the DID changed from %s to %s", did, again)
	}
	var v struct{ Version string }
	if err := json.Unmarshal([]byte(ok(t, "id", "--json", "--home", home)), &v); err != nil || v.Version != "2.3" {
		t.Errorf("version %q, %v", v.Version, err)
	}
	// The recovery key is kept elsewhere.
	away := t.TempDir()
	for _, f := range []string{"recovery.sealed", "recovery.kek"} {
		if err := os.Rename(filepath.Join(home, f), filepath.Join(away, f)); err != nil {
			t.Fatal(err)
		}
	}
	if r := talos(t, "key", "deactivate", "--home", home); r.code == 0 || !strings.Contains(r.err, "--recovery") {
		t.Errorf("without the recovery key: %d %s", r.code, r.err)
	}
	ok(t, "key", "deactivate", "--home", home, "--recovery", away)
	if r := talos(t, "up", "--home", home); r.code == 0 || !strings.Contains(r.err, "DEACTIVATED") {
		t.Errorf("up after the end: %d %s", r.code, r.err)
	}
}

func TestDoctorAndHelp(t *testing.T) {
	home := filepath.Join(tempDir(t), "h")
	if r := talos(t, "doctor", "--home", home); r.code == 0 || !strings.Contains(r.out, "talos init") {
		t.Errorf("doctor without a home: %d %s", r.code, r.out)
	}
	ok(t, "init", "--home", home)
	if r := talos(t, "doctor", "--home", home); r.code == 0 || !strings.Contains(r.out, "talos up") || !strings.Contains(r.out, "bootstrap") {
		t.Errorf("doctor without a node: %d %s", r.code, r.out)
	}
	if err := os.WriteFile(filepath.Join(home, "config.json"), []byte(`{"v":"talos-config/1","network":"n","kind":"local","roles":["king"]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if r := talos(t, "doctor", "--home", home); r.code == 0 || !strings.Contains(r.out, "king") {
		t.Errorf("doctor with a bad role: %d %s", r.code, r.out)
	}
	for _, args := range [][]string{{"--help"}, {"audit", "verify", "--help"}, {"version"}, {"completion", "bash"}} {
		if got := ok(t, args...); len(got) < 8 {
			t.Errorf("talos %v: %q", args, got)
		}
	}
}

// Two strangers get going: one asks, the other approves, the first may, until it is
// taken back. What was accepted meanwhile arrives later.
func TestCapabilities(t *testing.T) {
	dir := tempDir(t)
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	ok(t, "init", "--home", a, "--kind", "local", "--role", "bootstrap,anchor,agent", "--strangers", "ask")
	didA, addr, _ := up(t, "--home", a)
	didB, _, _ := up(t, "--home", b, "--kind", "local", "--bootstrap", addr, "--anchor", didA)
	ready(t, b)

	scope := "agent:" + didA + "/method:send"
	r := talos(t, "send", "--home", b, didA, "hello")
	if r.code == 0 || !strings.Contains(r.err, "NO_CAPABILITY") {
		t.Fatalf("a stranger may send: %s%s", r.out, r.err)
	}
	ok(t, "cap", "request", "--home", b, didA, "--scope", scope, "--why", "to say hello")
	if out := ok(t, "cap", "requests", "--home", a); !strings.Contains(out, didB) || !strings.Contains(out, "to say hello") {
		t.Fatalf("requests: %s", out)
	}
	if out := ok(t, "cap", "approve", "--home", a, "1"); !strings.Contains(out, "its node has it") {
		t.Fatalf("approve: %s", out)
	}
	if out := ok(t, "send", "--home", b, "--wait", "20s", didA, "hello"); !strings.Contains(out, "delivered") {
		t.Fatalf("with a capability: %s", out)
	}
	var held struct {
		Held []struct{ ID, Chain string } `json:"held"`
	}
	if err := json.Unmarshal([]byte(ok(t, "cap", "list", "--home", b, "--json")), &held); err != nil || len(held.Held) != 1 {
		t.Fatalf("wallet: %+v, %v", held, err)
	}
	token := held.Held[0]
	if out := ok(t, "cap", "inspect", token.Chain); !strings.Contains(out, token.ID) || !strings.Contains(out, didB) {
		t.Errorf("inspect: %s", out)
	}
	ok(t, "cap", "explain", "--home", a, "--token", token.Chain, "--call", scope)
	r = talos(t, "cap", "explain", "--home", a, "--token", token.Chain, "--call", "agent:"+didA+"/method:delete")
	if r.code == 0 || !strings.Contains(r.out, "scope") {
		t.Errorf("explaining a denial: exit %d: %s", r.code, r.out)
	}
	t.Logf("explained:\n%s", r.out)

	var spare struct{ ID string }
	if err := json.Unmarshal([]byte(ok(t, "cap", "grant", "--home", a, didB, "--scope", "tool:x", "--read-only", "--max-calls", "3", "--budget", "tokens=5", "--json")), &spare); err != nil {
		t.Fatal(err)
	}
	ok(t, "cap", "forget", "--home", b, spare.ID)
	if r := talos(t, "cap", "forget", "--home", b, spare.ID); r.code == 0 {
		t.Error("a capability is forgotten twice")
	}
	ok(t, "cap", "revoke", "--home", a, token.ID, "--why", "misuse")
	if out := ok(t, "send", "--home", b, "--wait", "1s", didA, "later"); strings.Contains(out, "delivered") {
		t.Errorf("after the revocation: %s", out)
	}
	ok(t, "cap", "grant", "--home", a, didB, "--scope", scope, "--for", "1h")
	got := ""
	wait(t, "the message that waited", func() bool {
		got += ok(t, "listen", "--home", a, "-n", "1")
		return strings.Contains(got, "later")
	})
	events := ok(t, "audit", "list", "--home", a)
	for _, want := range []string{"cap_grant", "cap_revoke"} {
		if !strings.Contains(events, want) {
			t.Errorf("no %s in the log:\n%s", want, events)
		}
	}
}

// A principal with a role signs its requests: it may what the role covers, and no more,
// also after a restart of the node. GATE-9, GATE-10.
func TestRoles(t *testing.T) {
	dir := tempDir(t)
	home := filepath.Join(dir, "a")
	ok(t, "init", "--home", home, "--kind", "local", "--role", "bootstrap,agent")
	_, _, stop := up(t, "--home", home)
	pub, priv, _ := ed25519.GenerateKey(nil)
	key, err := identity.NewPublic[identity.Invocation](pub)
	if err != nil {
		t.Fatal(err)
	}
	did := string(identity.KeyDID(key))
	get := func(path, surface string) int {
		t.Helper()
		addr, err := os.ReadFile(filepath.Join(home, "api.address"))
		if err != nil {
			t.Fatal(err)
		}
		r, err := http.NewRequestWithContext(t.Context(), "GET", strings.TrimSpace(string(addr))+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		a := gate.Attestation{Nonce: rand.Text(), Timestamp: time.Now().Unix()}
		input, err := a.SigningInput("GET", path, surface, nil)
		if err != nil {
			t.Fatal(err)
		}
		for k, v := range map[string]string{
			gate.HeaderVersion: "v1", gate.HeaderAlgorithm: "ed25519", gate.HeaderKey: did, gate.HeaderNonce: a.Nonce,
			gate.HeaderTime: strconv.FormatInt(a.Timestamp, 10), gate.HeaderSignature: base64.RawURLEncoding.EncodeToString(ed25519.Sign(priv, input)),
		} {
			r.Header.Set(k, v)
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		return resp.StatusCode
	}
	if code := get("/v1/audit/events", "audit.events.read"); code != http.StatusForbidden {
		t.Errorf("without a role: %d", code)
	}
	file := filepath.Join(dir, "policy.json")
	policy := `{"v":"talos-policy/1","roles":[{"id":"auditor","scopes":["node:audit"],"read_only":true}],"bindings":[{"id":"x","role":"auditor","to":"` + did + `"}]}`
	if err := os.WriteFile(file, []byte(policy), 0o600); err != nil {
		t.Fatal(err)
	}
	ok(t, "rbac", "set", "--home", home, file)
	if out := ok(t, "rbac", "show", "--home", home); !strings.Contains(out, "auditor") || !strings.Contains(out, did) {
		t.Errorf("rbac show: %s", out)
	}
	check := func() {
		t.Helper()
		if code := get("/v1/audit/events", "audit.events.read"); code != http.StatusOK {
			t.Errorf("with the role: %d", code)
		}
		if code := get("/v1/status", "node.status"); code != http.StatusForbidden {
			t.Errorf("what the role does not cover: %d", code)
		}
	}
	check()
	stop()
	up(t, "--home", home)
	check()
	if r := talos(t, "rbac", "set", "--home", home, "-"); r.code == 0 {
		t.Error("an empty policy file is taken")
	}
	if out := ok(t, "budget", "--home", home); !strings.Contains(out, "nothing") {
		t.Errorf("budget: %s", out)
	}
}
