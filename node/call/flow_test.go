package call_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync/atomic"
	"testing"
	"time"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/node/call"
)

const (
	callID = "019a0000-0000-7000-8000-000000000000"
	header = "\x01\x24" + callID + "\x02\x01x"
	// good is the request frame of a call of the surface x.
	good = string(rune(len(header)+1)) + "\x01" + header
)

// CALL-7: a handler that takes its time does not make its caller late, also when the
// first byte of the caller's next frame came with the one before.
func TestPauseOfHandler(t *testing.T) {
	both(t, func(t *testing.T, transport string) {
		const idle = 200 * time.Millisecond
		a, b := pair(t, transport, call.Limits{Header: idle, Idle: idle})
		rest(t, a, b)
		read, done := make(chan struct{}), make(chan error, 1)
		b.c.Serve(func(_ context.Context, c *call.Call, _ *call.ResponseWriter) error {
			<-time.After(2 * idle) // busy with something else
			_, err := io.ReadFull(c.Body, make([]byte, 3))
			close(read)
			if err == nil {
				_, err = io.Copy(io.Discard, c.Body)
			}
			done <- err
			return err
		})
		s := a.raw(t, b)
		write(t, s, good+"\x04\x02abc\x81")
		await(t, "part of the body", read)
		write(t, s, "\x01\x02"+string(bytes.Repeat([]byte{'x'}, 128))+"\x01\x03")
		if err := await(t, "end of the handler", done); err != nil {
			t.Error(err)
		}
	})
}

// CALL-7: a reader that does not read stops its writer, soon and in either direction,
// and one that stops for longer than the limit loses the call.
func TestSlowReader(t *testing.T) {
	both(t, func(t *testing.T, transport string) {
		t.Run("answer", func(t *testing.T) {
			a, b := pair(t, transport, call.Limits{Stall: 500 * time.Millisecond})
			rest(t, a, b)
			src, ended := &endless{}, make(chan error, 1)
			b.c.Serve(func(_ context.Context, _ *call.Call, w *call.ResponseWriter) error {
				_, err := io.Copy(w, src)
				ended <- err
				return err
			})
			resp, err := a.c.Do(t.Context(), b.did, request(nil))
			if err != nil {
				t.Fatal(err)
			}
			if err := await(t, "end of the writer", ended); contracts.CodeOf(err) != contracts.Unavailable {
				t.Errorf("the writer ended with %v", err)
			}
			if n := src.n.Load(); n > 20<<20 { // the largest window of the transports is 16 MiB
				t.Errorf("%d MiB were written to nobody", n>>20)
			}
			if _, err := io.Copy(io.Discard, resp.Body); err == nil {
				t.Error("the answer counts as complete")
			}
		})
		t.Run("request", func(t *testing.T) {
			a, b := pair(t, transport, call.Limits{Stall: 500 * time.Millisecond})
			rest(t, a, b)
			began, ended := make(chan struct{}), make(chan error, 1)
			b.c.Serve(func(ctx context.Context, _ *call.Call, _ *call.ResponseWriter) error {
				close(began)
				<-ctx.Done()
				ended <- context.Cause(ctx)
				return nil
			})
			src := &endless{}
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() {
				_, err := a.c.Do(ctx, b.did, request(src))
				done <- err
			}()
			await(t, "begin of the handler", began) // the first window may be full before it
			last := int64(-1)                       // what was read of the source no longer grows
			eventually(t, "end of reading", func() bool {
				n := src.n.Load()
				same := n == last && n > 0
				last = n
				return same
			}, func() string { return "the source is read without end" })
			if last > 20<<20 {
				t.Errorf("%d MiB were written to nobody", last>>20)
			}
			cancel()
			if err := await(t, "end of the call", done); err == nil {
				t.Error("no error")
			}
			await(t, "end of the handler", ended)
		})
	})
}

// endless counts what is read of it.
type endless struct{ n atomic.Int64 }

func (e *endless) Read(p []byte) (int, error) {
	e.n.Add(int64(len(p)))
	return len(p), nil
}

// CALL-7: keepalives of both sides carry a call over a silence that is longer than the
// limit; without them it ends there.
func TestSilence(t *testing.T) {
	const idle = 200 * time.Millisecond
	for name, keepalive := range map[string]time.Duration{"with keepalives": idle / 8, "without": time.Hour} {
		t.Run(name, func(t *testing.T) {
			a, b := pair(t, "tcp", call.Limits{Idle: idle, Keepalive: keepalive, Tries: 1})
			rest(t, a, b)
			b.c.Serve(func(ctx context.Context, c *call.Call, _ *call.ResponseWriter) error {
				if _, err := io.Copy(io.Discard, c.Body); err != nil {
					return err
				}
				select {
				case <-time.After(3 * idle):
				case <-ctx.Done():
				}
				return context.Cause(ctx)
			})
			resp, err := a.c.Do(t.Context(), b.did, request(io.MultiReader(bytes.NewReader([]byte("x")), &late{after: 3 * idle})))
			if err == nil {
				_, err = io.Copy(io.Discard, resp.Body)
			}
			if name == "without" && contracts.CodeOf(err) != contracts.Unavailable || name != "without" && err != nil {
				t.Error(err)
			}
		})
	}
}

// late is an empty body that takes its time.
type late struct{ after time.Duration }

func (l *late) Read([]byte) (int, error) {
	<-time.After(l.after)
	return 0, io.EOF
}

// CALL-11: when a node has drained, its callers have their answers, so that it may go
// away at once.
func TestDrainThenGone(t *testing.T) {
	both(t, func(t *testing.T, transport string) {
		for name, body := range map[string]io.Reader{"no body": nil, "a body": bytes.NewReader(make([]byte, 5000)), "a body unread": bytes.NewReader(make([]byte, 5001))} {
			t.Run(name, func(t *testing.T) {
				const size = 4 << 20
				a, b := pair(t, transport, call.Limits{})
				began := make(chan struct{})
				b.c.Serve(func(_ context.Context, c *call.Call, w *call.ResponseWriter) error {
					close(began)
					if c.Length == 5000 {
						if _, err := io.Copy(io.Discard, c.Body); err != nil {
							return err
						}
					}
					_, err := io.Copy(w, &pattern{n: size})
					return err
				})
				done := make(chan error, 1)
				go func() {
					resp, err := a.c.Do(t.Context(), b.did, request(body))
					if err == nil {
						_, err = io.Copy(&check{pattern: pattern{n: size}}, resp.Body)
					}
					done <- err
				}()
				await(t, "call", began)
				if err := b.c.Drain(t.Context()); err != nil {
					t.Error(err)
				}
				_ = b.c.Close()
				_ = b.h.Close()
				if err := await(t, "answer", done); err != nil {
					t.Error(err)
				}
			})
		}
	})
}

// CALL-11: a node that gives up waiting tells those whose calls still run.
func TestClose(t *testing.T) {
	a, b := pair(t, "tcp", call.Limits{Tries: 1})
	rest(t, a, b)
	began, ended := make(chan struct{}), make(chan error, 1)
	b.c.Serve(func(ctx context.Context, c *call.Call, _ *call.ResponseWriter) error {
		close(began)
		_, err := io.Copy(io.Discard, c.Body) // which never ends
		ended <- context.Cause(ctx)
		return err
	})
	s := slow{make(chan struct{})}
	defer close(s.until)
	done := make(chan error, 1)
	go func() {
		_, err := a.c.Do(t.Context(), b.did, request(s))
		done <- err
	}()
	await(t, "call", began)
	if err := b.c.Close(); err != nil {
		t.Error(err)
	}
	if err := await(t, "end of the handler", ended); contracts.CodeOf(err) != contracts.Unavailable {
		t.Errorf("the handler is told %v", err)
	}
	if err := await(t, "end of the call", done); contracts.CodeOf(err) != contracts.Unavailable || !call.MayHaveBegun(err) {
		t.Errorf("the caller is told %v", err)
	}
	if _, err := a.c.Do(t.Context(), b.did, request(nil)); contracts.CodeOf(err) != contracts.Unavailable {
		t.Errorf("a call after the end: %v", err)
	}
}

// What a handler's own source fails with is not the caller's fault.
func TestSourceFails(t *testing.T) {
	a, b := pair(t, "tcp", call.Limits{})
	rest(t, a, b)
	broken := errors.New("the disk is gone")
	got := make(chan error, 1)
	b.c.Serve(func(_ context.Context, _ *call.Call, w *call.ResponseWriter) error {
		_, err := io.Copy(w, io.MultiReader(&pattern{n: 10}, failing{broken}))
		got <- err
		return err
	})
	resp, err := a.c.Do(t.Context(), b.did, request(nil))
	if err == nil {
		_, err = io.Copy(io.Discard, resp.Body)
	}
	if contracts.CodeOf(err) != contracts.Internal {
		t.Errorf("the caller is told %v", err)
	}
	if err := await(t, "error", got); !errors.Is(err, broken) || contracts.CodeOf(err) != contracts.Internal {
		t.Errorf("the handler is told %v", err)
	}
	// Nor is what the caller's source fails with the executor's.
	b.c.Serve(echo)
	resp, err = a.c.Do(t.Context(), b.did, request(io.MultiReader(&pattern{n: 10}, failing{broken})))
	if err == nil {
		_, err = io.Copy(io.Discard, resp.Body)
	}
	if !errors.Is(err, broken) {
		t.Errorf("the caller's own source: %v", err)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// CALL-5: a deadline that another call had does not travel.
func TestNoDeadline(t *testing.T) {
	a, b := pair(t, "tcp", call.Limits{})
	rest(t, a, b)
	remains := make(chan time.Duration, 1)
	b.c.Serve(func(_ context.Context, c *call.Call, _ *call.ResponseWriter) error {
		remains <- c.Remaining
		return nil
	})
	req := request(nil)
	req.Remaining = time.Second
	resp, err := a.c.Do(context.WithoutCancel(t.Context()), b.did, req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close() //nolint:errcheck // there is none
	if d := await(t, "call", remains); d != 0 {
		t.Errorf("%v remain of no deadline", d)
	}
}

func write(t testing.TB, w io.Writer, b string) {
	t.Helper()
	if _, err := io.WriteString(w, b); err != nil {
		t.Fatal(err)
	}
}
