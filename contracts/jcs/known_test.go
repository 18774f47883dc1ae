package jcs_test

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"testing"

	"github.com/talosprotocol/talos/contracts/jcs"
)

// Known answers of the original project where formats agree: the hash of an audit event,
// the digest of an artifact without its own digest, a signature over canonical bytes
// (docs/conformance.md).
func TestOriginalKnownAnswers(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"audit event": {
			`{"schema_id": "talos.audit_event", "schema_version": "v1", "event_id": "01945533-3158-7c85-992d-9865f1715696", "ts": "2026-01-11T18:00:02.000Z", "request_id": "req-3", "surface_id": "public.read", "outcome": "success",
			"principal": {"auth_mode": "anonymous", "principal_id": "anonymous"}, "http": {"method": "GET", "path": "/v1/health", "status_code": 200}, "meta": {}}`,
			"f31b51220d2e9ddeaa676797f4790963b10ee0acfa0c8b0ff2bc175b7dd0676c",
		},
		"tool effect": {
			`{"schema_id": "talos.tga.tool_effect", "schema_version": "tga.v1", "trace_id": "01946896-1234-7567-89ab-000000000010", "plan_id": "01946896-1234-7567-89ab-000000000011", "tool_effect_id": "01946896-1234-7567-89ab-000000000018",
			"tool_call_id": "01946896-1234-7567-89ab-000000000015", "tool_call_digest": "4b2525328b1bd4790f211f69e9b2700e2561261e6e39e242bcb6b7ae3a8c1ad1", "ts": "2026-01-15T14:57:00.000Z", "outcome": {"status": "SUCCESS", "summary": "Done"}, "_digest_alg": "sha256"}`,
			"fcbee14c2f8459744b195e577cff091e014e7879776d1710ddd717c6912d41cd",
		},
		"sorted": {`{"z":1,"a":2,"m":3}`, "ebba85cfdc0a724b6cc327ecc545faeb38b9fe02eca603b430eb872f5cf75370"},
	} {
		b, err := jcs.Canonicalize([]byte(c.text))
		if sum := sha256.Sum256(b); err != nil || hex.EncodeToString(sum[:]) != c.want {
			t.Errorf("%s: %x, %v", name, sum, err)
		}
	}
	key, _ := base64.StdEncoding.DecodeString("r/G4GGPYC1D5j5/iSFz35khWrvax31dIz+xHQMXT7a4=")
	sig, _ := base64.StdEncoding.DecodeString("BpwaO76zuOQUXi7411fTyd7ieAOIUgr0rJ/oP9Kad4FFjEiCVg2UIcRFytwNuW9v5lAMdcD1x77EaA1qYFLJCQ==")
	for text, want := range map[string]bool{`{"type":"HANDSHAKE","timestamp":1768178601,"nonce":"nonce123"}`: true, `{"type":"HANDSHAKE","timestamp":1768178602,"nonce":"nonce123"}`: false} {
		b, err := jcs.Canonicalize([]byte(text))
		if err != nil || ed25519.Verify(key, b, sig) != want {
			t.Errorf("%s: %v", b, err)
		}
	}
}
