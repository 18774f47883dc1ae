package api

import (
	"encoding/json"
	"mime"
	"net/http"
	"slices"

	"github.com/talosprotocol/talos/contracts"
)

// Codes of errors in MCP's JSON-RPC.
const (
	codeMalformed      = -32600
	codeHeaderMismatch = -32020 // MCP 2026-07-28
	codeRefused        = -32000 // data.code says why
	maxToolCall        = 4 << 20
)

// rpc is of a JSON-RPC message what the endpoint needs to know.
type rpc struct {
	ID     json.RawMessage `json:"id"`
	Method string          `json:"method"`
	Params struct {
		Name string `json:"name"`
		URI  string `json:"uri"`
	} `json:"params"`
}

func (s *Server) mcpRoutes() map[string]route {
	return map[string]route{
		// Streamable HTTP without sessions: each request is complete in itself, and the
		// endpoint has nothing to push, so there is no GET and no DELETE.
		"POST /mcp/{gateway}/{server}": {max: maxToolCall, parse: s.mcp, fail: mcpRefusal},
		"POST /mcp":                    {max: maxToolCall, parse: s.mcp, fail: mcpRefusal},
	}
}

// mcpRefusal answers what is no JSON-RPC request that could be answered.
func mcpRefusal(w http.ResponseWriter, err error) {
	status := statusOf(codeOf(err))
	if codeOf(err) == contracts.Conflict {
		status = http.StatusBadRequest
	}
	_ = write(w, status, rpcError(json.RawMessage("null"), codeMalformed, err))
}

func rpcError(id json.RawMessage, code int, err error) map[string]any {
	c := contracts.CodeOf(err)
	return map[string]any{"jsonrpc": "2.0", "id": id, "error": map[string]any{
		"code": code, "message": contracts.Message(err), "data": map[string]any{"code": string(c), "retryable": c.Retryable()},
	}}
}

// mcp is the endpoint of one remote MCP server, or of all together.
func (s *Server) mcp(r *http.Request) (map[string]string, action, error) {
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		return nil, nil, contracts.Errorf(contracts.Malformed, "the content type is application/json")
	}
	b, err := body(r)
	if err != nil {
		return nil, nil, err
	}
	var m rpc
	if err := json.Unmarshal(b, &m); err != nil || m.Method == "" {
		return nil, nil, contracts.Errorf(contracts.Malformed, "the body is one JSON-RPC request or notification")
	}
	server := r.PathValue("gateway") + "/" + r.PathValue("server")
	all := r.PathValue("gateway") == ""
	if all {
		server = "all"
	}
	tool := "mcp:" + m.Method
	if m.Method == "tools/call" && m.Params.Name != "" {
		tool = m.Params.Name
	}
	params := map[string]string{"server": server, "tool": tool}
	if len(m.ID) == 0 || string(m.ID) == "null" { // a notification: nobody waits for an answer
		return params, func(w http.ResponseWriter, _ *http.Request) error {
			w.WriteHeader(http.StatusAccepted)
			return nil
		}, nil
	}
	return params, func(w http.ResponseWriter, r *http.Request) error {
		if what := mismatch(r, &m); what != "" {
			return write(w, http.StatusBadRequest, rpcError(m.ID, codeHeaderMismatch, contracts.Errorf(contracts.Malformed, "the header %s is not what the body says", what)))
		}
		if all {
			return s.aggregate(w, r, b, &m)
		}
		u := &Use{Kind: "tool", Service: server, Method: m.Method, ContentType: "application/json", Body: b, Repeatable: m.Method != "tools/call"}
		return s.useRPC(w, r, u, func(err error) map[string]any { return rpcError(m.ID, codeRefused, err) })
	}, nil
}

// useRPC makes a call; what fails is an error of JSON-RPC, since the request was one.
func (s *Server) useRPC(w http.ResponseWriter, r *http.Request, u *Use, fail func(error) map[string]any) error {
	err := s.use(w, r, u, func(err error) []byte {
		b, _ := json.Marshal(fail(err)) // of texts: cannot fail
		return slices.Concat([]byte("event: message\ndata: "), b, []byte("\n\n"))
	})
	if _, begun := err.(broken); begun || err == nil { //nolint:errorlint // our own value
		return err
	}
	return told(w, err, fail)
}

// told answers a request of JSON-RPC that failed. The error is recorded as what it is; the
// program has its answer.
func told(w http.ResponseWriter, err error, fail func(error) map[string]any) error {
	if e := write(w, http.StatusOK, fail(err)); e != nil {
		return e
	}
	return broken{err, true}
}

// mismatch names the header that contradicts the body, empty if none does.
func mismatch(r *http.Request, m *rpc) string {
	if v := r.Header.Get("Mcp-Method"); v != "" && v != m.Method {
		return "Mcp-Method"
	}
	name := m.Params.Name
	if m.Method == "resources/read" {
		name = m.Params.URI
	}
	if v := r.Header.Get("Mcp-Name"); v != "" && v != name && !encoded(v) {
		return "Mcp-Name"
	}
	return ""
}

// encoded reports whether a header has the form that MCP has for names that no header can
// have; the body decides in any case.
func encoded(v string) bool { return len(v) > 11 && v[:9] == "=?base64?" }
