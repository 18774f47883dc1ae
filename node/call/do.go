package call

import (
	"bytes"
	"context"
	crand "crypto/rand"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/talosprotocol/talos/anchor"
	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
	"github.com/talosprotocol/talos/node/p2p"
)

// Request is a call to make.
type Request struct {
	Header           // ID and Remaining are set by Do, Length too if Body is of package bytes or strings
	Body   io.Reader // streamed; nil for none. An io.Seeker may be sent again from where it stands. Do does not close it, and a read of it that is under way when the call ends goes on
	Tries  int       // at most; 0: as the limits say
}

// Do calls the node of a DID and gives the response when its header is there. ctx bounds
// the whole call, body included; its deadline travels as what remains of it, so that the
// clocks of the two nodes do not matter. Whoever gets a response closes its Body.
//
// Do tries again, with a pause, only if nothing of the call was done (no connection, or
// the executor says so), or if the call is a read with an idempotency key; and only
// while the error is retryable and the body can be sent again. For all other failures
// MayHaveBegun says whether the call may have had an effect. Errors have the code that
// the executor gave, or UNAVAILABLE, RATE_LIMITED, MALFORMED, TOO_LARGE or those of DID
// resolution; they wrap ctx's error if that was why.
func (c *Calls) Do(ctx context.Context, to identity.DID, req Request) (*Response, error) {
	src, err := newSource(&req)
	if err != nil {
		return nil, err
	}
	pause, tries := c.lim.Pause, req.Tries
	or(&tries, c.lim.Tries)
	for n := 1; ; n++ {
		resp, err := c.try(ctx, to, &req, src)
		if err == nil || n >= tries || !again(&req, err) || src.rewind() != nil || !wait(ctx, pause) {
			return resp, err
		}
		pause *= 4
	}
}

// again reports whether a failed try allows another.
func again(req *Request, err error) bool {
	if code := contracts.CodeOf(err); !code.Retryable() || code == contracts.ApprovalRequired { // a person does not answer within a pause
		return false
	}
	return !MayHaveBegun(err) || req.Read && req.IdempotencyKey != ""
}

// wait waits about d; not at all if ctx ends before that.
func wait(ctx context.Context, d time.Duration) bool {
	d = d/2 + rand.N(d)
	if by, ok := ctx.Deadline(); ok && time.Until(by) < d {
		return false
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// try makes the call once, under an id of its own.
func (c *Calls) try(ctx context.Context, to identity.DID, req *Request, src *source) (*Response, error) {
	var random [10]byte
	_, _ = crand.Read(random[:]) // never fails
	h := req.Header
	h.ID = anchor.NewID(time.Now(), random)
	if err := h.check(); err != nil {
		return nil, NotBegun(err)
	}
	id, _, err := c.dir.Connect(ctx, to)
	if err != nil {
		return nil, NotBegun(ended(ctx, err))
	}
	s, release, err := c.open(ctx, id)
	if err != nil {
		return nil, NotBegun(ended(ctx, err))
	}
	h.Remaining = 0
	if by, ok := ctx.Deadline(); ok {
		h.Remaining = max(time.Until(by), time.Millisecond)
	}
	head := h.append(nil)
	if err := checkSize("header", len(head), MaxHeader); err != nil {
		_ = s.Reset()
		release()
		return nil, NotBegun(err)
	}
	l := &link{Stream: s}
	b := &body{ctx: ctx, l: l, r: newReader(l), release: release, sent: make(chan struct{}), source: make(chan error, 1)}
	b.stop = context.AfterFunc(ctx, func() { _ = s.Reset() })
	b.r.wait = c.patience(l, req.Read, c.known(s.Conn()))
	b.send(newWriter(l, kindBody, &c.lim, func(error) {}), head, h.Length, src)
	resp := &Response{ID: h.ID, Body: b, body: b}
	err = b.r.response(&resp.Header)
	c.note(s.Conn(), err)
	if err != nil {
		err = b.end(nil, err)
		if src.seek != nil {
			<-b.sent // nobody reads the source any more: the stream is reset
		}
		return nil, err
	}
	b.r.wait = func() { l.readWithin(c.lim.Idle) }
	return resp, nil
}

// patience gives how long the next frame of an answer that has not begun is waited for.
// An executor that knows who calls writes keepalives, and a call that may be done twice is
// soon made elsewhere when they stay away: a peer that dies says nothing. One that does not
// know yet may have to ask for the caller's DID first.
func (c *Calls) patience(l *link, read, known bool) func() {
	return func() {
		d := c.lim.Idle
		switch {
		case read && known:
			d = min(d, c.lim.Answer)
		case read:
			d = min(d, 3*c.lim.Answer)
		}
		known = true
		l.readWithin(d)
	}
}

// open opens a stream, over a relay too, with memory for it.
func (c *Calls) open(ctx context.Context, id peer.ID) (network.Stream, func(), error) {
	s, err := c.h.NewStream(network.WithAllowLimitedConn(ctx, service), id, c.h.Protocol(callName, callVersion))
	if errors.Is(err, network.ErrResourceLimitExceeded) {
		return nil, nil, contracts.Errorf(contracts.RateLimited, "this node makes too many calls at once: %w", err)
	}
	if err != nil {
		return nil, nil, contracts.Errorf(contracts.Unavailable, "opening a stream for a call (does the node serve calls?): %w", err)
	}
	release, err := p2p.Reserve(s, service, reserved)
	return s, release, err
}

// ended prefers the end of ctx to what it brought about.
func ended(ctx context.Context, err error) error {
	if ctx.Err() == nil {
		return err
	}
	return contracts.Errorf(contracts.Unavailable, "the call was given up: %w", context.Cause(ctx))
}

// send writes the request: at once if its body is small and in memory, else by a
// goroutine of its own, which ends when the stream does.
func (b *body) send(w *writer, head []byte, length int64, src *source) {
	w.frame(kindRequest, head)
	src.used = true
	if src.r == nil || src.small() {
		defer close(b.sent)
		if src.r != nil {
			_, _ = io.Copy(writeOnly{w}, src.r) // neither side of it can fail: all of it fits in w
		}
		w.frame(kindEnd, nil)
		_ = w.flush() // a peer that refuses says why; it is read next
		return
	}
	go func() {
		defer close(b.sent)
		err := w.flush() // the source may let us wait
		w.keepAlive()
		if err == nil {
			_, reading, writing := w.readFrom(src.r, length)
			err = errors.Join(reading, writing) // one of them at most
		}
		if err == nil {
			err = w.stated(length)
		}
		if err == nil {
			w.frame(kindEnd, nil)
			err = w.flush()
		}
		if whole := w.end(); err != nil && whole {
			b.source <- fmt.Errorf("reading the request's body: %w", err)
			_ = b.l.Reset()
		}
	}()
}

type writeOnly struct{ w *writer }

func (o writeOnly) Write(p []byte) (int, error) { return o.w.write(p) }

// source is the body of a request, over its tries.
type source struct {
	r    io.Reader
	seek io.Seeker // nil: it can be read once
	at   int64     // where it began
	used bool      // reading may have begun
}

func newSource(req *Request) (*source, error) {
	s := &source{r: req.Body}
	if n := s.len(); n >= 0 {
		req.Length = int64(n)
		if n == 0 {
			s.r = nil
		}
	}
	if seek, ok := s.r.(io.Seeker); ok {
		at, err := seek.Seek(0, io.SeekCurrent)
		if err == nil { // else it is a pipe that calls itself a file
			s.seek, s.at = seek, at
		}
	}
	if req.Length < 0 {
		return nil, NotBegun(contracts.Errorf(contracts.Malformed, "a body of %d bytes; 0 says that the length is not known", req.Length))
	}
	return s, nil
}

// len gives what a source in memory holds; −1 for any other.
func (s *source) len() int {
	switch r := s.r.(type) {
	case nil:
		return 0
	case *bytes.Reader:
		return r.Len()
	case *strings.Reader:
		return r.Len()
	case *bytes.Buffer:
		return r.Len()
	}
	return -1
}

func (s *source) small() bool {
	n := s.len()
	return n >= 0 && n <= partSize
}

var errUsed = errors.New("the body can be read only once")

// rewind makes the source ready for another try.
func (s *source) rewind() error {
	if s.r == nil || !s.used {
		return nil
	}
	if s.seek == nil {
		return errUsed
	}
	_, err := s.seek.Seek(s.at, io.SeekStart)
	return err
}
