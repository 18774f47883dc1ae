package call

import (
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/talosprotocol/talos/contracts"
)

// Limits of what a header may hold, in bytes. The whole header is at most MaxHeader.
const (
	MaxHeader     = 32 << 10
	MaxName       = 128 // surface, service, method, content type
	MaxKey        = 64  // idempotency key
	MaxCapability = 24 << 10
	MaxTrace      = 512
	MaxMeta       = 8 << 10
	MaxTrailer    = 16 << 10
	maxMessage    = 256 // of an error
	maxFailure    = 1 << 10
	maxCode       = 64

	// MaxRemaining is the longest deadline that travels; a later one is sent as this.
	MaxRemaining = 24 * time.Hour
	maxLength    = 1<<53 - 1
)

// Header says what a call is about.
type Header struct {
	ID        string        // UUIDv7 of this try; Do makes it
	Surface   string        // what is called, as the executor's registry names it
	Service   string        // which model, server or agent; may be empty
	Method    string        // which tool or operation of it; may be empty
	Read      bool          // changes nothing: it may be done twice
	Remaining time.Duration // until the deadline, when it was sent; 0: none. Do takes it from its context

	ContentType    string
	Length         int64  // bytes of the body; 0: not stated
	IdempotencyKey string // the same for each try of the same request
	Capability     []byte // chain of tokens, opaque here
	Trace          []byte // trace context, opaque here
	Meta           []byte // whatever else caller and handler agree on, opaque here
}

// ResponseHeader comes before the body of a response.
type ResponseHeader struct {
	ContentType string
	Length      int64  // bytes of the body; 0: not stated
	Meta        []byte // opaque here
}

// failure is the error frame.
type failure struct {
	Code     contracts.Code
	Message  string
	NotBegun bool
}

func (h *Header) check() error {
	if !isCallID(h.ID) {
		return contracts.Errorf(contracts.Malformed, "call id %.40q is no UUIDv7 in lower case", h.ID)
	}
	if h.Surface == "" {
		return contracts.Errorf(contracts.Malformed, "a call names its surface")
	}
	for name, v := range map[string]string{"surface": h.Surface, "service": h.Service, "method": h.Method} {
		if err := checkText(name, v, MaxName, '!'); err != nil {
			return err
		}
	}
	if err := checkText("content type", h.ContentType, MaxName, ' '); err != nil {
		return err
	}
	if err := checkText("idempotency key", h.IdempotencyKey, MaxKey, '!'); err != nil {
		return err
	}
	if err := checkSize("capability", len(h.Capability), MaxCapability); err != nil {
		return err
	}
	if err := checkSize("trace context", len(h.Trace), MaxTrace); err != nil {
		return err
	}
	if h.Length < 0 || h.Length > maxLength {
		return contracts.Errorf(contracts.Malformed, "a body of %d bytes; 0 says that the length is not known", h.Length)
	}
	return checkSize("meta", len(h.Meta), MaxMeta)
}

func (h *ResponseHeader) check() error {
	if err := checkText("content type", h.ContentType, MaxName, ' '); err != nil {
		return err
	}
	if h.Length < 0 || h.Length > maxLength {
		return contracts.Errorf(contracts.Malformed, "a body of %d bytes; 0 says that the length is not known", h.Length)
	}
	return checkSize("meta", len(h.Meta), MaxMeta)
}

// checkText allows printable ASCII from the byte low on: names end up in logs, audit
// events and scopes.
func checkText(name, v string, limit int, low byte) error {
	if err := checkSize(name, len(v), limit); err != nil {
		return err
	}
	for i := range len(v) {
		if v[i] < low || v[i] > '~' {
			return contracts.Errorf(contracts.Malformed, "%s has the byte %#x; printable ASCII only", name, v[i])
		}
	}
	return nil
}

func checkSize(name string, n, limit int) error {
	if n > limit {
		return contracts.Errorf(contracts.TooLarge, "%s has %d bytes, at most %d", name, n, limit)
	}
	return nil
}

// isCallID reports whether s is a UUIDv7 in its one text form.
func isCallID(s string) bool {
	if len(s) != 36 || s[14] != '7' || s[19] != '8' && s[19] != '9' && s[19] != 'a' && s[19] != 'b' {
		return false
	}
	for i := range len(s) {
		dash := i == 8 || i == 13 || i == 18 || i == 23
		hex := s[i] >= '0' && s[i] <= '9' || s[i] >= 'a' && s[i] <= 'f'
		if dash != (s[i] == '-') || !dash && !hex {
			return false
		}
	}
	return true
}

func (h *Header) append(b []byte) []byte {
	b = appendBytes(b, 1, h.ID)
	b = appendBytes(b, 2, h.Surface)
	b = appendBytes(b, 3, h.Service)
	b = appendBytes(b, 4, h.Method)
	if h.Read {
		b = appendNumber(b, 5, 1)
	}
	b = appendNumber(b, 6, milliseconds(h.Remaining))
	b = appendBytes(b, 7, h.ContentType)
	b = appendNumber(b, 8, uint64(h.Length))
	b = appendBytes(b, 9, h.IdempotencyKey)
	b = appendBytes(b, 10, h.Capability)
	b = appendBytes(b, 11, h.Trace)
	return appendBytes(b, 12, h.Meta)
}

// milliseconds rounds up: what remains is never nothing, which would say no deadline.
func milliseconds(d time.Duration) uint64 {
	return uint64((min(max(d, 0), MaxRemaining) + time.Millisecond - 1) / time.Millisecond)
}

func (h *Header) decode(b []byte) error {
	*h = Header{}
	err := fields(b, func(tag byte, v []byte) (err error) {
		n := uint64(0)
		switch tag {
		case 1:
			h.ID = string(v)
		case 2:
			h.Surface = string(v)
		case 3:
			h.Service = string(v)
		case 4:
			h.Method = string(v)
		case 5:
			_, err = number(tag, v, 1)
			h.Read = true
		case 6:
			n, err = number(tag, v, milliseconds(MaxRemaining))
			h.Remaining = time.Duration(n) * time.Millisecond
		case 7:
			h.ContentType = string(v)
		case 8:
			n, err = number(tag, v, maxLength)
			h.Length = int64(n)
		case 9:
			h.IdempotencyKey = string(v)
		case 10:
			h.Capability = v
		case 11:
			h.Trace = v
		case 12:
			h.Meta = v
		default:
			err = unknownField(tag)
		}
		return err
	})
	if err != nil {
		return err
	}
	return h.check()
}

func unknownField(tag byte) error {
	return contracts.Errorf(contracts.Malformed, "field %d is unknown to version 1", tag)
}

func (h *ResponseHeader) append(b []byte) []byte {
	b = appendBytes(b, 1, h.ContentType)
	b = appendNumber(b, 2, uint64(h.Length))
	return appendBytes(b, 3, h.Meta)
}

func (h *ResponseHeader) decode(b []byte) error {
	*h = ResponseHeader{}
	err := fields(b, func(tag byte, v []byte) (err error) {
		n := uint64(0)
		switch tag {
		case 1:
			h.ContentType = string(v)
		case 2:
			n, err = number(tag, v, maxLength)
			h.Length = int64(n)
		case 3:
			h.Meta = v
		default:
			err = unknownField(tag)
		}
		return err
	})
	if err != nil {
		return err
	}
	return h.check()
}

func (f *failure) append(b []byte) []byte {
	b = appendBytes(b, 1, f.Code)
	b = appendBytes(b, 2, f.Message)
	if f.NotBegun {
		b = appendNumber(b, 3, 1)
	}
	return b
}

func (f *failure) decode(b []byte) error {
	*f = failure{}
	err := fields(b, func(tag byte, v []byte) (err error) {
		switch tag {
		case 1:
			f.Code = contracts.Code(v)
		case 2:
			f.Message = string(v)
		case 3:
			_, err = number(tag, v, 1)
			f.NotBegun = true
		default:
			err = unknownField(tag)
		}
		return err
	})
	if err != nil {
		return err
	}
	if !isCode(f.Code) || f.Message != plain(f.Message) {
		return contracts.Errorf(contracts.Malformed, "an error frame without a code, or with words that are not plain")
	}
	return nil
}

// isCode reports whether c has the form of a code; this program need not know it.
func isCode(c contracts.Code) bool {
	for i := range len(c) {
		if b := c[i]; (b < 'A' || b > 'Z') && (b < '0' || b > '9') && b != '_' {
			return false
		}
	}
	return len(c) > 0 && len(c) <= maxCode
}

// plain cuts a message to its limit and replaces what does not print on one line.
func plain(s string) string {
	out := make([]rune, 0, min(len(s), maxMessage))
	size := 0
	for _, r := range s {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			r = '?'
		}
		if size += utf8.RuneLen(r); size > maxMessage {
			break
		}
		out = append(out, r)
	}
	return string(out)
}
