package call

import (
	"context"
	"encoding/json"
	"io"
	"runtime/debug"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/node/directory"
	"github.com/talosprotocol/talos/node/p2p"
)

const (
	bindIn    = 10 * time.Second // to learn who calls; below the caller's Idle
	lastWords = 5 * time.Second  // for an error or trailer to be taken when the call is over
)

// Handler answers calls, concurrently. ctx ends when the caller cancels, the deadline
// passes or the node stops; its cause says which. A returned error reaches the caller as
// its code (INTERNAL if it has none) and, if it is made without a cause, its message.
// Neither c.Body nor w may be used after the return.
type Handler func(ctx context.Context, c *Call, w *ResponseWriter) error

// Call is what a handler is called with.
type Call struct {
	Header
	Peer   peer.ID         // of the connection: what was shown on it counts for the call
	Caller *directory.Peer // whose key the connection has proved; State is nil for a did:key
	Body   io.Reader       // streamed; io.EOF only if the caller has sent all of it
}

// ResponseWriter takes the answer. One goroutine at a time may use it.
type ResponseWriter struct {
	ctx     context.Context
	w       *writer
	headed  bool
	length  int64
	trailer json.RawMessage
}

// Header sets what precedes the body; without it an empty header is sent. It travels
// with the first bytes of the body, or with Flush.
func (w *ResponseWriter) Header(h ResponseHeader) error {
	if w.headed {
		return contracts.Errorf(contracts.Internal, "the header of the response was sent already")
	}
	if err := h.check(); err != nil {
		return err
	}
	w.headed, w.length = true, h.Length
	w.w.frame(kindResponse, h.append(nil))
	return nil
}

// ready begins the response unless it has begun, and fails when the call is over.
func (w *ResponseWriter) ready() error {
	if w.ctx.Err() != nil {
		return context.Cause(w.ctx)
	}
	if w.headed {
		return nil
	}
	return w.Header(ResponseHeader{})
}

// Write appends to the body. It waits while the caller does not read. Up to 32 KiB stay
// behind until Flush or the end.
func (w *ResponseWriter) Write(p []byte) (int, error) {
	if err := w.ready(); err != nil {
		return 0, err
	}
	n, err := w.w.write(p)
	return n, w.failed(err)
}

// ReadFrom sends what src gives up to its io.EOF, each read at once: io.Copy streams.
// What src fails with is given as it is.
func (w *ResponseWriter) ReadFrom(src io.Reader) (int64, error) {
	if err := w.ready(); err != nil {
		return 0, err
	}
	n, reading, writing := w.w.readFrom(src, w.length)
	if reading != nil {
		return n, reading
	}
	return n, w.failed(writing)
}

// Flush sends the header and what was written.
func (w *ResponseWriter) Flush() error {
	if err := w.ready(); err != nil {
		return err
	}
	return w.failed(w.w.flush())
}

// Pad adds a frame of n bytes (at most 65,535) that the caller ignores, to hide how long
// the others are.
func (w *ResponseWriter) Pad(n int) error {
	if n < 0 || n > limitOf(kindPad) {
		return contracts.Errorf(contracts.TooLarge, "a pad of %d bytes; 0 to %d", n, limitOf(kindPad))
	}
	if err := w.ready(); err != nil {
		return err
	}
	w.w.frame(kindPad, make([]byte, n))
	return w.failed(w.w.flush())
}

// Trailer sets the JSON that follows the body: usage, verdict. At most MaxTrailer bytes;
// the last one counts.
func (w *ResponseWriter) Trailer(v json.RawMessage) error {
	if err := checkTrailer(v); err != nil {
		return err
	}
	w.trailer = v
	return nil
}

// failed gives an error of a write its cause: the call's, if it is over.
func (w *ResponseWriter) failed(err error) error {
	switch {
	case err == nil:
		return nil
	case w.ctx.Err() != nil:
		return context.Cause(w.ctx)
	}
	return gone(err)
}

// serve answers one call.
func (c *Calls) serve(s network.Stream) {
	if !c.join() {
		_ = s.ResetWithError(network.StreamRateLimited)
		return
	}
	defer c.work.Done()
	id := s.Conn().RemotePeer()
	handler, err := c.enter(id)
	if err != nil {
		c.refuse(s, err)
		return
	}
	defer c.part()
	release, err := p2p.Reserve(s, service, reserved)
	if err != nil {
		c.leave(id)
		return
	}
	free := func() { release(); c.leave(id) }
	call := &Call{}
	l := &link{Stream: s}
	r, err := c.receive(l, call)
	if err != nil {
		free()
		c.log.Info("a call is refused", "peer", id, "err", err)
		c.refuse(s, err)
		return
	}
	c.run(l, r, call, handler, free)
}

// receive learns who calls and reads the header. The stream's silence before it, and its
// endless header, are bounded by one deadline.
func (c *Calls) receive(l *link, call *Call) (*reader, error) {
	ctx, cancel := context.WithTimeout(c.ctx, bindIn)
	defer cancel()
	stop := context.AfterFunc(c.ctx, l.hurry)
	defer stop()
	who, err := c.dir.Bind(ctx, l.Conn().RemotePeer())
	if err != nil {
		return nil, contracts.Errorf(contracts.PeerNotBound, "it is not known who calls: %w", err)
	}
	call.Peer, call.Caller = l.Conn().RemotePeer(), who
	r := newReader(l)
	l.readWithin(c.lim.Header)
	if err := r.request(&call.Header); err != nil {
		return nil, gone(err)
	}
	r.wait = func() { l.readWithin(c.lim.Idle) }
	return r, nil
}

var errDeadline error = contracts.Errorf(contracts.Unavailable, "the deadline of the call has passed")

// run runs the handler and ends the stream. free makes room for the next call as soon as
// the answer is written, before the caller has all of it.
func (c *Calls) run(l *link, r *reader, call *Call, handler Handler, free func()) {
	longest := c.lim.Longest
	if call.Remaining > 0 {
		longest = min(longest, call.Remaining)
	}
	ctx, abort := context.WithCancelCause(c.ctx)
	ctx, cancel := context.WithTimeoutCause(ctx, longest, errDeadline)
	defer cancel()
	defer abort(nil)
	w := newWriter(l, kindData, &c.lim, func(err error) { abort(gone(err)) })
	w.keepAlive()
	in := newInlet(ctx, abort, r, w.ping, func() { l.readWithin(0) })
	call.Body = in
	defer context.AfterFunc(ctx, l.hurry)()
	go in.watch()

	rw := &ResponseWriter{ctx: ctx, w: w}
	err := c.handle(ctx, call, rw, handler)
	whole := c.finish(l, rw, call, err)
	free()
	if whole {
		_ = l.CloseWrite()
		late := time.AfterFunc(c.lim.Stall, l.hurry)
		in.settle()
		late.Stop()
		_ = l.Close()
		return
	}
	_ = l.ResetWithError(resetCode(context.Cause(ctx)))
	cancel() // the watch, if a part of the body waits for nobody
	<-in.over
}

// handle runs the handler. A panic of it is this call's end, not the node's.
func (c *Calls) handle(ctx context.Context, call *Call, w *ResponseWriter, handler Handler) (err error) {
	defer func() {
		if p := recover(); p != nil {
			// The value may hold content; where it happened may not.
			c.log.Error("a call's handler has panicked", "surface", call.Surface, "call", call.ID, "stack", string(debug.Stack()))
			err = contracts.Errorf(contracts.Internal, "the handler has panicked")
		}
	}()
	return handler(ctx, call, w)
}

// finish writes the end of the answer and reports whether the answer is whole.
func (c *Calls) finish(l *link, rw *ResponseWriter, call *Call, err error) bool {
	over := context.Cause(rw.ctx)
	if over != nil {
		err = over // whatever the handler makes of it
	}
	if err == nil {
		if err = rw.complete(); err != nil {
			err = contracts.Errorf(contracts.Internal, "the handler's answer contradicts its header: %w", err)
		}
	}
	if err != nil {
		c.log.Info("a call has failed", "surface", call.Surface, "call", call.ID, "caller", call.Caller.DID, "err", err)
	}
	switch over { //nolint:errorlint // our own values
	case nil:
	case errDeadline, errStopping:
		l.lastWords(lastWords)
	default:
		rw.w.end() // the stream is broken, or the caller has cancelled: nobody listens
		return false
	}
	if f := wordsOf(err); err != nil {
		rw.w.frame(kindError, f.append(nil))
	} else {
		rw.w.frame(kindTrailer, rw.trailer)
	}
	err = rw.w.flush()
	return rw.w.end() && err == nil
}

// complete checks the answer at its end.
func (w *ResponseWriter) complete() error {
	if !w.headed {
		if err := w.Header(ResponseHeader{}); err != nil {
			return err
		}
	}
	return w.w.stated(w.length)
}

// resetCode tells the other side whether it has broken the rules.
func resetCode(err error) network.StreamErrorCode {
	switch contracts.CodeOf(err) {
	case contracts.Malformed, contracts.TooLarge:
		return network.StreamProtocolViolation
	}
	return network.StreamNoError
}
