package api

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/talosprotocol/talos/contracts"
)

// Client speaks to a node over its unix socket.
type Client struct {
	http *http.Client
}

// Dial makes a client of the node that listens on a socket. It does not connect yet.
func Dial(socket string) *Client {
	return &Client{&http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}}}}
}

// call does one request and decodes the answer into out, unless out is nil. Errors
// of the node come back with their codes; Unavailable if no node listens.
func (c *Client) call(ctx context.Context, method, path string, in []byte, out any) error {
	b, err := c.raw(ctx, method, path, in)
	if err != nil || out == nil {
		return err
	}
	if err := json.Unmarshal(b, out); err != nil {
		return contracts.Errorf(contracts.Malformed, "the node's answer: %w", err)
	}
	return nil
}

// Open does one request and gives the answer as it comes, for streams; whoever gets one
// closes its body. An answer that is an error of the node is an error here.
func (c *Client) Open(ctx context.Context, method, path string, in []byte) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://talos"+path, bytes.NewReader(in))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, contracts.Errorf(contracts.Unavailable, "no node is running in this home; start it with: talos up (%w)", err)
	}
	if resp.StatusCode < 300 {
		return resp, nil
	}
	defer resp.Body.Close() //nolint:errcheck // read only
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return nil, contracts.Errorf(contracts.Unavailable, "the node went away: %w", err)
	}
	return nil, failureOf(resp.StatusCode, b)
}

func (c *Client) raw(ctx context.Context, method, path string, in []byte) ([]byte, error) {
	resp, err := c.Open(ctx, method, path, in)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close() //nolint:errcheck // read only
	b, err := io.ReadAll(io.LimitReader(resp.Body, 64<<20))
	if err != nil {
		return nil, contracts.Errorf(contracts.Unavailable, "the node went away: %w", err)
	}
	return b, nil
}

func failureOf(status int, b []byte) error {
	var f Failure
	if json.Unmarshal(b, &f) == nil && f.Code != "" {
		return &contracts.Error{Code: contracts.Code(f.Code), Msg: f.Message}
	}
	var p struct { // of the models' APIs
		Error struct {
			Code    string `json:"code"`
			Message string `json:"message"`
		} `json:"error"`
	}
	if json.Unmarshal(b, &p) == nil && p.Error.Message != "" {
		code := contracts.Code(p.Error.Code)
		if code == "" {
			code = contracts.Malformed // an upstream's own words about the request
		}
		return &contracts.Error{Code: code, Msg: p.Error.Message}
	}
	var r Resolution
	if json.Unmarshal(b, &r) == nil {
		switch {
		case status == http.StatusGone:
			return contracts.Errorf(contracts.Deactivated, "the DID was deactivated by its owner")
		case r.Resolution.Error != nil:
			return contracts.Errorf(map[int]contracts.Code{400: contracts.InvalidDID, 404: contracts.NotFound, 501: contracts.MethodUnsupported}[status], "%s", r.Resolution.Error.Detail)
		}
	}
	return contracts.Errorf(contracts.Internal, "the node answers %d", status)
}

// Status asks for the node's status.
func (c *Client) Status(ctx context.Context) (v Status, err error) {
	return v, c.call(ctx, "GET", "/v1/status", nil, &v)
}

// Peers asks for the connected peers.
func (c *Client) Peers(ctx context.Context) (v []Peer, err error) {
	return v, c.call(ctx, "GET", "/v1/peers", nil, &v)
}

// Resolve asks for a DID.
func (c *Client) Resolve(ctx context.Context, did string, fresh bool) (v Resolution, err error) {
	return v, c.call(ctx, "GET", "/1.0/identifiers/"+url.PathEscape(did)+"?fresh="+strconv.FormatBool(fresh), nil, &v)
}

// Send sends a text.
func (c *Client) Send(ctx context.Context, to, text string) (v Sent, err error) {
	return c.SendWait(ctx, to, text, 0)
}

// SendWait is Send, and waits up to wait, in whole seconds up to 60, until the
// recipient's node has the message.
func (c *Client) SendWait(ctx context.Context, to, text string, wait time.Duration) (v Sent, err error) {
	r := contracts.SendRequest{To: to, Text: text}
	return v, c.call(ctx, "POST", "/a2a/messages?wait="+strconv.Itoa(int(wait/time.Second)), r.AppendCanonical(nil), &v)
}

// Inbox asks for messages after a cursor and waits for one.
func (c *Client) Inbox(ctx context.Context, after uint64, wait time.Duration) (v []Message, err error) {
	q := "?after=" + strconv.FormatUint(after, 10) + "&wait=" + strconv.Itoa(int(wait/time.Second))
	return v, c.call(ctx, "GET", "/a2a/messages"+q, nil, &v)
}

// Acknowledge removes messages up to a cursor.
func (c *Client) Acknowledge(ctx context.Context, upTo uint64) error {
	return c.call(ctx, "POST", "/a2a/messages/acknowledge?up_to="+strconv.FormatUint(upTo, 10), nil, nil)
}

// Sessions asks for the sessions.
func (c *Client) Sessions(ctx context.Context) (v []Session, err error) {
	return v, c.call(ctx, "GET", "/a2a/sessions", nil, &v)
}

// RotateSession replaces the session with a DID.
func (c *Client) RotateSession(ctx context.Context, did string) error {
	return c.call(ctx, "POST", "/a2a/sessions/"+url.PathEscape(did)+"/rotate", nil, nil)
}

// CloseSession ends the session with a DID.
func (c *Client) CloseSession(ctx context.Context, did string) error {
	return c.call(ctx, "DELETE", "/a2a/sessions/"+url.PathEscape(did), nil, nil)
}

// Events asks for a page of the audit log; with last, for its last events.
func (c *Client) Events(ctx context.Context, after uint64, limit int, last bool) (v Events, err error) {
	q := "?after=" + strconv.FormatUint(after, 10) + "&limit=" + strconv.Itoa(limit) + "&last=" + strconv.FormatBool(last)
	return v, c.call(ctx, "GET", "/v1/audit/events"+q, nil, &v)
}

// Prove asks for the proof bundle of an event, byte for byte.
func (c *Client) Prove(ctx context.Context, index uint64, sealed bool) ([]byte, error) {
	return c.raw(ctx, "GET", "/v1/audit/events/"+strconv.FormatUint(index, 10)+"/proof?sealed="+strconv.FormatBool(sealed), nil)
}

// Evidence asks for the evidence against logs that the node holds.
func (c *Client) Evidence(ctx context.Context) (v map[string]json.RawMessage, err error) {
	return v, c.call(ctx, "GET", "/v1/audit/evidence", nil, &v)
}

// Anchoring asks an anchor where its epochs and chains stand, with the newest of each.
func (c *Client) Anchoring(ctx context.Context, limit int, v any) error {
	return c.call(ctx, "GET", "/v1/anchor?limit="+strconv.Itoa(limit), nil, v)
}

// RotateKeys rotates the node's DID.
func (c *Client) RotateKeys(ctx context.Context, recovery string, compromised bool) (v Status, err error) {
	q := "?recovery=" + url.QueryEscape(recovery) + "&compromised=" + strconv.FormatBool(compromised)
	return v, c.call(ctx, "POST", "/v1/keys/rotate"+q, nil, &v)
}

// Deactivate ends the node's DID.
func (c *Client) Deactivate(ctx context.Context, recovery string) (v Status, err error) {
	return v, c.call(ctx, "POST", "/v1/keys/deactivate?recovery="+url.QueryEscape(recovery), nil, &v)
}
