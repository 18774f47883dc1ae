package api

import (
	"context"
	"encoding/json"
	"net/url"
)

// Limit is how often one caller may use a surface: Burst at once, then one more every
// EveryMS.
type Limit struct {
	Surface string        `json:"surface"`
	Burst   int64         `json:"burst"`
	EveryMS int64         `json:"every_ms"`
	Callers []LimitCaller `json:"callers,omitempty"` // whose bucket is not full now
}

// LimitCaller is who used a surface lately.
type LimitCaller struct {
	Subject string `json:"subject"` // a DID, owner, or nobody
	Left    int64  `json:"left"`    // how many at once, now
}

// Limits asks how often what may be done, and who is near a limit.
func (c *Client) Limits(ctx context.Context) (v []Limit, err error) {
	return v, c.call(ctx, "GET", "/v1/limits", nil, &v)
}

// State asks for the newest signed state record of a DID, as it is known here: what
// verifies its signatures without any node.
func (c *Client) State(ctx context.Context, did string) (v json.RawMessage, err error) {
	return v, c.call(ctx, "GET", "/v1/states/"+url.PathEscape(did), nil, &v)
}
