package call_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/node/call"
)

// slow is a body that never comes to its end.
type slow struct{ until chan struct{} }

func (s slow) Read([]byte) (int, error) {
	<-s.until
	return 0, io.EOF
}

// CALL-6: a caller that goes away is noticed in every phase, also by a handler that does
// not read, and nothing is left of the call.
func TestCancel(t *testing.T) {
	both(t, func(t *testing.T, transport string) {
		for name, c := range map[string]struct {
			handler  func(ctx context.Context, c *call.Call, w *call.ResponseWriter) error
			body     bool // of the request goes on
			answered bool
		}{
			"before the answer": {handler: func(ctx context.Context, _ *call.Call, _ *call.ResponseWriter) error {
				<-ctx.Done()
				return context.Cause(ctx)
			}},
			"in the request": {body: true, handler: func(ctx context.Context, c *call.Call, _ *call.ResponseWriter) error {
				_, err := io.Copy(io.Discard, c.Body)
				return err
			}},
			"in the request, unread": {body: true, handler: func(ctx context.Context, _ *call.Call, _ *call.ResponseWriter) error {
				<-ctx.Done()
				return context.Cause(ctx)
			}},
			"in the answer": {answered: true, handler: func(ctx context.Context, _ *call.Call, w *call.ResponseWriter) error {
				for {
					if _, err := w.Write(make([]byte, 1000)); err != nil {
						return err
					}
					if err := w.Flush(); err != nil {
						return err
					}
				}
			}},
		} {
			t.Run(name, func(t *testing.T) {
				a, b := pair(t, transport, call.Limits{})
				rest(t, a, b)
				began, ended := make(chan struct{}), make(chan error, 1)
				b.c.Serve(func(ctx context.Context, cl *call.Call, w *call.ResponseWriter) error {
					close(began)
					err := c.handler(ctx, cl, w)
					ended <- err
					return err
				})
				ctx, cancel := context.WithCancel(t.Context())
				req := request(nil)
				if c.body {
					s := slow{make(chan struct{})}
					t.Cleanup(func() { close(s.until) })
					req.Body = s
				}
				done := make(chan error, 1)
				go func() {
					resp, err := a.c.Do(ctx, b.did, req)
					if err == nil {
						_, err = io.Copy(io.Discard, resp.Body)
					}
					done <- err
				}()
				await(t, "call", began)
				cancel()
				if err := await(t, "end of the call", done); err == nil {
					t.Error("no error")
				}
				if err := await(t, "end of the handler", ended); err == nil {
					t.Error("the handler was told nothing")
				}
			})
		}
	})
}

// A source that gives nothing, again and again, ends the answer as an error.
func TestNoProgress(t *testing.T) {
	a, b := pair(t, "tcp", call.Limits{})
	rest(t, a, b)
	b.c.Serve(func(_ context.Context, _ *call.Call, w *call.ResponseWriter) error {
		_, err := w.ReadFrom(stuck{})
		return err
	})
	resp, err := a.c.Do(t.Context(), b.did, request(nil))
	if err == nil {
		_, err = io.Copy(io.Discard, resp.Body)
	}
	if contracts.CodeOf(err) != contracts.Internal {
		t.Error(err)
	}
}

type stuck struct{}

func (stuck) Read([]byte) (int, error) { return 0, nil }

// CALL-2: an answer that is not as long as its header states is no answer, whatever the
// handler says.
func TestStatedLength(t *testing.T) {
	a, b := pair(t, "tcp", call.Limits{})
	rest(t, a, b)
	for stated, code := range map[int64]contracts.Code{0: "", 9_999: contracts.Internal, 10_000: "", 10_001: contracts.Internal, 100_000: contracts.Internal} {
		b.c.Serve(func(_ context.Context, _ *call.Call, w *call.ResponseWriter) error {
			if err := w.Header(call.ResponseHeader{Length: stated}); err != nil {
				return err
			}
			_, err := io.Copy(w, &pattern{n: 10_000})
			return err
		})
		resp, err := a.c.Do(t.Context(), b.did, request(nil))
		if err == nil {
			_, err = io.Copy(&check{pattern: pattern{n: 10_000}}, resp.Body)
		}
		// A caller may see the surplus before it is told of it.
		if got := contracts.CodeOf(err); got != code && (got != contracts.Malformed || stated >= 10_000) {
			t.Errorf("%d stated: %v", stated, err)
		}
	}
}

// CALL-5: what remains of the deadline travels, and ends the handler.
func TestDeadline(t *testing.T) {
	a, b := pair(t, "tcp", call.Limits{})
	rest(t, a, b)
	remains := make(chan time.Duration, 1)
	b.c.Serve(func(ctx context.Context, c *call.Call, _ *call.ResponseWriter) error {
		remains <- c.Remaining
		<-ctx.Done()
		return context.Cause(ctx)
	})
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err := a.c.Do(ctx, b.did, request(nil))
	if contracts.CodeOf(err) != contracts.Unavailable {
		t.Errorf("%v", err)
	}
	if d := await(t, "call", remains); d <= 0 || d > 300*time.Millisecond {
		t.Errorf("%v remain", d)
	}
}

// CALL-9, CALL-10: what is made again, and what is not.
func TestAgain(t *testing.T) {
	a, b := pair(t, "tcp", call.Limits{Pause: time.Millisecond})
	rest(t, a, b)
	unavailable := contracts.Errorf(contracts.Unavailable, "not now")
	for name, c := range map[string]struct {
		err   error
		read  bool
		key   string
		tries int
		want  int64
	}{
		"not begun":             {err: call.NotBegun(unavailable), want: 3},
		"not begun, once":       {err: call.NotBegun(unavailable), tries: 1, want: 1},
		"perhaps begun":         {err: unavailable, want: 1},
		"a read without a key":  {err: unavailable, read: true, want: 1},
		"a read with a key":     {err: unavailable, read: true, key: "k", want: 3},
		"a key, and no read":    {err: unavailable, key: "k", want: 1},
		"not to be tried again": {err: call.NotBegun(contracts.Errorf(contracts.Forbidden, "no")), want: 1},
	} {
		var n atomic.Int64
		b.c.Serve(func(context.Context, *call.Call, *call.ResponseWriter) error { n.Add(1); return c.err })
		req := request(nil)
		req.Read, req.IdempotencyKey, req.Tries = c.read, c.key, c.tries
		_, err := a.c.Do(t.Context(), b.did, req)
		if n.Load() != c.want || contracts.CodeOf(err) != contracts.CodeOf(c.err) || call.MayHaveBegun(err) != call.MayHaveBegun(c.err) {
			t.Errorf("%s: %d tries, %v", name, n.Load(), err)
		}
	}
}

// CALL-11: more calls than there may be, and calls to a node that stops, are refused and
// have not begun; those that run end in peace.
func TestFullAndStopping(t *testing.T) {
	a, b := pair(t, "tcp", call.Limits{PerPeer: 2, Tries: 1})
	rest(t, a, b)
	began, free := make(chan struct{}, 4), make(chan struct{})
	b.c.Serve(func(ctx context.Context, _ *call.Call, _ *call.ResponseWriter) error {
		began <- struct{}{}
		<-free
		return nil
	})
	done := make(chan error, 2)
	for range 2 {
		go func() {
			resp, err := a.c.Do(t.Context(), b.did, request(nil))
			if err == nil {
				_, err = io.Copy(io.Discard, resp.Body)
			}
			done <- err
		}()
		await(t, "call", began)
	}
	if _, err := a.c.Do(t.Context(), b.did, request(nil)); contracts.CodeOf(err) != contracts.RateLimited || call.MayHaveBegun(err) {
		t.Errorf("one too many: %v", err)
	}
	short, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := b.c.Drain(short); contracts.CodeOf(err) != contracts.Unavailable {
		t.Errorf("draining while calls run: %v", err)
	}
	if _, err := a.c.Do(t.Context(), b.did, request(nil)); contracts.CodeOf(err) != contracts.Unavailable || call.MayHaveBegun(err) {
		t.Errorf("a node that stops: %v", err)
	}
	close(free)
	for range 2 {
		if err := await(t, "end of a call", done); err != nil {
			t.Error(err)
		}
	}
	if err := b.c.Drain(t.Context()); err != nil {
		t.Error(err)
	}
}

// CALL-8: what is at home stays there, and a panic is one call's.
func TestErrors(t *testing.T) {
	a, b := pair(t, "tcp", call.Limits{})
	rest(t, a, b)
	for name, c := range map[string]struct {
		err  error
		code contracts.Code
		says string
	}{
		"with a code":        {contracts.Errorf(contracts.NotFound, "no such thing"), contracts.NotFound, "no such thing"},
		"with a cause":       {contracts.Errorf(contracts.NotFound, "reading: %w", errors.New("/etc/secret")), contracts.NotFound, ""},
		"without a code":     {errors.New("/etc/secret"), contracts.Internal, ""},
		"INTERNAL":           {contracts.Errorf(contracts.Internal, "/etc/secret"), contracts.Internal, ""},
		"several lines":      {contracts.Errorf(contracts.NotFound, "one\ntwo\x1b[31m"), contracts.NotFound, "one?two?[31m"},
		"more than fits":     {contracts.Errorf(contracts.NotFound, "%s", strings.Repeat("é", 5000)), contracts.NotFound, "é"},
		"panic":              {nil, contracts.Internal, ""},
		"a code with spaces": {contracts.Errorf("not a code", "x"), contracts.Internal, ""},
	} {
		b.c.Serve(func(context.Context, *call.Call, *call.ResponseWriter) error {
			if name == "panic" {
				panic("/etc/secret")
			}
			return c.err
		})
		_, err := a.c.Do(t.Context(), b.did, request(nil))
		if contracts.CodeOf(err) != c.code || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "secret") || len(err.Error()) > 400 {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// CALL-1, CALL-3, CALL-7: peers that break the rules, or say nothing, get no further than
// their stream.
func TestBadPeers(t *testing.T) {
	a, b := pair(t, "tcp", call.Limits{Header: 200 * time.Millisecond, Idle: 300 * time.Millisecond})
	rest(t, a, b)
	var ran atomic.Int64
	ended := make(chan error, 1)
	b.c.Serve(func(_ context.Context, c *call.Call, _ *call.ResponseWriter) error {
		ran.Add(1)
		_, err := io.Copy(io.Discard, c.Body)
		ended <- err
		return err
	})
	id := callID
	for name, c := range map[string]struct {
		bytes string
		runs  bool // the handler, until its body fails
	}{
		"nothing":                  {"", false},
		"a drip":                   {good[:5], false},
		"a length of 0":            {"\x00", false},
		"a long length":            {"\xff\xff\x7f", false},
		"a length in a long form":  {"\x81\x00\x01", false},
		"an unknown kind":          {"\x01\x0f", false},
		"a body first":             {"\x02\x02x", false},
		"an answer":                {"\x01\x06", false},
		"a header without id":      {"\x04\x01\x02\x01x", false},
		"fields in another order":  {string(rune(len(header)+1)) + "\x01\x02\x01x\x01\x24" + id, false},
		"the header twice":         {good + good, true},
		"an empty body":            {good + "\x01\x02", true},
		"something behind the end": {good + "\x01\x03\x01\x03", true},
		"silence in the body":      {good + "\x02\x02x", true},
	} {
		t.Run(name, func(t *testing.T) {
			before := ran.Load()
			s := a.raw(t, b)
			if _, err := io.WriteString(s, c.bytes); err != nil {
				t.Fatal(err)
			}
			_, err := io.Copy(io.Discard, s) // until the executor ends it
			if got := ran.Load() > before; got != c.runs {
				t.Errorf("the handler ran: %v; the stream ended with %v", got, err)
			}
			if c.runs {
				if err := await(t, "end of the handler", ended); err == nil && name != "something behind the end" {
					t.Error("the body counts as complete")
				}
			}
		})
	}
	// Padding and what later versions may add change nothing.
	s := a.raw(t, b)
	if _, err := io.WriteString(s, "\x03\x08ab\x01\x09\x03\x80xy"+good+"\x01\x09\x02\x02x\x04\xffabc\x01\x03"); err != nil {
		t.Fatal(err)
	}
	if err := await(t, "end of the handler", ended); err != nil {
		t.Errorf("padding: %v", err)
	}
}
