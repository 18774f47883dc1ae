package capability_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/json"
	"os"
	"os/exec"
	"testing"

	"github.com/talosprotocol/talos/contracts"
)

// nodeScript verifies compact JWS with Node's crypto, and signs one with the same key.
// It trusts the caller for what the header says: that is our part of the test.
const nodeScript = `
const crypto = require('node:crypto');
const q = JSON.parse(require('node:fs').readFileSync(0, 'utf8'));
const key = crypto.createPublicKey({key: {kty: 'OKP', crv: 'Ed25519', x: q.x}, format: 'jwk'});
const answers = q.tokens.map(t => {
  const p = t.split('.');
  if (p.length !== 3) return false;
  try { return crypto.verify(null, Buffer.from(p[0] + '.' + p[1]), key, Buffer.from(p[2], 'base64url')); } catch { return false; }
});
const priv = crypto.createPrivateKey({key: Buffer.from(q.pkcs8, 'base64'), format: 'der', type: 'pkcs8'});
const sig = crypto.sign(null, Buffer.from(q.input), priv).toString('base64url');
process.stdout.write(JSON.stringify({answers, signed: q.input + '.' + sig}));
`

// Row 56 of the acceptance table, with Node's crypto (OpenSSL): it verifies our tokens,
// signs one to the same bytes, and what it refuses we refuse; thirty and more changes of
// one token, all refused by us.
func TestRow56_AgainstNode(t *testing.T) {
	node, err := exec.LookPath("node")
	if err != nil {
		if os.Getenv("TALOS_CI") != "" {
			t.Fatal("CI has Node.js; it is what this test compares with")
		}
		t.Skip("there is no node here")
	}
	w := newWorld()
	h := holder(w.alice.did)
	good := w.chain(1)[0]
	key := w.org.control.Ed25519()
	names, tokens := []string{"good"}, []string{good}
	for name, bad := range unsigned(good) {
		names, tokens = append(names, name), append(tokens, bad)
	}
	header, payload := parts(good)
	for _, m := range mutations(w) {
		a, b := m.edit(header, payload)
		names, tokens = append(names, m.name), append(tokens, forge(w.carol.control.Ed25519(), a, b)) // of another key
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	input := b64.EncodeToString([]byte(header)) + "." + b64.EncodeToString([]byte(payload))
	question, err := json.Marshal(map[string]any{"x": b64.EncodeToString(key.Public().(ed25519.PublicKey)), "tokens": tokens, "pkcs8": pkcs8, "input": input})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(node, "-e", nodeScript)
	cmd.Stdin = bytes.NewReader(question)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var theirs struct {
		Answers []bool
		Signed  string
	}
	if err := json.Unmarshal(out, &theirs); err != nil || len(theirs.Answers) != len(tokens) {
		t.Fatalf("%s: %v", out, err)
	}
	if theirs.Signed != good {
		t.Errorf("Node writes another text:\n%s\n%s", theirs.Signed, good)
	}
	refused := 0
	for i, name := range names {
		_, err := w.v.Verify([]byte(tokens[i]), h, now)
		switch {
		case name == "good" && (err != nil || !theirs.Answers[i]):
			t.Errorf("the token itself: we %v, Node %v", err, theirs.Answers[i])
		case name == "good":
		case err == nil || contracts.CodeOf(err) == contracts.Internal:
			t.Errorf("%s: %v", name, err)
		case theirs.Answers[i]:
			t.Logf("Node accepts: %s", name) // other texts of the same signature
		default:
			refused++
		}
	}
	if refused < 30 {
		t.Errorf("%d were refused by both", refused)
	}
}
