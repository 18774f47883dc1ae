// Package rawjson reads and edits the outermost object of JSON texts that are passed on:
// what is not touched stays byte for byte, and what two readers could understand in two
// ways is refused.
package rawjson

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
	"strconv"

	"github.com/talosprotocol/talos/contracts"
)

// Object is the outermost object of a text. The zero value is an empty one.
type Object struct {
	raw     []byte
	members []span
}

// span is a member: where its value stands.
type span struct {
	name     string
	begin    int // of the name
	from, to int
}

// MaxMembers bounds an object's members.
const MaxMembers = 128

// Parse reads a text. It refuses what is not JSON, not an object, or has a member twice;
// the code is MALFORMED. The object refers to b, which must not change.
func Parse(b []byte) (*Object, error) {
	if !json.Valid(b) {
		return nil, contracts.Errorf(contracts.Malformed, "it is not JSON")
	}
	o := &Object{raw: b}
	return o, o.scan()
}

// Raw gives the text.
func (o *Object) Raw() []byte { return o.raw }

// Len gives the number of members.
func (o *Object) Len() int { return len(o.members) }

// Names gives the names of the members, in their order.
func (o *Object) Names() []string {
	out := make([]string, len(o.members))
	for i, s := range o.members {
		out[i] = s.name
	}
	return out
}

// Get gives a member's value as it stands, nil if it is absent.
func (o *Object) Get(name string) []byte {
	for _, s := range o.members {
		if s.name == name {
			return o.raw[s.from:s.to]
		}
	}
	return nil
}

// Has reports whether a member is there and not null.
func (o *Object) Has(name string) bool {
	v := o.Get(name)
	return v != nil && string(v) != "null"
}

// Text gives a member that is text, empty if it is absent or null.
func (o *Object) Text(name string) (string, error) {
	if !o.Has(name) {
		return "", nil
	}
	var s string
	if err := json.Unmarshal(o.Get(name), &s); err != nil {
		return "", contracts.Errorf(contracts.Malformed, "%s is no text", name)
	}
	return s, nil
}

// scan finds the members. The text is valid JSON, which makes it simple.
func (o *Object) scan() error {
	b := o.raw
	i := space(b, 0)
	if b[i] != '{' {
		return contracts.Errorf(contracts.Malformed, "it is no JSON object")
	}
	for i = space(b, i+1); b[i] != '}'; {
		from := i
		i = skip(b, i)
		var name string
		if err := json.Unmarshal(b[from:i], &name); err != nil {
			return contracts.Errorf(contracts.Malformed, "the name of a member is not text")
		}
		i = space(b, space(b, i)+1) // the colon
		s := span{name, from, i, skip(b, i)}
		if slices.ContainsFunc(o.members, func(m span) bool { return m.name == name }) || len(o.members) == MaxMembers {
			return contracts.Errorf(contracts.Malformed, "it has the member %.64q twice, or more than %d", name, MaxMembers)
		}
		o.members = append(o.members, s)
		if i = space(b, s.to); b[i] == ',' {
			i = space(b, i+1)
		}
	}
	return nil
}

func space(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\n' || b[i] == '\r' || b[i] == '\t') {
		i++
	}
	return i
}

// skip gives where the value that begins at i ends.
func skip(b []byte, i int) int {
	depth := 0
	for ; i < len(b); i++ {
		switch b[i] {
		case '"':
			for i++; b[i] != '"'; i++ {
				if b[i] == '\\' {
					i++
				}
			}
		case '{', '[':
			depth++
			continue
		case '}', ']':
			if depth--; depth < 0 {
				return i
			}
		case ',', ' ', '\n', '\r', '\t', ':':
			if depth == 0 {
				return i
			}
			continue
		default:
			if depth == 0 && i+1 < len(b) && !delimiter(b[i+1]) {
				continue
			}
		}
		if depth == 0 {
			return i + 1
		}
	}
	return i
}

func delimiter(c byte) bool {
	return c == ',' || c == '}' || c == ']' || c == ' ' || c == '\n' || c == '\r' || c == '\t' || c == ':'
}

// Set gives the text with some members replaced or added; all other bytes stay. The values
// are JSON.
func (o *Object) Set(values map[string]string) []byte {
	if len(values) == 0 {
		return o.raw
	}
	if len(o.raw) == 0 { // of the zero value
		o = &Object{raw: []byte("{}")}
	}
	var out bytes.Buffer
	at := 0
	for _, s := range o.members {
		if v, ok := values[s.name]; ok {
			out.Write(o.raw[at:s.from])
			out.WriteString(v)
			at = s.to
		}
	}
	end := bytes.LastIndexByte(o.raw, '}')
	out.Write(o.raw[at:end])
	added := len(o.members) > 0
	for _, name := range slices.Sorted(maps.Keys(values)) {
		if o.Get(name) != nil {
			continue
		}
		if added {
			out.WriteByte(',')
		}
		added = true
		out.WriteString(strconv.Quote(name) + ":" + values[name])
	}
	out.Write(o.raw[end:])
	return out.Bytes()
}

// Without gives the text without some members; all others stay as they were.
func (o *Object) Without(names ...string) []byte {
	out := []byte{'{'}
	for _, s := range o.members {
		if slices.Contains(names, s.name) {
			continue
		}
		if len(out) > 1 {
			out = append(out, ',')
		}
		out = append(out, o.raw[s.begin:s.to]...)
	}
	return append(out, '}')
}
