package capability

import (
	"strings"
	"unicode/utf8"

	"github.com/talosprotocol/talos/contracts"
)

// Limits of arguments.
const (
	MaxArgsBytes = 1 << 20
	maxArgsDepth = 32
	maxArgs      = 4096 // values that a constraint can name
)

// Args are the arguments of a call, read once: the texts, whole numbers and truth
// values at most four names deep. It does not change and may be shared.
type Args struct{ items []arg }

type arg struct {
	ptr  string // JSON pointer, RFC 6901
	kind argKind
	path pathKind // of a text, for glob
	str  string
	num  int64 // also of a truth value: 1 is true
}

type argKind uint8

const (
	argOther argKind = iota // null, a float, a number out of range, an object or array
	argString
	argInt
	argBool
)

// pathKind says whether a text is a path that means one thing only.
type pathKind uint8

const (
	noPath pathKind = iota
	relativePath
	rootedPath
)

func pathKindOf(s string) pathKind {
	rest, rooted := strings.CutPrefix(s, "/")
	switch {
	case !plainPath(rest):
		return noPath
	case rooted:
		return rootedPath
	}
	return relativePath
}

// ParseArgs reads a JSON object strictly: valid UTF-8, no name twice. What does not
// read is a CONSTRAINT_VIOLATION, since no condition on it could be decided.
func ParseArgs(text []byte) (*Args, error) {
	var room struct { // in one piece, for arguments of usual size
		ptr   [64]byte
		ptrs  [128]byte
		names [12]string
		ends  [8]int
	}
	p := argReader{s: string(text), ptr: room.ptr[:0], ptrs: room.ptrs[:0], names: room.names[:0], ends: room.ends[:0]}
	switch {
	case len(text) > MaxArgsBytes:
		p.why = "more than 1 MiB"
	case !utf8.ValidString(p.s):
		p.why = "not UTF-8"
	default:
		p.space()
		if !p.at('{') {
			p.why = "they are one JSON object"
		} else if p.value(0) {
			if p.space(); p.i < len(p.s) {
				p.why = notJSON
			}
		}
	}
	if p.why != "" {
		return nil, contracts.Errorf(contracts.ConstraintViolation, "the call's arguments cannot be read: %s", p.why)
	}
	return &Args{items: p.sorted()}, nil
}

// find gives the value at a pointer, nil if there is none.
func (a *Args) find(ptr []byte) *arg {
	if a == nil || len(ptr) == 0 {
		return nil
	}
	if len(a.items) <= 8 {
		// Pointers all begin alike: the last octet tells most of them apart at once.
		last := ptr[len(ptr)-1]
		for i := range a.items {
			p := &a.items[i]
			if len(p.ptr) == len(ptr) && p.ptr[len(ptr)-1] == last && p.ptr == string(ptr) {
				return p
			}
		}
		return nil
	}
	lo, hi := 0, len(a.items)
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		if a.items[mid].ptr < string(ptr) {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if lo < len(a.items) && a.items[lo].ptr == string(ptr) {
		return &a.items[lo]
	}
	return nil
}

// validPointer reports whether p is a JSON pointer of one to four names.
func validPointer(p string) bool {
	if len(p) > 255 || !strings.HasPrefix(p, "/") || strings.Count(p, "/") > maxPointer {
		return false
	}
	for i := 0; i < len(p); i++ {
		if p[i] == '~' && (i+1 == len(p) || p[i+1] != '0' && p[i+1] != '1') {
			return false
		}
	}
	return true
}

// validGlob reports whether p is a pattern for paths in arguments: a path that
// plainPath accepts, of which the last segment may be * or **.
func validGlob(p string) bool {
	base, _, _ := splitGlob(p)
	return p != "" && !strings.Contains(base, "*") && (base == "" || plainPath(base)) && p != "/"
}

// splitGlob takes a pattern apart. rooted patterns are for paths from the root.
func splitGlob(p string) (base string, t tail, rooted bool) {
	base, rooted = strings.CutPrefix(p, "/")
	switch {
	case base == "*":
		return "", oneBelow, rooted
	case base == "**":
		return "", subtree, rooted
	case strings.HasSuffix(base, "/*"):
		return base[:len(base)-2], oneBelow, rooted
	case strings.HasSuffix(base, "/**"):
		return base[:len(base)-3], subtree, rooted
	}
	return base, exactly, rooted
}

// plainPath reports whether s, without its leading slash, means the same to whoever
// reads it: no empty, . or .. segment, no backslash, no percent escape, no control
// character. Others are refused, not cleaned.
func plainPath(s string) bool {
	if s == "" || len(s) > 4096 {
		return false
	}
	start := 0
	for i := 0; i <= len(s); i++ {
		if i == len(s) || s[i] == '/' {
			if seg := s[start:i]; seg == "" || seg == "." || seg == ".." {
				return false
			}
			start = i + 1
			continue
		}
		switch c := s[i]; {
		case c < 0x20 || c == 0x7f || c == '\\':
			return false
		case c == '%' && i+2 < len(s) && isHex(s[i+1]) && isHex(s[i+2]):
			return false
		}
	}
	return true
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'f'
}
