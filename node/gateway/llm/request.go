package llm

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
	"strconv"

	"github.com/talosprotocol/talos/contracts"
)

// Operations, as scopes and calls name them.
const (
	Chat       = "chat"
	Responses  = "responses"
	Embeddings = "embeddings"
	Messages   = "messages"
)

// span is a member of the request's object: where its value stands.
type span struct {
	name     string
	from, to int
}

// request is what policy needs to know of a body.
type request struct {
	op      string
	body    []byte
	members []span
	stream  bool
	usage   bool  // the client itself wants the usage of a stream
	limit   int64 // of tokens that are generated for one choice; 0: the client sets none
	choices int64
}

// read reads a body's outermost object strictly: a member that is there twice would be
// one thing here and another upstream.
func read(op string, body []byte) (*request, error) {
	if !json.Valid(body) {
		return nil, contracts.Errorf(contracts.Malformed, "the request is not JSON")
	}
	r := &request{op: op, body: body, choices: 1}
	if err := r.scan(); err != nil {
		return nil, err
	}
	var err error
	if r.stream, err = r.boolean("stream"); err != nil {
		return nil, err
	}
	for _, name := range limitNames[op] {
		n, ok, err := r.number(name)
		if err != nil {
			return nil, err
		}
		if ok && r.limit == 0 {
			r.limit = n
		} else if ok {
			return nil, contracts.Errorf(contracts.Malformed, "the request has more than one limit of its output; keep %s", limitNames[op][0])
		}
	}
	if n, ok, err := r.number("n"); err != nil {
		return nil, err
	} else if ok {
		r.choices = n
	}
	if err := r.options(); err != nil {
		return nil, err
	}
	return r, r.refuse()
}

// limitNames are the members that bound what is generated; the first is the one to set.
var limitNames = map[string][]string{
	Chat: {"max_completion_tokens", "max_tokens"}, Responses: {"max_output_tokens"}, Messages: {"max_tokens"},
}

const maxMembers = 128

// scan finds the members of the object. The body is valid JSON, which makes it simple.
func (r *request) scan() error {
	b := r.body
	i := space(b, 0)
	if b[i] != '{' {
		return contracts.Errorf(contracts.Malformed, "the request is no JSON object")
	}
	for i = space(b, i+1); b[i] != '}'; {
		from := i
		i = skip(b, i)
		var name string
		if err := json.Unmarshal(b[from:i], &name); err != nil {
			return contracts.Errorf(contracts.Malformed, "the name of a member is not text")
		}
		i = space(b, space(b, i)+1) // the colon
		s := span{name, i, skip(b, i)}
		if slices.ContainsFunc(r.members, func(o span) bool { return o.name == name }) || len(r.members) == maxMembers {
			return contracts.Errorf(contracts.Malformed, "the request has the member %.64q twice, or more than %d", name, maxMembers)
		}
		r.members = append(r.members, s)
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

// member gives a member's value as it stands, nil if it is absent.
func (r *request) member(name string) []byte {
	for _, s := range r.members {
		if s.name == name {
			return r.body[s.from:s.to]
		}
	}
	return nil
}

func (r *request) text(name string) (string, error) {
	v := r.member(name)
	if v == nil || string(v) == "null" {
		return "", nil
	}
	var s string
	if err := json.Unmarshal(v, &s); err != nil {
		return "", contracts.Errorf(contracts.Malformed, "%s is no text", name)
	}
	return s, nil
}

func (r *request) boolean(name string) (bool, error) {
	switch v := r.member(name); string(v) {
	case "", "null", "false":
		return false, nil
	case "true":
		return true, nil
	}
	return false, contracts.Errorf(contracts.Malformed, "%s is true or false", name)
}

const maxNumber = 10_000_000

func (r *request) number(name string) (int64, bool, error) {
	v := r.member(name)
	if v == nil || string(v) == "null" {
		return 0, false, nil
	}
	n, err := strconv.ParseInt(string(v), 10, 64)
	if err != nil || n < 1 || n > maxNumber {
		return 0, false, contracts.Errorf(contracts.Malformed, "%s is a whole number from 1 to %d", name, maxNumber)
	}
	return n, true, nil
}

// options reads whether the client wants the usage of a stream.
func (r *request) options() error {
	v := r.member("stream_options")
	if v == nil || string(v) == "null" {
		return nil
	}
	var o struct {
		IncludeUsage bool `json:"include_usage"`
	}
	if err := json.Unmarshal(v, &o); err != nil {
		return contracts.Errorf(contracts.Malformed, "stream_options is not as the API says")
	}
	r.usage = o.IncludeUsage
	return nil
}

// refuse refuses what would have the upstream keep something that another caller of the
// same key could reach, or spend what no count of tokens bounds.
func (r *request) refuse() error {
	for _, name := range []string{"previous_response_id", "conversation", "prompt", "background", "web_search_options", "mcp_servers", "container", "best_of"} {
		if v := r.member(name); v != nil && string(v) != "null" && string(v) != "false" {
			return contracts.Errorf(contracts.ConstraintViolation, "%s is not available through a gateway: it has state at the provider, or costs what tokens do not bound; send the whole conversation", name)
		}
	}
	if keep, err := r.boolean("store"); err != nil || keep {
		return contracts.Errorf(contracts.ConstraintViolation, "store is not available through a gateway: the provider would keep the request under the gateway's account")
	}
	tier, err := r.text("service_tier")
	if err != nil {
		return err
	}
	if tier != "" && tier != "auto" && tier != "default" && tier != "standard_only" {
		return contracts.Errorf(contracts.ConstraintViolation, "service_tier %.32q has another price; leave it out", tier)
	}
	return r.tools()
}

// tools allows tools that the caller itself runs.
func (r *request) tools() error {
	v := r.member("tools")
	if v == nil || string(v) == "null" {
		return nil
	}
	var all []struct {
		Type string `json:"type"`
	}
	if err := json.Unmarshal(v, &all); err != nil {
		return contracts.Errorf(contracts.Malformed, "tools is not as the API says")
	}
	for _, t := range all {
		if t.Type != "" && t.Type != "function" && t.Type != "custom" {
			return contracts.Errorf(contracts.ConstraintViolation, "a tool of the type %.32q runs at the provider, at its own price; only tools that the caller runs pass", t.Type)
		}
	}
	return nil
}

// set gives the body with some members replaced or added; all other bytes stay.
func (r *request) set(values map[string]string) []byte {
	if len(values) == 0 {
		return r.body
	}
	var out bytes.Buffer
	at := 0
	for _, s := range r.members {
		if v, ok := values[s.name]; ok {
			out.Write(r.body[at:s.from])
			out.WriteString(v)
			at = s.to
		}
	}
	end := bytes.LastIndexByte(r.body, '}')
	out.Write(r.body[at:end])
	added := len(r.members) > 0
	for _, name := range slices.Sorted(maps.Keys(values)) {
		if r.member(name) != nil {
			continue
		}
		if added {
			out.WriteByte(',')
		}
		added = true
		out.WriteString(strconv.Quote(name) + ":" + values[name])
	}
	out.Write(r.body[end:])
	return out.Bytes()
}
