package identity

import (
	"slices"
	"strconv"
	"strings"

	"github.com/talosprotocol/talos/contracts"
)

// Fragments of the verification methods and services that Talos knows.
const (
	fragmentInvocation = "#inv"
	fragmentPeer       = "#peer"
	fragmentLog        = "#log"
	fragmentWitness    = "#wit"
	fragmentAgreement  = "#ka"
	fragmentP2P        = "#p2p"
	fragmentAnchor     = "#anchor"
)

// Service types.
const (
	ServiceP2P    = "Libp2pNode"
	ServiceAnchor = "TalosAnchor"
)

// documentContexts are the JSON-LD contexts of DID 1.1 with Multikey.
var documentContexts = []string{"https://www.w3.org/ns/did/v1.1"}

// Hot are the keys in use, which a document lists beside the control keys.
type Hot struct {
	Invocation InvocationPublic
	Peer       PeerPublic
	Log        LogPublic
	Agreement  AgreementPublic
	Witness    WitnessPublic // anchors only; else the zero value
}

// Document is a DID document that was checked, with its keys by purpose.
type Document struct {
	DID DID
	Hot
	Incarnation int64 // of the audit log, named by the #log service; 0 where absent
	Addrs       []string
	Anchor      bool // offers witnessing
	Raw         *contracts.DIDDocument
}

// NewDocument makes the document of did. addrs are multiaddrs that end in the
// PeerID of hot.Peer; at most eight are kept.
func NewDocument(did DID, control []ControlPublic, hot Hot, incarnation int64, addrs []string) *contracts.DIDDocument {
	d := &contracts.DIDDocument{Context: documentContexts, ID: string(did)}
	id := func(fragment string) string { return string(did) + fragment }
	add := func(fragment, multikey string, lists ...*[]string) {
		d.VerificationMethod = append(d.VerificationMethod, contracts.VerificationMethod{
			ID: id(fragment), Type: "Multikey", Controller: string(did), PublicKeyMultibase: multikey,
		})
		for _, l := range lists {
			*l = append(*l, id(fragment))
		}
	}
	for i, k := range control {
		add("#k"+strconv.Itoa(i), k.Multikey(), &d.AssertionMethod, &d.CapabilityDelegation)
	}
	add(fragmentInvocation, hot.Invocation.Multikey(), &d.CapabilityInvocation)
	add(fragmentPeer, hot.Peer.Multikey(), &d.Authentication)
	add(fragmentLog, hot.Log.Multikey(), &d.AssertionMethod)
	if hot.Witness.Valid() {
		add(fragmentWitness, hot.Witness.Multikey(), &d.AssertionMethod)
	}
	add(fragmentAgreement, hot.Agreement.Multikey(), &d.KeyAgreement)
	if len(addrs) > 0 {
		d.Service = append(d.Service, contracts.Service{ID: id(fragmentP2P), Type: ServiceP2P, ServiceEndpoint: addrs[:min(len(addrs), 8)]})
	}
	d.Service = append(d.Service, contracts.Service{
		ID: id("#audit"), Type: "TalosAuditLog", ServiceEndpoint: []string{string(did) + "/audit/" + strconv.FormatInt(incarnation, 10)},
	})
	if hot.Witness.Valid() {
		d.Service = append(d.Service, contracts.Service{ID: id(fragmentAnchor), Type: ServiceAnchor, ServiceEndpoint: []string{string(did)}})
	}
	return d
}

// CheckDocument checks raw as the document of did under the given control keys and
// sorts its keys by purpose. Unknown verification methods and services are kept
// and have no meaning here.
func CheckDocument(did DID, control []ControlPublic, raw *contracts.DIDDocument) (*Document, error) {
	if err := raw.Validate(); err != nil {
		return nil, err
	}
	if raw.ID != string(did) {
		return nil, contracts.Errorf(contracts.Malformed, "the document of %.80s, not of %s", raw.ID, did)
	}
	methods, err := methodsOf(did, raw)
	if err != nil {
		return nil, err
	}
	for i, k := range control {
		if methods["#k"+strconv.Itoa(i)] != k.Multikey() {
			return nil, contracts.Errorf(contracts.Malformed, "the document does not list control key %d", i)
		}
	}
	d := &Document{DID: did, Raw: raw}
	if err := d.hot(methods); err != nil {
		return nil, err
	}
	return d, d.services(raw.Service)
}

// methodsOf gives fragment → Multikey and checks ids, controllers and references.
func methodsOf(did DID, raw *contracts.DIDDocument) (map[string]string, error) {
	methods := make(map[string]string, len(raw.VerificationMethod))
	for _, m := range raw.VerificationMethod {
		fragment, ok := strings.CutPrefix(m.ID, string(did))
		if !ok || m.Controller != string(did) {
			return nil, contracts.Errorf(contracts.Malformed, "verification method %.120s is of another DID", m.ID)
		}
		if methods[fragment] != "" {
			return nil, contracts.Errorf(contracts.Malformed, "verification method %s stands twice", fragment)
		}
		methods[fragment] = m.PublicKeyMultibase
	}
	for _, list := range [][]string{raw.AssertionMethod, raw.Authentication, raw.CapabilityDelegation, raw.CapabilityInvocation, raw.KeyAgreement} {
		for _, ref := range list {
			if methods[strings.TrimPrefix(ref, string(did))] == "" {
				return nil, contracts.Errorf(contracts.Malformed, "%.120s refers to no verification method", ref)
			}
		}
	}
	return methods, nil
}

func (d *Document) hot(methods map[string]string) (err error) {
	listed := func(list []string, fragment string) bool { return slices.Contains(list, string(d.DID)+fragment) }
	if !listed(d.Raw.CapabilityInvocation, fragmentInvocation) || !listed(d.Raw.Authentication, fragmentPeer) ||
		!listed(d.Raw.AssertionMethod, fragmentLog) || !listed(d.Raw.KeyAgreement, fragmentAgreement) {
		return contracts.Errorf(contracts.Malformed, "the document lacks one of #inv, #peer, #log, #ka in its place")
	}
	// The host key proves a connection and nothing more, so that its theft never
	// gives authority.
	if listed(d.Raw.AssertionMethod, fragmentPeer) || listed(d.Raw.CapabilityDelegation, fragmentPeer) || listed(d.Raw.CapabilityInvocation, fragmentPeer) {
		return contracts.Errorf(contracts.Malformed, "#peer is for authentication only")
	}
	if d.Invocation, err = ParseMultikey[Invocation](methods[fragmentInvocation]); err != nil {
		return err
	}
	if d.Peer, err = ParseMultikey[Peer](methods[fragmentPeer]); err != nil {
		return err
	}
	if d.Log, err = ParseMultikey[Log](methods[fragmentLog]); err != nil {
		return err
	}
	if d.Agreement, err = ParseAgreementMultikey(methods[fragmentAgreement]); err != nil {
		return err
	}
	if listed(d.Raw.AssertionMethod, fragmentWitness) {
		if d.Witness, err = ParseMultikey[Witness](methods[fragmentWitness]); err != nil {
			return err
		}
	}
	return nil
}

func (d *Document) services(list []contracts.Service) error {
	seen := map[string]bool{}
	for _, s := range list {
		fragment, ok := strings.CutPrefix(s.ID, string(d.DID))
		if !ok || seen[fragment] {
			return contracts.Errorf(contracts.Malformed, "service %.120s is of another DID or stands twice", s.ID)
		}
		seen[fragment] = true
		switch {
		case fragment == fragmentP2P && s.Type == ServiceP2P:
			d.Addrs = s.ServiceEndpoint
		case fragment == fragmentAnchor && s.Type == ServiceAnchor:
			d.Anchor = d.Witness.Valid()
		case fragment == "#audit":
			n, ok := strings.CutPrefix(s.ServiceEndpoint[0], string(d.DID)+"/audit/")
			inc, err := strconv.ParseUint(n, 10, 16)
			if !ok || err != nil {
				return contracts.Errorf(contracts.Malformed, "service #audit names no log of this DID")
			}
			d.Incarnation = int64(inc)
		}
	}
	return nil
}

// KeyDocument gives the document of a did:key: one key for every purpose of a
// signature, no agreement key.
func KeyDocument(did DID) (*contracts.DIDDocument, error) {
	key, ok := strings.CutPrefix(string(did), methodKey)
	if !ok {
		return nil, contracts.Errorf(contracts.InvalidDID, "%s is no did:key", did)
	}
	ref := string(did) + "#" + key
	return &contracts.DIDDocument{
		Context: documentContexts, ID: string(did),
		VerificationMethod: []contracts.VerificationMethod{{ID: ref, Type: "Multikey", Controller: string(did), PublicKeyMultibase: key}},
		AssertionMethod:    []string{ref}, Authentication: []string{ref},
		CapabilityDelegation: []string{ref}, CapabilityInvocation: []string{ref}, KeyAgreement: []string{},
	}, nil
}
