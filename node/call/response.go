package call

import (
	"context"
	"encoding/json"
	"io"
	"sync"
)

// Response is what the executor answers.
type Response struct {
	ID     string // of the call, as the executor knows it
	Header ResponseHeader
	// Body streams. It fails with the executor's error if the call does; io.EOF says that
	// the response is complete. To close it before that cancels the call. One goroutine
	// may read it; any may close it.
	Body io.ReadCloser
	body *body
}

// Trailer gives the JSON that came behind the body; nil before Body's io.EOF, or if there
// was none.
func (r *Response) Trailer() json.RawMessage {
	r.body.mu.Lock()
	defer r.body.mu.Unlock()
	return r.body.trailer
}

// body is the caller's side of a call.
type body struct {
	ctx     context.Context
	l       *link
	r       *reader
	stop    func() bool   // the watch over ctx
	release func()        // of memory
	sent    chan struct{} // closed when nothing more of the request is written
	source  chan error    // why the request's body could not be read

	mu      sync.Mutex
	err     error // once the call is over
	trailer json.RawMessage
}

func (b *body) over() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err
}

// Read implements io.Reader.
func (b *body) Read(p []byte) (int, error) {
	if err := b.over(); err != nil || len(p) == 0 {
		return 0, err
	}
	for b.r.left == 0 {
		if trailer, err := b.r.responseBody(); err != nil {
			return 0, b.end(trailer, err)
		}
	}
	n, err := b.r.part(p)
	if err != nil {
		err = b.end(nil, err)
	}
	return n, err
}

// Close ends the call; a response that is not complete is cancelled.
func (b *body) Close() error {
	_ = b.end(nil, errClosed)
	return nil
}

// end ends the call once and gives what it has ended with.
func (b *body) end(trailer json.RawMessage, err error) error {
	b.mu.Lock()
	if b.err != nil {
		defer b.mu.Unlock()
		return b.err
	}
	clean := err == io.EOF //nolint:errorlint // the reader's own
	if !clean && err != errClosed {
		err = b.why(err)
	}
	b.err = err
	if clean && len(trailer) > 0 {
		b.trailer = trailer
	}
	b.mu.Unlock()
	b.stop()
	select {
	case <-b.sent:
	default:
		clean = false // the peer did not want the rest of the request
	}
	if clean {
		_ = b.l.Close()
	} else {
		_ = b.l.ResetWithError(resetCode(err))
	}
	b.release()
	return err
}

// why finds what a failure comes from.
func (b *body) why(err error) error {
	select {
	case source := <-b.source:
		return source
	default:
	}
	return ended(b.ctx, gone(err))
}
