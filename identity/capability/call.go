package capability

import (
	"strings"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
)

// Access says what a call does to the world. It comes from the executor's own
// registry, never from a name.
type Access uint8

// The classes of access. The zero value is none of them, and is not read-only.
const (
	unknownAccess Access = iota
	Read
	Write
	Destructive
)

// ParseAccess reads the registry's word for an access.
func ParseAccess(s string) (Access, error) {
	switch s {
	case "read":
		return Read, nil
	case "write":
		return Write, nil
	case "destructive":
		return Destructive, nil
	}
	return unknownAccess, contracts.Errorf(contracts.Malformed, "%.32q is no access; there are read, write and destructive", s)
}

// Call is what somebody wants done. It is made by NewCall of separate fields, each
// encoded by this package, so that no text can pass for two fields. It may be reused
// and shared by readers.
type Call struct {
	name, method, path string // encoded
	kind               Kind
	hasResource        bool

	Access Access
	// Args are the arguments that constraints look at. Nil: there are none, and a
	// constraint on an argument denies.
	Args *Args
	// Peer handed the call in; Gateway serves it. The zero value is nobody, and a
	// constraint on it denies.
	Peer, Gateway Principal
}

// Principal is a DID in the form that is compared: 34 bytes. The zero value is nobody.
type Principal struct{ id [34]byte }

// NewPrincipal checks a DID.
func NewPrincipal(did identity.DID) (Principal, error) {
	d, err := identity.ParseDID(string(did))
	if err != nil {
		return Principal{}, err
	}
	return Principal{d.Multihash()}, nil
}

// DID gives the text, "" for nobody.
func (p Principal) DID() identity.DID {
	d, err := identity.DIDFromMultihash(p.id[:])
	if err != nil {
		return ""
	}
	return d
}

// NewCall makes a call of texts as they are. method may be empty: a call that has
// none; resource are the segments of a path, outermost first, and need a method.
func NewCall(kind Kind, name, method string, resource []string, access Access) (Call, error) {
	c := Call{kind: kind, Access: access}
	if kind.String() == "" {
		return c, contracts.Errorf(contracts.Malformed, "a call without a kind")
	}
	var err error
	if c.name, err = callPart("name", name); err != nil {
		return c, err
	}
	if method == "" {
		if len(resource) > 0 {
			return c, contracts.Errorf(contracts.Malformed, "a call with a resource has a method")
		}
		return c, nil
	}
	if c.method, err = callPart("method", method); err != nil {
		return c, err
	}
	if len(resource) > MaxCallSegments {
		return c, contracts.Errorf(contracts.TooLarge, "a resource of %d segments, at most %d", len(resource), MaxCallSegments)
	}
	var room [256]byte
	path := room[:0]
	for i, seg := range resource {
		part, err := callPart("resource", seg)
		if err != nil {
			return c, err
		}
		if why := checkSegment(part); why != "" {
			return c, contracts.Errorf(contracts.Malformed, "the call's resource, segment %d: %s", i, why)
		}
		if i > 0 {
			path = append(path, '/')
		}
		path = append(path, part...)
	}
	c.path, c.hasResource = string(path), len(resource) > 0
	return c, nil
}

func callPart(what, text string) (string, error) {
	if text == "" {
		return "", contracts.Errorf(contracts.Malformed, "the call's %s is empty", what)
	}
	if len(text) > MaxPartBytes {
		return "", contracts.Errorf(contracts.TooLarge, "the call's %s has %d bytes, at most %d", what, len(text), MaxPartBytes)
	}
	if plain(text) {
		return text, nil // most are their own encoding
	}
	if why := checkText(text); why != "" {
		return "", contracts.Errorf(contracts.Malformed, "the call's %s: %s", what, why)
	}
	part := string(encodePart(nil, text))
	if len(part) > MaxPartBytes {
		return "", contracts.Errorf(contracts.TooLarge, "the call's %s has %d bytes when it is encoded, at most %d", what, len(part), MaxPartBytes)
	}
	return part, nil
}

// plain reports whether all of text stands for itself.
func plain(text string) bool {
	for i := range len(text) {
		if !unreserved(text[i]) {
			return false
		}
	}
	return true
}

// String gives the scope that covers this call and no other: what is asked for.
func (c *Call) String() string {
	s := c.kind.String() + ":" + c.name
	if c.method != "" {
		s += methodMark + c.method
	}
	if c.hasResource {
		s += resourceMark + c.path
	}
	return s
}

// Covers reports whether s covers c.
func (s Scope) Covers(c *Call) bool {
	if s.kind != c.kind || s.kind == noKind || s.name != "*" && s.name != c.name {
		return false
	}
	if !s.has {
		return true
	}
	if c.method == "" || s.method != "*" && s.method != c.method {
		return false
	}
	return coversPath(s.tail, s.path, c.path, c.hasResource)
}

// coversPath is the one place where a pattern meets a path.
func coversPath[T string | []byte](t tail, base T, path string, hasPath bool) bool {
	if t == anyResource {
		return true
	}
	if !hasPath {
		return false
	}
	n := len(base)
	if t == exactly || len(path) <= n {
		return t != oneBelow && path == string(base)
	}
	if n > 0 {
		if path[n] != '/' || path[:n] != string(base) {
			return false
		}
		n++
	}
	return t == subtree || strings.IndexByte(path[n:], '/') < 0
}
