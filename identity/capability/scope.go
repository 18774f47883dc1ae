package capability

import (
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/talosprotocol/talos/contracts"
)

// Limits of scopes and calls (spec/scope.md).
const (
	MaxScopeBytes   = 512
	MaxScopes       = 32
	MaxPartBytes    = 128 // of a name, a method or a segment, encoded
	MaxSegments     = 16  // of a scope's resource
	MaxCallSegments = 32  // of a call's resource: more than a scope can name, so that ** is never a finite list
)

// Kind is the first part of a scope.
type Kind uint8

// The kinds of scopes. The list is closed.
const (
	noKind Kind = iota
	Agent
	Model
	Node
	Tool
	Topic
)

var kindNames = [...]string{"", "agent", "model", "node", "tool", "topic"}

func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return ""
}

// ParseKind reads a kind.
func ParseKind(s string) (Kind, error) {
	if i := slices.Index(kindNames[1:], s); i >= 0 {
		return Kind(i + 1), nil
	}
	return noKind, contracts.Errorf(contracts.Malformed, "%.32q is no kind of scope; there are agent, model, node, tool and topic", s)
}

// tail says what a scope's resource ends in.
type tail uint8

const (
	anyResource tail = iota // no resource part: with any resource, and without one
	exactly                 // the path itself
	oneBelow                // p/*: exactly one segment below p
	subtree                 // p/**: p and everything below
)

// Scope says what may be done: kind:name[/method:name[/resource:pattern]]. It is
// made by ParseScope; the zero value covers nothing. Equal texts are equal meanings:
// each meaning has one text.
type Scope struct {
	text   string
	name   string // encoded; "*" is any
	method string // encoded; "" or "*" is any
	path   string // encoded segments joined by "/", without the wildcard
	kind   Kind
	tail   tail
	has    bool // a method part is there
}

const (
	methodMark   = "/method:"
	resourceMark = "/resource:"
)

// ParseScope reads a scope and refuses every text but the canonical one. Nothing is
// ever repaired: what could be read in two ways is MALFORMED.
func ParseScope(text string) (Scope, error) {
	bad := func(why string) (Scope, error) {
		return Scope{}, contracts.Errorf(contracts.Malformed, "scope %.80q: %s", text, why)
	}
	if len(text) > MaxScopeBytes {
		return Scope{}, contracts.Errorf(contracts.TooLarge, "a scope of %d bytes, at most %d", len(text), MaxScopeBytes)
	}
	kind, rest, ok := strings.Cut(text, ":")
	k, err := ParseKind(kind)
	if !ok || err != nil {
		return bad("it begins with agent:, model:, node:, tool: or topic:")
	}
	s := Scope{text: text, kind: k}
	s.name, rest, s.has = strings.Cut(rest, methodMark)
	if why := checkPart(s.name, true); why != "" {
		return bad("name: " + why)
	}
	if !s.has {
		return s, nil
	}
	var resource string
	var limited bool
	s.method, resource, limited = strings.Cut(rest, resourceMark)
	if why := checkPart(s.method, true); why != "" {
		return bad("method: " + why)
	}
	if !limited {
		if s.method == "*" {
			return bad("/method:* at the end says nothing; leave it out")
		}
		return s, nil
	}
	if s.path, s.tail, err = parsePattern(resource); err != nil {
		return bad(err.Error())
	}
	return s, nil
}

// patternError says why a pattern does not read.
type patternError string

func (e patternError) Error() string { return string(e) }

// parsePattern splits a resource pattern into its path and its tail.
func parsePattern(p string) (path string, t tail, err error) {
	rest, n := p, 0
	for more := true; more; {
		var seg string
		seg, rest, more = strings.Cut(rest, "/")
		if n++; n > MaxSegments {
			return "", 0, patternError("resource: more than 16 segments")
		}
		if seg == "*" || seg == "**" {
			if more {
				return "", 0, patternError("resource: * and ** stand at the end only")
			}
			t = oneBelow
			if seg == "**" {
				t = subtree
			}
			return strings.TrimSuffix(strings.TrimSuffix(p, seg), "/"), t, nil
		}
		if why := checkSegment(seg); why != "" {
			return "", 0, patternError("resource: " + why)
		}
	}
	return p, exactly, nil
}

// checkPart says what is wrong with a name or method, "" for nothing.
func checkPart(p string, star bool) string {
	switch {
	case p == "":
		return "it is empty"
	case p == "*":
		if star {
			return ""
		}
		return "* is no name"
	case len(p) > MaxPartBytes:
		return "more than 128 bytes"
	}
	plain := true
	for i := 0; i < len(p); i++ {
		switch c := p[i]; {
		case unreserved(c):
		case c != '%':
			return "only letters, digits and -._~ stand for themselves; all else is %XX, and * stands alone"
		case i+2 >= len(p) || upperHex(p[i+1]) < 0 || upperHex(p[i+2]) < 0:
			return "% is followed by two digits 0-9A-F"
		case unreserved(byte(upperHex(p[i+1])<<4 | upperHex(p[i+2]))):
			return "%XX of a byte that stands for itself"
		default:
			plain = false
			i += 2
		}
	}
	if !plain {
		return checkText(decodePart(p))
	}
	return ""
}

// checkText refuses texts that people or programs could read as another one.
func checkText(s string) string {
	if !utf8.ValidString(s) {
		return "not UTF-8"
	}
	for _, r := range s {
		if unicode.IsControl(r) {
			return "a control character"
		}
	}
	return ""
}

// checkSegment is checkPart for a segment of a path: it must not climb, and must not
// hold a separator that whoever joins the segments would see as one.
func checkSegment(seg string) string {
	switch why := checkPart(seg, false); {
	case why != "":
		return why
	case seg == "." || seg == "..":
		return ". and .. are no segments"
	case strings.Contains(seg, "%2F"), strings.Contains(seg, "%5C"):
		return "a slash inside a segment"
	}
	return ""
}

// unreserved bytes stand for themselves (RFC 3986 section 2.3).
func unreserved(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '.' || c == '_' || c == '~'
}

func upperHex(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'A' <= c && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

// decodePart undoes the encoding of a part that checkPart has passed.
func decodePart(p string) string {
	b := make([]byte, 0, len(p))
	for i := 0; i < len(p); i++ {
		c := p[i]
		if c == '%' {
			c = byte(upperHex(p[i+1])<<4 | upperHex(p[i+2]))
			i += 2
		}
		b = append(b, c)
	}
	return string(b)
}

// encodePart gives the one encoding of a text.
func encodePart(dst []byte, s string) []byte {
	const hex = "0123456789ABCDEF"
	for i := 0; i < len(s); i++ {
		if c := s[i]; unreserved(c) {
			dst = append(dst, c)
		} else {
			dst = append(dst, '%', hex[c>>4], hex[c&15])
		}
	}
	return dst
}

// String gives the canonical text.
func (s Scope) String() string { return s.text }

// Kind gives the kind.
func (s Scope) Kind() Kind { return s.kind }

// Contains reports whether every call that c covers is covered by s too. It is
// decided on the texts alone and is exact in both directions (spec/scope.md).
func (s Scope) Contains(c Scope) bool {
	if s.kind != c.kind || s.kind == noKind || s.name != "*" && s.name != c.name {
		return false
	}
	if !s.has {
		return true
	}
	if !c.has || s.method != "*" && s.method != c.method {
		return false
	}
	switch s.tail {
	case anyResource:
		return true
	case exactly:
		return c.tail == exactly && c.path == s.path
	case oneBelow:
		if c.tail == oneBelow {
			return c.path == s.path
		}
		below, ok := under(s.path, c.path)
		return c.tail == exactly && ok && below != "" && strings.IndexByte(below, '/') < 0
	}
	if c.tail == anyResource {
		return false
	}
	_, ok := under(s.path, c.path)
	return ok
}

// under reports whether path is base or below it, and gives what follows.
func under(base, path string) (string, bool) {
	switch {
	case base == "":
		return path, true
	case len(path) == len(base):
		return "", path == base
	case len(path) > len(base) && path[len(base)] == '/' && path[:len(base)] == base:
		return path[len(base)+1:], true
	}
	return "", false
}

// ParseScopes reads the scopes of a token: ascending by bytes, none contained in
// another, so that one set has one text.
func ParseScopes(texts []string) ([]Scope, error) {
	if len(texts) == 0 || len(texts) > MaxScopes {
		return nil, contracts.Errorf(contracts.Malformed, "%d scopes, want 1 to %d", len(texts), MaxScopes)
	}
	list := make([]Scope, len(texts))
	for i, t := range texts {
		if i > 0 && texts[i-1] >= t {
			return nil, contracts.Errorf(contracts.Malformed, "scopes are in ascending order, none twice: %.80q", t)
		}
		var err error
		if list[i], err = ParseScope(t); err != nil {
			return nil, err
		}
	}
	for i := range list {
		for j := range list {
			if i != j && list[i].Contains(list[j]) {
				return nil, contracts.Errorf(contracts.Malformed, "scope %s is contained in %s; leave it out", list[j], list[i])
			}
		}
	}
	return list, nil
}

// NewScopes makes the canonical set of scopes in any order: sorted, without those that
// others contain.
func NewScopes(texts ...string) ([]string, error) {
	var all []Scope
	for _, t := range texts {
		s, err := ParseScope(t)
		if err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b Scope) int { return strings.Compare(a.text, b.text) })
	all = slices.CompactFunc(all, func(a, b Scope) bool { return a.text == b.text })
	var out []string
	for i, s := range all {
		if !slices.ContainsFunc(all, func(o Scope) bool { return o.text != s.text && o.Contains(s) }) {
			out = append(out, all[i].text)
		}
	}
	if len(out) == 0 || len(out) > MaxScopes {
		return nil, contracts.Errorf(contracts.Malformed, "%d scopes, want 1 to %d", len(out), MaxScopes)
	}
	return out, nil
}

// ContainsAll reports whether each of children is contained in one of parents. That
// is the same as: every call that a child covers is covered by a parent.
func ContainsAll(parents, children []Scope) bool { return uncovered(parents, children) < 0 }

// uncovered gives the index of the first child that no parent contains, -1 if none.
func uncovered(parents, children []Scope) int {
	return slices.IndexFunc(children, func(c Scope) bool {
		return !slices.ContainsFunc(parents, func(p Scope) bool { return p.Contains(c) })
	})
}
