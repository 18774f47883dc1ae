package approval

import (
	"encoding/base64"
	"time"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
	"github.com/talosprotocol/talos/node/execution"
)

const (
	decisionVersion = "talos-decision/1"
	decisionContext = "talos/decision/1"

	approve, deny = "approve", "deny"
)

var b64 = base64.RawURLEncoding

func sign(d *contracts.ActionDecision, key identity.InvocationKey) {
	d.Sig = ""
	d.Sig = b64.EncodeToString(key.Sign(decisionContext, d.AppendCanonical(nil)))
}

// Verify checks that a decision approves an action, that it was signed with the key of
// whoever it says, and, unless now is zero, that it has not expired (EXE-6). Codes:
// APPROVAL_DENIED, SIGNATURE_INVALID, EXPIRED.
func Verify(d *contracts.ActionDecision, a *contracts.Action, key identity.InvocationPublic, now time.Time) error {
	if d.Action != execution.ActionDigest(a) {
		return contracts.Errorf(contracts.SignatureInvalid, "the decision is about another action")
	}
	sig, err := b64.Strict().DecodeString(d.Sig)
	if err != nil {
		return contracts.Errorf(contracts.SignatureInvalid, "the decision's signature is not in canonical base64url")
	}
	unsigned := *d
	unsigned.Sig = ""
	if !key.Verify(decisionContext, unsigned.AppendCanonical(nil), sig) {
		return contracts.Errorf(contracts.SignatureInvalid, "the decision was not signed by %s", d.By)
	}
	if d.Verdict != approve {
		return denied(d)
	}
	until, err := identity.ParseTime(d.Until)
	if err != nil {
		return err
	}
	if !now.IsZero() && !now.Before(until) {
		return contracts.Errorf(contracts.Expired, "the approval was good until %s", d.Until)
	}
	return nil
}

func denied(d *contracts.ActionDecision) error {
	if d.Why == "" {
		return contracts.Errorf(contracts.ApprovalDenied, "%s was asked and said no", identity.DID(d.By).Short())
	}
	return contracts.Errorf(contracts.ApprovalDenied, "%s was asked and said no: %s", identity.DID(d.By).Short(), d.Why)
}
