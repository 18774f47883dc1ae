package call

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/talosprotocol/talos/contracts"
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
	done  chan struct{} // closed when the handler has returned: see settle
	over  chan struct{} // closed when watch has returned
	probe *time.Ticker
}

func newInlet(ctx context.Context, abort context.CancelCauseFunc, r *reader, ping, rest func()) *inlet {
	return &inlet{
		r: r, ctx: ctx, abort: abort, ping: ping, rest: rest,
		part: make(chan struct{}), read: make(chan error), end: make(chan struct{}), over: make(chan struct{}),
		done: make(chan struct{}),
	}
}

// watch runs until the stream ends or the call does.
func (b *inlet) watch() {
	defer close(b.over)
	skipped, err := b.parts()
	if !errors.Is(err, io.EOF) {
		err = gone(err)
		b.err = err
		b.abort(err)
		close(b.end)
		return
	}
	b.err = io.EOF
	if skipped > 0 {
		b.err = errUnread // whoever still reads has not seen all of it
	}
	b.r.wait = nil
	b.rest()
	close(b.end)
	b.abort(gone(b.r.afterEnd()))
}

var errUnread error = contracts.Errorf(contracts.Unavailable, "the call is over, and its body was not read")

// parts hands the body over, or skips the little that the handler has left of it; io.EOF
// says that all was.
func (b *inlet) parts() (skipped int, err error) {
	for {
		if err := b.r.requestBody(); err != nil {
			return skipped, err
		}
		left, err := b.hand()
		if err != nil {
			return skipped, err
		}
		if skipped += left; skipped > maxFrame {
			return skipped, errUnread
		}
		if err := b.r.skip(); err != nil {
			return skipped, err
		}
	}
}

// hand lets the handler read a part, and gives what is left of it: all of it if the
// handler has returned without having begun to.
func (b *inlet) hand() (left int, err error) {
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
			return 0, err
		case <-b.done:
			if part == nil { // it may be reading still
				return 0, errUnread
			}
			return b.r.left, nil
		case <-b.probe.C:
			b.ping()
		case <-b.ctx.Done():
			return 0, context.Cause(b.ctx)
		}
	}
}

// settle lets the caller take the answer, whose end has been written: it waits until the
// caller ends its side, which it does when it has all of it, or breaks off. The handler
// has returned.
func (b *inlet) settle() {
	close(b.done)
	<-b.over
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
