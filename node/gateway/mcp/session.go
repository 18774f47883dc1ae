package mcp

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/node/call"
	"github.com/talosprotocol/talos/node/gateway/rawjson"
)

// Revisions of MCP. modern is the first without sessions.
const (
	modern = "2026-07-28"
	legacy = "2025-11-25"

	keyVersion      = "io.modelcontextprotocol/protocolVersion"
	keyClientInfo   = "io.modelcontextprotocol/clientInfo"
	keyCapabilities = "io.modelcontextprotocol/clientCapabilities"
	keyServerInfo   = "io.modelcontextprotocol/serverInfo"

	handshakeWithin = 20 * time.Second
	maxPending      = 1024
)

// wire carries messages to an upstream and back. send may be used concurrently.
type wire interface {
	send(ctx context.Context, m []byte) error
	receive() ([]byte, error) // until an error; one goroutine
	close()                   // returns when nothing of the upstream is left
}

// session is a running upstream. It is safe for concurrent use.
type session struct {
	w       wire
	changed func() // the upstream says that its tools have changed

	version string // that it speaks
	hello   hello

	next    atomic.Int64
	mu      sync.Mutex
	pending map[int64]*pending
	dead    error         // why it is over
	over    chan struct{} // closed then
}

// hello is what an upstream says of itself.
type hello struct {
	ServerInfo   json.RawMessage            `json:"serverInfo"`
	Capabilities map[string]json.RawMessage `json:"capabilities"`
	Instructions string                     `json:"instructions"`
	Version      string                     `json:"protocolVersion"`
	Supported    []string                   `json:"supportedVersions"`
	Meta         map[string]json.RawMessage `json:"_meta"`
}

// pending is a request that waits for its response.
type pending struct {
	id    []byte      // the caller's
	token []byte      // the caller's progress token, nil if there is none
	notes chan []byte // notifications; when it is full they are left out, so that nobody waits for a caller that does not read
	came  chan []byte // the response, for which there is room
}

// open begins a session: it asks what the upstream is, in the newest revision and then in
// that with a handshake.
func open(ctx context.Context, w wire, changed func()) (*session, error) {
	s := &session{w: w, changed: changed, pending: map[int64]*pending{}, over: make(chan struct{})}
	go s.read()
	ctx, cancel := context.WithTimeout(ctx, handshakeWithin)
	defer cancel()
	if err := s.handshake(ctx); err != nil {
		s.end(err)
		w.close()
		return nil, err
	}
	return s, nil
}

func (s *session) handshake(ctx context.Context) error {
	us := map[string]any{"name": "talos", "version": "1"}
	meta := map[string]any{keyVersion: modern, keyClientInfo: us, keyCapabilities: map[string]any{}}
	res, err := s.result(ctx, "server/discover", object(map[string]any{"_meta": meta}))
	if err == nil {
		if err := json.Unmarshal(res, &s.hello); err == nil {
			for _, v := range s.hello.Supported {
				if v == modern {
					s.version, s.hello.ServerInfo = v, s.hello.Meta[keyServerInfo]
					return nil
				}
			}
		}
	} else if contracts.CodeOf(err) != contracts.MethodUnsupported {
		return err
	}
	s.hello = hello{}
	res, err = s.result(ctx, "initialize", object(map[string]any{"protocolVersion": legacy, "clientInfo": us, "capabilities": map[string]any{}}))
	if err != nil {
		return err
	}
	if err := json.Unmarshal(res, &s.hello); err != nil || s.hello.Version == "" {
		return contracts.Errorf(contracts.Unavailable, "the MCP server's answer to initialize is not as MCP says")
	}
	s.version = s.hello.Version
	return s.w.send(ctx, []byte(`{"jsonrpc":"2.0","method":"notifications/initialized"}`))
}

// result makes a request of our own and gives its result. An error of the upstream has
// the code METHOD_UNSUPPORTED.
func (s *session) result(ctx context.Context, method string, params []byte) ([]byte, error) {
	raw, err := s.do(ctx, []byte("0"), method, &rawjson.Object{}, params, nil)
	if err != nil {
		return nil, err
	}
	o, err := rawjson.Parse(raw)
	if err != nil {
		return nil, contracts.Errorf(contracts.Unavailable, "the MCP server's answer: %s", contracts.Message(err))
	}
	if o.Has("error") {
		return nil, contracts.Errorf(contracts.MethodUnsupported, "the MCP server refuses %s", method)
	}
	return o.Get("result"), nil
}

// do makes a request for a caller and gives the response, with the caller's id. params
// are the text of o, or what replaces it. What comes before the response goes to notify.
// An error means that there is no response; it is marked as not begun if the upstream has
// seen nothing.
func (s *session) do(ctx context.Context, id []byte, method string, o *rawjson.Object, params []byte, notify func([]byte) error) ([]byte, error) {
	p := &pending{id: id, notes: make(chan []byte, 64), came: make(chan []byte, 1)}
	n := s.next.Add(1)
	params, p.token = ownToken(n, o, params)
	s.mu.Lock()
	if s.dead != nil || len(s.pending) >= maxPending {
		err := s.dead
		s.mu.Unlock()
		if err == nil {
			err = contracts.Errorf(contracts.RateLimited, "%d requests wait for the MCP server", maxPending)
		}
		return nil, call.NotBegun(err)
	}
	s.pending[n] = p
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.pending, n)
	}()
	m := []byte(`{"jsonrpc":"2.0","id":` + strconv.FormatInt(n, 10) + `,"method":` + string(object(method)))
	if params != nil {
		m = append(append(m, `,"params":`...), params...)
	}
	if err := s.w.send(ctx, append(m, '}')); err != nil {
		s.end(contracts.Errorf(contracts.Unavailable, "the MCP server does not take requests: %w", err))
		return nil, s.dead
	}
	return s.await(ctx, n, p, notify)
}

func (s *session) await(ctx context.Context, n int64, p *pending, notify func([]byte) error) ([]byte, error) {
	for {
		select {
		case m := <-p.notes:
			if notify == nil {
				continue
			}
			if err := notify(m); err != nil {
				s.cancel(n)
				return nil, err
			}
		case m := <-p.came:
			for notify != nil && len(p.notes) > 0 { // they came before it
				if err := notify(<-p.notes); err != nil {
					return nil, err
				}
			}
			return m, nil
		case <-s.over:
			select {
			case m := <-p.came: // the last thing that it did
				return m, nil
			default:
				return nil, s.dead
			}
		case <-ctx.Done():
			s.cancel(n)
			return nil, context.Cause(ctx)
		}
	}
}

// cancel tells the upstream that nobody waits for a request any more.
func (s *session) cancel(n int64) {
	ctx, cancel := context.WithTimeout(context.Background(), endsWithin)
	defer cancel()
	_ = s.w.send(ctx, []byte(`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":`+strconv.FormatInt(n, 10)+`}}`))
}

// ownToken replaces the progress token of a caller by one that no other caller has.
func ownToken(n int64, o *rawjson.Object, params []byte) (out, token []byte) {
	meta, err := rawjson.Parse(o.Get("_meta"))
	if err != nil || !meta.Has("progressToken") {
		return params, nil
	}
	own := string(meta.Set(map[string]string{"progressToken": strconv.FormatInt(n, 10)}))
	return o.Set(map[string]string{"_meta": own}), meta.Get("progressToken")
}

// read takes what the upstream sends until it ends.
func (s *session) read() {
	for {
		line, err := s.w.receive()
		if len(bytes.TrimSpace(line)) > 0 {
			s.take(line)
		}
		if err != nil {
			var c *contracts.Error
			if !errors.As(err, &c) {
				err = contracts.Errorf(contracts.Unavailable, "the MCP server has ended")
			}
			s.end(err)
			return
		}
	}
}

// take hands a message to who waits for it. What is no message is left out: some programs
// write other things to their output.
func (s *session) take(line []byte) {
	m, err := readMessage(line)
	if err != nil {
		return
	}
	switch {
	case m.method != "" && m.id != nil: // a request to the caller: callers take none
		go func() {
			ctx, cancel := context.WithTimeout(context.Background(), endsWithin)
			defer cancel()
			_ = s.w.send(ctx, failure(m.id, codeMethodNotFound, "the client has no "+m.method))
		}()
	case m.method == "notifications/tools/list_changed":
		s.changed()
	case m.method == "notifications/progress":
		s.progress(m)
	case m.method == "":
		n, err := strconv.ParseInt(string(m.id), 10, 64)
		if err != nil {
			return
		}
		if p := s.waiting(n); p != nil {
			select {
			case p.came <- m.Set(map[string]string{"id": string(p.id)}):
			default: // a second response: there is none
			}
		}
	}
}

func (s *session) progress(m *message) {
	params, err := m.params()
	if err != nil {
		return
	}
	n, err := strconv.ParseInt(string(params.Get("progressToken")), 10, 64)
	if err != nil {
		return
	}
	if p := s.waiting(n); p != nil && p.token != nil {
		own := params.Set(map[string]string{"progressToken": string(p.token)})
		select {
		case p.notes <- m.Set(map[string]string{"params": string(own)}):
		default:
		}
	}
}

func (s *session) waiting(n int64) *pending {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pending[n]
}

// end ends the session for all who wait, once.
func (s *session) end(why error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dead == nil {
		s.dead = why
		close(s.over)
	}
}

// close ends the upstream too, and returns when nothing is left of it.
func (s *session) close() {
	s.end(contracts.Errorf(contracts.Unavailable, "the MCP server is stopped"))
	s.w.close()
}
