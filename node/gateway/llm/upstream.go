package llm

import (
	"bytes"
	"context"
	"errors"
	"io"
	"mime"
	"net/http"
	"strings"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/node/call"
	"github.com/talosprotocol/talos/node/gate"
	"github.com/talosprotocol/talos/node/gateway"
	"github.com/talosprotocol/talos/node/gateway/outbound"
)

const (
	maxAnswer  = 32 << 20 // of an answer that is not streamed, in bytes
	maxRefusal = 64 << 10 // of an upstream's error
)

var paths = map[string]string{Chat: "/chat/completions", Responses: "/responses", Embeddings: "/embeddings", Messages: "/messages"}

// passed are the headers of a request that an operation knows.
var passed = map[string][]string{Messages: {"anthropic-version", "anthropic-beta"}, Chat: {"openai-beta"}, Responses: {"openai-beta"}, Embeddings: nil}

const anthropicVersion = "2023-06-01"

// upstreamCall is one call of a model.
type upstreamCall struct {
	d     *Driver
	m     *model
	r     *request
	asked *gateway.Asked
	key   []byte
	body  []byte // as it goes upstream
}

// do makes the call. What the upstream has not seen has not begun.
func (c *upstreamCall) do(ctx context.Context, p *gate.Pass, w *gateway.Reply) (gateway.Usage, error) {
	first := c.d.limits.Whole
	if c.r.stream {
		first = c.d.limits.First
	}
	ctx, dog, stop := outbound.Watch(ctx, first)
	defer stop()
	resp, err := c.send(ctx)
	if err != nil {
		return gateway.Usage{}, err
	}
	defer resp.Body.Close() //nolint:errcheck // read, or of no use
	kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	m := newMeter(c.body)
	switch {
	case resp.StatusCode != http.StatusOK:
		return gateway.Usage{}, c.refused(ctx, resp, w)
	case kind == "text/event-stream":
		return c.stream(ctx, dog, resp, m, p, w)
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err == nil && len(b) > maxAnswer {
		err = contracts.Errorf(contracts.TooLarge, "the upstream's answer has more than %d bytes", maxAnswer)
	}
	if err != nil {
		m.note(len(b))
		return m.usage(c.m.price), c.gone(ctx, err)
	}
	m.whole(c.r.op, b)
	u := m.usage(c.m.price)
	if err := w.Header(http.StatusOK, clean(resp.Header.Get("Content-Type")), int64(len(b))); err != nil {
		return u, err
	}
	_, err = w.Write(b)
	return u, err
}

// clean gives a content type that a header may have.
func clean(s string) string {
	if len(s) > call.MaxName || strings.ContainsFunc(s, func(c rune) bool { return c < ' ' || c > '~' }) {
		return "application/octet-stream"
	}
	return s
}

// send sends the request and gives the answer's header.
func (c *upstreamCall) send(ctx context.Context) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.m.URL+paths[c.r.op], bytes.NewReader(c.body))
	if err != nil {
		return nil, call.NotBegun(contracts.Errorf(contracts.ConfigInvalid, "the address of the model %s is not right", c.m.Name))
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "talos")
	for _, name := range passed[c.r.op] {
		if v := c.asked.Header(name); v != "" {
			req.Header.Set(name, v)
		}
	}
	if c.m.API == "anthropic" {
		if req.Header.Get("Anthropic-Version") == "" {
			req.Header.Set("Anthropic-Version", anthropicVersion)
		}
		if c.key != nil {
			req.Header.Set("X-Api-Key", string(c.key))
		}
	} else if c.key != nil {
		req.Header.Set("Authorization", "Bearer "+string(c.key))
	}
	resp, err := c.m.client.Do(req)
	if err != nil {
		return nil, c.gone(ctx, err)
	}
	return resp, nil
}

// gone gives the error of a call that broke off. Its cause stays at home: it names hosts.
func (c *upstreamCall) gone(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	switch contracts.CodeOf(err) {
	case contracts.Forbidden: // of the guard of addresses
		return call.NotBegun(contracts.Errorf(contracts.Unavailable, "the model %s is not reached: %s", c.m.Name, contracts.Message(err)))
	case contracts.TooLarge:
		return err
	}
	var op interface{ Timeout() bool }
	if errors.As(err, &op) && op.Timeout() {
		return errUpstream("the upstream of the model %s took too long", c.m.Name)
	}
	return errUpstream("the upstream of the model %s is not reached, or broke off", c.m.Name)
}

// refused passes an upstream's refusal of the request on; that of the gateway itself, or
// of everybody, is the gateway's own failure, and another one may do better.
func (c *upstreamCall) refused(ctx context.Context, resp *http.Response, w *gateway.Reply) error {
	switch s := resp.StatusCode; {
	case s == http.StatusUnauthorized || s == http.StatusForbidden || s == http.StatusPaymentRequired:
		return call.NotBegun(errUpstream("the upstream of the model %s refuses the gateway (status %d); its key may be wrong or its account empty", c.m.Name, s))
	case s == http.StatusTooManyRequests:
		return call.NotBegun(contracts.Errorf(contracts.RateLimited, "the upstream of the model %s is asked too often; try later", c.m.Name))
	case s >= 500 || s < 400:
		return errUpstream("the upstream of the model %s answered with status %d", c.m.Name, s)
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxRefusal))
	if err != nil {
		return c.gone(ctx, err)
	}
	if err := w.Header(resp.StatusCode, clean(resp.Header.Get("Content-Type")), int64(len(b))); err != nil {
		return err
	}
	_, err = w.Write(b)
	return err
}
