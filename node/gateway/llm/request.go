package llm

import (
	"encoding/json"
	"strconv"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/node/gateway/rawjson"
)

// Operations, as scopes and calls name them.
const (
	Chat       = "chat"
	Responses  = "responses"
	Embeddings = "embeddings"
	Messages   = "messages"
)

// request is what policy needs to know of a body.
type request struct {
	*rawjson.Object
	op      string
	stream  bool
	usage   bool  // the client itself wants the usage of a stream
	limit   int64 // of tokens that are generated for one choice; 0: the client sets none
	choices int64
}

// read reads a body's outermost object strictly: a member that is there twice would be
// one thing here and another upstream.
func read(op string, body []byte) (*request, error) {
	o, err := rawjson.Parse(body)
	if err != nil {
		return nil, contracts.Errorf(contracts.Malformed, "the request: %s", contracts.Message(err))
	}
	r := &request{Object: o, op: op, choices: 1}
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

func (r *request) boolean(name string) (bool, error) {
	switch v := r.Get(name); string(v) {
	case "", "null", "false":
		return false, nil
	case "true":
		return true, nil
	}
	return false, contracts.Errorf(contracts.Malformed, "%s is true or false", name)
}

const maxNumber = 10_000_000

func (r *request) number(name string) (int64, bool, error) {
	v := r.Get(name)
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
	v := r.Get("stream_options")
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
		if v := r.Get(name); v != nil && string(v) != "null" && string(v) != "false" {
			return contracts.Errorf(contracts.ConstraintViolation, "%s is not available through a gateway: it has state at the provider, or costs what tokens do not bound; send the whole conversation", name)
		}
	}
	if keep, err := r.boolean("store"); err != nil || keep {
		return contracts.Errorf(contracts.ConstraintViolation, "store is not available through a gateway: the provider would keep the request under the gateway's account")
	}
	tier, err := r.Text("service_tier")
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
	v := r.Get("tools")
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
