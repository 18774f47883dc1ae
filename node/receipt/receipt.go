package receipt

import (
	"crypto/sha256"
	"encoding/base64"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
)

const (
	// Version of receipts.
	Version     = "talos-receipt/1"
	keptVersion = "talos-kept-receipt/1"
	fileVersion = "talos-receipts/1"
	ackVersion  = "talos-countersignatures/1"

	// Contexts of signatures: none of Talos's begins as another.
	signContext    = "talos/receipt/1"
	counterContext = "talos/countersignature/1"
)

var b64 = base64.RawURLEncoding

// Sign signs a receipt with the executor's key and gives its canonical form.
func Sign(r *contracts.CallReceipt, key identity.InvocationKey) []byte {
	r.V, r.Sig = Version, ""
	r.Sig = b64.EncodeToString(key.Sign(signContext, r.AppendCanonical(nil)))
	return r.AppendCanonical(nil)
}

// Verify reads a receipt and checks its signature against the executor's invocation key.
// Codes: MALFORMED, SIGNATURE_INVALID.
func Verify(raw []byte, key identity.InvocationPublic) (*contracts.CallReceipt, error) {
	r, err := contracts.ParseCallReceipt(raw)
	if err != nil {
		return nil, err
	}
	return r, verify(r, key)
}

func verify(r *contracts.CallReceipt, key identity.InvocationPublic) error {
	sig, err := b64.Strict().DecodeString(r.Sig)
	if err != nil {
		return contracts.Errorf(contracts.SignatureInvalid, "the receipt's signature is not in canonical base64url")
	}
	unsigned := *r
	unsigned.Sig = ""
	if !key.Verify(signContext, unsigned.AppendCanonical(nil), sig) {
		return contracts.Errorf(contracts.SignatureInvalid, "the receipt of %s was not signed by its executor", r.Call)
	}
	return nil
}

// Countersign gives the caller's signature of a signed receipt.
func Countersign(r *contracts.CallReceipt, key identity.InvocationKey) string {
	return b64.EncodeToString(key.Sign(counterContext, r.AppendCanonical(nil)))
}

// VerifyCountersignature checks one.
func VerifyCountersignature(r *contracts.CallReceipt, text string, key identity.InvocationPublic) error {
	sig, err := b64.Strict().DecodeString(text)
	if err != nil {
		return contracts.Errorf(contracts.SignatureInvalid, "the countersignature is not in canonical base64url")
	}
	if !key.Verify(counterContext, r.AppendCanonical(nil), sig) {
		return contracts.Errorf(contracts.SignatureInvalid, "the receipt of %s was not countersigned by its caller", r.Call)
	}
	return nil
}

// Digest names a signed receipt, as the audit log does.
func Digest(r *contracts.CallReceipt) string { return digest(r.AppendCanonical(nil)) }

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return b64.EncodeToString(sum[:])
}
