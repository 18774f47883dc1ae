// Package jcs makes and checks canonical JSON (RFC 8785). The JSON that Talos
// signs or hashes follows a strict profile of it, so that one meaning has one
// encoding: UTF-8 in NFC, no duplicate names, no floats, integers within
// ±(2^53−1), no null. Canonicalize accepts any JSON that RFC 8785 does; Check
// holds a text to the profile.
package jcs

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"strconv"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
	"golang.org/x/text/unicode/norm"
)

const (
	// MaxInt is the largest magnitude of an integer in the strict profile: above
	// it a double, and so many a JSON reader, cannot tell neighbours apart.
	MaxInt = 1<<53 - 1
	// MaxDepth bounds nesting in the strict profile; nothing that we sign is deeper
	// than a quarter of it.
	MaxDepth = 32
)

// ErrNotCanonical says that a text is JSON, but not its canonical form.
var ErrNotCanonical = errors.New("not canonical JSON (RFC 8785)")

// Canonicalize gives the canonical form of a JSON text (RFC 8785), in a new
// slice. Duplicate names, invalid UTF-8 and lone surrogates are errors.
func Canonicalize(text []byte) ([]byte, error) {
	if err := checkNumbers(text); err != nil {
		return nil, err
	}
	v := jsontext.Value(bytes.Clone(text))
	if err := v.Canonicalize(); err != nil {
		return nil, fmt.Errorf("canonical JSON: %w", err)
	}
	return v, nil
}

// checkNumbers refuses numbers beyond a double's range: RFC 8785 section 3.2.2.3
// has no form for them, and the library would round them to the largest double.
func checkNumbers(text []byte) error {
	d := jsontext.NewDecoder(bytes.NewReader(text))
	for {
		t, err := d.ReadToken()
		if err != nil {
			// The end, or a fault that Canonicalize names better.
			return nil
		}
		if t.Kind() == '0' {
			if _, err := strconv.ParseFloat(t.String(), 64); err != nil {
				return fmt.Errorf("canonical JSON: number %.32s: out of range", t.String())
			}
		}
	}
}

// Check reports why text is not of the strict profile: not canonical, a float, an
// integer out of range, null, not NFC, or nested too deep.
func Check(text []byte) error {
	if !norm.NFC.IsNormal(text) {
		return errors.New("strict JSON: text is not in Unicode normalization form C")
	}
	d := jsontext.NewDecoder(bytes.NewReader(text))
	for {
		if d.StackDepth() > MaxDepth {
			return fmt.Errorf("strict JSON: nested deeper than %d", MaxDepth)
		}
		t, err := d.ReadToken()
		if err != nil {
			break // the end, or a fault that Canonicalize names
		}
		switch t.Kind() {
		case 'n':
			return errors.New("strict JSON: null; leave the member out")
		case '0':
			if err := checkInt(t.String()); err != nil {
				return err
			}
		}
	}
	canon, err := Canonicalize(text)
	if err != nil {
		return err
	}
	if !bytes.Equal(canon, text) {
		return ErrNotCanonical
	}
	return nil
}

func checkInt(s string) error {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return fmt.Errorf("strict JSON: number %.32s: only integers within ±(2^53−1)", s)
	}
	if n > MaxInt || n < -MaxInt {
		return fmt.Errorf("strict JSON: integer %d: out of ±(2^53−1)", n)
	}
	return nil
}

// Digest gives the SHA-256 of canonical bytes.
func Digest(canonical []byte) [32]byte { return sha256.Sum256(canonical) }

// AppendString appends s as a canonical JSON string. Bytes that are not UTF-8
// become U+FFFD; callers validate before they encode.
func AppendString(dst []byte, s string) []byte {
	for i := 0; i < len(s); i++ {
		if c := s[i]; c < 0x20 || c == '"' || c == '\\' || c >= utf8.RuneSelf {
			return appendQuoted(dst, s)
		}
	}
	dst = append(dst, '"')
	dst = append(dst, s...)
	return append(dst, '"')
}

func appendQuoted(dst []byte, s string) []byte {
	out, _ := jsontext.AppendQuote(dst, s) // the error is invalid UTF-8, replaced as documented
	return out
}

// AppendInt appends n in decimal.
func AppendInt(dst []byte, n int64) []byte { return strconv.AppendInt(dst, n, 10) }

// AppendBool appends true or false.
func AppendBool(dst []byte, b bool) []byte { return strconv.AppendBool(dst, b) }
