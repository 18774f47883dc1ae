package node_test

import (
	"context"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/node"
	"github.com/talosprotocol/talos/node/api"
	"github.com/talosprotocol/talos/node/authority"
	"github.com/talosprotocol/talos/node/execution"
)

// once sends a request with an idempotency key.
func (p *program) once(ctx context.Context, path, key, body string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.url+path, strings.NewReader(body))
	if err != nil {
		return "", err
	}
	req.Header.Set("Authorization", "Bearer "+p.token)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Idempotency-Key", key)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close() //nolint:errcheck // read
	b, err := io.ReadAll(resp.Body)
	return string(b), err
}

func addNote(text string) string {
	return `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"add_note","arguments":{"text":"` + text + `"}}}`
}

// withNotes starts a gateway with the notes server, and an agent that may use it.
func withNotes(t *testing.T, o node.InitOptions) (g, a *running, path string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	gh, ah := initHome(t, o), initHome(t, o)
	if err := gh.SetGateway(&contracts.GatewayConfig{V: "talos-gateway/1", Tools: []contracts.ToolExposure{
		{Name: "notes", Command: []string{self, "serve-notes"}, Read: []string{"echo"}},
	}}); err != nil {
		t.Fatal(err)
	}
	g, a = start(t, gh), start(t, ah)
	for _, r := range []*running{g, a} {
		wait(t, "readiness", func() bool { return r.Status().Ready })
	}
	ten := int64(10)
	if _, _, err := g.Powers().Grant(t.Context(), authority.Terms{
		To: a.DID(), Scopes: []string{"tool:notes"}, Life: time.Hour, Constraints: []contracts.Constraint{{Op: "budget", N: &ten, Unit: "calls"}},
	}); err != nil {
		t.Fatal(err)
	}
	return g, a, "/mcp/" + string(g.DID()) + "/notes"
}

// Rows 10 and 25 of the failure list: a write with one key, many times at once and after the
// gateway has started anew, is done once; with other arguments it is refused. EXE-1.
func TestRow25_Idempotency(t *testing.T) {
	boot, anchors, _ := mesh(t, 1, 0)
	g, a, path := withNotes(t, node.InitOptions{Bootstrap: addrs(boot), Anchors: []string{string(anchors[0].DID())}, Interval: 1, Strangers: "ask"})
	p := programOf(t, a.home)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if got, err := p.once(t.Context(), path, "key-1", addNote("first")); err != nil || !strings.Contains(got, `"text":"first"`) {
				t.Errorf("%s, %v", got, err)
			}
		})
	}
	all.Wait()
	if got, err := p.once(t.Context(), path, "key-1", addNote("changed")); err != nil || !strings.Contains(got, `"IDEMPOTENCY_CONFLICT"`) {
		t.Errorf("other arguments: %s, %v", got, err)
	}
	if got, err := p.once(t.Context(), path, "key-2", addNote("second")); err != nil || !strings.Contains(got, `"text":"first,second"`) {
		t.Errorf("another key: %s, %v", got, err)
	}
	if got, err := p.once(t.Context(), path, "no spaces", addNote("x")); err != nil || !strings.Contains(got, "Idempotency-Key") {
		t.Errorf("a key that is none: %s, %v", got, err)
	}
	c := api.Dial(filepath.Join(g.home.Dir, "api.sock"))
	done, err := c.Executions(t.Context(), execution.Completed, "", 50)
	if err != nil || len(done) != 2 || done[0].Steps[0].Action.Caller != string(a.DID()) {
		t.Fatalf("%+v, %v", done, err)
	}
	for _, e := range done {
		if err := execution.Verify(&e); err != nil {
			t.Error(err)
		}
	}
	// Row 10: what is asked again is charged once.
	if b, err := c.Budgets(t.Context()); err != nil || len(b) != 1 || b[0].Used != 2 || b[0].Held != 0 {
		t.Errorf("charged: %+v, %v", b, err)
	}
	if _, err := c.SettleExecution(t.Context(), done[0].ID, false); contracts.CodeOf(err) != contracts.Conflict {
		t.Errorf("settling what is done: %v", err)
	}
	if err := g.stop(); err != nil {
		t.Fatal(err)
	}
	g = start(t, g.home)
	wait(t, "readiness", func() bool { return g.Status().Ready })
	var got string
	wait(t, "the gateway", func() bool {
		if got, err = p.once(t.Context(), path, "key-1", addNote("first")); err != nil {
			t.Fatal(err)
		}
		return !strings.Contains(got, `"UNAVAILABLE"`)
	})
	if !strings.Contains(got, `"ALREADY_DONE"`) {
		t.Errorf("after a restart: %s", got)
	}
}

// A rule of the gateway's owner has a governance peer asked before a write: the peer's
// owner reads the whole request and decides; the decision is in the execution's record and
// in the audit log. EXE-5, EXE-7.
func TestApprovalAcrossNodes(t *testing.T) {
	boot, anchors, _ := mesh(t, 1, 0)
	o := node.InitOptions{Bootstrap: addrs(boot), Anchors: []string{string(anchors[0].DID())}, Interval: 1, Strangers: "ask"}
	g, a, path := withNotes(t, o)
	gov := start(t, initHome(t, o))
	wait(t, "readiness", func() bool { return gov.Status().Ready })
	of := func(r *running) *api.Client { return api.Dial(filepath.Join(r.home.Dir, "api.sock")) }
	rule := func(id, by, surface string) *contracts.Policy {
		return &contracts.Policy{V: "talos-policy/1", Approvals: []contracts.ApprovalRule{{ID: id, Surfaces: []string{surface}, Scope: "tool:*", By: by}}}
	}
	if err := of(g).SetPolicy(t.Context(), rule("x", "", "keys.rotate")); contracts.CodeOf(err) != contracts.ConfigInvalid {
		t.Fatalf("a rule for what cannot wait: %v", err)
	}
	if err := of(g).SetPolicy(t.Context(), rule("writes", string(gov.DID()), "tool.write")); err != nil {
		t.Fatal(err)
	}
	p := programOf(t, a.home)
	call := func(text string) <-chan string {
		done := make(chan string, 1)
		go func() {
			got, err := p.once(t.Context(), path, "key-"+text, addNote(text))
			if err != nil {
				got = err.Error()
			}
			done <- got
		}()
		return done
	}
	if got := <-call("unasked"); !strings.Contains(got, `"APPROVAL_REQUIRED"`) { // the peer knows nothing of the gateway
		t.Fatalf("no capability at the peer: %s", got)
	}
	if _, _, err := gov.Powers().Grant(t.Context(), authority.Terms{To: g.DID(), Scopes: []string{"agent:" + strings.ReplaceAll(string(gov.DID()), ":", "%3A") + "/method:govern"}, Life: time.Hour}); err != nil {
		t.Fatal(err)
	}
	waiting := func() (v api.Approval) {
		wait(t, "the request", func() bool {
			all, err := of(gov).Approvals(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, w := range all {
				if w.Verdict == "" {
					v = w
				}
			}
			return v.ID != ""
		})
		return v
	}
	done := call("first")
	v, err := of(gov).Approval(t.Context(), waiting().ID)
	if err != nil || v.Text != addNote("first") || v.Asker != string(g.DID()) || v.Caller != string(a.DID()) {
		t.Fatalf("%+v, %v", v, err)
	}
	if _, err := of(gov).Decide(t.Context(), v.ID, true, "fine"); err != nil {
		t.Fatal(err)
	}
	if got := <-done; !strings.Contains(got, `"text":"first"`) {
		t.Fatalf("approved: %s", got)
	}
	done = call("second")
	if _, err := of(gov).Decide(t.Context(), waiting().ID, false, "no more notes"); err != nil {
		t.Fatal(err)
	}
	if got := <-done; !strings.Contains(got, `"APPROVAL_DENIED"`) || !strings.Contains(got, "no more notes") {
		t.Errorf("denied: %s", got)
	}
	if got, err := p.once(t.Context(), path, "key-r", `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{"text":"x"}}}`); err != nil || !strings.Contains(got, `"text":"x"`) {
		t.Errorf("what no rule covers: %s, %v", got, err)
	}
	all, err := of(g).Executions(t.Context(), "", "", 50)
	if err != nil || len(all) != 1 || all[0].Steps[1].Decision == nil || all[0].Steps[1].Decision.By != string(gov.DID()) || execution.Verify(&all[0]) != nil {
		t.Fatalf("%+v, %v", all, err)
	}
	// The owner of the agent may want to be asked as well.
	if err := of(a).SetPolicy(t.Context(), rule("mine", "", "local.tool.use")); err != nil {
		t.Fatal(err)
	}
	done = call("third")
	wait(t, "the request at home", func() bool {
		all, err := of(a).Approvals(t.Context())
		return err == nil && len(all) == 1 && all[0].Text == addNote("third")
	})
	mine, _ := of(a).Approvals(t.Context())
	if _, err := of(a).Decide(t.Context(), mine[0].ID, false, ""); err != nil {
		t.Fatal(err)
	}
	if got := <-done; !strings.Contains(got, "APPROVAL_DENIED") {
		t.Errorf("denied at home: %s", got)
	}
	approvals := map[string]int{}
	for _, e := range events(t, g) {
		if e.Type == "approval" || e.Code == string(contracts.ApprovalDenied) {
			approvals[e.Outcome]++
		}
	}
	if approvals["ok"] != 1 || approvals["denied"] != 1 {
		t.Errorf("in the log: %v", approvals)
	}
}
