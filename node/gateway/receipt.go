package gateway

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"time"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
)

const (
	metaVersion    = "talos-meta/1"
	receiptVersion = "talos-receipt/1"
	listVersion    = "talos-services/1"

	// Contexts of signatures: none of Talos's begins as another.
	receiptContext = "talos/receipt/1"
	listContext    = "talos/services/1"
)

var b64 = base64.RawURLEncoding

func newSalt() []byte {
	b := make([]byte, 32)
	_, _ = rand.Read(b) // never fails
	return b
}

func signReceipt(r *contracts.CallReceipt, key identity.InvocationKey) []byte {
	r.V, r.Sig = receiptVersion, ""
	r.Sig = b64.EncodeToString(key.Sign(receiptContext, r.AppendCanonical(nil)))
	return r.AppendCanonical(nil)
}

// VerifyReceipt reads a receipt and checks its signature against the executor's
// invocation key. Codes: MALFORMED, SIGNATURE_INVALID.
func VerifyReceipt(raw []byte, key identity.InvocationPublic) (*contracts.CallReceipt, error) {
	r, err := contracts.ParseCallReceipt(raw)
	if err != nil {
		return nil, err
	}
	sig, err := b64.Strict().DecodeString(r.Sig)
	if err != nil {
		return nil, contracts.Errorf(contracts.SignatureInvalid, "the receipt's signature is not in canonical base64url")
	}
	unsigned := *r
	unsigned.Sig = ""
	if !key.Verify(receiptContext, unsigned.AppendCanonical(nil), sig) {
		return nil, contracts.Errorf(contracts.SignatureInvalid, "the receipt of %s was not signed by its executor", r.Call)
	}
	return r, nil
}

// expect compares a receipt with what the caller knows itself.
func expect(r *contracts.CallReceipt, want *contracts.CallReceipt) error {
	for _, c := range []struct{ what, got, want string }{
		{"call", r.Call, want.Call}, {"caller", r.Caller, want.Caller}, {"executor", r.Executor, want.Executor},
		{"service", r.Service, want.Service}, {"request", r.Request, want.Request}, {"response", r.Response, want.Response},
	} {
		if subtle.ConstantTimeCompare([]byte(c.got), []byte(c.want)) != 1 {
			return contracts.Errorf(contracts.SignatureInvalid, "the gateway's receipt says another %s than what was sent and received", c.what)
		}
	}
	return nil
}

// instant gives a time as contracts write it.
func instant(t time.Time) string { return identity.FormatTime(t) }
