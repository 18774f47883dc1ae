package mcp

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"mime"
	"net/http"
	"sync"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/node/gateway/outbound"
)

// remote is a streamable HTTP server as upstream: each message is a POST, what comes back
// goes where a program's output would.
type remote struct {
	url    string
	key    []byte
	client *http.Client
	limit  int

	ctx    context.Context
	cancel context.CancelFunc
	work   sync.WaitGroup
	came   chan []byte

	mu      sync.Mutex
	session string // of a server of 2025-11-25 and before
	version string // negotiated, sent as a header
}

func (d *Driver) dialURL(s *server) (wire, error) {
	r := &remote{url: s.URL, client: outbound.Client(s.Private != nil && *s.Private), limit: s.limit, came: make(chan []byte, 64)}
	if s.Key != "" {
		if r.key = d.secret(s.Key); len(r.key) == 0 {
			return nil, contracts.Errorf(contracts.Unavailable, "the gateway has no secret %s for the server %s; its owner stores it with: talos secret set %s", s.Key, s.Name, s.Key)
		}
	}
	r.ctx, r.cancel = context.WithCancel(d.ctx)
	return r, nil
}

// send posts a message. Its answer is read by a goroutine of its own; ctx bounds only the
// sending.
func (r *remote) send(_ context.Context, m []byte) error {
	msg, err := readMessage(m)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ctx.Err() != nil {
		return r.ctx.Err()
	}
	req, err := http.NewRequestWithContext(r.ctx, http.MethodPost, r.url, bytes.NewReader(m))
	if err != nil {
		return contracts.Errorf(contracts.ConfigInvalid, "the server's address is not right")
	}
	r.headers(req, msg)
	r.work.Go(func() { r.post(req, msg) })
	return nil
}

func (r *remote) headers(req *http.Request, m *message) {
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json, text/event-stream")
	if r.key != nil {
		req.Header.Set("Authorization", "Bearer "+string(r.key))
	}
	if r.session != "" {
		req.Header.Set("Mcp-Session-Id", r.session)
	}
	params, err := m.params()
	if err != nil {
		return
	}
	version := r.version
	if meta, err := readObject(params.Get("_meta")); err == nil {
		if v, err := meta.Text(keyVersion); err == nil && v != "" {
			version = v
		}
	}
	if version != "" {
		req.Header.Set("Mcp-Protocol-Version", version)
	}
	if version < modern {
		return
	}
	req.Header.Set("Mcp-Method", m.method)
	member := map[string]string{"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}[m.method]
	if name, err := params.Text(member); err == nil && name != "" && printable(name) {
		req.Header.Set("Mcp-Name", name)
	}
}

func printable(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// post sends a message and takes its answer apart. What fails is answered as the server
// would have: the request's waiter must not wait for ever.
func (r *remote) post(req *http.Request, m *message) {
	failed := func() {
		if m.id != nil && m.method != "" {
			r.put(failure(m.id, codeUpstream, "the MCP server is not reached, or does not answer as MCP says"))
		}
	}
	resp, err := r.client.Do(req)
	if err != nil {
		failed()
		return
	}
	defer resp.Body.Close() //nolint:errcheck // read, or of no use
	if id := resp.Header.Get("Mcp-Session-Id"); id != "" && m.method == "initialize" {
		r.mu.Lock()
		r.session, r.version = id, legacy
		r.mu.Unlock()
	}
	kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	in := bufio.NewReaderSize(io.LimitReader(resp.Body, int64(r.limit)+1), lineBuffer)
	answered := false
	switch {
	case kind == "text/event-stream" && resp.StatusCode == http.StatusOK:
		answered = r.events(in, m)
	case kind == "application/json":
		b, err := io.ReadAll(in)
		if err == nil && len(b) <= r.limit {
			answered = r.offer(b, m)
		}
	}
	if !answered {
		failed()
	}
}

// offer passes a message on, and reports whether it was the response to m.
func (r *remote) offer(b []byte, m *message) bool {
	got, err := readMessage(b)
	if err != nil {
		return false
	}
	r.put(b)
	return got.method == "" && bytes.Equal(got.id, m.id)
}

// events reads server-sent events: their data are messages.
func (r *remote) events(in *bufio.Reader, m *message) (answered bool) {
	var data []byte
	for {
		line, err := in.ReadBytes('\n')
		text := bytes.TrimRight(line, "\r\n")
		if v, ok := bytes.CutPrefix(text, []byte("data:")); ok {
			if data != nil {
				data = append(data, '\n')
			}
			data = append(data, bytes.TrimPrefix(v, []byte(" "))...)
		}
		if len(text) == 0 && len(bytes.TrimSpace(data)) > 0 {
			if r.offer(data, m) {
				return true
			}
			data = nil
		}
		if err != nil {
			return false
		}
	}
}

func (r *remote) put(b []byte) {
	select {
	case r.came <- b:
	case <-r.ctx.Done():
	}
}

func (r *remote) receive() ([]byte, error) {
	select {
	case b := <-r.came:
		return b, nil
	case <-r.ctx.Done():
		return nil, errors.New("closed")
	}
}

func (r *remote) close() {
	r.mu.Lock()
	r.cancel()
	r.mu.Unlock()
	r.work.Wait()
	r.client.CloseIdleConnections()
}
