package ratchet_test

import (
	"bytes"
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/talosprotocol/talos/ratchet"
)

// Shows RAT-8, RAT-9: the hand-written key schedule is that of the standard
// library's HMAC and HKDF.
func TestKDFMatchesStandardLibrary(t *testing.T) {
	r := &stream{seed: 42}
	for n := range 129 {
		var k, s [32]byte
		msg := make([]byte, n)
		_, _ = r.Read(k[:])
		_, _ = r.Read(s[:])
		_, _ = r.Read(msg)
		m := hmac.New(sha256.New, k[:])
		m.Write(msg)
		if got := ratchet.HMAC(k, msg); !bytes.Equal(got[:], m.Sum(nil)) {
			t.Fatalf("HMAC of %d bytes differs", n)
		}
		root, chain, next := ratchet.KDFRK(k, s)
		want, err := hkdf.Key(sha256.New, s[:], k[:], "talos-e2ee/2 root", 96)
		if err != nil || !bytes.Equal(want, append(append(root[:], chain[:]...), next[:]...)) {
			t.Fatal("KDF_RK is not HKDF")
		}
		mk, ck, _ := ratchet.KDFCK(k)
		if mk != ratchet.HMAC(k, []byte{1}) || ck != ratchet.HMAC(k, []byte{2}) {
			t.Fatal("KDF_CK is not two HMACs")
		}
	}
}

// The key schedule of the original project's suite, for its known answers only:
// it is never spoken. Each function is that suite's, not this package's.
func compatRK(rk, dh []byte) (root, chain []byte) {
	b, _ := hkdf.Key(sha256.New, append(bytes.Clone(rk), dh...), nil, "talos-double-ratchet-root", 64)
	return b[:32], b[32:]
}

func compatCK(ck []byte) (mk, next []byte) {
	mk, _ = hkdf.Key(sha256.New, ck, nil, "talos-double-ratchet-message", 32)
	next, _ = hkdf.Key(sha256.New, ck, nil, "talos-double-ratchet-chain", 32)
	return mk, next
}

// b64 is unpadded base64url in JSON.
type b64 []byte

func (b *b64) UnmarshalJSON(in []byte) error {
	var s string
	if err := json.Unmarshal(in, &s); err != nil {
		return err
	}
	out, err := base64.RawURLEncoding.DecodeString(s)
	*b = out
	return err
}

func readOriginal(t *testing.T, path string, v any) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("..", "..", "shared", "vectors", path))
	if os.IsNotExist(err) {
		t.Skip("the original project's vectors are not here")
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, v); err != nil {
		t.Fatal(err)
	}
}

func TestI1_OriginalKDFVectors(t *testing.T) {
	var rk struct {
		Expected struct {
			NewRK b64 `json:"new_rk"`
			NewCK b64 `json:"new_ck"`
		}
		In struct {
			RK    b64 `json:"rk"`
			DHOut b64 `json:"dh_out"`
		} `json:"inputs"`
	}
	readOriginal(t, "vectors/sdk/ratchet/kdf_rk_step.json", &rk)
	root, chain := compatRK(rk.In.RK, rk.In.DHOut)
	if !bytes.Equal(root, rk.Expected.NewRK) || !bytes.Equal(chain, rk.Expected.NewCK) {
		t.Error("kdf_rk_step differs")
	}
	var ck struct {
		In struct {
			CK b64 `json:"ck"`
		} `json:"inputs"`
		Expected struct {
			NextCK b64 `json:"next_ck"`
			MK     b64 `json:"mk"`
		}
	}
	readOriginal(t, "vectors/sdk/ratchet/kdf_ck_step.json", &ck)
	mk, next := compatCK(ck.In.CK)
	if !bytes.Equal(mk, ck.Expected.MK) || !bytes.Equal(next, ck.Expected.NextCK) {
		t.Error("kdf_ck_step differs")
	}
}

// TestI1_OriginalRoundTrip recomputes the original's golden trace from its
// private keys: handshake, both KDFs and both messages.
func TestI1_OriginalRoundTrip(t *testing.T) {
	var v struct {
		Alice struct {
			EK b64 `json:"ephemeral_private"`
		}
		Bob struct {
			Secrets struct {
				SPK b64 `json:"signed_prekey_private"`
			} `json:"bundle_secrets"`
		}
		Steps []struct {
			Action, Actor string
			Plaintext     b64
			Nonce         b64
			Ciphertext    b64
			AAD           b64
			RatchetPriv   b64 `json:"ratchet_priv"`
		}
	}
	readOriginal(t, "test_vectors/sdk/ratchet/v1_1_0_roundtrip.json", &v)
	key := func(b []byte) *ecdh.PrivateKey {
		k, err := ecdh.X25519().NewPrivateKey(b)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	dh := func(k *ecdh.PrivateKey, p *ecdh.PublicKey) []byte {
		b, err := k.ECDH(p)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	check := func(ck []byte, i int) {
		mk, _ := compatCK(ck)
		a, err := chacha20poly1305.New(mk)
		if err != nil {
			t.Fatal(err)
		}
		s := v.Steps[i]
		if got := a.Seal(nil, s.Nonce, s.Plaintext, s.AAD); !bytes.Equal(got, s.Ciphertext) {
			t.Errorf("step %d differs", i+1)
		}
	}
	ek, spk := key(v.Alice.EK), key(v.Bob.Secrets.SPK)
	first := dh(ek, spk.PublicKey())
	root, err := hkdf.Key(sha256.New, first, nil, "x3dh-init", 32)
	if err != nil {
		t.Fatal(err)
	}
	root, chain := compatRK(root, first)
	check(chain, 0)
	bob := key(v.Steps[2].RatchetPriv)
	_, chain = compatRK(root, dh(bob, ek.PublicKey()))
	check(chain, 2)
}
