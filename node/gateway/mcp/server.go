package mcp

import (
	"cmp"
	"context"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
	"github.com/talosprotocol/talos/node/call"
)

const (
	maxUpstreams   = 16 // of one server at once
	idleFor        = 5 * time.Minute
	toolsFresh     = time.Minute
	maxPause       = 30 * time.Second
	defaultResult  = 4 << 20
	everybody      = identity.DID("") // whose upstream is shared
	owner          = identity.DID("owner")
	sweepUpstreams = 30 * time.Second
)

// server is one exposed MCP server. A program has a state of its own, so each caller gets
// one for itself, unless the owner says that it may be shared.
type server struct {
	contracts.ToolExposure
	d      *Driver
	shared bool
	limit  int // bytes of an answer

	mu        sync.Mutex
	closed    bool
	upstreams map[identity.DID]*upstream
	failures  int
	pause     time.Time // before which no upstream is started

	tools toolset
}

// upstream is a session, or the wait for one.
type upstream struct {
	ready   chan struct{}
	s       *session
	err     error
	used    time.Time
	running int
}

// with runs f with the upstream of a caller, which is started if there is none.
func (s *server) with(ctx context.Context, who identity.DID, f func(*session) error) error {
	if s.shared {
		who = everybody
	}
	u, err := s.upstream(who)
	if err != nil {
		return call.NotBegun(err)
	}
	defer s.leave(u)
	select {
	case <-u.ready:
	case <-ctx.Done():
		return call.NotBegun(context.Cause(ctx))
	}
	if u.err != nil {
		return call.NotBegun(u.err)
	}
	return f(u.s)
}

// upstream gives a caller's upstream, and counts its use in.
func (s *server) upstream(who identity.DID) (*upstream, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	u := s.upstreams[who]
	if u != nil && u.over() {
		delete(s.upstreams, who)
		u = nil
	}
	switch {
	case u != nil:
	case s.closed:
		return nil, contracts.Errorf(contracts.Unavailable, "the server %s is not exposed any more", s.Name)
	case now.Before(s.pause):
		return nil, contracts.Errorf(contracts.Unavailable, "the server %s has failed to start; it is tried again in %s", s.Name, s.pause.Sub(now).Round(time.Second))
	case len(s.upstreams) >= maxUpstreams && !s.evict():
		return nil, contracts.Errorf(contracts.RateLimited, "%d callers use the server %s at once", maxUpstreams, s.Name)
	default:
		u = &upstream{ready: make(chan struct{})}
		s.upstreams[who] = u
		s.d.work.Go(func() { s.start(u) })
	}
	u.used = now
	u.running++
	return u, nil
}

// over reports whether an upstream was there and is no more.
func (u *upstream) over() bool {
	select {
	case <-u.ready:
	default:
		return false
	}
	if u.err != nil {
		return true
	}
	select {
	case <-u.s.over:
		return true
	default:
		return false
	}
}

func (s *server) leave(u *upstream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	u.running--
	u.used = time.Now()
}

// start begins a session. After a failure the next start waits, longer each time.
func (s *server) start(u *upstream) {
	defer close(u.ready)
	w, err := s.dial()
	if err == nil {
		u.s, err = open(s.d.ctx, w, s.tools.forget)
	}
	u.err = err
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.failures = min(s.failures+1, 6)
		s.pause = time.Now().Add(min(time.Second<<(s.failures-1), maxPause))
		s.d.log.Warn("an MCP server does not start", "server", s.Name, "err", err)
		return
	}
	s.failures = 0
	s.d.work.Go(func() { // whatever ends it, nothing of it stays
		<-u.s.over
		u.s.close()
	})
}

func (s *server) dial() (wire, error) {
	if len(s.Command) == 0 {
		return s.d.dialURL(s)
	}
	c := command{argv: s.Command, dir: s.Dir}
	for _, e := range s.Env {
		v := e.Value
		if e.Secret != "" {
			secret := s.d.secret(e.Secret)
			if len(secret) == 0 {
				return nil, contracts.Errorf(contracts.Unavailable, "the gateway has no secret %s for the server %s; its owner stores it with: talos secret set %s", e.Secret, s.Name, e.Secret)
			}
			v = string(secret)
		}
		c.env = append(c.env, e.Name+"="+v)
	}
	if c.dir == "" {
		c.dir = filepath.Join(s.d.dir, s.Name)
		if err := os.MkdirAll(c.dir, 0o700); err != nil {
			return nil, contracts.Errorf(contracts.Unavailable, "the folder of the server %s: %w", s.Name, err)
		}
	}
	return startChild(c, s.limit+lineBuffer)
}

// evict ends the upstream that was idle for longest; false if all are in use.
func (s *server) evict() bool {
	var who identity.DID
	var oldest *upstream
	for d, u := range s.upstreams {
		if u.running == 0 && (oldest == nil || u.used.Before(oldest.used)) {
			who, oldest = d, u
		}
	}
	if oldest == nil {
		return false
	}
	s.drop(who, oldest)
	return true
}

func (s *server) drop(who identity.DID, u *upstream) {
	delete(s.upstreams, who)
	s.d.work.Go(func() {
		<-u.ready
		if u.s != nil {
			u.s.close()
		}
	})
}

// sweep ends upstreams that nobody has used for a while; all, with the server itself, if
// it is not exposed any more.
func (s *server) sweep(now time.Time, all bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = s.closed || all
	for who, u := range s.upstreams {
		if all || u.running == 0 && now.Sub(u.used) > idleFor {
			s.drop(who, u)
		}
	}
}

func limitOf(e *contracts.ToolExposure) int {
	if e.MaxResult == nil {
		return defaultResult
	}
	return int(cmp.Or(*e.MaxResult, defaultResult))
}
