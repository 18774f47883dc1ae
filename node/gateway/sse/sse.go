// Package sse reads server-sent events that are passed on: event by event, each with the
// bytes that it came with.
package sse

import (
	"bufio"
	"bytes"
	"errors"

	"github.com/talosprotocol/talos/contracts"
)

// MaxEvent bounds an event, in bytes.
const MaxEvent = 1 << 20

// Read gives the bytes up to and with the next blank line, or what is left. Line ends
// are LF or CRLF as the upstream writes them; they pass as they are. An event of more than
// MaxEvent bytes is TOO_LARGE.
func Read(in *bufio.Reader) ([]byte, error) {
	var event []byte
	blank := true // the line so far
	for {
		part, err := in.ReadSlice('\n')
		event = append(event, part...)
		if len(event) > MaxEvent {
			return nil, contracts.Errorf(contracts.TooLarge, "the upstream's stream has an event of more than %d bytes", MaxEvent)
		}
		blank = blank && len(bytes.TrimRight(part, "\r\n")) == 0
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case err != nil:
			return event, err
		}
		if blank {
			return event, nil
		}
		blank = true
	}
}

// Data joins the data lines of an event.
func Data(event []byte) []byte {
	var out []byte
	lines := 0
	for line := range bytes.FieldsFuncSeq(event, func(r rune) bool { return r == '\n' || r == '\r' }) {
		line = bytes.TrimPrefix(line, []byte("\ufeff"))
		v, ok := bytes.CutPrefix(line, []byte("data:"))
		if !ok {
			continue
		}
		v = bytes.TrimPrefix(v, []byte(" "))
		if lines++; lines == 1 {
			out = v
			continue
		}
		out = append(append(bytes.Clone(out), '\n'), v...)
	}
	return out
}
