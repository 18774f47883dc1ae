package contracts

import (
	"bytes"
	"regexp"
	"strconv"
	"unicode/utf8"

	"github.com/go-json-experiment/json"
	"golang.org/x/text/unicode/norm"

	"github.com/talosprotocol/talos/contracts/jcs"
)

// DefaultMaxBytes bounds a JSON artifact whose schema names no bound of its own.
const DefaultMaxBytes = 64 << 10

// artifact is what the generator writes for each object schema.
type artifact interface {
	Validate() error
	AppendCanonical(dst []byte) []byte
}

// parse reads one JSON object strictly (no unknown or duplicate member, valid
// UTF-8) into v and validates it. The text need not be canonical.
func parse(name string, data []byte, maxBytes int, v artifact) error {
	if len(data) > maxBytes {
		return Errorf(TooLarge, "%s: %d bytes, at most %d", name, len(data), maxBytes)
	}
	if err := json.Unmarshal(data, v, json.RejectUnknownMembers(true)); err != nil {
		return Errorf(Malformed, "%s: %v", name, err)
	}
	return v.Validate()
}

// decode is parse for what is signed or hashed: the text must be exactly the
// canonical bytes of what was read, in NFC.
func decode(name string, data []byte, maxBytes int, v artifact) error {
	if err := parse(name, data, maxBytes, v); err != nil {
		return err
	}
	if !norm.NFC.IsNormal(data) {
		return Errorf(Malformed, "%s: text is not in Unicode normalization form C", name)
	}
	if !bytes.Equal(v.AppendCanonical(make([]byte, 0, len(data))), data) {
		return Errorf(Malformed, "%s: %v, or a required member is missing", name, jcs.ErrNotCanonical)
	}
	return nil
}

func checkString(path, s string, minLen, maxLen int, re *regexp.Regexp) error {
	if !utf8.ValidString(s) {
		return Errorf(Malformed, "%s: not UTF-8", path)
	}
	if n := utf8.RuneCountInString(s); n < minLen || (maxLen >= 0 && n > maxLen) {
		return Errorf(Malformed, "%s: %d characters, want %d to %d", path, n, minLen, maxLen)
	}
	if re != nil && !re.MatchString(s) {
		return Errorf(Malformed, "%s: does not match %s", path, re)
	}
	return nil
}

func checkEnum(path, s string, allowed ...string) error {
	for _, a := range allowed {
		if s == a {
			return nil
		}
	}
	return Errorf(Malformed, "%s: %.64q is none of %q", path, s, allowed)
}

func checkInt(path string, n, low, high int64) error {
	if n < low || n > high {
		return Errorf(Malformed, "%s: %d, want %d to %d", path, n, low, high)
	}
	return nil
}

func checkLen(path string, n, low, high int) error {
	if n < low || (high >= 0 && n > high) {
		return Errorf(Malformed, "%s: %d items, want %d to %d", path, n, low, high)
	}
	return nil
}

// within puts the path of a member before the message of its own check.
func within(path string, err error) error {
	if err == nil {
		return nil
	}
	if e, ok := err.(*Error); ok { //nolint:errorlint // our own, just made
		return &Error{Code: e.Code, Msg: path + "." + e.Msg, Err: e.Err}
	}
	return err
}

func index(path string, i int) string { return path + "[" + strconv.Itoa(i) + "]" }
