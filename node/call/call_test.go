package call_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
	"testing"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/node/call"
)

// TestEcho: CALL-1, CALL-2, bodies of any size in both directions.
func TestEcho(t *testing.T) {
	both(t, func(t *testing.T, transport string) {
		a, b := pair(t, transport, call.Limits{})
		rest(t, a, b)
		b.c.Serve(echo)
		for _, size := range []int64{0, 1, 127, 128, 16<<10 - 1, 32 << 10, 32<<10 + 1, 64 << 10, 1 << 20} {
			for _, known := range []bool{false, true} {
				t.Run(fmt.Sprintf("%d %v", size, known), func(t *testing.T) {
					req := request(&pattern{n: size})
					req.ContentType, req.Meta = "text/plain; charset=utf-8", []byte{0, 1, 255}
					if known {
						whole, _ := io.ReadAll(req.Body)
						req.Body = bytes.NewReader(whole)
					}
					resp, err := a.c.Do(t.Context(), b.did, req)
					if err != nil {
						t.Fatal(err)
					}
					if resp.Header.ContentType != req.ContentType || !bytes.Equal(resp.Header.Meta, req.Meta) || known && resp.Header.Length != size {
						t.Errorf("header %+v", resp.Header)
					}
					finishEcho(t, resp, size)
				})
			}
		}
	})
}

func finishEcho(t testing.TB, resp *call.Response, size int64) {
	t.Helper()
	got := &check{pattern: pattern{n: size}}
	if n, err := io.Copy(got, resp.Body); n != size || err != nil {
		t.Errorf("%d bytes, %v; want %d", n, err, size)
	}
	var usage struct{ Bytes int64 }
	if err := json.Unmarshal(resp.Trailer(), &usage); err != nil || usage.Bytes != size {
		t.Errorf("trailer %s, %v", resp.Trailer(), err)
	}
	if err := resp.Body.Close(); err != nil {
		t.Error(err)
	}
	if n, err := resp.Body.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("after the end: %d, %v", n, err)
	}
}

// TestLargeBothWays streams 100 MiB up and down at once, and holds little of it.
func TestLargeBothWays(t *testing.T) {
	size := int64(100 << 20)
	if testing.Short() || slowed() {
		size = 8 << 20
	}
	both(t, func(t *testing.T, transport string) {
		a, b := pair(t, transport, call.Limits{})
		rest(t, a, b)
		b.c.Serve(echo)
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		base, peak := m.HeapAlloc, uint64(0)
		resp, err := a.c.Do(t.Context(), b.did, request(&pattern{n: size}))
		if err != nil {
			t.Fatal(err)
		}
		got := &check{pattern: pattern{n: size}, onMiB: func() {
			runtime.ReadMemStats(&m)
			peak = max(peak, m.HeapAlloc)
		}}
		if n, err := io.Copy(got, resp.Body); n != size || err != nil {
			t.Fatalf("%d bytes, %v", n, err)
		}
		// The transport's windows grow to 16 MiB a direction; ours are 0.07 MiB.
		if over := int64(peak) - int64(base); over > 96<<20 {
			t.Errorf("%d MiB more than before", over>>20)
		}
	})
}

// TestManyAtOnce has a thousand calls under way at the same moment.
func TestManyAtOnce(t *testing.T) {
	peers, each := 20, 50
	if slowed() {
		peers, each = 5, 60
	}
	w := newWorld(t, "tcp")
	b := w.node(call.Limits{})
	var callers []*node
	for range peers {
		a := w.node(call.Limits{})
		a.join(t, b)
		callers = append(callers, a)
	}
	rest(t, append(callers, b)...)
	var here sync.WaitGroup
	here.Add(peers * each)
	all := make(chan struct{})
	go func() { here.Wait(); close(all) }()
	b.c.Serve(func(ctx context.Context, c *call.Call, w *call.ResponseWriter) error {
		here.Done()
		select {
		case <-all:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		return echo(ctx, c, w)
	})
	var work sync.WaitGroup
	for i := range peers * each {
		work.Go(func() {
			size := int64(i * 97)
			resp, err := callers[i%peers].c.Do(t.Context(), b.did, request(&pattern{n: size}))
			if err != nil {
				t.Error(err)
				here.Done()
				return
			}
			finishEcho(t, resp, size)
		})
	}
	work.Wait()
}

// TestHeaderArrives: CALL-4, what a handler learns of a call and of its caller.
func TestHeaderArrives(t *testing.T) {
	a, b := pair(t, "tcp", call.Limits{})
	rest(t, a, b)
	seen := make(chan *call.Call, 1)
	b.c.Serve(func(_ context.Context, c *call.Call, _ *call.ResponseWriter) error {
		seen <- c
		return nil
	})
	req := call.Request{Header: call.Header{
		Surface: "mcp.tools.call", Service: "files", Method: "read_file", Read: true, ContentType: "application/json", IdempotencyKey: "k-1",
		Capability: bytes.Repeat([]byte{7}, 9000), Trace: []byte("00-abc"), Meta: []byte("m"),
	}}
	resp, err := a.c.Do(t.Context(), b.did, req)
	if err != nil {
		t.Fatal(err)
	}
	if body, err := io.ReadAll(resp.Body); len(body) != 0 || err != nil || resp.Trailer() != nil {
		t.Errorf("%q, %v, %s", body, err, resp.Trailer())
	}
	got := await(t, "call", seen)
	if got.Caller.DID != a.did || got.Caller.State == nil || got.Caller.State.DID != a.did {
		t.Errorf("the caller is %+v", got.Caller)
	}
	if got.ID != resp.ID || got.Remaining != 0 {
		t.Errorf("id %s, not %s; %v remain", got.ID, resp.ID, got.Remaining)
	}
	h := got.Header
	h.ID = ""
	if fmt.Sprint(h) != fmt.Sprint(req.Header) {
		t.Errorf("header %+v", h)
	}
}

// TestBadRequests: CALL-4, what Do refuses before anything travels.
func TestBadRequests(t *testing.T) {
	a, b := pair(t, "tcp", call.Limits{})
	rest(t, a, b)
	b.c.Serve(echo)
	long := string(bytes.Repeat([]byte{'x'}, 200))
	for name, x := range map[string]struct {
		h    call.Header
		code contracts.Code
	}{
		"no surface":     {call.Header{}, contracts.Malformed},
		"long surface":   {call.Header{Surface: long}, contracts.TooLarge},
		"space":          {call.Header{Surface: "a b"}, contracts.Malformed},
		"line":           {call.Header{Surface: "a", Method: "x\ny"}, contracts.Malformed},
		"not ASCII":      {call.Header{Surface: "a", Service: "é"}, contracts.Malformed},
		"long key":       {call.Header{Surface: "a", IdempotencyKey: long}, contracts.TooLarge},
		"long trace":     {call.Header{Surface: "a", Trace: make([]byte, call.MaxTrace+1)}, contracts.TooLarge},
		"long chain":     {call.Header{Surface: "a", Capability: make([]byte, call.MaxCapability+1)}, contracts.TooLarge},
		"negative":       {call.Header{Surface: "a", Length: -1}, contracts.Malformed},
		"long in sum":    {call.Header{Surface: "a", Capability: make([]byte, call.MaxCapability), Meta: make([]byte, call.MaxMeta)}, contracts.TooLarge},
		"less than said": {call.Header{Surface: "a", Length: 5}, contracts.Malformed},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := a.c.Do(t.Context(), b.did, call.Request{Header: x.h, Body: &pattern{n: 3}})
			if contracts.CodeOf(err) != x.code {
				t.Errorf("%v, want %s", err, x.code)
			}
		})
	}
}
