package anchor

import (
	"crypto/ed25519"

	"github.com/talosprotocol/talos/contracts"
)

// KeyResolver says whose key is whose. A verifier's answers come from documents
// that it has verified (the states in a bundle, its own directory), never from the
// artifact under judgement alone. An origin has one key for ever: a log whose key
// is rotated begins a new incarnation. Keys are strictly parsed. An error means
// that the name is not known or may not sign; its text is shown to people.
type KeyResolver interface {
	LogKey(origin string) (ed25519.PublicKey, error)
	WitnessKey(name string) (ed25519.PublicKey, error)
}

// Policy says which witnesses an auditor listens to and how many organisations
// must agree.
type Policy struct {
	Witnesses []PolicyWitness
	// Quorum is k: how many organisations must have cosigned.
	Quorum int
	// Faults is f: how many organisations may lie, together or alone.
	Faults int
}

// PolicyWitness says which organisation runs a witness.
type PolicyWitness struct {
	Name         string // of the witness's key in notes
	Organisation string
}

// Organisations gives n, the number of different organisations.
func (p Policy) Organisations() int {
	seen := make(map[string]bool, len(p.Witnesses))
	for _, w := range p.Witnesses {
		seen[w.Organisation] = true
	}
	return len(seen)
}

// Check reports why a policy does not protect: a quorum that two histories could
// both reach while only f organisations lie (k must be above (n+f)/2), one that
// cannot be reached, or a name that stands twice (spec/bundle.md, BND-9). The code
// is CONFIG_INVALID.
func (p Policy) Check() error {
	n := p.Organisations()
	seen := make(map[string]bool, len(p.Witnesses))
	for _, w := range p.Witnesses {
		if w.Organisation == "" || checkName(w.Name) != nil || seen[w.Name] {
			return contracts.Errorf(contracts.ConfigInvalid, "policy: witness %.80q of %.80q: no name, no organisation, or twice", w.Name, w.Organisation)
		}
		seen[w.Name] = true
	}
	switch {
	case p.Faults < 0 || p.Quorum < 1 || p.Quorum > n:
		return contracts.Errorf(contracts.ConfigInvalid, "policy: quorum %d of %d organisations with %d faults", p.Quorum, n, p.Faults)
	case 2*p.Quorum <= n+p.Faults:
		return contracts.Errorf(contracts.ConfigInvalid, "policy: with n=%d and f=%d a quorum of %d can meet without an honest organisation in common; it must be at least %d", n, p.Faults, p.Quorum, (n+p.Faults)/2+1)
	}
	return nil
}

// organisation gives who runs a witness, "" if the policy does not know it.
func (p Policy) organisation(name string) string {
	for _, w := range p.Witnesses {
		if w.Name == name {
			return w.Organisation
		}
	}
	return ""
}
