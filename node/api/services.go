package api

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
	"github.com/talosprotocol/talos/node/gate"
)

// Services is what a node does with the models, MCP servers and A2A agents of others, and
// with its own.
type Services interface {
	// Use makes a call. Whoever gets an answer closes its body.
	Use(ctx context.Context, u *Use) (*Answer, error)
	// Find looks services up by kind and name, or kind alone.
	Find(ctx context.Context, kind, name string) ([]Service, error)
	// Known gives the services of a kind that can be used without naming their gateway.
	Known(ctx context.Context, kind string) ([]Service, error)
	// SetSecret keeps a secret for upstreams in the keystore; nil deletes it.
	SetSecret(ctx context.Context, name string, value []byte) error
	// ExposedTools gives the tools of an MCP server that this node exposes, as they are now.
	ExposedTools(ctx context.Context, server string) ([]ExposedTool, error)
	// Reload reads the gateway's configuration again.
	Reload(ctx context.Context) ([]Service, error)
}

// ExposedTool is a tool of an MCP server that this node exposes.
type ExposedTool struct {
	Name   string          `json:"name"`
	Digest string          `json:"digest"` // of its description
	Read   bool            `json:"read"`
	Pinned bool            `json:"pinned"`         // its description was approved
	Held   string          `json:"held,omitempty"` // why it is held back
	Tool   json.RawMessage `json:"tool"`           // its description
}

// Use is a call of a service.
type Use struct {
	Kind        string // model, tool or agent
	Service     string // its name, or <did>/<name>
	Method      string
	ContentType string
	Headers     map[string]string // lower case
	Body        []byte
	Repeatable  bool // it may be done twice
	Key         string
}

// Answer is what a service answers.
type Answer struct {
	Status      int
	ContentType string
	Headers     map[string]string
	Body        io.ReadCloser
	Length      int64 // of the body; 0: not known
	Gateway     string
	Request     string // commitment to the request, as in the audit log
	// Receipt gives the gateway's receipt when the body has been read to its end; nil if
	// there is none, or not yet.
	Receipt func() *contracts.CallReceipt
}

// Service is one service of a gateway.
type Service struct {
	Gateway    string      `json:"gateway"`
	Region     string      `json:"region,omitempty"`
	Kind       string      `json:"kind"`
	Name       string      `json:"name"`
	About      string      `json:"about,omitempty"`
	Trusted    bool        `json:"trusted"` // prompts may go there
	Operations []Operation `json:"operations,omitempty"`
	PriceIn    int64       `json:"price_in,omitempty"` // millionths of a dollar for a million tokens
	PriceOut   int64       `json:"price_out,omitempty"`
	PriceCall  int64       `json:"price_call,omitempty"`
}

// Operation is one operation, tool or skill of a service.
type Operation struct {
	Name   string `json:"name"`
	Read   bool   `json:"read,omitempty"`
	Digest string `json:"digest,omitempty"`
}

const (
	maxPrompt = 8 << 20 // bytes of a request to a service

	headerGateway = "Talos-Gateway" // who answered
	headerRequest = "Talos-Request" // commitment to the request

	headerKey = "Idempotency-Key" // of a request: the same for each try of what must be done once
	maxKey    = 64
)

func (s *Server) serviceRoutes() map[string]route {
	return map[string]route{
		"POST /v1/chat/completions": s.model("chat", openAIFailure),
		"POST /v1/responses":        s.model("responses", openAIFailure),
		"POST /v1/embeddings":       s.model("embeddings", openAIFailure),
		"POST /v1/messages":         s.model("messages", anthropicFailure),
		"GET /v1/models":            {act: s.models, fail: openAIFailure},
		"GET /v1/services": {act: func(w http.ResponseWriter, r *http.Request) error {
			q := r.URL.Query()
			v, err := s.node.Find(r.Context(), q.Get("kind"), q.Get("name"))
			return reply(w, v, err)
		}},
		"GET /v1/exposures/tools/{server}": {act: func(w http.ResponseWriter, r *http.Request) error {
			v, err := s.node.ExposedTools(r.Context(), r.PathValue("server"))
			return reply(w, v, err)
		}},
		"PUT /v1/secrets/{name}": {act: func(w http.ResponseWriter, r *http.Request) error {
			b, err := body(r)
			if err != nil {
				return err
			}
			if len(b) == 0 {
				return contracts.Errorf(contracts.Malformed, "a secret is not empty")
			}
			return reply(w, struct{}{}, s.node.SetSecret(r.Context(), r.PathValue("name"), b))
		}},
		"DELETE /v1/secrets/{name}": {act: func(w http.ResponseWriter, r *http.Request) error {
			return reply(w, struct{}{}, s.node.SetSecret(r.Context(), r.PathValue("name"), nil))
		}},
		"POST /v1/services/reload": {act: func(w http.ResponseWriter, r *http.Request) error {
			v, err := s.node.Reload(r.Context())
			return reply(w, v, err)
		}},
	}
}

// headersOf are the headers of a request that services know.
var headersOf = []string{"anthropic-version", "anthropic-beta", "openai-beta"}

// model is a route of a model's API. The body passes as it is; of it only the model's
// name is read here.
func (s *Server) model(operation string, failure func(http.ResponseWriter, error)) route {
	return route{fail: failure, max: maxPrompt, parse: func(r *http.Request) (map[string]string, action, error) {
		b, err := body(r)
		if err != nil {
			return nil, nil, err
		}
		var named struct {
			Model string `json:"model"`
		}
		if err := json.Unmarshal(b, &named); err != nil {
			return nil, nil, contracts.Errorf(contracts.Malformed, "the request is no JSON object with the model as text")
		}
		if named.Model == "" || len(named.Model) > 192 {
			return nil, nil, contracts.Errorf(contracts.Malformed, "the request names no model; GET /v1/models lists them")
		}
		u := &Use{Kind: "model", Service: named.Model, Method: operation, ContentType: "application/json", Headers: known(r), Body: b, Repeatable: true}
		return map[string]string{"model": named.Model, "operation": operation}, func(w http.ResponseWriter, r *http.Request) error {
			return s.use(w, r, u, lastEvent)
		}, nil
	}}
}

// use makes a call and copies its answer, and has the gate record who answered what.
// last makes the event that ends a stream whose rest does not come.
func (s *Server) use(w http.ResponseWriter, r *http.Request, u *Use, last func(error) []byte) error {
	key, err := idempotencyKey(r)
	if err != nil {
		return err
	}
	u.Key = key
	a, err := s.node.Use(r.Context(), u)
	if err != nil {
		return err
	}
	err = pass(w, a, last)
	record(r.Context(), a)
	return err
}

// idempotencyKey gives the key under which a program wants a request to be done once.
func idempotencyKey(r *http.Request) (string, error) {
	key := r.Header.Get(headerKey)
	if len(key) > maxKey || strings.ContainsFunc(key, func(c rune) bool { return c <= ' ' || c > '~' }) {
		return "", contracts.Errorf(contracts.Malformed, "the header %s has at most %d bytes of ASCII that print, without spaces", headerKey, maxKey)
	}
	return key, nil
}

// record has the gate record who answered what.
func record(ctx context.Context, a *Answer) {
	res := result(ctx)
	if res == nil {
		return
	}
	res.Peer, res.RequestDigest = identity.DID(a.Gateway), a.Request
	if rc := a.Receipt(); rc != nil {
		res.ResultDigest, res.UnitsIn, res.UnitsOut = rc.Response, orZero(rc.UnitsIn), orZero(rc.UnitsOut)
		res.Used = gate.Amounts{gate.Micro: orZero(rc.CostMicro)}
	}
}

func orZero(n *int64) int64 {
	if n == nil {
		return 0
	}
	return *n
}

func known(r *http.Request) map[string]string {
	out := map[string]string{}
	for _, name := range headersOf {
		if v := r.Header.Get(name); v != "" && len(v) <= 512 {
			out[name] = v
		}
	}
	return out
}

// pass copies an answer to a local program, each part when it comes. Once it has begun an
// error can only end it: the connection is broken off, so that nobody takes a part for the
// whole.
func pass(w http.ResponseWriter, a *Answer, last func(error) []byte) error {
	defer a.Body.Close() //nolint:errcheck // read, or of no use
	for name, v := range a.Headers {
		w.Header().Set(name, v)
	}
	w.Header().Set("Content-Type", a.ContentType)
	w.Header().Set(headerGateway, a.Gateway)
	w.Header().Set(headerRequest, a.Request)
	if a.Length > 0 {
		w.Header().Set("Content-Length", strconv.FormatInt(a.Length, 10))
	}
	w.WriteHeader(a.Status)
	c := http.NewResponseController(w)
	buf := make([]byte, 32<<10)
	streamed := strings.HasPrefix(a.ContentType, "text/event-stream")
	for {
		n, err := a.Body.Read(buf)
		if n > 0 {
			if _, e := w.Write(buf[:n]); e != nil {
				return broken{contracts.Errorf(contracts.Unavailable, "the program went away: %w", e), false}
			}
			if streamed {
				_ = c.Flush() // a write that follows fails if it is gone
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			if streamed {
				_, _ = w.Write(last(err))
			}
			return broken{err, streamed}
		}
	}
}

// broken is an error of an answer that has begun: its status is out.
type broken struct {
	error
	told bool // the reader knows, by the last event of a stream
}

func (b broken) Unwrap() error { return b.error }

// lastEvent tells the reader of a stream why it ends before its end.
func lastEvent(err error) []byte {
	var b bytes.Buffer
	b.WriteString("event: error\ndata: ")
	_ = json.NewEncoder(&b).Encode(map[string]any{"type": "error", "error": problem(err)}) // of texts: cannot fail
	b.WriteString("\n")
	return b.Bytes()
}

func problem(err error) map[string]any {
	c := contracts.CodeOf(err)
	kind := "api_error"
	switch statusOf(c) {
	case http.StatusBadRequest, http.StatusNotFound, http.StatusRequestEntityTooLarge, http.StatusConflict:
		kind = "invalid_request_error"
	case http.StatusUnauthorized:
		kind = "authentication_error"
	case http.StatusForbidden:
		kind = "permission_error"
	case http.StatusTooManyRequests:
		kind = "rate_limit_error"
	case http.StatusPaymentRequired:
		kind = "insufficient_quota"
	}
	return map[string]any{"message": contracts.Message(err), "type": kind, "param": nil, "code": string(c)}
}

// openAIFailure answers as OpenAI's API does.
func openAIFailure(w http.ResponseWriter, err error) {
	_ = write(w, statusOf(codeOf(err)), map[string]any{"error": problem(err)})
}

// anthropicFailure answers as Anthropic's API does.
func anthropicFailure(w http.ResponseWriter, err error) {
	_ = write(w, statusOf(codeOf(err)), map[string]any{"type": "error", "error": problem(err)})
}

// models lists the models that this node's programs can use, as OpenAI's API does.
func (s *Server) models(w http.ResponseWriter, r *http.Request) error {
	all, err := s.node.Known(r.Context(), "model")
	if err != nil {
		return err
	}
	type entry struct {
		ID      string `json:"id"`
		Object  string `json:"object"`
		Created int64  `json:"created"`
		OwnedBy string `json:"owned_by"`
	}
	out := []entry{}
	seen := map[string]bool{}
	for _, m := range all {
		if m.Trusted && !seen[m.Name] {
			seen[m.Name] = true
			out = append(out, entry{ID: m.Name, Object: "model", OwnedBy: m.Gateway})
		}
	}
	return write(w, http.StatusOK, map[string]any{"object": "list", "data": out})
}

// FindServices looks services up by kind and name, or kind alone.
func (c *Client) FindServices(ctx context.Context, kind, name string) (v []Service, err error) {
	return v, c.call(ctx, "GET", "/v1/services?kind="+url.QueryEscape(kind)+"&name="+url.QueryEscape(name), nil, &v)
}

// ReloadServices has the node read again what it offers and whom it trusts.
func (c *Client) ReloadServices(ctx context.Context) (v []Service, err error) {
	return v, c.call(ctx, "POST", "/v1/services/reload", nil, &v)
}

// SetSecret has the node keep a secret for upstreams; an empty one deletes it.
func (c *Client) SetSecret(ctx context.Context, name string, value []byte) error {
	if len(value) == 0 {
		return c.call(ctx, "DELETE", "/v1/secrets/"+url.PathEscape(name), nil, nil)
	}
	return c.call(ctx, "PUT", "/v1/secrets/"+url.PathEscape(name), value, nil)
}

// ExposedTools gives the tools of an MCP server that the node exposes.
func (c *Client) ExposedTools(ctx context.Context, server string) (v []ExposedTool, err error) {
	return v, c.call(ctx, "GET", "/v1/exposures/tools/"+url.PathEscape(server), nil, &v)
}
