package call

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/talosprotocol/talos/contracts"
)

var update = flag.Bool("update", false, "write contracts/vectors/call anew")

var vectorDir = filepath.Join("..", "..", "contracts", "vectors", "call")

// vector is one scenario a file: what one side sends of a call, up to the end of its
// direction, and what the other makes of it. Bytes are hex.
type vector struct {
	Name   string   `json:"name"`
	Must   []string `json:"must"`
	Expect string   `json:"expect"` // ok, or the code
	Kind   string   `json:"kind"`   // request or response: the side that sends
	Input  string   `json:"input"`  // all its frames

	Request  *requestFields  `json:"request,omitempty"`
	Response *responseFields `json:"response,omitempty"`
	Error    *errorFields    `json:"error,omitempty"` // an error frame said so
	Body     string          `json:"body,omitempty"`  // what came of it
	Trailer  string          `json:"trailer,omitempty"`
}

type requestFields struct {
	ID             string `json:"id"`
	Surface        string `json:"surface"`
	Service        string `json:"service,omitempty"`
	Method         string `json:"method,omitempty"`
	Read           bool   `json:"read,omitempty"`
	RemainingMs    int64  `json:"remaining_ms,omitempty"`
	ContentType    string `json:"content_type,omitempty"`
	Length         int64  `json:"length,omitempty"`
	IdempotencyKey string `json:"idempotency_key,omitempty"`
	Capability     string `json:"capability,omitempty"`
	Trace          string `json:"trace,omitempty"`
	Meta           string `json:"meta,omitempty"`
}

type responseFields struct {
	ContentType string `json:"content_type,omitempty"`
	Length      int64  `json:"length,omitempty"`
	Meta        string `json:"meta,omitempty"`
}

type errorFields struct {
	Code     contracts.Code `json:"code"`
	NotBegun bool           `json:"not_begun,omitempty"`
}

// read has the shipping reader read a vector's input, and gives the vector with what
// came out in place of what should.
func (v vector) read(t *testing.T) vector {
	input, err := hex.DecodeString(v.Input)
	if err != nil {
		t.Fatal(err)
	}
	r := newReader(bytes.NewReader(input))
	v.Request, v.Response, v.Error, v.Body, v.Trailer = nil, nil, nil, "", ""
	if v.Kind == "request" {
		err = v.readRequest(r)
	} else {
		err = v.readResponse(r)
	}
	v.Expect = "ok"
	if !errors.Is(err, io.EOF) {
		v.Expect = string(contracts.CodeOf(err))
	}
	var said answer
	if errors.As(err, &said) {
		v.Error = &errorFields{Code: contracts.CodeOf(err), NotBegun: !MayHaveBegun(err)}
	}
	return v
}

func (v *vector) readRequest(r *reader) error {
	var h Header
	if err := r.request(&h); err != nil {
		return err
	}
	v.Request = &requestFields{
		ID: h.ID, Surface: h.Surface, Service: h.Service, Method: h.Method, Read: h.Read, RemainingMs: h.Remaining.Milliseconds(), ContentType: h.ContentType, Length: h.Length,
		IdempotencyKey: h.IdempotencyKey, Capability: hex.EncodeToString(h.Capability), Trace: hex.EncodeToString(h.Trace), Meta: hex.EncodeToString(h.Meta),
	}
	err := v.readBody(r, r.requestBody)
	if errors.Is(err, io.EOF) {
		err = r.afterEnd()
	}
	return err
}

func (v *vector) readResponse(r *reader) error {
	var h ResponseHeader
	if err := r.response(&h); err != nil {
		return err
	}
	v.Response = &responseFields{ContentType: h.ContentType, Length: h.Length, Meta: hex.EncodeToString(h.Meta)}
	return v.readBody(r, func() error {
		trailer, err := r.responseBody()
		v.Trailer = string(trailer)
		return err
	})
}

func (v *vector) readBody(r *reader, next func() error) error {
	var body []byte
	defer func() { v.Body = hex.EncodeToString(body) }()
	for {
		if err := next(); err != nil {
			return err
		}
		for r.left > 0 {
			p := make([]byte, 7)
			n, err := r.part(p)
			body = append(body, p[:n]...)
			if err != nil {
				return err
			}
		}
	}
}

// TestVectors runs contracts/vectors/call; with -update it writes them first, with what
// the reader makes of them: then the difference wants to be read.
func TestVectors(t *testing.T) {
	if *update {
		if err := os.MkdirAll(vectorDir, 0o755); err != nil {
			t.Fatal(err)
		}
		for _, v := range makeVectors() {
			want := v.Expect
			if v = v.read(t); v.Expect != want {
				t.Errorf("%s: %s, want %s", v.Name, v.Expect, want)
			}
			text, err := json.MarshalIndent(v, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			name := strings.ReplaceAll(v.Name, " ", "-") + ".json"
			if err := os.WriteFile(filepath.Join(vectorDir, name), append(text, '\n'), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	files, _ := filepath.Glob(filepath.Join(vectorDir, "*.json"))
	if len(files) < 60 {
		t.Fatalf("%d vectors", len(files))
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".json"), func(t *testing.T) {
			text, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			d := json.NewDecoder(bytes.NewReader(text))
			d.DisallowUnknownFields()
			var v vector
			if err := d.Decode(&v); err != nil {
				t.Fatal(err)
			}
			if len(v.Must) == 0 {
				t.Error("the vector shows no MUST")
			}
			if got := v.read(t); !reflect.DeepEqual(got, v) {
				text, _ := json.MarshalIndent(got, "", "  ")
				t.Errorf("it is read as %s", text)
			}
		})
	}
}

// bytesOf joins what frames and headers are made of: strings, bytes and numbers below 256.
func bytesOf(parts ...any) (b []byte) {
	for _, p := range parts {
		switch p := p.(type) {
		case int:
			b = append(b, byte(p))
		case string:
			b = append(b, p...)
		case []byte:
			b = append(b, p...)
		}
	}
	return b
}

// frameOf is a frame, however wrong its content.
func frameOf(kind byte, payload ...any) []byte {
	w := newWriter(nil, 0, &Limits{}, nil)
	w.frame(kind, bytesOf(payload...))
	return w.buf
}

const vectorID = "019a0000-0000-7000-8000-000000000000"

// fieldOf is a field, however wrong its content, of fewer than 128 bytes.
func fieldOf(tag int, value ...any) []byte {
	v := bytesOf(value...)
	return bytesOf(tag, len(v), v)
}

// requestOf is a request frame with an id and a surface, and fields behind them.
func requestOf(more ...any) []byte {
	return frameOf(kindRequest, fieldOf(1, vectorID), fieldOf(2, "x"), bytesOf(more...))
}

func makeVectors() []vector {
	return append(append(requestVectors(), headerVectors()...), responseVectors()...)
}

func one(kind, name, must, expect string, input ...any) vector {
	return vector{Name: name, Must: strings.Split(must, " "), Expect: expect, Kind: kind, Input: hex.EncodeToString(bytesOf(input...))}
}

func requestVectors() []vector {
	is := func(name, must, expect string, input ...any) vector {
		return one("request", name, must, expect, input...)
	}
	head, end := requestOf(), frameOf(kindEnd)
	three := requestOf(fieldOf(8, 3))
	return []vector{
		is("call", "CALL-2", "ok", head, frameOf(kindBody, "abc"), end),
		is("call without body", "CALL-2", "ok", head, end),
		is("call in parts", "CALL-2", "ok", head, frameOf(kindBody, "a"), frameOf(kindBody, "bc"), frameOf(kindBody, strings.Repeat("d", 200)), end),
		is("call of stated length", "CALL-2", "ok", three, frameOf(kindBody, "ab"), frameOf(kindBody, "c"), end),
		is("call with pads", "CALL-3", "ok", frameOf(kindPad, "xx"), head, frameOf(kindKeepalive), frameOf(kindPad), frameOf(kindBody, "abc"), frameOf(kindPad, "x"), end, frameOf(kindKeepalive)),
		is("call with frames of later versions", "CALL-3", "ok", frameOf(0x80, "x"), head, frameOf(0xff), frameOf(kindBody, "abc"), end),
		is("call that says nothing", "CALL-2", "UNAVAILABLE"),
		is("call cut in the length", "CALL-2", "UNAVAILABLE", 0x81),
		is("call cut in the header", "CALL-2", "UNAVAILABLE", head[:20]),
		is("call cut in the body", "CALL-2", "UNAVAILABLE", head, 9, kindBody, "abc"),
		is("call without end", "CALL-2", "UNAVAILABLE", head, frameOf(kindBody, "abc")),
		is("call longer than stated", "CALL-2", "MALFORMED", three, frameOf(kindBody, "abcd"), end),
		is("call shorter than stated", "CALL-2", "MALFORMED", three, frameOf(kindBody, "ab"), end),
		is("call without header", "CALL-3", "MALFORMED", frameOf(kindBody, "abc"), end),
		is("call with two headers", "CALL-3", "MALFORMED", head, head, end),
		is("call that goes on", "CALL-3", "MALFORMED", head, end, frameOf(kindBody, "abc")),
		is("call that ends twice", "CALL-3", "MALFORMED", head, end, end),
		is("call of the executor", "CALL-3", "MALFORMED", head, frameOf(kindTrailer)),
		is("frame of length 0", "CALL-3", "MALFORMED", 0, end),
		is("frame with a long length", "CALL-3", "MALFORMED", 0x81, 0, 3),
		is("frame over the limit", "CALL-3", "TOO_LARGE", 0x81, 0x80, 4, kindPad),
		is("frame with an endless length", "CALL-3", "TOO_LARGE", 0xff, 0xff, 0xff, 0xff, 0xff),
		is("frame of kind 0", "CALL-3", "MALFORMED", frameOf(0)),
		is("frame of unknown kind", "CALL-3", "MALFORMED", head, frameOf(0x0a, "x"), end),
		is("frame of the last unknown kind", "CALL-3", "MALFORMED", head, frameOf(0x7f), end),
		is("empty body frame", "CALL-3", "MALFORMED", head, frameOf(kindBody), end),
		is("end that holds something", "CALL-3", "MALFORMED", head, frameOf(kindEnd, "x")),
		is("keepalive that holds something", "CALL-3", "MALFORMED", frameOf(kindKeepalive, "x"), head, end),
		is("header over the limit", "CALL-3", "TOO_LARGE", 0x82, 0x80, 2, kindRequest),
	}
}

func headerVectors() []vector {
	is := func(name, expect string, fields ...any) vector {
		return one("request", "header "+name, "CALL-4", expect, frameOf(kindRequest, fields...), frameOf(kindEnd))
	}
	id, surface := fieldOf(1, vectorID), fieldOf(2, "x")
	full := Header{
		ID: vectorID, Surface: "model.use", Service: "small", Method: "chat", Read: true, Remaining: 1500 * time.Millisecond, ContentType: "application/json; charset=utf-8",
		IdempotencyKey: "k-1", Capability: []byte{1, 2}, Trace: []byte("00-"), Meta: []byte{0, 255},
	}
	return []vector{
		is("of all fields", "ok", full.append(nil)),
		is("with fields of later versions", "ok", id, surface, fieldOf(0x80, "x"), fieldOf(0xff, "y")),
		is("with a day", "ok", id, surface, fieldOf(6, 0x80, 0xb8, 0x99, 0x29)),
		is("with more than a day", "MALFORMED", id, surface, fieldOf(6, 0x81, 0xb8, 0x99, 0x29)),
		is("that is empty", "MALFORMED"),
		is("without id", "MALFORMED", surface),
		is("without surface", "MALFORMED", id),
		is("with an id of version 4", "MALFORMED", fieldOf(1, strings.Replace(vectorID, "-7", "-4", 1)), surface),
		is("with an id of another variant", "MALFORMED", fieldOf(1, strings.Replace(vectorID, "-8", "-c", 1)), surface),
		is("with an id in capitals", "MALFORMED", fieldOf(1, strings.ToUpper(vectorID)), surface),
		is("with an id without dashes", "MALFORMED", fieldOf(1, strings.Repeat("0", 14)+"7"+strings.Repeat("0", 4)+"8"+strings.Repeat("0", 16)), surface),
		is("out of order", "MALFORMED", surface, id),
		is("with a field twice", "MALFORMED", id, surface, fieldOf(2, "y")),
		is("with a field of tag 0", "MALFORMED", fieldOf(0, "x"), id, surface),
		is("with an unknown field", "MALFORMED", id, surface, fieldOf(13, "x")),
		is("with the last unknown field", "MALFORMED", id, surface, fieldOf(0x7f, "x")),
		is("with a known field behind a later one", "MALFORMED", id, surface, fieldOf(0x80, "x"), fieldOf(12, "x")),
		is("with an empty field", "MALFORMED", id, surface, fieldOf(3)),
		is("with a later field that is empty", "MALFORMED", id, surface, fieldOf(0x80)),
		is("cut behind a tag", "MALFORMED", id, surface, 3),
		is("cut in a field", "MALFORMED", id, surface, 3, 5, "x"),
		is("with a long length", "MALFORMED", id, surface, 3, 0x81, 0, "x"),
		is("with a number in a long form", "MALFORMED", id, surface, fieldOf(8, 0x83, 0)),
		is("with a number 0", "MALFORMED", id, surface, fieldOf(8, 0)),
		is("with something behind a number", "MALFORMED", id, surface, fieldOf(8, 3, 3)),
		is("with a length over the limit", "MALFORMED", id, surface, fieldOf(8, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x10)),
		is("with read that is 2", "MALFORMED", id, surface, fieldOf(5, 2)),
		is("with a space in the surface", "MALFORMED", id, fieldOf(2, "a b")),
		is("with a line end in the method", "MALFORMED", id, surface, fieldOf(4, "a\n")),
		is("with a service that is not ASCII", "MALFORMED", id, surface, fieldOf(3, "é")),
		is("with a control in the content type", "MALFORMED", id, surface, fieldOf(7, "a\x7f")),
		is("with a long key", "TOO_LARGE", id, surface, fieldOf(9, strings.Repeat("k", 65))),
		is("with a long surface", "TOO_LARGE", id, 2, 0x81, 1, strings.Repeat("s", 129)),
	}
}

func responseVectors() []vector {
	is := func(name, must, expect string, input ...any) vector {
		return one("response", name, must, expect, input...)
	}
	head, end := frameOf(kindResponse), frameOf(kindTrailer)
	three := frameOf(kindResponse, fieldOf(2, 3))
	failed := frameOf(kindError, fieldOf(1, "NOT_FOUND"), fieldOf(2, "no such thing"))
	return []vector{
		is("answer", "CALL-2", "ok", frameOf(kindResponse, fieldOf(1, "text/plain"), fieldOf(2, 3), fieldOf(3, "m")), frameOf(kindData, "abc"), frameOf(kindTrailer, `{"tokens":1}`)),
		is("answer that is empty", "CALL-2", "ok", head, end),
		is("answer in parts", "CALL-2", "ok", three, frameOf(kindData, "ab"), frameOf(kindKeepalive), frameOf(kindPad, "xx"), frameOf(0xc0, "y"), frameOf(kindData, "c"), end),
		is("answer with fields of later versions", "CALL-4", "ok", frameOf(kindResponse, fieldOf(0x90, "x")), end),
		is("answer cut before the trailer", "CALL-2", "UNAVAILABLE", head, frameOf(kindData, "abc")),
		is("answer longer than stated", "CALL-2", "MALFORMED", three, frameOf(kindData, "abcd"), end),
		is("answer shorter than stated", "CALL-2", "MALFORMED", three, frameOf(kindData, "ab"), end),
		is("answer without header", "CALL-3", "MALFORMED", frameOf(kindData, "abc"), end),
		is("answer with two headers", "CALL-3", "MALFORMED", head, head, end),
		is("answer that goes on", "CALL-3", "MALFORMED", head, end, frameOf(kindPad)),
		is("answer with an empty frame", "CALL-3", "MALFORMED", head, frameOf(kindData), end),
		is("answer of the caller", "CALL-3", "MALFORMED", head, frameOf(kindEnd)),
		is("answer with an unknown field", "CALL-4", "MALFORMED", frameOf(kindResponse, fieldOf(4, "x")), end),
		is("trailer that is no JSON", "CALL-3", "MALFORMED", head, frameOf(kindTrailer, "{")),
		is("trailer over the limit", "CALL-3", "TOO_LARGE", head, 0x82, 0x80, 1, kindTrailer),
		is("error", "CALL-8", "NOT_FOUND", failed),
		is("error without words", "CALL-8", "NOT_FOUND", frameOf(kindError, fieldOf(1, "NOT_FOUND"))),
		is("error with fields of later versions", "CALL-4 CALL-8", "NOT_FOUND", frameOf(kindError, fieldOf(1, "NOT_FOUND"), fieldOf(0x80, "x"))),
		is("error of a code of later versions", "CALL-8", "GONE_FISHING_2", frameOf(kindError, fieldOf(1, "GONE_FISHING_2"))),
		is("error that had not begun", "CALL-9", "RATE_LIMITED", frameOf(kindError, fieldOf(1, "RATE_LIMITED"), fieldOf(3, 1))),
		is("error in the middle", "CALL-8", "BUDGET_EXHAUSTED", head, frameOf(kindData, "abc"), frameOf(kindError, fieldOf(1, "BUDGET_EXHAUSTED"))),
		is("error that goes on", "CALL-3", "MALFORMED", failed, failed),
		is("error without code", "CALL-4", "MALFORMED", frameOf(kindError, fieldOf(2, "x"))),
		is("error with a code in small letters", "CALL-4", "MALFORMED", frameOf(kindError, fieldOf(1, "not_found"))),
		is("error with two lines", "CALL-4", "MALFORMED", frameOf(kindError, fieldOf(1, "NOT_FOUND"), fieldOf(2, "a\nb"))),
		is("error with not begun that is 2", "CALL-4", "MALFORMED", frameOf(kindError, fieldOf(1, "NOT_FOUND"), fieldOf(3, 2))),
		is("error over the limit", "CALL-3", "TOO_LARGE", 0x82, 8, kindError),
	}
}
