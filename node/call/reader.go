package call

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"

	"github.com/talosprotocol/talos/contracts"
)

// The kinds of frames. The first byte of a frame's body is its kind.
const (
	kindRequest   = 0x01 // caller: header; the first frame
	kindBody      = 0x02 // caller: part of the body
	kindEnd       = 0x03 // caller: the body is complete
	kindResponse  = 0x04 // executor: header
	kindData      = 0x05 // executor: part of the body
	kindTrailer   = 0x06 // executor: the body is complete; JSON or nothing
	kindError     = 0x07 // executor: the call has failed
	kindPad       = 0x08 // either: ignored
	kindKeepalive = 0x09 // either: ignored
)

// maxFrame is the most bytes of a frame's body, kind included.
const maxFrame = 64 << 10

// limitOf gives the most bytes that may follow a kind, −1 for an unknown one.
func limitOf(kind byte) int {
	switch kind {
	case kindRequest, kindResponse:
		return MaxHeader
	case kindTrailer:
		return MaxTrailer
	case kindError:
		return maxFailure
	case kindEnd, kindKeepalive:
		return 0
	case kindBody, kindData, kindPad:
		return maxFrame - 1
	}
	if kind >= extension {
		return maxFrame - 1
	}
	return -1
}

// reader takes the frames of one direction apart. Bodies are not buffered: their bytes
// are read from the stream when somebody asks for them.
type reader struct {
	r     *bufio.Reader
	src   io.Reader
	wait  func() // before the first read of src for a frame or a part of the body; nil: nothing to do
	fresh bool   // wait was not called for it yet
	left  int    // bytes of the body's frame at hand
	sum   int64  // of the body's frames so far
	want  int64  // bytes of the whole body; 0: not stated
}

const readBuffer = 4 << 10

func newReader(src io.Reader) *reader {
	r := &reader{src: src}
	r.r = bufio.NewReaderSize((*awaited)(r), readBuffer)
	return r
}

// awaited is the source of a reader. The time to wait begins when the source is read,
// not with the frame: its first bytes may have lain in the buffer for long.
type awaited reader

func (a *awaited) Read(p []byte) (int, error) {
	if a.fresh && a.wait != nil {
		a.wait()
	}
	a.fresh = false
	return a.src.Read(p)
}

// next reads up to the payload of the next frame that means something and gives its
// size. It fails with io.EOF if the other side ended between two frames.
func (r *reader) next() (kind byte, n int, err error) {
	for {
		r.fresh = true
		if n, err = r.length(); err != nil {
			return 0, 0, err
		}
		if kind, err = r.r.ReadByte(); err != nil {
			return 0, 0, unexpected(err)
		}
		n--
		limit := limitOf(kind)
		switch {
		case limit < 0:
			return 0, 0, contracts.Errorf(contracts.Malformed, "a frame of the unknown kind %d", kind)
		case limit == 0 && n > 0:
			return 0, 0, contracts.Errorf(contracts.Malformed, "a frame of kind %d holds nothing, but this one has %d bytes", kind, n)
		case n > limit:
			return 0, 0, contracts.Errorf(contracts.TooLarge, "a frame of kind %d with %d bytes, at most %d", kind, n, limit)
		case kind != kindPad && kind != kindKeepalive && kind < extension:
			return kind, n, nil
		}
		if _, err := r.r.Discard(n); err != nil {
			return 0, 0, unexpected(err)
		}
	}
}

// length reads the length of a frame, in its shortest form.
func (r *reader) length() (int, error) {
	n := 0
	for i := range 3 {
		b, err := r.r.ReadByte()
		if err != nil {
			if i > 0 {
				err = unexpected(err)
			}
			return 0, err
		}
		n |= int(b&0x7f) << (7 * i)
		if b >= 0x80 {
			continue
		}
		if n == 0 || i > 0 && b == 0 {
			return 0, contracts.Errorf(contracts.Malformed, "the length of a frame is 0 or not in its shortest form")
		}
		if n > maxFrame {
			break
		}
		return n, nil
	}
	return 0, contracts.Errorf(contracts.TooLarge, "a frame of more than %d bytes", maxFrame)
}

// unexpected makes an end within a frame a failure.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errCutShort
	}
	return err
}

// errCutShort is an end in the middle: the connection went away, or the peer breaks the
// rules. Nobody can tell, and it is more often the first.
var errCutShort error = contracts.Errorf(contracts.Unavailable, "the other side went away before its last frame was complete")

// payload reads the n bytes of a frame that next announced.
func (r *reader) payload(n int) ([]byte, error) {
	b := make([]byte, n)
	if _, err := io.ReadFull(r.r, b); err != nil {
		return nil, unexpected(err)
	}
	return b, nil
}

// begin notes a frame of the body with n bytes.
func (r *reader) begin(n int) error {
	if n == 0 {
		return contracts.Errorf(contracts.Malformed, "a frame of the body is empty")
	}
	r.left = n
	r.sum += int64(n)
	if r.want > 0 && r.sum > r.want {
		return contracts.Errorf(contracts.Malformed, "the body is longer than the %d bytes that its header states", r.want)
	}
	return nil
}

// complete checks the body's length at its end.
func (r *reader) complete() error {
	if r.want > 0 && r.sum != r.want {
		return contracts.Errorf(contracts.Malformed, "the body has %d bytes, its header states %d", r.sum, r.want)
	}
	return nil
}

// skip gives up what is left of the body's frame at hand.
func (r *reader) skip() error {
	_, err := r.r.Discard(r.left)
	r.left = 0
	return unexpected(err)
}

// part reads some of the body's frame at hand.
func (r *reader) part(p []byte) (int, error) {
	r.fresh = true
	n, err := r.r.Read(p[:min(len(p), r.left)])
	r.left -= n
	if n > 0 {
		err = nil // it comes again
	}
	return n, unexpected(err)
}

// request reads the header of a call.
func (r *reader) request(h *Header) error {
	kind, n, err := r.next()
	if err == nil && kind != kindRequest {
		err = contracts.Errorf(contracts.Malformed, "a call begins with its header, not with a frame of kind %d", kind)
	}
	if err != nil {
		return unexpected(err)
	}
	b, err := r.payload(n)
	if err != nil {
		return err
	}
	if err := h.decode(b); err != nil {
		return err
	}
	r.want = h.Length
	return nil
}

// requestBody reads up to the next part of a request's body; io.EOF at its end.
func (r *reader) requestBody() error {
	kind, n, err := r.next()
	switch {
	case err != nil:
		return unexpected(err)
	case kind == kindBody:
		return r.begin(n)
	case kind == kindEnd:
		if err := r.complete(); err != nil {
			return err
		}
		return io.EOF
	}
	return contracts.Errorf(contracts.Malformed, "a frame of kind %d where the request's body is due", kind)
}

// afterEnd waits for the caller to end its direction and says how.
func (r *reader) afterEnd() error {
	kind, _, err := r.next()
	if err == nil {
		return contracts.Errorf(contracts.Malformed, "a frame of kind %d behind the end of the request's body", kind)
	}
	return err
}

// response reads up to the header of a response. An error frame gives the peer's error.
func (r *reader) response(h *ResponseHeader) error {
	kind, n, err := r.next()
	if err != nil {
		return unexpected(err)
	}
	switch kind {
	case kindResponse:
		b, err := r.payload(n)
		if err != nil {
			return err
		}
		if err := h.decode(b); err != nil {
			return err
		}
		r.want = h.Length
		return nil
	case kindError:
		return r.failure(n)
	}
	return contracts.Errorf(contracts.Malformed, "a frame of kind %d where the response's header is due", kind)
}

// responseBody reads up to the next part of a response's body. At its end it gives the
// trailer, which may be empty, and io.EOF.
func (r *reader) responseBody() (json.RawMessage, error) {
	kind, n, err := r.next()
	if err != nil {
		return nil, unexpected(err)
	}
	switch kind {
	case kindData:
		return nil, r.begin(n)
	case kindTrailer:
		b, err := r.payload(n)
		if err == nil {
			err = errors.Join(r.complete(), checkTrailer(b))
		}
		if err == nil {
			err = r.ended()
		}
		if err != nil {
			return nil, err
		}
		return b, io.EOF
	case kindError:
		return nil, r.failure(n)
	}
	return nil, contracts.Errorf(contracts.Malformed, "a frame of kind %d where the response's body is due", kind)
}

func checkTrailer(b []byte) error {
	if err := checkSize("trailer", len(b), MaxTrailer); err != nil {
		return err
	}
	if len(b) > 0 && !json.Valid(b) {
		return contracts.Errorf(contracts.Malformed, "the trailer is no JSON")
	}
	return nil
}

// failure reads an error frame of n bytes and what must be the end behind it.
func (r *reader) failure(n int) error {
	b, err := r.payload(n)
	if err != nil {
		return err
	}
	var f failure
	if err := f.decode(b); err != nil {
		return err
	}
	if err := r.ended(); err != nil {
		return err
	}
	err = answer{contracts.Errorf(f.Code, "the peer says: %s", orElse(f.Message, "no more than this code"))}
	if f.NotBegun {
		return NotBegun(err)
	}
	return err
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

// ended refuses anything behind the last frame. What came before is complete, so that a
// connection lost by now is no failure.
func (r *reader) ended() error {
	r.fresh = true
	if b, err := r.r.ReadByte(); err == nil {
		return contracts.Errorf(contracts.Malformed, "the byte %#x behind the last frame", b)
	}
	return nil
}
