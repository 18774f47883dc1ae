package main

import (
	"encoding/json"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	fake "github.com/talosprotocol/talos/testnet/fake/chain"
)

// configure changes members of a home's configuration.
func configure(t testing.TB, home string, members map[string]any) {
	t.Helper()
	path := filepath.Join(home, "config.json")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	c := map[string]any{}
	if err := json.Unmarshal(b, &c); err != nil {
		t.Fatal(err)
	}
	for k, v := range members {
		c[k] = v
	}
	if b, err = json.Marshal(c); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// An event of a node, on a chain, and what an auditor is told of it with more and less
// trust. CHAIN-11, CHAIN-13.
func TestAnchorCommands(t *testing.T) {
	c := fake.New(1337)
	server := httptest.NewServer(c)
	defer server.Close()
	dir := tempDir(t)
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	ok(t, "init", "--home", a, "--kind", "local", "--role", "bootstrap,anchor")
	configure(t, a, map[string]any{"epoch_seconds": 1, "anchor_chains": []any{
		map[string]any{"driver": "ethereum", "urls": []string{server.URL}, "chain_id": 1337, "every_seconds": 1, "confirmations": 1},
	}})
	did, addr, _ := up(t, "--home", a)
	ok(t, "init", "--home", b, "--kind", "local", "--bootstrap", addr, "--anchor", did, "--checkpoint-seconds", "1")
	configure(t, b, map[string]any{"epoch_seconds": 1})
	up(t, "--home", b)
	ready(t, b)
	proof := filepath.Join(dir, "proof.json")
	wait(t, "a receipt of the chain", func() bool {
		c.Mine()
		text := ok(t, "audit", "prove", "--home", b, "0")
		if err := os.WriteFile(proof, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return strings.Contains(text, `"driver":"ethereum"`)
	})
	out := ok(t, "audit", "verify", proof, "--trust", did+"=acme")
	where := regexp.MustCompile(`block (\d+) of eip155:1337, hash (0x[0-9a-f]{64})`).FindStringSubmatch(out)
	if !strings.Contains(out, "ANCHORED 1/1") || !strings.Contains(out, "cannot tell: ") || where == nil {
		t.Fatalf("offline: %s", out)
	}
	block := "eip155:1337/" + where[1] + "="
	for name, w := range map[string]struct {
		args []string
		want []string
	}{
		"a trusted block": {[]string{"--block", block + where[2]}, []string{"CHAINED", "ethereum  valid: "}},
		"another block":   {[]string{"--block", block + "0x" + strings.Repeat("11", 32)}, []string{"ANCHORED", "ethereum  invalid: "}},
		"an endpoint":     {[]string{"--rpc", "eip155:1337=" + server.URL, "--confirmations", "1"}, []string{"CHAINED", "as the endpoint says too"}},
		"no endpoint":     {[]string{"--rpc", "eip155:1337=http://127.0.0.1:1"}, []string{"ANCHORED", "ethereum  cannot tell: "}},
	} {
		out := ok(t, append([]string{"audit", "verify", proof, "--trust", did + "=acme"}, w.args...)...)
		for _, s := range w.want {
			if !strings.Contains(out, s) {
				t.Errorf("%s: no %q in %s", name, s, out)
			}
		}
	}
	for _, bad := range [][]string{{"--block", "eip155:1337/x=0x11"}, {"--block", "x"}, {"--block", "bitcoin/1=00"}, {"--rpc", "x"}} {
		if r := talos(t, append([]string{"audit", "verify", proof}, bad...)...); r.code == 0 || !strings.Contains(r.err, "MALFORMED") {
			t.Errorf("%q: %d %s", bad, r.code, r.err)
		}
	}
	for args, want := range map[string]string{"status": "eip155:1337", "epochs": "LOGS", "receipts": "ethereum"} {
		if out := ok(t, "anchor", args, "--home", a); !strings.Contains(out, want) {
			t.Errorf("anchor %s: %s", args, out)
		}
	}
	if r := talos(t, "anchor", "status", "--home", b); r.code == 0 || !strings.Contains(r.err, "no anchor") {
		t.Errorf("an agent says %s%s", r.out, r.err)
	}
	newer, err := os.ReadFile(proof)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(proof, []byte(strings.Replace(string(newer), "talos-bundle/2", "talos-bundle/9", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if r := talos(t, "audit", "verify", proof); r.code == 0 || !strings.HasPrefix(r.out, "CANNOT TELL UNSUPPORTED_VERSION") {
		t.Errorf("a newer version: %d %s%s", r.code, r.out, r.err)
	}
}
