package mcp

import (
	"encoding/json"
	"strconv"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/node/gateway/rawjson"
)

// Codes of JSON-RPC 2.0 section 5.1.
const (
	codeMethodNotFound = -32601
	codeInvalidParams  = -32602
)

// message is a JSON-RPC message: a request, a notification (no id) or a response (no
// method).
type message struct {
	*rawjson.Object
	id     []byte // as it stands; nil: none
	method string
}

// readMessage reads a message. A batch is none: MCP has none since 2025-06-18.
func readMessage(b []byte) (*message, error) {
	o, err := rawjson.Parse(b)
	if err != nil {
		return nil, contracts.Errorf(contracts.Malformed, "the JSON-RPC message: %s", contracts.Message(err))
	}
	m := &message{Object: o, id: o.Get("id")}
	if v, err := o.Text("jsonrpc"); err != nil || v != "2.0" {
		return nil, contracts.Errorf(contracts.Malformed, "the JSON-RPC message: jsonrpc is \"2.0\"")
	}
	if m.method, err = o.Text("method"); err != nil || len(m.method) > 128 {
		return nil, contracts.Errorf(contracts.Malformed, "the JSON-RPC message: method is a text of at most 128 bytes")
	}
	if m.id != nil && m.id[0] != '"' && m.id[0] != '-' && (m.id[0] < '0' || m.id[0] > '9') {
		return nil, contracts.Errorf(contracts.Malformed, "the JSON-RPC message: id is a text or a number")
	}
	if len(m.id) > 256 {
		return nil, contracts.Errorf(contracts.TooLarge, "the JSON-RPC message: id has more than 256 bytes")
	}
	return m, nil
}

// readRequest reads a message that must be a request.
func readRequest(b []byte) (*message, error) {
	m, err := readMessage(b)
	if err != nil {
		return nil, err
	}
	if m.method == "" || m.id == nil {
		return nil, contracts.Errorf(contracts.Malformed, "the JSON-RPC message is no request: it has no method, or no id")
	}
	return m, nil
}

// params gives the parameters as an object; an empty one if there are none.
func (m *message) params() (*rawjson.Object, error) {
	if !m.Has("params") {
		return &rawjson.Object{}, nil
	}
	o, err := rawjson.Parse(m.Get("params"))
	if err != nil {
		return nil, contracts.Errorf(contracts.Malformed, "the parameters of %s: %s", m.method, contracts.Message(err))
	}
	return o, nil
}

// answer makes a response with a result, which is JSON.
func answer(id, result []byte) []byte {
	b := append([]byte(`{"jsonrpc":"2.0","id":`), id...)
	b = append(append(b, `,"result":`...), result...)
	return append(b, '}')
}

// failure makes a response with an error.
func failure(id []byte, code int, text string) []byte {
	quoted, _ := json.Marshal(text) // a text: cannot fail
	b := append([]byte(`{"jsonrpc":"2.0","id":`), id...)
	b = append(append(append(b, `,"error":{"code":`...), strconv.Itoa(code)...), `,"message":`...)
	return append(append(b, quoted...), "}}"...)
}

// object makes JSON of what cannot fail to be.
func object(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // maps and texts of our own
	}
	return b
}
