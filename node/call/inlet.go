package call

import (
	"context"
	"errors"
	"io"
	"time"
)

// probeEvery is how often the other side is written to while its frame waits for the
// handler: then nobody reads the stream, so that only a write sees that it was reset.
const probeEvery = 40 * time.Millisecond

// inlet is the body of a request. One goroutine (watch) reads the stream up to each part
// of the body, then hands the reader over until the handler has read that part; so
// there is no buffer between them. Behind the body's end it goes on to wait for the
// caller's: a reset, seen here, cancels the call.
type inlet struct {
	r     *reader
	ctx   context.Context
	abort context.CancelCauseFunc
	ping  func() // writes, so that a reset is seen
	rest  func() // nothing of the caller is due any more

	part  chan struct{} // to the handler: a part is at hand
	read  chan error    // from the handler: it was read, or could not be
	end   chan struct{} // closed when no part comes any more; err says why
	err   error         // io.EOF: the body is complete
	mine  bool          // the handler has the reader
	over  chan struct{} // closed when watch has returned
	probe *time.Ticker
}

func newInlet(ctx context.Context, abort context.CancelCauseFunc, r *reader, ping, rest func()) *inlet {
	return &inlet{
		r: r, ctx: ctx, abort: abort, ping: ping, rest: rest,
		part: make(chan struct{}), read: make(chan error), end: make(chan struct{}), over: make(chan struct{}),
	}
}

// watch runs until the stream ends or the call does.
func (b *inlet) watch() {
	defer close(b.over)
	err := b.parts()
	if !errors.Is(err, io.EOF) {
		err = gone(err)
		b.err = err
		b.abort(err)
		close(b.end)
		return
	}
	b.err = io.EOF
	b.r.wait = nil
	b.rest()
	close(b.end)
	b.abort(gone(b.r.afterEnd()))
}

// parts hands the body over; io.EOF says that all was.
func (b *inlet) parts() error {
	for {
		if err := b.r.requestBody(); err != nil {
			return err
		}
		if err := b.hand(); err != nil {
			return err
		}
	}
}

// hand lets the handler read a part.
func (b *inlet) hand() error {
	if b.probe == nil {
		b.probe = time.NewTicker(probeEvery)
	} else {
		b.probe.Reset(probeEvery)
	}
	defer b.probe.Stop()
	part := b.part
	for {
		select {
		case part <- struct{}{}:
			part = nil // the handler has the reader now
		case err := <-b.read:
			return err
		case <-b.probe.C:
			b.ping()
		case <-b.ctx.Done():
			return context.Cause(b.ctx)
		}
	}
}

// Read gives what has arrived of the body, and waits if that is nothing.
func (b *inlet) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if !b.mine {
		select {
		case <-b.part:
			b.mine = true
		case <-b.end:
			return 0, b.err
		case <-b.ctx.Done():
			return 0, context.Cause(b.ctx)
		}
	}
	n, err := b.r.part(p)
	if err != nil {
		err = gone(err)
		b.abort(err)
	}
	if err != nil || b.r.left == 0 {
		b.mine = false
		select {
		case b.read <- err:
		case <-b.ctx.Done():
		}
	}
	return n, err
}
