package api

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/talosprotocol/talos/contracts"
)

// Powers is what a node does about capabilities. Errors carry codes of contracts.
type Powers interface {
	Capabilities(ctx context.Context) (*Capabilities, error)
	// Grant gives a capability for use at this node, or, with a parent's id, part of one
	// that the node holds.
	Grant(ctx context.Context, r *contracts.GrantRequest, parent string) (*Granted, error)
	ImportCapability(ctx context.Context, chain string) (*Capability, error)
	RevokeCapability(ctx context.Context, id, why string) error
	ForgetCapability(ctx context.Context, id string) error
	ExplainCapability(ctx context.Context, r *contracts.ExplainRequest) (*Explanation, error)
	RequestCapability(ctx context.Context, r *contracts.CapabilityRequest) error
	CapabilityRequests(ctx context.Context) ([]CapabilityRequest, error)
	SettleRequest(ctx context.Context, id string, approve bool) (*Granted, error)
	Policy(ctx context.Context) (*contracts.Policy, error)
	SetPolicy(ctx context.Context, p *contracts.Policy) error
	Budgets(ctx context.Context) ([]Budget, error)
	Limits(ctx context.Context) ([]Limit, error)
	// State gives the signed state record of a DID, JSON.
	State(ctx context.Context, did string) (json.RawMessage, error)
}

// Budget is what an account has spent.
type Budget struct {
	Account string `json:"account"`
	Unit    string `json:"unit"`
	Used    int64  `json:"used"`
	Held    int64  `json:"held"` // by calls that run
}

// Capability is a token with those above it.
type Capability struct {
	ID          string    `json:"id"` // cap:<token id>
	Issuer      string    `json:"issuer"`
	Subject     string    `json:"subject"`
	Executor    string    `json:"executor"` // where it is good for something
	Scopes      []string  `json:"scopes"`
	Conditions  []string  `json:"conditions,omitempty"` // of all links, canonical JSON
	Delegations int64     `json:"delegations"`          // how many further tokens may follow
	From        time.Time `json:"from"`
	Until       time.Time `json:"until"`
	Links       int       `json:"links"`
	Chain       string    `json:"chain"` // the text to pass on
}

// Capabilities are those that a node holds and has given.
type Capabilities struct {
	Held  []Capability `json:"held"`
	Given []Capability `json:"given"`
}

// Granted is a capability that was given.
type Granted struct {
	Capability
	Delivered bool `json:"delivered"` // its subject's node has it
}

// Explanation is a decision, step by step.
type Explanation struct {
	Allowed bool   `json:"allowed"`
	Code    string `json:"code,omitempty"`
	Text    string `json:"text"`
}

// CapabilityRequest is a request that waits for the owner.
type CapabilityRequest struct {
	ID     string    `json:"id"`
	From   string    `json:"from"`
	Scopes []string  `json:"scopes"`
	Reason string    `json:"reason,omitempty"`
	Hours  int       `json:"hours"`
	At     time.Time `json:"at"`
}

func (s *Server) capabilityRoutes() map[string]route {
	n := s.node
	return map[string]route{
		"GET /v1/capabilities": {act: func(w http.ResponseWriter, r *http.Request) error {
			v, err := n.Capabilities(r.Context())
			return reply(w, v, err)
		}},
		"POST /v1/capabilities":                  {act: s.grant},
		"POST /v1/capabilities/{id}/delegations": {act: s.grant},
		"POST /v1/capabilities/held": {act: func(w http.ResponseWriter, r *http.Request) error {
			b, err := body(r)
			if err != nil {
				return err
			}
			v, err := n.ImportCapability(r.Context(), string(b))
			return reply(w, v, err)
		}},
		"DELETE /v1/capabilities/{id}": {act: func(w http.ResponseWriter, r *http.Request) error {
			return reply(w, struct{}{}, n.RevokeCapability(r.Context(), r.PathValue("id"), r.URL.Query().Get("why")))
		}},
		"DELETE /v1/capabilities/held/{id}": {act: func(w http.ResponseWriter, r *http.Request) error {
			return reply(w, struct{}{}, n.ForgetCapability(r.Context(), r.PathValue("id")))
		}},
		"POST /v1/capabilities/explanations": {act: func(w http.ResponseWriter, r *http.Request) error {
			b, err := body(r)
			if err != nil {
				return err
			}
			req, err := contracts.ParseExplainRequest(b)
			if err != nil {
				return err
			}
			v, err := n.ExplainCapability(r.Context(), req)
			return reply(w, v, err)
		}},
		"POST /v1/capability-requests": {act: func(w http.ResponseWriter, r *http.Request) error {
			b, err := body(r)
			if err != nil {
				return err
			}
			req, err := contracts.ParseCapabilityRequest(b)
			if err != nil {
				return err
			}
			return reply(w, struct{}{}, n.RequestCapability(r.Context(), req))
		}},
		"GET /v1/policy": {act: func(w http.ResponseWriter, r *http.Request) error {
			v, err := n.Policy(r.Context())
			return reply(w, v, err)
		}},
		"PUT /v1/policy": {reason: "requested", act: func(w http.ResponseWriter, r *http.Request) error {
			b, err := body(r)
			if err != nil {
				return err
			}
			p, err := contracts.ParsePolicy(b)
			if err != nil {
				return err
			}
			return reply(w, struct{}{}, n.SetPolicy(r.Context(), p))
		}},
		"GET /v1/limits": {act: func(w http.ResponseWriter, r *http.Request) error {
			v, err := n.Limits(r.Context())
			return reply(w, v, err)
		}},
		"GET /v1/states/{did}": {act: func(w http.ResponseWriter, r *http.Request) error {
			v, err := n.State(r.Context(), r.PathValue("did"))
			return reply(w, v, err)
		}},
		"GET /v1/budgets": {act: func(w http.ResponseWriter, r *http.Request) error {
			v, err := n.Budgets(r.Context())
			return reply(w, v, err)
		}},
		"GET /v1/capability-requests": {act: func(w http.ResponseWriter, r *http.Request) error {
			v, err := n.CapabilityRequests(r.Context())
			return reply(w, v, err)
		}},
		"POST /v1/capability-requests/{id}": {act: func(w http.ResponseWriter, r *http.Request) error {
			approve, err := strconv.ParseBool(r.URL.Query().Get("approve"))
			if err != nil {
				return contracts.Errorf(contracts.Malformed, "say approve=true or approve=false")
			}
			v, err := n.SettleRequest(r.Context(), r.PathValue("id"), approve)
			return reply(w, v, err)
		}},
	}
}

func (s *Server) grant(w http.ResponseWriter, r *http.Request) error {
	b, err := body(r)
	if err != nil {
		return err
	}
	req, err := contracts.ParseGrantRequest(b)
	if err != nil {
		return err
	}
	v, err := s.node.Grant(r.Context(), req, r.PathValue("id"))
	return reply(w, v, err)
}

// Policy asks for the policy in force.
func (c *Client) Policy(ctx context.Context) (v contracts.Policy, err error) {
	return v, c.call(ctx, "GET", "/v1/policy", nil, &v)
}

// SetPolicy replaces the policy.
func (c *Client) SetPolicy(ctx context.Context, p *contracts.Policy) error {
	return c.call(ctx, "PUT", "/v1/policy", p.AppendCanonical(nil), nil)
}

// Budgets asks what was spent.
func (c *Client) Budgets(ctx context.Context) (v []Budget, err error) {
	return v, c.call(ctx, "GET", "/v1/budgets", nil, &v)
}

// Capabilities asks for the capabilities of the node.
func (c *Client) Capabilities(ctx context.Context) (v Capabilities, err error) {
	return v, c.call(ctx, "GET", "/v1/capabilities", nil, &v)
}

// Grant has the node give a capability, or with a parent's id part of one.
func (c *Client) Grant(ctx context.Context, r *contracts.GrantRequest, parent string) (v Granted, err error) {
	path := "/v1/capabilities"
	if parent != "" {
		path += "/" + url.PathEscape(parent) + "/delegations"
	}
	return v, c.call(ctx, "POST", path, r.AppendCanonical(nil), &v)
}

// ImportCapability puts a capability into the node's wallet.
func (c *Client) ImportCapability(ctx context.Context, chain string) (v Capability, err error) {
	return v, c.call(ctx, "POST", "/v1/capabilities/held", []byte(chain), &v)
}

// RevokeCapability takes back what the node has given.
func (c *Client) RevokeCapability(ctx context.Context, id, why string) error {
	return c.call(ctx, "DELETE", "/v1/capabilities/"+url.PathEscape(id)+"?why="+url.QueryEscape(why), nil, nil)
}

// ForgetCapability takes a capability out of the wallet.
func (c *Client) ForgetCapability(ctx context.Context, id string) error {
	return c.call(ctx, "DELETE", "/v1/capabilities/held/"+url.PathEscape(id), nil, nil)
}

// ExplainCapability asks how the node would decide.
func (c *Client) ExplainCapability(ctx context.Context, r *contracts.ExplainRequest) (v Explanation, err error) {
	return v, c.call(ctx, "POST", "/v1/capabilities/explanations", r.AppendCanonical(nil), &v)
}

// RequestCapability has the node ask another one.
func (c *Client) RequestCapability(ctx context.Context, r *contracts.CapabilityRequest) error {
	return c.call(ctx, "POST", "/v1/capability-requests", r.AppendCanonical(nil), nil)
}

// CapabilityRequests lists what waits for the owner.
func (c *Client) CapabilityRequests(ctx context.Context) (v []CapabilityRequest, err error) {
	return v, c.call(ctx, "GET", "/v1/capability-requests", nil, &v)
}

// SettleRequest approves or declines a request.
func (c *Client) SettleRequest(ctx context.Context, id string, approve bool) (v Granted, err error) {
	return v, c.call(ctx, "POST", "/v1/capability-requests/"+url.PathEscape(id)+"?approve="+strconv.FormatBool(approve), nil, &v)
}
