package a2a

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"mime"
	"net/http"
	"strings"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/node/call"
	"github.com/talosprotocol/talos/node/gateway"
	"github.com/talosprotocol/talos/node/gateway/outbound"
	"github.com/talosprotocol/talos/node/gateway/rawjson"
	"github.com/talosprotocol/talos/node/gateway/sse"
)

const (
	maxAnswer  = 16 << 20 // of an answer that is not streamed, in bytes
	maxRefusal = 64 << 10 // of an agent's error
	maxHeader  = 512

	headerVersion    = "a2a-version"
	headerExtensions = "a2a-extensions"

	eventStream = "text/event-stream"
)

// authorize adds the agent's key. One that is missing is an error, never left out.
func (a *agent) authorize(req *http.Request) error {
	req.Header.Set("User-Agent", "talos")
	if a.Key == "" {
		return nil
	}
	secret := a.d.secret(a.Key)
	if len(secret) == 0 {
		return contracts.Errorf(contracts.Unavailable, "the gateway has no secret %s for the agent %s; its owner stores it with: talos secret set %s", a.Key, a.Name, a.Key)
	}
	req.Header.Set("Authorization", "Bearer "+string(secret))
	return nil
}

// forward makes the request upstream. What the agent has not seen has not begun.
func (r *request) forward(ctx context.Context, w *gateway.Reply) (gateway.Usage, error) {
	if err := r.mine(); err != nil {
		return gateway.Usage{}, call.NotBegun(err)
	}
	req, err := r.prepare(ctx)
	if err != nil {
		return gateway.Usage{}, call.NotBegun(err)
	}
	first := r.a.d.limits.Whole
	if r.streamed() {
		first = r.a.d.limits.First
	}
	ctx, dog, stop := outbound.Watch(ctx, first)
	defer stop()
	resp, err := r.a.client.Do(req.WithContext(ctx))
	if err != nil {
		return gateway.Usage{}, r.a.gone(ctx, err)
	}
	defer resp.Body.Close() //nolint:errcheck // read, or of no use
	if resp.StatusCode != http.StatusOK {
		return gateway.Usage{}, r.refused(ctx, resp, w)
	}
	used := gateway.Usage{CostMicro: r.price()}
	kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if kind == eventStream && r.streamed() {
		return used, r.stream(ctx, dog, resp, w)
	}
	return used, r.whole(ctx, resp, w) // some agents say of JSON that it is text
}

// prepare makes the HTTP request.
func (r *request) prepare(ctx context.Context) (*http.Request, error) {
	c, err := r.a.card(ctx)
	if err != nil {
		return nil, err
	}
	endpoint, err := r.a.endpoint(c, r.version())
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequest(http.MethodPost, endpoint, bytes.NewReader(r.asked.Body))
	if err != nil {
		return nil, contracts.Errorf(contracts.Unavailable, "the address of the agent %s is not right", r.a.Name)
	}
	if err := r.a.authorize(req); err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json, "+eventStream)
	for _, name := range []string{headerVersion, headerExtensions} {
		if v := r.asked.Header(name); v != "" {
			req.Header.Set(name, v)
		}
	}
	return req, nil
}

// headers gives of an answer those that a caller knows.
func headers(resp *http.Response) []contracts.CallHeader {
	var out []contracts.CallHeader
	for _, name := range []string{headerVersion, headerExtensions} {
		v := strings.Join(resp.Header.Values(name), ", ")
		if v != "" && len(v) <= maxHeader && !strings.ContainsFunc(v, func(c rune) bool { return c < ' ' || c > '~' }) {
			out = append(out, contracts.CallHeader{Name: name, Value: v})
		}
	}
	return out
}

// whole passes an answer on that is one response.
func (r *request) whole(ctx context.Context, resp *http.Response, w *gateway.Reply) error {
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return r.a.gone(ctx, err)
	}
	if len(b) > maxAnswer {
		return contracts.Errorf(contracts.TooLarge, "the answer of the agent %s has more than %d bytes", r.a.Name, maxAnswer)
	}
	if r.op == listTasks {
		b, err = r.own(b)
	} else {
		err = r.take(b)
	}
	if err != nil {
		return err
	}
	if err := w.Header(http.StatusOK, "application/json", int64(len(b)), headers(resp)...); err != nil {
		return err
	}
	_, err = w.Write(b)
	return err
}

// stream copies events, each when it comes.
func (r *request) stream(ctx context.Context, dog *outbound.Watchdog, resp *http.Response, w *gateway.Reply) error {
	if err := w.Header(http.StatusOK, eventStream, 0, headers(resp)...); err != nil {
		return err
	}
	if err := w.Flush(); err != nil {
		return err
	}
	in := bufio.NewReaderSize(resp.Body, 16<<10)
	for {
		event, err := sse.Read(in)
		if len(event) > 0 {
			dog.Alive(r.a.d.limits.Idle)
			if err := r.pass(w, event, in.Buffered() == 0); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return r.a.gone(ctx, err)
		}
	}
}

// pass passes an event on if it is the caller's.
func (r *request) pass(w *gateway.Reply, event []byte, flush bool) error {
	if data := sse.Data(event); len(bytes.TrimSpace(data)) > 0 {
		if err := r.take(data); err != nil {
			return err
		}
	}
	if _, err := w.Write(event); err != nil || !flush {
		return err
	}
	return w.Flush() // what comes at once leaves at once
}

func (a *agent) wrong(what string) error {
	return contracts.Errorf(contracts.Unavailable, "the agent %s does not answer as A2A says: %s", a.Name, what)
}

// gone gives the error of a call that broke off. Its cause stays at home: it names hosts.
func (a *agent) gone(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	switch contracts.CodeOf(err) {
	case contracts.Forbidden: // of the guard of addresses
		return call.NotBegun(contracts.Errorf(contracts.Unavailable, "the agent %s is not reached: %s", a.Name, contracts.Message(err)))
	case contracts.TooLarge:
		return err
	}
	return contracts.Errorf(contracts.Unavailable, "the agent %s is not reached, or broke off", a.Name)
}

// refused passes an agent's refusal of the request on; that of the gateway itself, or of
// everybody, is the gateway's own failure.
func (r *request) refused(ctx context.Context, resp *http.Response, w *gateway.Reply) error {
	switch s := resp.StatusCode; {
	case s == http.StatusUnauthorized || s == http.StatusForbidden || s == http.StatusPaymentRequired:
		return call.NotBegun(contracts.Errorf(contracts.Unavailable, "the agent %s refuses the gateway (status %d); its key may be wrong", r.a.Name, s))
	case s == http.StatusTooManyRequests:
		return call.NotBegun(contracts.Errorf(contracts.RateLimited, "the agent %s is asked too often; try later", r.a.Name))
	case s >= 500 || s < 400:
		return contracts.Errorf(contracts.Unavailable, "the agent %s answered with status %d", r.a.Name, s)
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxRefusal))
	if err != nil {
		return r.a.gone(ctx, err)
	}
	if _, err := rawjson.Parse(b); err != nil {
		return contracts.Errorf(contracts.Unavailable, "the agent %s answered with status %d", r.a.Name, resp.StatusCode)
	}
	if err := r.take(b); err != nil {
		return err
	}
	if err := w.Header(resp.StatusCode, "application/json", int64(len(b))); err != nil {
		return err
	}
	_, err = w.Write(b)
	return err
}
