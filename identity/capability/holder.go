package capability

import (
	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
)

// Proof says how a caller proved its DID.
type Proof uint8

// The proofs. A token is never one itself: whoever finds it can do nothing with it.
const (
	noProof    Proof = iota
	Channel          // a connection whose handshake key the DID's document lists for authentication
	SessionMAC       // a MAC with a key of a session that was bound to the DID
	Signed           // an invocation signed by a key of the DID for this executor and call
	numProofs
)

var proofNames = [numProofs]string{"", "channel", "session", "signed"}

func (p Proof) String() string {
	if p < numProofs {
		return proofNames[p]
	}
	return ""
}

func parseProof(s string) (Proof, bool) {
	for p := Channel; p < numProofs; p++ {
		if proofNames[p] == s {
			return p, true
		}
	}
	return noProof, false
}

// Holder is who calls, as the caller of this package has verified it: the DID that
// was authenticated, and how. It is made once for a connection or an invocation. The
// zero value proved nothing and is denied.
type Holder struct {
	who   Principal
	proof Proof
}

// NewHolder makes the holder. Whoever calls it vouches that the proof was verified.
func NewHolder(did identity.DID, proof Proof) (Holder, error) {
	if proof == noProof || proof >= numProofs {
		return Holder{}, contracts.Errorf(contracts.HolderMismatch, "%s has proved nothing", did.Short())
	}
	p, err := NewPrincipal(did)
	return Holder{who: p, proof: proof}, err
}

// DID gives who it is, "" for the zero value.
func (h Holder) DID() identity.DID { return h.who.DID() }

// Proof gives how it was proved.
func (h Holder) Proof() Proof { return h.proof }
