package directory

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
)

// Namespace of state records in the DHT.
const Namespace = "did"

// verifiedStates is how many verified records a Validator remembers; the DHT shows
// each many times, and a hash is far cheaper than its signatures.
const verifiedStates = 4096

// Validator says what the DHT may store. It is the firewall: the DHT itself limits
// neither size nor number. It is safe for concurrent use.
type Validator struct {
	now  func() time.Time
	seen *lru.Cache[[32]byte, *identity.State]
}

// NewValidator makes a validator that reads the time from now.
func NewValidator(now func() time.Time) *Validator {
	c, _ := lru.New[[32]byte, *identity.State](verifiedStates) // fails for sizes below 1 only
	return &Validator{now: now, seen: c}
}

// Key gives the DHT key of a DID: /did/<hex SHA-256 of the DID>.
func Key(did identity.DID) string {
	sum := sha256.Sum256([]byte(did))
	return "/" + Namespace + "/" + hex.EncodeToString(sum[:])
}

// State verifies a record, from memory if it was verified before, without looking
// at the time.
func (v *Validator) State(raw []byte) (*identity.State, error) {
	if len(raw) > identity.MaxStateBytes {
		return nil, contracts.Errorf(contracts.TooLarge, "a state record of %d bytes, at most %d", len(raw), identity.MaxStateBytes)
	}
	digest := sha256.Sum256(raw)
	if s, ok := v.seen.Get(digest); ok {
		return s, nil
	}
	s, err := identity.VerifyState(raw)
	if err == nil {
		v.seen.Add(digest, s)
	}
	return s, err
}

// Validate implements record.Validator: the record verifies, is in time, and is of
// the DID that the key is the hash of.
func (v *Validator) Validate(key string, value []byte) error {
	if len(key) != len("/"+Namespace+"/")+64 || !strings.HasPrefix(key, "/"+Namespace+"/") {
		return contracts.Errorf(contracts.Malformed, "no key of a state record")
	}
	s, err := v.State(value)
	if err != nil {
		return err
	}
	if Key(s.DID) != key {
		return contracts.Errorf(contracts.Malformed, "the record of another DID")
	}
	return s.ValidAt(v.now())
}

// Select implements record.Validator: the index of the newest record. On a tie it is
// the first: the DHT refuses a republished record otherwise.
func (v *Validator) Select(_ string, values [][]byte) (int, error) {
	best, at := (*identity.State)(nil), -1
	for i, raw := range values {
		s, err := v.State(raw)
		if err != nil {
			continue
		}
		if best == nil || identity.Compare(s, best) > 0 {
			best, at = s, i
		}
	}
	if best == nil {
		return 0, contracts.Errorf(contracts.NotFound, "none of %d records verifies", len(values))
	}
	return at, nil
}
