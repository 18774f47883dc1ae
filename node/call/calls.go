package call

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/node/directory"
	"github.com/talosprotocol/talos/node/p2p"
)

// maxAnswered is how many peers that have answered are remembered.
const maxAnswered = 4096

const (
	callName, callVersion = "call", "1.0.0"
	service               = "talos.call" // in the resource manager

	// reserved is the memory that a call takes at most on one side: header, read buffer,
	// a part of the body on its way out with what is coalesced around it, trailer.
	reserved = MaxHeader + readBuffer + partSize + MaxHeader + MaxTrailer
)

// Limits bound the calls of a node. A zero field means its default.
type Limits struct {
	Calls     int           // served at once; 0: 1,024
	PerPeer   int           // of one peer served at once; 0: 256
	Longest   time.Duration // a call that states no deadline, or a later one; 0: 15 min
	Header    time.Duration // until the header of a call is here; 0: 5 s
	Idle      time.Duration // without a frame from a side whose turn it is; 0: 15 s
	Answer    time.Duration // as Idle, of a call that may be done twice, until its answer begins: soon enough to ask another; 0: 1.5 s
	Keepalive time.Duration // between keepalives, well below Idle and Answer; 0: 500 ms
	Stall     time.Duration // for the other side to take what is written; 0: 30 s
	Tries     int           // of one Do; 0: 3
	Pause     time.Duration // before the second try, four times as long before each later one, ±50 %; 0: 50 ms
}

func (l Limits) orDefaults() Limits {
	or(&l.Calls, 1024)
	or(&l.PerPeer, 256)
	or(&l.Longest, 15*time.Minute)
	or(&l.Header, 5*time.Second)
	or(&l.Idle, 15*time.Second)
	or(&l.Answer, 1500*time.Millisecond)
	or(&l.Keepalive, 500*time.Millisecond)
	or(&l.Stall, 30*time.Second)
	or(&l.Tries, 3)
	or(&l.Pause, 50*time.Millisecond)
	return l
}

func or[T int | time.Duration](v *T, def T) {
	if *v <= 0 {
		*v = def
	}
}

// Calls makes and serves the calls of one node. It is safe for concurrent use.
type Calls struct {
	h   *p2p.Host
	dir *directory.Directory
	log *slog.Logger
	lim Limits

	ctx    context.Context // of all handlers; ends with Close
	cancel context.CancelCauseFunc
	work   sync.WaitGroup // streams being served

	mu       sync.Mutex
	handler  Handler
	draining bool
	peers    map[peer.ID]int // calls being served
	running  int
	held     int           // those that run, and those whose callers have not taken all of the answer
	idle     chan struct{} // closed when draining and none is held

	// answered has for a peer the connection on which it has answered a call: there it
	// knows who calls.
	answered map[peer.ID]string
}

// New makes the calls of h. Nothing is served before Serve.
func New(h *p2p.Host, dir *directory.Directory, log *slog.Logger, lim Limits) *Calls {
	ctx, cancel := context.WithCancelCause(context.Background())
	return &Calls{
		h: h, dir: dir, log: log, lim: lim.orDefaults(), ctx: ctx, cancel: cancel,
		peers: map[peer.ID]int{}, idle: make(chan struct{}), answered: map[peer.ID]string{},
	}
}

// Serve answers calls with handler from now on; the last handler counts.
func (c *Calls) Serve(handler Handler) {
	c.mu.Lock()
	c.handler = handler
	c.mu.Unlock()
	c.h.SetStreamHandler(c.h.Protocol(callName, callVersion), c.serve)
}

// enter counts a call in and gives its handler. What it refuses has not begun.
func (c *Calls) enter(id peer.ID) (Handler, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.draining || c.ctx.Err() != nil:
		return nil, NotBegun(contracts.Errorf(contracts.Unavailable, "the node is stopping; call another"))
	case c.running >= c.lim.Calls:
		return nil, NotBegun(contracts.Errorf(contracts.RateLimited, "the node serves %d calls at once; try later", c.lim.Calls))
	case c.peers[id] >= c.lim.PerPeer:
		return nil, NotBegun(contracts.Errorf(contracts.RateLimited, "%d of your calls run; wait for one of them", c.lim.PerPeer))
	}
	c.running++
	c.held++
	c.peers[id]++
	return c.handler, nil
}

// leave makes room for another call of a peer.
func (c *Calls) leave(id peer.ID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.running--
	if c.peers[id]--; c.peers[id] == 0 {
		delete(c.peers, id)
	}
}

// part counts a call out: its caller needs this node no more.
func (c *Calls) part() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.held--; c.draining && c.held == 0 {
		close(c.idle)
	}
}

// known reports whether the last call on a connection was answered.
func (c *Calls) known(conn network.Conn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.answered[conn.RemotePeer()] == conn.ID()
}

// note remembers how a call on a connection has ended. A peer that has run it knows who
// calls; one that has refused it may not.
func (c *Calls) note(conn network.Conn, err error) {
	var said answer
	id := conn.RemotePeer()
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case err == nil, errors.As(err, &said) && MayHaveBegun(err):
		if _, there := c.answered[id]; !there && len(c.answered) >= maxAnswered {
			for other := range c.answered { // any; it costs a call to it some patience
				delete(c.answered, other)
				break
			}
		}
		c.answered[id] = conn.ID()
	case said.error == nil:
		delete(c.answered, id)
	}
}

// Drain refuses new calls, so that their callers may go elsewhere at once, and waits for
// those that run, until their callers have the answers. It fails when ctx ends before
// that.
func (c *Calls) Drain(ctx context.Context) error {
	c.mu.Lock()
	if !c.draining {
		c.draining = true
		if c.held == 0 {
			close(c.idle)
		}
	}
	c.mu.Unlock()
	select {
	case <-c.idle:
		return nil
	case <-ctx.Done():
		return contracts.Errorf(contracts.Unavailable, "calls still run: %w", context.Cause(ctx))
	}
}

var errStopping error = contracts.Errorf(contracts.Unavailable, "the node is stopping")

// Close cancels the calls that are served and waits for their handlers. Calls made by
// Do end with their own contexts.
func (c *Calls) Close() error {
	c.h.RemoveStreamHandler(c.h.Protocol(callName, callVersion))
	c.mu.Lock()
	c.cancel(errStopping)
	c.mu.Unlock()
	c.work.Wait()
	return nil
}

// join counts a stream in, so that Close waits for it; false after Close.
func (c *Calls) join() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ctx.Err() != nil {
		return false
	}
	c.work.Add(1)
	return true
}

// refuse answers a call that was not begun.
func (c *Calls) refuse(s network.Stream, err error) {
	f := wordsOf(NotBegun(err))
	w := newWriter(&link{Stream: s}, kindData, &c.lim, nil)
	w.stall = lastWords
	w.frame(kindError, f.append(nil))
	if w.flush() != nil {
		_ = s.Reset()
		return
	}
	_ = s.Close()
}
