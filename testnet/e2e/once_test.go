package e2e

import (
	"context"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/node"
	"github.com/talosprotocol/talos/testnet"
)

// post sends a JSON-RPC request to a node's loopback address, under an idempotency key.
func post(ctx context.Context, p *testnet.Process, path, key, body string) (string, error) {
	var words [2]string
	for i, name := range []string{"api.address", "api.token"} {
		b, err := os.ReadFile(filepath.Join(p.Home(), name))
		if err != nil {
			return "", err
		}
		words[i] = strings.TrimSpace(string(b))
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, words[0]+path, strings.NewReader(body))
	if err != nil {
		return "", err
	}
	req.Header.Set("Authorization", "Bearer "+words[1])
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

// eventually waits for something, and fails with what it saw last.
func eventually(t *testing.T, ctx context.Context, what string, ok func() (bool, string)) {
	t.Helper()
	for {
		done, saw := ok()
		if done {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("no %s; last: %s", what, saw)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Row 5 of the failure list: a gateway dies of kill -9 in the middle of a tool that writes.
// The tool is not run a second time, whoever asks again is told that nobody knows what
// became of it, and when the owner has found out, that. EXE-3.
func TestRow5_KillInTheMiddleOfAWrite(t *testing.T) {
	if testing.Short() || os.Getenv("TALOS_KILL_ROUNDS") == "" {
		t.Skip("takes half a minute, until a dead peer is given up: TALOS_KILL_ROUNDS=1 runs it, as CI does")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	ps := start(t, ctx)
	alice, bob := ps.Agents[0].(*testnet.Process), ps.Agents[1].(*testnet.Process)
	h, err := node.OpenHome(bob.Home())
	if err != nil {
		t.Fatal(err)
	}
	if err := h.SetGateway(&contracts.GatewayConfig{V: "talos-gateway/1", Tools: []contracts.ToolExposure{{Name: "notes", Command: ps.Notes}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := bob.ReloadServices(ctx); err != nil {
		t.Fatal(err)
	}
	to, err := alice.Status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := bob.Grant(ctx, &contracts.GrantRequest{To: to.DID, Scopes: []string{"tool:notes"}, Seconds: 3600}, ""); err != nil || !got.Delivered {
		t.Fatalf("%+v, %v", got, err)
	}
	path := "/mcp/" + string(h.DID()) + "/notes"
	file := filepath.Join(t.TempDir(), "waited")
	body := `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"wait","arguments":{"text":"` + file + `"}}}`
	first := make(chan string, 1)
	go func() {
		got, err := post(ctx, alice, path, "the-key", body)
		if err != nil {
			got = err.Error()
		}
		first <- got
	}()
	began := file + ".began"
	eventually(t, ctx, "start of the tool", func() (bool, string) { _, err := os.Stat(began); return err == nil, "" })
	if err := bob.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(began); err != nil {
		t.Fatal(err)
	}
	if err := bob.Start(); err != nil {
		t.Fatal(err)
	}
	if err := bob.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	got := <-first
	if !strings.Contains(got, `"OUTCOME_UNKNOWN"`) && !strings.Contains(got, `"UNAVAILABLE"`) {
		t.Errorf("the call that was cut: %s", got)
	}
	t.Logf("the caller was told: %s", got)
	again := func(want string) {
		t.Helper()
		eventually(t, ctx, want, func() (bool, string) {
			got, err := post(ctx, alice, path, "the-key", body)
			if err != nil {
				return false, err.Error()
			}
			return strings.Contains(got, `"`+want+`"`), got
		})
	}
	again("OUTCOME_UNKNOWN")
	all, err := bob.Executions(ctx, "unknown", "", 10)
	if err != nil || len(all) != 1 {
		t.Fatalf("%+v, %v", all, err)
	}
	if _, err := bob.SettleExecution(ctx, all[0].ID, true); err != nil {
		t.Fatal(err)
	}
	again("ALREADY_DONE")
	if _, err := os.Stat(began); err == nil {
		t.Error("the tool ran a second time")
	}
	events, err := bob.Events(ctx, 0, 500, false)
	if err != nil {
		t.Fatal(err)
	}
	intents, results := map[string]bool{}, map[string]string{}
	for _, raw := range events.Events {
		e, err := contracts.ParseAuditEvent(raw.Event)
		if err != nil {
			t.Fatal(err)
		}
		if e.Surface == "tool.write" && e.Type == "intent" {
			intents[e.ID] = true
		}
		if e.Type == "result" {
			results[e.Intent] = e.Outcome
		}
	}
	for id := range intents {
		if results[id] != "unknown" {
			t.Errorf("the intent %s ended %q", id, results[id])
		}
	}
	if len(intents) != 1 {
		t.Errorf("%d intents to write", len(intents))
	}
}
