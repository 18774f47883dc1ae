package call

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"testing"
	"time"
)

// FuzzHeader: a header that is read is written as the same bytes, but for fields that a
// later version may have (CALL-4).
func FuzzHeader(f *testing.F) {
	h := Header{ID: "019a0000-0000-7000-8000-000000000000", Surface: "model.use", Service: "m", Method: "chat", Read: true, Remaining: time.Second, ContentType: "application/json", Length: 5, IdempotencyKey: "k", Capability: []byte{1}, Trace: []byte("t"), Meta: []byte("{}")}
	f.Add(h.append(nil))
	f.Add(append(h.append(nil), 0x80, 1, 7))
	f.Add((&Header{ID: h.ID, Surface: "x"}).append(nil))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		var h Header
		if h.decode(b) != nil {
			return
		}
		sameButLater(t, b, h.append(nil))
	})
}

// FuzzAnswer: as FuzzHeader, for the headers of the executor.
func FuzzAnswer(f *testing.F) {
	f.Add((&ResponseHeader{ContentType: "text/plain", Length: 3, Meta: []byte("m")}).append(nil))
	f.Add((&failure{Code: "NOT_FOUND", Message: "no such thing", NotBegun: true}).append(nil))
	f.Add([]byte{0x80, 1, 7})
	f.Fuzz(func(t *testing.T, b []byte) {
		var r ResponseHeader
		if r.decode(b) == nil {
			sameButLater(t, b, r.append(nil))
		}
		var e failure
		if e.decode(b) == nil {
			sameButLater(t, b, e.append(nil))
		}
	})
}

func sameButLater(t *testing.T, b, out []byte) {
	t.Helper()
	if !bytes.HasPrefix(b, out) || len(b) > len(out) && b[len(out)] < extension {
		t.Fatalf("%x became %x", b, out)
	}
}

// FuzzFrames: whatever a peer sends is read to an end without a panic, and a body counts
// as complete only if it is (CALL-2, CALL-3).
func FuzzFrames(f *testing.F) {
	h := Header{ID: "019a0000-0000-7000-8000-000000000000", Surface: "x", Length: 3}
	head := h.append(nil)
	good := append([]byte{byte(len(head) + 1), kindRequest}, head...)
	f.Add(append(bytes.Clone(good), 4, kindBody, 'a', 'b', 'c', 1, kindEnd), []byte{1, kindResponse, 2, kindData, 'x', 3, kindTrailer, '{', '}'})
	f.Add(append(bytes.Clone(good), 3, kindBody, 'a', 'b', 1, kindEnd), []byte{3, kindError, 1, 0})
	f.Add([]byte{0xff, 0xff, 0x03, 8}, []byte{1, kindKeepalive})
	for _, v := range makeVectors() { // each of them as either side
		input, _ := hex.DecodeString(v.Input)
		f.Add(input, input)
	}
	f.Fuzz(func(t *testing.T, request, response []byte) {
		r := newReader(bytes.NewReader(request))
		var h Header
		if r.request(&h) == nil {
			n, err := drain(r, func() error { return r.requestBody() })
			if errors.Is(err, io.EOF) && h.Length > 0 && n != h.Length {
				t.Fatalf("%d of %d bytes are complete", n, h.Length)
			}
		}
		r = newReader(bytes.NewReader(response))
		var rh ResponseHeader
		if r.response(&rh) == nil {
			n, err := drain(r, func() error { _, err := r.responseBody(); return err })
			if errors.Is(err, io.EOF) && rh.Length > 0 && n != rh.Length {
				t.Fatalf("%d of %d bytes are complete", n, rh.Length)
			}
		}
	})
}

func drain(r *reader, next func() error) (n int64, err error) {
	for {
		if err := next(); err != nil {
			return n, err
		}
		for r.left > 0 {
			k, err := r.part(make([]byte, 100))
			if n += int64(k); err != nil {
				return n, err
			}
		}
	}
}
