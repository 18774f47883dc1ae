package capability_test

import (
	"crypto/ed25519"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"github.com/talosprotocol/talos/identity/capability"
)

// Row 56 of the acceptance table, with go-jose: an independent library verifies our
// tokens and makes tokens that we verify; and what it refuses we refuse. What it
// accepts beside the one text of a token (line ends, spare bits) we do not.
func TestRow56_AgainstGoJose(t *testing.T) {
	w := newWorld()
	h := holder(w.alice.did)
	good := w.chain(1)[0]
	key := w.org.control.Ed25519()
	pub := key.Public().(ed25519.PublicKey)
	theirs := func(token string) ([]byte, error) {
		s, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.EdDSA})
		if err != nil {
			return nil, err
		}
		return s.Verify(pub)
	}
	_, payload := parts(good)
	if got, err := theirs(good); err != nil || string(got) != payload {
		t.Fatalf("go-jose: %s, %v", got, err)
	}
	// Theirs: the same header and payload, signed by go-jose.
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.EdDSA, Key: jose.JSONWebKey{Key: key, KeyID: string(w.org.did) + "#k0"}}, (&jose.SignerOptions{}).WithType("talos-cap+jws"))
	if err != nil {
		t.Fatal(err)
	}
	signed, err := signer.Sign([]byte(payload))
	if err != nil {
		t.Fatal(err)
	}
	text := must(signed.CompactSerialize())
	if text != good {
		t.Errorf("go-jose writes another text:\n%s\n%s", text, good)
	}
	if _, err := w.v.Verify([]byte(text), h, now); err != nil {
		t.Error(err)
	}
	refused := 0
	for name, bad := range unsigned(good) {
		_, theirErr := theirs(bad)
		_, err := w.v.Verify([]byte(bad), h, now)
		if err == nil {
			t.Errorf("%s: we accept it", name)
		}
		if theirErr != nil {
			refused++
		} else {
			t.Logf("go-jose accepts: %s", name)
		}
	}
	for _, m := range mutations(w) {
		header, payload := parts(good)
		a, b := m.edit(header, payload)
		bad := forge(w.carol.control.Ed25519(), a, b) // of another key
		if _, err := theirs(bad); err == nil {
			t.Errorf("%s: go-jose accepts another's signature", m.name)
		}
		if _, err := w.v.Verify([]byte(bad), h, now); err == nil {
			t.Errorf("%s: we accept another's signature", m.name)
		}
		refused++
	}
	if refused < 30 {
		t.Errorf("%d were refused by both", refused)
	}
	if _, err := capability.ParseToken([]byte(strings.ToUpper(good))); err == nil {
		t.Error("upper case")
	}
}
