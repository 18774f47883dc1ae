package api

import (
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/node/gateway/rawjson"
)

// Codes of errors in A2A's JSON-RPC.
const (
	codeTaskNotFound = -32001
	codeContentType  = -32005
	codeNoMethod     = -32601
	codeParams       = -32602

	maxAgentCall = 4 << 20
	maxAgentCard = 512 << 10 // with what the response around an extended one has
	maxHeader    = 512

	cardPath     = "/.well-known/agent-card.json"
	operCard     = "card"
	extendedCard = "GetExtendedAgentCard"
)

var errContentType error = contracts.Errorf(contracts.Malformed, "the content type is application/json")

func (s *Server) agentRoutes() map[string]route {
	return map[string]route{
		"GET /a2a/agents/{gateway}/{agent}" + cardPath: {parse: s.agentCard(func(w http.ResponseWriter, r *http.Request, u *Use) error {
			return s.localCard(w, r, u, localCard)
		})},
		// The bytes that the agent has signed.
		"GET /a2a/agents/{gateway}/{agent}/card.raw": {parse: s.agentCard(func(w http.ResponseWriter, r *http.Request, u *Use) error {
			return s.use(w, r, u, lastEvent)
		})},
		"POST /a2a/agents/{gateway}/{agent}": {max: maxAgentCall, parse: s.agent, fail: agentRefusal},
	}
}

// agentRefusal answers what is no JSON-RPC request that could be answered.
func agentRefusal(w http.ResponseWriter, err error) {
	status, code := statusOf(codeOf(err)), codeRefused
	switch {
	case errors.Is(err, errContentType):
		status, code = http.StatusUnsupportedMediaType, codeContentType
	case codeOf(err) == contracts.Malformed:
		code = codeMalformed
	case codeOf(err) == contracts.Conflict:
		status = http.StatusBadRequest
	}
	_ = write(w, status, agentError(json.RawMessage("null"), code, err))
}

// agentError is an error as A2A 1.0 has them: with google.rpc.ErrorInfo.
func agentError(id json.RawMessage, code int, err error) map[string]any {
	c := contracts.CodeOf(err)
	return map[string]any{"jsonrpc": "2.0", "id": id, "error": map[string]any{
		"code": code, "message": contracts.Message(err), "data": []any{map[string]any{
			"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": string(c), "domain": "talos",
			"metadata": map[string]string{"retryable": map[bool]string{true: "true", false: "false"}[c.Retryable()]},
		}},
	}}
}

// agentCode gives the code of an error of a call.
func agentCode(err error) int {
	switch contracts.CodeOf(err) {
	case contracts.NotFound:
		return codeTaskNotFound
	case contracts.UnknownTool:
		return codeNoMethod
	case contracts.Malformed:
		return codeParams
	}
	return codeRefused
}

func agentOf(r *http.Request) string { return r.PathValue("gateway") + "/" + r.PathValue("agent") }

// agentCard is a route that asks for a card.
func (s *Server) agentCard(answer func(http.ResponseWriter, *http.Request, *Use) error) func(*http.Request) (map[string]string, action, error) {
	return func(r *http.Request) (map[string]string, action, error) {
		u := &Use{Kind: "agent", Service: agentOf(r), Method: operCard, Repeatable: true}
		return map[string]string{"agent": u.Service, "operation": operCard}, func(w http.ResponseWriter, r *http.Request) error {
			return answer(w, r, u)
		}, nil
	}
}

// agent is the endpoint of one remote agent.
func (s *Server) agent(r *http.Request) (map[string]string, action, error) {
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		return nil, nil, errContentType
	}
	b, err := body(r)
	if err != nil {
		return nil, nil, err
	}
	o, err := rawjson.Parse(b)
	if err != nil {
		return nil, nil, contracts.Errorf(contracts.Malformed, "the body is one JSON-RPC request: %s", contracts.Message(err))
	}
	method, err := o.Text("method")
	if err != nil || method == "" || len(method) > 128 || !o.Has("id") {
		return nil, nil, contracts.Errorf(contracts.Malformed, "the body is one JSON-RPC request: it has a method and an id")
	}
	headers, err := agentHeaders(r)
	if err != nil {
		return nil, nil, err
	}
	op := contracts.A2AOperation(method)
	u := &Use{
		Kind: "agent", Service: agentOf(r), Method: method, ContentType: "application/json", Headers: headers, Body: b,
		Repeatable: op == "GetTask" || op == "ListTasks" || op == extendedCard,
	}
	id := json.RawMessage(o.Get("id"))
	return map[string]string{"agent": u.Service, "operation": op}, func(w http.ResponseWriter, r *http.Request) error {
		fail := func(err error) map[string]any { return agentError(id, agentCode(err), err) }
		if op != extendedCard {
			return s.useRPC(w, r, u, fail)
		}
		err := s.localCard(w, r, u, localResult)
		if err == nil {
			return nil
		}
		return told(w, err, fail)
	}, nil
}

// agentHeaders gives the headers that A2A has.
func agentHeaders(r *http.Request) (map[string]string, error) {
	out := map[string]string{}
	for _, name := range []string{"A2A-Version", "A2A-Extensions"} {
		v := strings.Join(r.Header.Values(name), ", ")
		if len(v) > maxHeader || strings.ContainsFunc(v, func(c rune) bool { return c < ' ' || c > '~' }) {
			return nil, contracts.Errorf(contracts.Malformed, "the header %s has more than %d bytes, or some that do not print", name, maxHeader)
		}
		if v != "" {
			out[strings.ToLower(name)] = v
		}
	}
	return out, nil
}

// localCard asks for a card, and answers with what edit makes of it for the loopback
// address.
func (s *Server) localCard(w http.ResponseWriter, r *http.Request, u *Use, edit func(raw []byte, endpoint string) ([]byte, error)) error {
	a, err := s.node.Use(r.Context(), u)
	if err != nil {
		return err
	}
	defer a.Body.Close() //nolint:errcheck // read, or of no use
	b, err := io.ReadAll(io.LimitReader(a.Body, maxAgentCard+1))
	record(r.Context(), a)
	if err != nil {
		return err
	}
	if len(b) > maxAgentCard {
		return contracts.Errorf(contracts.TooLarge, "the card has more than %d bytes", maxAgentCard)
	}
	gateway, name, _ := strings.Cut(u.Service, "/")
	if b, err = edit(b, "http://"+r.Host+"/a2a/agents/"+url.PathEscape(gateway)+"/"+url.PathEscape(name)); err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set(headerGateway, a.Gateway)
	w.Header().Set(headerRequest, a.Request)
	w.WriteHeader(a.Status)
	_, err = w.Write(b)
	return err
}

// localResult edits the card that is the result of a response; errors pass.
func localResult(raw []byte, endpoint string) ([]byte, error) {
	o, err := rawjson.Parse(raw)
	if err != nil || !o.Has("result") {
		return raw, nil
	}
	c, err := localCard(o.Get("result"), endpoint)
	return o.Set(map[string]string{"result": string(c)}), err
}

// localCard edits a card for programs of this machine: where it says how to reach the
// agent, it says the endpoint; what does not hold there is left out. All else stays.
func localCard(raw []byte, endpoint string) ([]byte, error) {
	bad := contracts.Errorf(contracts.Unavailable, "the agent's card is not as A2A says")
	o, err := rawjson.Parse(raw)
	if err != nil {
		return nil, bad
	}
	quoted, err := json.Marshal(endpoint)
	if err != nil {
		return nil, err
	}
	set := map[string]string{}
	if o.Has("supportedInterfaces") {
		var all []json.RawMessage
		if json.Unmarshal(o.Get("supportedInterfaces"), &all) != nil {
			return nil, bad
		}
		var ours []string
		for _, raw := range all {
			i, err := rawjson.Parse(raw)
			if err != nil {
				return nil, bad
			}
			if binding, _ := i.Text("protocolBinding"); binding == "JSONRPC" {
				ours = append(ours, string(i.Set(map[string]string{"url": string(quoted)})))
			}
		}
		set["supportedInterfaces"] = "[" + strings.Join(ours, ",") + "]"
	}
	if o.Has("url") { // A2A 0.3
		set["url"], set["preferredTransport"] = string(quoted), `"JSONRPC"`
	}
	if c, err := rawjson.Parse(o.Get("capabilities")); err == nil && c.Has("pushNotifications") {
		set["capabilities"] = string(c.Set(map[string]string{"pushNotifications": "false"}))
	}
	if o, err = rawjson.Parse(o.Set(set)); err != nil {
		return nil, bad
	}
	return o.Without("signatures", "securitySchemes", "securityRequirements", "security", "additionalInterfaces"), nil
}
