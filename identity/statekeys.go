package identity

import (
	"crypto/ed25519"
	"strconv"
	"strings"

	"github.com/talosprotocol/talos/contracts"
)

// StateKeys answers whose key is whose from verified states alone: the log key of
// an origin, the witness key of an anchor. It is what an auditor has who has one
// file and no network.
type StateKeys map[DID]*State

// NewStateKeys verifies the records, and keeps the newest of each DID. Whether they
// are in time does not matter here: they say whose a key was.
func NewStateKeys(records [][]byte) (StateKeys, error) {
	k := StateKeys{}
	for _, raw := range records {
		s, err := VerifyState(raw)
		if err != nil {
			return nil, contracts.Errorf(contracts.CodeOf(err), "a state record in it: %w", err)
		}
		k.Add(s)
	}
	return k, nil
}

// Add adds a verified state; an older one than is known is dropped.
func (k StateKeys) Add(s *State) {
	if old := k[s.DID]; old == nil || Compare(s, old) > 0 {
		k[s.DID] = s
	}
}

// LogKey gives the key of an agent's log, by its origin <did>/audit/<incarnation>.
func (k StateKeys) LogKey(origin string) (ed25519.PublicKey, error) {
	did, n, _ := strings.Cut(origin, "/audit/")
	s := k[DID(did)]
	if s == nil || s.Doc == nil {
		return nil, contracts.Errorf(contracts.OriginUnknown, "no state record of %.80s", did)
	}
	return s.Doc.LogKey(n)
}

// LogKey gives the key of the log with the given incarnation, in decimal: only the
// newest one's is in a document.
func (d *Document) LogKey(incarnation string) (ed25519.PublicKey, error) {
	if strconv.FormatInt(d.Incarnation, 10) != incarnation {
		return nil, contracts.Errorf(contracts.OriginUnknown, "%s keeps log %d, not %.8s", d.DID.Short(), d.Incarnation, incarnation)
	}
	return d.Log.Bytes(), nil
}

// WitnessKey gives the key of the anchor whose DID is name.
func (k StateKeys) WitnessKey(name string) (ed25519.PublicKey, error) {
	s := k[DID(name)]
	if s == nil || s.Doc == nil || !s.Doc.Witness.Valid() {
		return nil, contracts.Errorf(contracts.OriginUnknown, "no state record of an anchor %.80s", name)
	}
	return s.Doc.Witness.Bytes(), nil
}
