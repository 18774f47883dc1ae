package sse_test

import (
	"bufio"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/node/gateway/sse"
)

// Events come one by one with all their bytes, whatever their line ends and however they
// are cut up on the way.
func TestRead(t *testing.T) {
	for text, want := range map[string][]string{
		"": nil, "\n": {"\n"}, "data: a\n\ndata: b\n\n": {"data: a\n\n", "data: b\n\n"}, "data: a\r\n\r\n: x\r\n\r\n": {"data: a\r\n\r\n", ": x\r\n\r\n"},
		"id: 1\ndata: a\ndata: b\n\nrest": {"id: 1\ndata: a\ndata: b\n\n", "rest"},
	} {
		for _, in := range []io.Reader{strings.NewReader(text), iotest.OneByteReader(strings.NewReader(text))} {
			r := bufio.NewReaderSize(in, 16)
			var got []string
			for {
				event, err := sse.Read(r)
				if len(event) > 0 {
					got = append(got, string(event))
				}
				if errors.Is(err, io.EOF) {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			if strings.Join(got, "|") != strings.Join(want, "|") {
				t.Errorf("%q: %q", text, got)
			}
		}
	}
	large := "data: " + strings.Repeat("x", sse.MaxEvent)
	if _, err := sse.Read(bufio.NewReader(strings.NewReader(large))); contracts.CodeOf(err) != contracts.TooLarge {
		t.Errorf("a large event: %v", err)
	}
}

func TestData(t *testing.T) {
	for event, want := range map[string]string{
		"data: a\n\n": "a", "data:a\r\ndata:  b\r\n\r\n": "a\n b", ": data: a\n\n": "", "event: x\nid: 1\n\n": "", "\ufeffdata: a\n\n": "a", "data\n\n": "",
	} {
		if got := string(sse.Data([]byte(event))); got != want {
			t.Errorf("%q: %q", event, got)
		}
	}
}
