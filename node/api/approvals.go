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

// Governance is what a node does about calls that must be approved, and about those that
// are done once.
type Governance interface {
	Approvals(ctx context.Context) ([]Approval, error)
	// Approval gives one with its whole body.
	Approval(ctx context.Context, id string) (*Approval, error)
	Decide(ctx context.Context, id string, approve bool, why string) (*Approval, error)
	// Executions gives records of calls that change something, the newest first, of those
	// before an id; all states if state is empty.
	Executions(ctx context.Context, state, before string, limit int) ([]json.RawMessage, error)
	Execution(ctx context.Context, id string) (json.RawMessage, error)
	// SettleExecution says what became of an execution whose outcome is unknown.
	SettleExecution(ctx context.Context, id string, done bool) (json.RawMessage, error)
	// Receipts gives the newest receipts of a side (caller or executor, both if empty), of
	// calls before an id.
	Receipts(ctx context.Context, side, before string, limit int) ([]contracts.KeptReceipt, error)
	// ReceiptFile gives the same with what a stranger needs to check them.
	ReceiptFile(ctx context.Context, side, before string, limit int) (json.RawMessage, error)
}

// Approval is a call that waits until somebody approves it.
type Approval struct {
	ID      string    `json:"id"`
	Asker   string    `json:"asker"`  // the node that does it
	Caller  string    `json:"caller"` // who wants it done
	Surface string    `json:"surface"`
	Access  string    `json:"access"`
	Service string    `json:"service,omitempty"`
	Method  string    `json:"method,omitempty"`
	At      time.Time `json:"at"`
	Until   time.Time `json:"until"`
	Verdict string    `json:"verdict,omitempty"` // decided, and not used yet
	Why     string    `json:"why,omitempty"`
	Text    string    `json:"text,omitempty"`      // of the request's body, if it is UTF-8
	Body    string    `json:"body_b64u,omitempty"` // otherwise
	Cut     bool      `json:"cut,omitempty"`       // only its beginning
}

const (
	maxExecutions = 500
	maxReceipts   = 20_000
)

// page reads how many are wanted.
func page(r *http.Request, most int) (limit int, err error) {
	text := r.URL.Query().Get("limit")
	if text == "" {
		return 50, nil
	}
	if limit, err = strconv.Atoi(text); err != nil || limit < 1 || limit > most {
		return 0, contracts.Errorf(contracts.Malformed, "limit is 1 to %d", most)
	}
	return limit, nil
}

func (s *Server) governanceRoutes() map[string]route {
	n := s.node
	return map[string]route{
		"GET /v1/approvals": {act: func(w http.ResponseWriter, r *http.Request) error {
			v, err := n.Approvals(r.Context())
			return reply(w, v, err)
		}},
		"GET /v1/approvals/{id}": {act: func(w http.ResponseWriter, r *http.Request) error {
			v, err := n.Approval(r.Context(), r.PathValue("id"))
			return reply(w, v, err)
		}},
		"POST /v1/approvals/{id}": {act: func(w http.ResponseWriter, r *http.Request) error {
			yes, err := strconv.ParseBool(r.URL.Query().Get("approve"))
			if err != nil {
				return contracts.Errorf(contracts.Malformed, "say approve=true or approve=false")
			}
			v, err := n.Decide(r.Context(), r.PathValue("id"), yes, r.URL.Query().Get("why"))
			return reply(w, v, err)
		}},
		"GET /v1/executions": {act: func(w http.ResponseWriter, r *http.Request) error {
			q := r.URL.Query()
			limit, err := page(r, maxExecutions)
			if err != nil {
				return err
			}
			v, err := n.Executions(r.Context(), q.Get("state"), q.Get("before"), limit)
			return reply(w, v, err)
		}},
		"GET /v1/receipts": {act: func(w http.ResponseWriter, r *http.Request) error {
			q := r.URL.Query()
			limit, err := page(r, maxExecutions)
			if err != nil {
				return err
			}
			v, err := n.Receipts(r.Context(), q.Get("side"), q.Get("before"), limit)
			return reply(w, v, err)
		}},
		"GET /v1/receipts/file": {act: func(w http.ResponseWriter, r *http.Request) error {
			q := r.URL.Query()
			limit, err := page(r, maxReceipts)
			if err != nil {
				return err
			}
			v, err := n.ReceiptFile(r.Context(), q.Get("side"), q.Get("before"), limit)
			return reply(w, v, err)
		}},
		"GET /v1/executions/{id}": {act: func(w http.ResponseWriter, r *http.Request) error {
			v, err := n.Execution(r.Context(), r.PathValue("id"))
			return reply(w, v, err)
		}},
		"POST /v1/executions/{id}": {act: func(w http.ResponseWriter, r *http.Request) error {
			done, err := strconv.ParseBool(r.URL.Query().Get("done"))
			if err != nil {
				return contracts.Errorf(contracts.Malformed, "say done=true or done=false")
			}
			v, err := n.SettleExecution(r.Context(), r.PathValue("id"), done)
			return reply(w, v, err)
		}},
	}
}

// Approvals gives what waits for the owner.
func (c *Client) Approvals(ctx context.Context) (v []Approval, err error) {
	return v, c.call(ctx, "GET", "/v1/approvals", nil, &v)
}

// Approval gives one of them with its whole body.
func (c *Client) Approval(ctx context.Context, id string) (v Approval, err error) {
	return v, c.call(ctx, "GET", "/v1/approvals/"+url.PathEscape(id), nil, &v)
}

// Decide approves or denies one.
func (c *Client) Decide(ctx context.Context, id string, approve bool, why string) (v Approval, err error) {
	return v, c.call(ctx, "POST", "/v1/approvals/"+url.PathEscape(id)+"?approve="+strconv.FormatBool(approve)+"&why="+url.QueryEscape(why), nil, &v)
}

// Executions gives records of calls that change something, the newest first.
func (c *Client) Executions(ctx context.Context, state, before string, limit int) (v []contracts.Execution, err error) {
	return v, c.call(ctx, "GET", "/v1/executions?state="+url.QueryEscape(state)+"&before="+url.QueryEscape(before)+"&limit="+strconv.Itoa(limit), nil, &v)
}

// Execution gives one of them.
func (c *Client) Execution(ctx context.Context, id string) (v contracts.Execution, err error) {
	return v, c.call(ctx, "GET", "/v1/executions/"+url.PathEscape(id), nil, &v)
}

// SettleExecution says what became of one whose outcome is unknown.
func (c *Client) SettleExecution(ctx context.Context, id string, done bool) (v contracts.Execution, err error) {
	return v, c.call(ctx, "POST", "/v1/executions/"+url.PathEscape(id)+"?done="+strconv.FormatBool(done), nil, &v)
}

// Receipts gives the newest receipts of a side (caller or executor, both if empty), of
// calls before an id.
func (c *Client) Receipts(ctx context.Context, side, before string, limit int) (v []contracts.KeptReceipt, err error) {
	return v, c.call(ctx, "GET", "/v1/receipts?"+receiptQuery(side, before, limit), nil, &v)
}

// ReceiptFile gives the same as a file for a stranger.
func (c *Client) ReceiptFile(ctx context.Context, side, before string, limit int) (v json.RawMessage, err error) {
	return v, c.call(ctx, "GET", "/v1/receipts/file?"+receiptQuery(side, before, limit), nil, &v)
}

func receiptQuery(side, before string, limit int) string {
	return url.Values{"side": {side}, "before": {before}, "limit": {strconv.Itoa(limit)}}.Encode()
}
