package gate_test

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
	"github.com/talosprotocol/talos/node/gate"
)

// attestSeed is the key of the published vectors of HTTP attestation v1.
var attestSeed, _ = hex.DecodeString(strings.Repeat("deadbeef", 8))

func attested(t *testing.T) (ed25519.PrivateKey, *gate.Attester) {
	t.Helper()
	priv := ed25519.NewKeyFromSeed(attestSeed)
	pub, err := identity.NewPublic[identity.Invocation](priv.Public().(ed25519.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	return priv, gate.NewAttester(func(_ context.Context, id string) (identity.DID, identity.InvocationPublic, error) {
		if id != "key-1" {
			return "", identity.InvocationPublic{}, fmt.Errorf("not known")
		}
		return identity.KeyDID(pub), pub, nil
	}, time.Unix(1699999000, 0))
}

func headers(sig string, change map[string]string) func(string) string {
	h := map[string]string{
		gate.HeaderVersion: "v1", gate.HeaderAlgorithm: "ed25519", gate.HeaderKey: "key-1", gate.HeaderTime: "1700000000",
		gate.HeaderNonce: "nonce-456", gate.HeaderSignature: sig,
	}
	for k, v := range change {
		h[k] = v
	}
	return func(name string) string { return h[name] }
}

// The published vectors of HTTP attestation v1 that are sound: their signatures and
// what is signed are known answers. GATE-9.
func TestAttestationVectors(t *testing.T) {
	_, v := attested(t)
	for _, c := range []struct{ method, target, nonce, surface, body, input, sig string }{
		{
			"POST", "/v1/chat/completions?version=2023-01-01", "test-nonce-123", "llm.chat.completions", `{"model":"gpt-4", "messages":[{"role":"user","content":"hi"}]}`,
			"{\"messages\":[{\"content\":\"hi\",\"role\":\"user\"}],\"model\":\"gpt-4\"}\nPOST\n/v1/chat/completions?version=2023-01-01\ntest-nonce-123\n1700000000\nllm.chat.completions",
			"KM7ncFpV_LEMnyym8W5loCh9JSUPqbJl7RxR6WV46v5iF9dNlCxxay5OJ-xLgYXnktOdcflpxKQ0xynu3PqxAg",
		},
		{"GET", "/v1/health", "nonce-456", "sys.health", "", "\nGET\n/v1/health\nnonce-456\n1700000000\nsys.health", "vIy-miWrrIxOdmsSaXGG2eBKlOgrm1hEMtj9cOmmTQLyBMyKMXnyO9ac5PrfkddEaPidoywbYQdtxH5cscOeDg"},
		{"POST", "/v1/submit", "nonce-789", "app.submit", "{}", "{}\nPOST\n/v1/submit\nnonce-789\n1700000000\napp.submit", "vEoLJmBAurhNsTHAeweTfIUHxGCokz90yiNjnhGVWCdgNytOiF2OaSU5BlMHO2Yt9AM5Dx4277rkKZgicYUuBQ"},
	} {
		a, err := gate.ReadAttestation(headers(c.sig, map[string]string{gate.HeaderNonce: c.nonce}))
		if err != nil {
			t.Fatal(err)
		}
		if input, err := a.SigningInput(c.method, c.target, c.surface, []byte(c.body)); err != nil || string(input) != c.input {
			t.Errorf("%s: signing input %q, %v", c.surface, input, err)
		}
		at := time.Unix(1700000030, 0)
		who, err := v.Verify(t.Context(), at, a, c.method, c.target, c.surface, []byte(c.body))
		if err != nil || who.Proof != gate.Attested || !who.DID.IsKey() {
			t.Errorf("%s: %+v, %v", c.surface, who, err)
		}
		if _, err := v.Verify(t.Context(), at, a, c.method, c.target, c.surface, []byte(c.body)); contracts.CodeOf(err) != contracts.Replay {
			t.Errorf("%s again: %v", c.surface, err)
		}
	}
}

// Every part of a request is covered, and everything out of form is refused. GATE-9.
func TestAttestationRefuses(t *testing.T) {
	priv, v := attested(t)
	good := gate.Attestation{KeyID: "key-1", Nonce: "nonce-456", Timestamp: 1700000000}
	input, err := good.SigningInput("GET", "/v1/search?q=foo&t=bar", "app.search", nil)
	if err != nil {
		t.Fatal(err)
	}
	sig := base64.RawURLEncoding.EncodeToString(ed25519.Sign(priv, input))
	at := int64(1700000000)
	for name, c := range map[string]struct {
		change                        map[string]string
		method, target, surface, body string
		at                            int64
		code                          contracts.Code
	}{
		"query in another order": {nil, "GET", "/v1/search?t=bar&q=foo", "app.search", "", at, contracts.SignatureInvalid},
		"another surface":        {nil, "GET", "/v1/search?q=foo&t=bar", "app.admin", "", at, contracts.SignatureInvalid},
		"another method":         {nil, "POST", "/v1/search?q=foo&t=bar", "app.search", "", at, contracts.SignatureInvalid},
		"a body":                 {nil, "GET", "/v1/search?q=foo&t=bar", "app.search", "{}", at, contracts.SignatureInvalid},
		"another nonce":          {map[string]string{gate.HeaderNonce: "nonce-457"}, "GET", "/v1/search?q=foo&t=bar", "app.search", "", at, contracts.SignatureInvalid},
		"another time":           {map[string]string{gate.HeaderTime: "1700000001"}, "GET", "/v1/search?q=foo&t=bar", "app.search", "", at, contracts.SignatureInvalid},
		"an unknown key":         {map[string]string{gate.HeaderKey: "key-2"}, "GET", "/v1/search?q=foo&t=bar", "app.search", "", at, contracts.IssuerUnresolved},
		"too old":                {nil, "GET", "/v1/search?q=foo&t=bar", "app.search", "", at + 61, contracts.Expired},
		"too new":                {nil, "GET", "/v1/search?q=foo&t=bar", "app.search", "", at - 61, contracts.NotYetValid},
		"a duplicate member":     {nil, "GET", "/v1/search?q=foo&t=bar", "app.search", `{"a":1,"a":2}`, at, contracts.Malformed},
		"a line break":           {nil, "GET", "/v1/search?q=foo\nx", "app.search", "", at, contracts.Malformed},
	} {
		a, err := gate.ReadAttestation(headers(sig, c.change))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if _, err := v.Verify(t.Context(), time.Unix(c.at, 0), a, c.method, c.target, c.surface, []byte(c.body)); contracts.CodeOf(err) != c.code {
			t.Errorf("%s: %v, want %s", name, err, c.code)
		}
	}
	for name, change := range map[string]map[string]string{
		"padded signature": {gate.HeaderSignature: sig + "=="}, "short signature": {gate.HeaderSignature: sig[:80]}, "standard alphabet": {gate.HeaderSignature: strings.Repeat("+", 86)},
		"version": {gate.HeaderVersion: "v3"}, "v2 for nobody": {gate.HeaderVersion: "v2"}, "v1 for somebody": {gate.HeaderAudience: "did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK"},
		"v2 for no DID": {gate.HeaderVersion: "v2", gate.HeaderAudience: "localhost"}, "algorithm": {gate.HeaderAlgorithm: "hmac"}, "no key": {gate.HeaderKey: ""}, "short nonce": {gate.HeaderNonce: "1234567"},
		"nonce with a space": {gate.HeaderNonce: "nonce 456"}, "time with a sign": {gate.HeaderTime: "+1700000000"}, "time with a fraction": {gate.HeaderTime: "1700000000.0"},
		"negative time": {gate.HeaderTime: "-5"},
	} {
		if _, err := gate.ReadAttestation(headers(sig, change)); contracts.CodeOf(err) != contracts.Malformed {
			t.Errorf("%s: %v", name, err)
		}
	}
	if a, err := gate.ReadAttestation(func(string) string { return "" }); a != nil || err != nil {
		t.Errorf("no attestation: %v, %v", a, err)
	}
	// After all that the right request still passes: a refused one consumes nothing. One
	// from before the start is refused, since its nonce may have been seen.
	a, _ := gate.ReadAttestation(headers(sig, nil))
	if _, err := v.Verify(t.Context(), time.Unix(at, 0), a, "GET", "/v1/search?q=foo&t=bar", "app.search", nil); err != nil {
		t.Error(err)
	}
	late := gate.NewAttester(func(context.Context, string) (identity.DID, identity.InvocationPublic, error) {
		return "", identity.InvocationPublic{}, nil
	}, time.Unix(at+1, 0))
	if _, err := late.Verify(t.Context(), time.Unix(at+2, 0), a, "GET", "/v1/search?q=foo&t=bar", "app.search", nil); contracts.CodeOf(err) != contracts.Expired {
		t.Errorf("from before the start: %v", err)
	}
}

// Row 33 of the acceptance table: a request that was signed for one node is refused by
// another, also if somebody takes the name of the node out of it or writes another one.
// GATE-11.
func TestRow33_RequestForAnotherNode(t *testing.T) {
	here, there := identity.DID("did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK"), identity.DID("did:key:z6MkjchhfUsD6mmvni8mCdXHw216Xrm9bQe2mBH1P5RDjVJG")
	priv, v := attested(t)
	_, other := attested(t)
	v.For(here)
	other.For(there)
	a := gate.Attestation{KeyID: "key-1", Audience: here, Nonce: "nonce-456", Timestamp: 1700000000}
	input, err := a.SigningInput("GET", "/v1/peers", "node.peers", nil)
	if err != nil || !strings.HasSuffix(string(input), "\nnode.peers\n"+string(here)) {
		t.Fatalf("%q, %v", input, err)
	}
	sig := base64.RawURLEncoding.EncodeToString(ed25519.Sign(priv, input))
	v2 := map[string]string{gate.HeaderVersion: "v2", gate.HeaderAudience: string(here)}
	for i, c := range []struct {
		at     *gate.Attester
		change map[string]string
		want   contracts.Code
	}{
		{other, v2, contracts.AudienceMismatch}, {other, map[string]string{gate.HeaderVersion: "v2", gate.HeaderAudience: string(there)}, contracts.SignatureInvalid},
		{other, nil, contracts.SignatureInvalid}, {v, nil, contracts.SignatureInvalid}, {v, v2, ""}, {v, v2, contracts.Replay},
	} {
		got, err := gate.ReadAttestation(headers(sig, c.change))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.at.Verify(t.Context(), time.Unix(1700000000, 0), got, "GET", "/v1/peers", "node.peers", nil); contracts.CodeOf(err) != c.want {
			t.Errorf("%d: %v, want %q", i, err, c.want)
		}
	}
}
