package api

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strings"

	"github.com/talosprotocol/talos/contracts"
)

const maxToolAnswer = 16 << 20

// MCPServer is an MCP server of a gateway, for programs that do not speak MCP.
type MCPServer struct {
	ID      string      `json:"id"` // <gateway>/<name>, as in the paths
	Gateway string      `json:"gateway"`
	Name    string      `json:"name"`
	About   string      `json:"about,omitempty"`
	Tools   []Operation `json:"tools,omitempty"` // those that are advertised
}

// restRoutes are plain HTTP for the tools of MCP servers.
func (s *Server) restRoutes() map[string]route {
	return map[string]route{
		"GET /v1/mcp/servers": {act: s.mcpServers},
		"GET /v1/mcp/servers/{gateway}/{server}/tools": {parse: func(r *http.Request) (map[string]string, action, error) {
			return s.restCall(r, "mcp:tools/list", `{"jsonrpc":"2.0","id":1,"method":"tools/list"}`, "tools/list", true)
		}},
		"POST /v1/mcp/tools/{gateway}/{server}/{tool}/call": {max: maxToolCall, parse: s.restTool},
	}
}

// mcpServers lists the MCP servers that can be used.
func (s *Server) mcpServers(w http.ResponseWriter, r *http.Request) error {
	all, err := s.node.Known(r.Context(), "tool")
	out := []MCPServer{}
	for _, f := range all {
		out = append(out, MCPServer{ID: f.Gateway + "/" + f.Name, Gateway: f.Gateway, Name: f.Name, About: f.About, Tools: f.Operations})
	}
	return reply(w, out, err)
}

// toolArguments is the body of a call of a tool.
type toolArguments struct {
	Arguments json.RawMessage `json:"arguments,omitempty"`
}

// restTool calls a tool: the body is {"arguments": {…}}, or nothing for a tool without.
func (s *Server) restTool(r *http.Request) (map[string]string, action, error) {
	b, err := body(r)
	if err != nil {
		return nil, nil, err
	}
	var in toolArguments
	if len(b) > 0 {
		d := json.NewDecoder(bytes.NewReader(b))
		d.DisallowUnknownFields()
		if err := d.Decode(&in); err != nil || d.More() {
			return nil, nil, contracts.Errorf(contracts.Malformed, `the body is {"arguments": {…}}`)
		}
	}
	if len(in.Arguments) == 0 {
		in.Arguments = json.RawMessage("{}")
	}
	tool := r.PathValue("tool")
	name, err := json.Marshal(tool)
	if err != nil {
		return nil, nil, contracts.Errorf(contracts.Malformed, "the name of the tool: %w", err)
	}
	return s.restCall(r, tool, `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":`+string(name)+`,"arguments":`+string(in.Arguments)+`}}`, "tools/call", false)
}

// restCall makes a JSON-RPC request for a program that asked in plain HTTP, and answers
// with its result; an error of the server is one of HTTP.
func (s *Server) restCall(r *http.Request, tool, request, method string, repeatable bool) (map[string]string, action, error) {
	u := &Use{Kind: "tool", Service: r.PathValue("gateway") + "/" + r.PathValue("server"), Method: method, ContentType: "application/json", Body: []byte(request), Repeatable: repeatable}
	return map[string]string{"server": u.Service, "tool": tool}, func(w http.ResponseWriter, r *http.Request) error {
		key, err := idempotencyKey(r)
		if err != nil {
			return err
		}
		u.Key = key
		a, err := s.node.Use(r.Context(), u)
		if err != nil {
			return err
		}
		defer a.Body.Close() //nolint:errcheck // read, or of no use
		b, err := io.ReadAll(io.LimitReader(a.Body, maxToolAnswer+1))
		record(r.Context(), a)
		if err == nil && len(b) > maxToolAnswer {
			err = contracts.Errorf(contracts.TooLarge, "an answer of more than %d bytes; ask by MCP (POST /mcp/…), which streams", maxToolAnswer)
		}
		if err != nil {
			return err
		}
		result, err := rpcResultOf(a.ContentType, b)
		if err != nil {
			return err
		}
		w.Header().Set(headerGateway, a.Gateway)
		w.Header().Set(headerRequest, a.Request)
		return write(w, http.StatusOK, result)
	}, nil
}

// rpcResultOf gives the result of the response among what a server has answered: it alone,
// or the last of a stream of events.
func rpcResultOf(contentType string, b []byte) (json.RawMessage, error) {
	var res struct {
		Result json.RawMessage `json:"result"`
		Error  *struct {
			Code    int    `json:"code"`
			Message string `json:"message"`
		} `json:"error"`
	}
	if strings.HasPrefix(contentType, "text/event-stream") {
		lines := bufio.NewScanner(bytes.NewReader(b))
		lines.Buffer(nil, len(b)+1)
		b = nil
		for lines.Scan() {
			if data, ok := bytes.CutPrefix(lines.Bytes(), []byte("data:")); ok && len(bytes.TrimSpace(data)) > 0 {
				b = bytes.Clone(data) // a JSON-RPC message is one line
			}
		}
	}
	if err := json.Unmarshal(b, &res); err != nil {
		return nil, contracts.Errorf(contracts.Unavailable, "the server's answer is no JSON-RPC response: %w", err)
	}
	if res.Error != nil {
		return nil, contracts.Errorf(rpcCode(res.Error.Code), "the server says: %.500s (%d)", res.Error.Message, res.Error.Code)
	}
	if res.Result == nil {
		return nil, contracts.Errorf(contracts.Unavailable, "the server's answer has neither a result nor an error")
	}
	return res.Result, nil
}

// rpcCode gives a code for an error of JSON-RPC.
func rpcCode(code int) contracts.Code {
	switch code {
	case codeParams, codeMalformed:
		return contracts.Malformed
	case codeNoMethod:
		return contracts.UnknownTool
	}
	return contracts.Unavailable
}
