package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A capability with conditions travels as text and as the text of a QR code, is verified
// without a node by the state records of its issuers, and explained with arguments.
func TestCapabilityForms(t *testing.T) {
	dir := tempDir(t)
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	ok(t, "init", "--home", a, "--kind", "local", "--role", "bootstrap,anchor,agent", "--strangers", "ask")
	didA, addr, _ := up(t, "--home", a)
	didB, _, _ := up(t, "--home", b, "--kind", "local", "--bootstrap", addr, "--anchor", didA)
	ready(t, b)
	var given struct{ ID, Chain string }
	out := ok(t, "cap", "grant", "--home", a, didB, "--scope", "tool:fs/method:read", "--delegations", "1", "--arg", "path~/data/**", "--arg", "limit:1..10", "--rate", "10/1m", "--json")
	if err := json.Unmarshal([]byte(out), &given); err != nil {
		t.Fatal(err)
	}
	// The same text in both forms, from its giver and from its holder.
	if got := strings.TrimSpace(ok(t, "cap", "export", "--home", a, given.ID)); got != given.Chain {
		t.Errorf("exported: %s", got)
	}
	qr := strings.TrimSpace(ok(t, "cap", "export", "--home", b, "--qr", given.ID))
	if !strings.HasPrefix(qr, "TALOS:CAP1:") || strings.ToUpper(qr) != qr {
		t.Errorf("for a QR code: %s", qr)
	}
	ok(t, "cap", "forget", "--home", b, given.ID)
	file := filepath.Join(dir, "qr")
	if err := os.WriteFile(file, []byte(qr+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, form := range []string{qr, file, given.Chain} {
		if out := ok(t, "cap", "import", "--home", b, form); !strings.Contains(out, given.ID) {
			t.Errorf("import: %s", out)
		}
	}
	if r := talos(t, "cap", "export", "--home", a, "cap:none"); r.code == 0 || !strings.Contains(r.err, "NOT_FOUND") {
		t.Errorf("exporting what is not there: %s%s", r.out, r.err)
	}

	// Verified by files alone: a has issued, b has delegated to a did:key.
	nowhere := filepath.Join(dir, "nowhere")
	sub := "did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK"
	var second struct{ ID, Chain string }
	out = ok(t, "cap", "delegate", "--home", b, given.ID, sub, "--scope", "tool:fs/method:read", "--for", "1h", "--json")
	if err := json.Unmarshal([]byte(out), &second); err != nil {
		t.Fatal(err)
	}
	state := filepath.Join(dir, "b.json")
	if err := os.WriteFile(state, []byte(ok(t, "resolve", "--home", a, "--state", didB)), 0o600); err != nil {
		t.Fatal(err)
	}
	files := []string{"cap", "verify", "--home", nowhere, "--state", filepath.Join(a, "identity.json"), "--state", state}
	if out := ok(t, append(files, second.Chain)...); !strings.Contains(out, "2 of 2 signatures") || !strings.Contains(out, sub) {
		t.Errorf("verified: %s", out)
	}
	ok(t, "cap", "verify", "--home", b, second.Chain) // by its node
	flipped := []byte(second.Chain)
	flipped[len(flipped)-10] ^= 1
	for name, args := range map[string][]string{
		"changed": append(files, string(flipped)), "an issuer missing": {"cap", "verify", "--home", nowhere, "--state", state, second.Chain},
		"its root alone, cut off": append(files, strings.Split(second.Chain, "~")[1]),
	} {
		if r := talos(t, args...); r.code == 0 {
			t.Errorf("%s: %s", name, r.out)
		}
	}

	// Arguments in an explanation.
	call := []string{"cap", "explain", "--home", a, "--token", given.Chain, "--call", "tool:fs/method:read", "--args"}
	ok(t, append(call, `{"limit":5,"path":"/data/x"}`)...)
	for _, args := range []string{`{"limit":50,"path":"/data/x"}`, `{"limit":5,"path":"/data/../x"}`, `{"path":"/data/x"}`, `{"limit":5,"limit":5,"path":"/data/x"}`} {
		if r := talos(t, append(call, args)...); r.code == 0 || !strings.Contains(r.out+r.err, "CONSTRAINT_VIOLATION") {
			t.Errorf("%s: %s%s", args, r.out, r.err)
		}
	}
	if r := talos(t, "cap", "grant", "--home", a, didB, "--scope", "tool:x", "--constraint", `{"op":"nonsense"}`); r.code == 0 {
		t.Errorf("a condition that nobody understands: %s", r.out)
	}
	ok(t, "cap", "grant", "--home", b, didA, "--scope", "agent:*", "--at", didA, "--constraint", `{"op":"proof","strs":["channel"]}`)

	if out := ok(t, "limits", "--home", a, "--all"); !strings.Contains(out, "did.resolve") || !strings.Contains(out, "a2a.session.open") {
		t.Errorf("limits: %s", out)
	}
	ok(t, "limits", "--home", a)
}
