package evidence

import (
	"time"

	"github.com/talosprotocol/talos/anchor"
	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
)

// VerifyBundle judges a proof bundle offline: the keys come from the state records
// in it, each of which is bound to its DID by hash and signatures. policy says whom
// the auditor trusts as a witness; with none, the anchors that the bundle names are
// counted, each as an organisation of its own, and own is true.
func VerifyBundle(bundle []byte, policy anchor.Policy, now time.Time) (v *anchor.Verdict, own bool) {
	return VerifyBundleWith(bundle, policy, now, OfflineChains())
}

// VerifyBundleWith is VerifyBundle by an auditor who has a view of chains.
func VerifyBundleWith(bundle []byte, policy anchor.Policy, now time.Time, chains map[string]anchor.ReceiptVerifier) (v *anchor.Verdict, own bool) {
	parts, err := anchor.ReadBundle(bundle)
	if err != nil {
		return &anchor.Verdict{Code: contracts.CodeOf(err), Problems: []string{err.Error()}}, false
	}
	keys, err := identity.NewStateKeys(parts.States)
	if err != nil {
		return &anchor.Verdict{Code: contracts.BundleInvalid, Problems: []string{err.Error()}}, false
	}
	if len(policy.Witnesses) == 0 {
		own = true
		for _, c := range parts.Head.Cosignatures {
			policy.Witnesses = append(policy.Witnesses, anchor.PolicyWitness{Name: c.Name, Organisation: c.Name})
		}
		policy.Quorum = len(policy.Witnesses)/2 + 1
	}
	return anchor.VerifyWith(bundle, anchor.Trust{Keys: keys, Policy: policy, Now: now, Chains: chains}), own
}
