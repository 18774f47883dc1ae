package capability

import (
	"time"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
)

// Issuer is what a verifier knows of the keys of a DID: the control keys of each key
// event and until when they signed. It does not change and may be shared.
type Issuer struct {
	DID         identity.DID
	SN          int64 // the newest key event that is known
	ValidFrom   int64 // what keys of earlier events signed is void
	Ended       bool
	Duplicitous bool // two contradicting histories are known; set it before first use
	events      []issuerEvent
}

type issuerEvent struct {
	keys      [][]byte
	threshold int64
	until     int64 // Unix milliseconds of the next event; 0: the keys are in use
}

// Resolve gives the issuer of a DID as far as the caller knows it, and is called for a
// did:talos only. An error without a code counts as ISSUER_UNRESOLVED.
type Resolve func(identity.DID) (*Issuer, error)

// NewIssuer takes the issuer from a verified state record. Whether the record is in
// time is the resolver's business.
func NewIssuer(s *identity.State) (*Issuer, error) {
	i := &Issuer{DID: s.DID, SN: s.Keys.SN, ValidFrom: s.Keys.ValidFrom, Ended: s.Keys.Ended}
	for n, e := range s.KeyLog {
		at, err := identity.ParseTime(e.Event.Iat)
		if err != nil {
			return nil, err
		}
		if n > 0 {
			i.events[n-1].until = at.UnixMilli()
		}
		ev := issuerEvent{}
		if e.Event.Kt != nil {
			ev.threshold = *e.Event.Kt
		}
		for _, text := range e.Event.K {
			k, err := identity.ParseMultikey[identity.Control](text)
			if err != nil {
				return nil, err
			}
			ev.keys = append(ev.keys, k.Bytes())
		}
		i.events = append(i.events, ev)
	}
	return i, nil
}

// keyIssuer is the issuer that a did:key is.
func keyIssuer(did identity.DID) (*Issuer, error) {
	d, err := identity.ParseDID(string(did))
	if err != nil {
		return nil, err
	}
	mh := d.Multihash()
	return &Issuer{DID: d, events: []issuerEvent{{keys: [][]byte{mh[2:]}, threshold: 1}}}, nil
}

// find resolves a DID and gives the codes of an issuer that may not speak any more.
func (r Resolve) find(did identity.DID) (*Issuer, error) {
	if did.IsKey() {
		return keyIssuer(did)
	}
	if r == nil {
		return nil, contracts.Errorf(contracts.IssuerUnresolved, "%s is not known here", did.Short())
	}
	i, err := r(did)
	switch c := contracts.CodeOf(err); {
	case err != nil && c == contracts.Duplicity:
		return nil, contracts.Errorf(contracts.IssuerDuplicitous, "%w", err)
	case err != nil && c == contracts.Deactivated:
		return nil, err
	case err != nil || i == nil || i.DID != did:
		return nil, contracts.Errorf(contracts.IssuerUnresolved, "the keys of %s are not known here; ask again when it is reachable: %w", did.Short(), err)
	}
	return i, i.standing()
}

// standing says whether the issuer may speak at all.
func (i *Issuer) standing() error {
	switch {
	case i.Duplicitous:
		return contracts.Errorf(contracts.IssuerDuplicitous, "%s has two contradicting key logs", i.DID.Short())
	case i.Ended:
		return contracts.Errorf(contracts.Deactivated, "%s was ended by its owner", i.DID.Short())
	}
	return nil
}

// speaksAt says whether keys of key event ksn could sign at iat.
func (i *Issuer) speaksAt(ksn, iat int64) error {
	switch {
	case ksn > i.SN || ksn < 0 || int(ksn) >= len(i.events):
		return contracts.Errorf(contracts.IssuerUnresolved, "signed with key event %d of %s; its key log is known until %d", ksn, i.DID.Short(), i.SN)
	case ksn < i.ValidFrom:
		return contracts.Errorf(contracts.KeyStateVoid, "%s has voided what its keys signed before key event %d", i.DID.Short(), i.ValidFrom)
	}
	if e := i.events[ksn]; e.until > 0 && iat*1000 >= e.until {
		return contracts.Errorf(contracts.KeyStateVoid, "%s has rotated key event %d out at %s; its keys sign nothing made later",
			i.DID.Short(), ksn, identity.FormatTime(time.UnixMilli(e.until)))
	}
	return nil
}

// signer gives the key with an index at key event ksn.
func (i *Issuer) signer(ksn int64, index int) ([]byte, error) {
	if i.DID.IsKey() {
		index = 0
	}
	e := i.events[ksn]
	if index < 0 || index >= len(e.keys) {
		return nil, contracts.Errorf(contracts.SignatureInvalid, "%s has no control key %d at key event %d", i.DID.Short(), index, ksn)
	}
	// A compact JWS has one signature: it cannot speak for several keys together.
	if e.threshold > 1 {
		return nil, contracts.Errorf(contracts.SignatureInvalid, "%s needs %d signatures; it cannot issue tokens with one, a DID of its own can", i.DID.Short(), e.threshold)
	}
	return e.keys[index], nil
}
