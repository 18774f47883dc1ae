package receipt

import (
	"runtime"
	"sync"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
)

// VerifyFile checks all receipts of a file: that each is signed by its executor and, where
// it is countersigned, by its caller, with the keys of the state records that it names,
// which must be those of the two DIDs. It needs nothing but the file (GW-27). The first
// that is wrong is the error. countersigned is how many have both signatures.
func VerifyFile(f *contracts.ReceiptFile) (countersigned int, err error) {
	keys := map[string]*identity.State{}
	for i := range f.States {
		s, err := identity.VerifyState(f.States[i].AppendCanonical(nil))
		if err != nil {
			return 0, contracts.Errorf(contracts.CodeOf(err), "state record %d: %w", i+1, err)
		}
		keys[b64.EncodeToString(s.Digest[:])] = s
	}
	seen := make(map[string]bool, len(f.Receipts))
	for i := range f.Receipts {
		r := &f.Receipts[i].Receipt
		id := r.Executor + " " + r.Call
		if seen[id] {
			return 0, contracts.Errorf(contracts.Duplicity, "receipt %d: there is another one of the call %s", i+1, r.Call)
		}
		seen[id] = true
		if f.Receipts[i].Countersignature != "" {
			countersigned++
		}
	}
	errs := make([]error, len(f.Receipts))
	var wg sync.WaitGroup
	workers := runtime.GOMAXPROCS(0)
	for w := range workers {
		wg.Go(func() {
			for i := w; i < len(errs); i += workers {
				errs[i] = verifyKept(&f.Receipts[i], keys)
			}
		})
	}
	wg.Wait()
	for i, err := range errs {
		if err != nil {
			return 0, contracts.Errorf(contracts.CodeOf(err), "receipt %d: %w", i+1, err)
		}
	}
	return countersigned, nil
}

func verifyKept(k *contracts.KeptReceipt, states map[string]*identity.State) error {
	key, err := keyOf(k.Receipt.Executor, k.ExecutorState, states)
	if err != nil {
		return err
	}
	if err := verify(&k.Receipt, key); err != nil || k.Countersignature == "" {
		return err
	}
	if key, err = keyOf(k.Receipt.Caller, k.CallerState, states); err != nil {
		return err
	}
	return VerifyCountersignature(&k.Receipt, k.Countersignature, key)
}

// keyOf finds the invocation key of a DID in the state record that is named.
func keyOf(did, state string, states map[string]*identity.State) (identity.InvocationPublic, error) {
	none := identity.InvocationPublic{}
	id, err := identity.ParseDID(did)
	if err != nil {
		return none, err
	}
	if id.IsKey() {
		return identity.ParseMultikey[identity.Invocation](did[len("did:key:"):])
	}
	s := states[state]
	switch {
	case s == nil:
		return none, contracts.Errorf(contracts.IssuerUnresolved, "the state record of %s is not in the file", id.Short())
	case s.DID != id || s.Doc == nil:
		return none, contracts.Errorf(contracts.KeyInvalid, "the state record that is named is not one of %s", id.Short())
	}
	return s.Doc.Invocation, nil
}
