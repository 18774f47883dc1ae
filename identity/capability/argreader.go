package capability

import (
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// argReader reads JSON (RFC 8259) from front to back, for ParseArgs: on the way from the
// bytes of a call to its decision reading is most of the work, and a reader of tokens
// costs four times as much. Tests hold it to another one, text by text.
type argReader struct {
	s     string // valid UTF-8
	i     int
	why   string // it failed
	ptr   []byte // the pointer to where the reader is
	ptrs  []byte // those of the items, one after the other
	ends  []int
	items []arg
	names []string // of the objects that are open, each after its parent's
}

const notJSON = "not JSON with each name once"

func (p *argReader) fail(why string) bool {
	if p.why == "" {
		p.why = why
	}
	return false
}

func (p *argReader) at(c byte) bool { return p.i < len(p.s) && p.s[p.i] == c }

func (p *argReader) space() {
	for p.i < len(p.s) && (p.s[p.i] == ' ' || p.s[p.i] == '\n' || p.s[p.i] == '\t' || p.s[p.i] == '\r') {
		p.i++
	}
}

// value reads a value inside of depth objects and arrays.
func (p *argReader) value(depth int) bool {
	if p.i == len(p.s) {
		return p.fail(notJSON)
	}
	switch p.s[p.i] {
	case '{', '[':
		if depth == maxArgsDepth {
			return p.fail("nested deeper than 32")
		}
		if p.s[p.i] == '{' {
			return p.object(depth + 1)
		}
		return p.array(depth + 1)
	case '"':
		s, ok := p.text()
		return ok && (depth > maxPointer || p.add(arg{kind: argString, str: s, path: pathKindOf(s)}))
	case 't':
		return p.word("true") && (depth > maxPointer || p.add(arg{kind: argBool, num: 1}))
	case 'f':
		return p.word("false") && (depth > maxPointer || p.add(arg{kind: argBool}))
	case 'n':
		return p.word("null") && (depth > maxPointer || p.add(arg{}))
	}
	a, ok := p.number()
	return ok && (depth > maxPointer || p.add(a))
}

func (p *argReader) add(a arg) bool {
	if len(p.items) == maxArgs {
		return p.fail("more than 4096 values")
	}
	if p.items == nil {
		p.items = make([]arg, 0, 8)
	}
	p.ptrs = append(p.ptrs, p.ptr...)
	p.items, p.ends = append(p.items, a), append(p.ends, len(p.ptrs))
	return true
}

// sorted gives the items with their pointers, in the order of those.
func (p *argReader) sorted() []arg {
	all, from := string(p.ptrs), 0
	for i, end := range p.ends {
		p.items[i].ptr, from = all[from:end], end
	}
	slices.SortFunc(p.items, func(x, y arg) int { return strings.Compare(x.ptr, y.ptr) })
	return p.items
}

func (p *argReader) word(w string) bool {
	if !strings.HasPrefix(p.s[p.i:], w) {
		return p.fail(notJSON)
	}
	p.i += len(w)
	return true
}

func (p *argReader) object(depth int) bool {
	here := len(p.ptr)
	return p.members(func(name string) bool {
		p.ptr = appendName(p.ptr[:here], name)
		ok := p.value(depth)
		p.ptr = p.ptr[:here]
		return ok
	})
}

// members reads an object; value reads the value of each name.
func (p *argReader) members(value func(name string) bool) bool {
	if !p.at('{') {
		return p.fail(notJSON)
	}
	p.i++
	first := len(p.names)
	var many map[string]struct{} // of the names, where they are many
	for p.space(); !p.at('}'); p.space() {
		if len(p.names) > first && !p.comma() {
			return false
		}
		name, ok := p.text()
		if !ok || !p.unique(name, first, &many) {
			return p.fail(notJSON)
		}
		if p.space(); !p.at(':') {
			return p.fail(notJSON)
		}
		p.i++
		p.space()
		if !value(name) {
			return p.fail(notJSON)
		}
	}
	p.i++
	p.names = p.names[:first]
	return true
}

// unique notes a name of the object whose names begin at first.
func (p *argReader) unique(name string, first int, many *map[string]struct{}) bool {
	mine := p.names[first:]
	if len(mine) == 16 {
		*many = map[string]struct{}{}
		for _, n := range mine {
			(*many)[n] = struct{}{}
		}
	}
	if len(mine) >= 16 {
		if _, twice := (*many)[name]; twice {
			return false
		}
		(*many)[name] = struct{}{}
	} else if slices.Contains(mine, name) {
		return false
	}
	p.names = append(p.names, name)
	return true
}

func (p *argReader) array(depth int) bool {
	p.i++ // the bracket
	here := len(p.ptr)
	n := 0
	for p.space(); !p.at(']'); p.space() {
		if n > 0 && !p.comma() {
			return false
		}
		p.ptr = strconv.AppendInt(append(p.ptr[:here], '/'), int64(n), 10)
		if !p.value(depth) {
			return false
		}
		p.ptr = p.ptr[:here]
		n++
	}
	p.i++
	return true
}

// comma reads a comma after which there is something.
func (p *argReader) comma() bool {
	if !p.at(',') {
		return p.fail(notJSON)
	}
	p.i++
	if p.space(); p.at('}') || p.at(']') {
		return p.fail(notJSON)
	}
	return true
}

// appendName appends a reference token of a JSON pointer.
func appendName(b []byte, name string) []byte {
	b = append(b, '/')
	if strings.IndexByte(name, '~') < 0 && strings.IndexByte(name, '/') < 0 {
		return append(b, name...)
	}
	for i := range len(name) {
		switch name[i] {
		case '~':
			b = append(b, "~0"...)
		case '/':
			b = append(b, "~1"...)
		default:
			b = append(b, name[i])
		}
	}
	return b
}

// number reads a number; what is no whole one within ±(2^53−1) is there, and of no kind.
func (p *argReader) number() (arg, bool) {
	start := p.i
	digits := func() bool {
		from := p.i
		for p.i < len(p.s) && '0' <= p.s[p.i] && p.s[p.i] <= '9' {
			p.i++
		}
		return p.i > from
	}
	if p.at('-') {
		p.i++
	}
	if p.at('0') {
		p.i++
	} else if !digits() {
		return arg{}, p.fail(notJSON)
	}
	whole := p.i
	if p.at('.') {
		if p.i++; !digits() {
			return arg{}, p.fail(notJSON)
		}
	}
	if p.at('e') || p.at('E') {
		if p.i++; p.at('+') || p.at('-') {
			p.i++
		}
		if !digits() {
			return arg{}, p.fail(notJSON)
		}
	}
	if text := p.s[start:p.i]; whole == p.i && text != "-0" {
		if n, err := strconv.ParseInt(text, 10, 64); err == nil && n <= 1<<53-1 && n >= -1<<53+1 {
			return arg{kind: argInt, num: n}, true
		}
	}
	return arg{}, true
}

// text reads a string. One without escapes is a part of the text itself.
func (p *argReader) text() (string, bool) {
	if !p.at('"') {
		return "", p.fail(notJSON)
	}
	p.i++
	for from := p.i; p.i < len(p.s); p.i++ {
		switch c := p.s[p.i]; {
		case c == '"':
			p.i++
			return p.s[from : p.i-1], true
		case c == '\\':
			return p.escaped([]byte(p.s[from:p.i]))
		case c < 0x20:
			return "", p.fail(notJSON)
		}
	}
	return "", p.fail(notJSON)
}

// escaped reads on in a string whose first part has none.
func (p *argReader) escaped(b []byte) (string, bool) {
	for p.i < len(p.s) {
		c := p.s[p.i]
		p.i++
		switch {
		case c == '"':
			return string(b), true
		case c < 0x20:
			return "", p.fail(notJSON)
		case c != '\\':
			b = append(b, c)
			continue
		}
		if p.i == len(p.s) {
			break
		}
		c = p.s[p.i]
		p.i++
		if at := strings.IndexByte(`"\/bfnrt`, c); at >= 0 {
			b = append(b, "\"\\/\b\f\n\r\t"[at])
			continue
		}
		r, ok := rune(0), c == 'u'
		if ok {
			r, ok = p.unicode()
		}
		if !ok {
			return "", p.fail(notJSON)
		}
		b = utf8.AppendRune(b, r)
	}
	return "", p.fail(notJSON)
}

// unicode reads the digits of a \u, and of the second one of a surrogate pair. Half a
// pair is no character.
func (p *argReader) unicode() (rune, bool) {
	r, ok := p.hex4()
	if !ok || !utf16.IsSurrogate(r) {
		return r, ok
	}
	if !strings.HasPrefix(p.s[p.i:], `\u`) {
		return 0, false
	}
	p.i += 2
	low, ok := p.hex4()
	r = utf16.DecodeRune(r, low)
	return r, ok && r != utf8.RuneError
}

func (p *argReader) hex4() (rune, bool) {
	if len(p.s)-p.i < 4 {
		return 0, false
	}
	n, err := strconv.ParseUint(p.s[p.i:p.i+4], 16, 16)
	p.i += 4
	return rune(n), err == nil
}
