package call_test

import (
	"context"
	"io"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/client"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/relay"
	"github.com/multiformats/go-multiaddr"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/node/call"
	"github.com/talosprotocol/talos/node/p2p"
)

// CALL-6: five hundred calls that are given up, each at another moment, leave nothing.
func TestManyAborts(t *testing.T) {
	both(t, func(t *testing.T, transport string) {
		aborts := 500
		if slowed() {
			aborts = 100
		}
		a, b := pair(t, transport, call.Limits{})
		rest(t, a, b)
		base := runtime.NumGoroutine()
		var running sync.WaitGroup
		b.c.Serve(func(ctx context.Context, c *call.Call, w *call.ResponseWriter) error {
			running.Add(1)
			defer running.Done()
			return echo(ctx, c, w)
		})
		var work sync.WaitGroup
		turn := make(chan struct{}, 20)
		for i := range aborts {
			turn <- struct{}{}
			work.Go(func() {
				defer func() { <-turn }()
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				// The abort comes when so much of the request is read, or of the answer.
				at := int64(i%7) * 30_000
				var body io.Reader = &pattern{n: 300_000}
				if i%2 == 0 {
					body = io.MultiReader(&pattern{n: at}, then(cancel), &pattern{n: 300_000})
				}
				resp, err := a.c.Do(ctx, b.did, request(body))
				if err != nil {
					return
				}
				_, _ = io.CopyN(io.Discard, resp.Body, at)
				if i%4 == 1 {
					cancel()
				}
				_ = resp.Body.Close()
			})
		}
		work.Wait()
		running.Wait()
		eventually(t, "goroutine count", func() bool { return runtime.NumGoroutine() <= base+6 && ours() == "" }, ours)
	})
}

// then is an empty body that calls something when it is read.
type then func()

func (f then) Read([]byte) (int, error) {
	f()
	return 0, io.EOF
}

// CALL-2, CALL-3, CALL-7: an executor that lies, drips or says nothing does not make its
// caller believe or wait.
func TestBadExecutors(t *testing.T) {
	a, b := pair(t, "tcp", call.Limits{Idle: 300 * time.Millisecond, Tries: 1})
	rest(t, a, b)
	const head = "\x01\x04"
	for name, c := range map[string]struct {
		bytes string
		code  contracts.Code
		stays bool // the executor does not end its side
	}{
		"nothing":                {"", contracts.Unavailable, false},
		"silence":                {"", contracts.Unavailable, true},
		"a drip":                 {"\x05\x04", contracts.Unavailable, true},
		"no trailer":             {head + "\x02\x05x", contracts.Unavailable, false},
		"silence in the answer":  {head + "\x02\x05x", contracts.Unavailable, true},
		"a drip in the answer":   {head + "\x04\x05x", contracts.Unavailable, true},
		"an empty frame":         {head + "\x01\x05", contracts.Malformed, true},
		"no header":              {"\x02\x05x", contracts.Malformed, true},
		"two headers":            {head + head, contracts.Malformed, true},
		"a long header":          {"\xff\xff\x03\x04", contracts.TooLarge, true},
		"a long frame":           {head + "\xff\xff\x7f", contracts.TooLarge, true},
		"a trailer that is text": {head + "\x02\x06x", contracts.Malformed, true},
		"a length that is more":  {"\x04\x04\x02\x01\x05" + "\x02\x05x" + "\x01\x06", contracts.Malformed, true},
		"a length that is less":  {"\x04\x04\x02\x01\x01" + "\x03\x05xx" + "\x01\x06", contracts.Malformed, true},
		"behind the trailer":     {head + "\x01\x06\x01\x09", contracts.Malformed, true},
		"an error without code":  {"\x01\x07", contracts.Malformed, true},
		"a kind of nobody":       {"\x01\x00", contracts.Malformed, true},
		"the caller's own kind":  {"\x01\x03", contracts.Malformed, true},
	} {
		t.Run(name, func(t *testing.T) {
			b.h.SetStreamHandler(callProtocol, func(s network.Stream) {
				_, _ = io.WriteString(s, c.bytes)
				if !c.stays {
					_ = s.CloseWrite()
				}
				_, _ = io.Copy(io.Discard, s)
				_ = s.Reset()
			})
			resp, err := a.c.Do(t.Context(), b.did, request(nil))
			if err == nil {
				_, err = io.Copy(io.Discard, resp.Body)
				_ = resp.Body.Close()
			}
			if contracts.CodeOf(err) != c.code || !call.MayHaveBegun(err) {
				t.Errorf("%v, want %s", err, c.code)
			}
		})
	}
}

// CALL-7: an executor that says nothing is soon given up by a call that may be done twice,
// and then asked again if it has the key for it (CALL-10).
func TestSilentExecutor(t *testing.T) {
	a, b := pair(t, "tcp", call.Limits{Answer: 50 * time.Millisecond, Idle: time.Hour, Tries: 2, Pause: time.Millisecond})
	rest(t, a, b)
	var tries atomic.Int64
	b.h.SetStreamHandler(callProtocol, func(s network.Stream) {
		tries.Add(1)
		_, _ = io.Copy(io.Discard, s)
		_ = s.Reset()
	})
	req := request(nil)
	req.Read, req.IdempotencyKey = true, "k"
	if _, err := a.c.Do(t.Context(), b.did, req); contracts.CodeOf(err) != contracts.Unavailable || tries.Load() != 2 {
		t.Errorf("%d tries, %v", tries.Load(), err)
	}
}

// CALL-11: the limit of all calls, beside that of each peer; a place is free again when
// its call has ended.
func TestFullForAll(t *testing.T) {
	w := newWorld(t, "tcp")
	b := w.node(call.Limits{Calls: 2, PerPeer: 1})
	var callers []*node
	for range 3 {
		a := w.node(call.Limits{Tries: 1})
		a.join(t, b)
		callers = append(callers, a)
	}
	rest(t, append(callers, b)...)
	began, free := make(chan struct{}, 4), make(chan struct{})
	b.c.Serve(func(ctx context.Context, _ *call.Call, _ *call.ResponseWriter) error {
		began <- struct{}{}
		select {
		case <-free:
		case <-ctx.Done():
		}
		return nil
	})
	var work sync.WaitGroup
	do := func(a *node) error {
		resp, err := a.c.Do(t.Context(), b.did, request(nil))
		if err == nil {
			_, err = io.Copy(io.Discard, resp.Body)
		}
		return err
	}
	for _, a := range callers[:2] {
		work.Go(func() {
			if err := do(a); err != nil {
				t.Error(err)
			}
		})
		await(t, "call", began)
	}
	for name, a := range map[string]*node{"one peer's": callers[0], "all": callers[2]} {
		if err := do(a); contracts.CodeOf(err) != contracts.RateLimited || call.MayHaveBegun(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	close(free)
	work.Wait()
	eventually(t, "free place", func() bool { return do(callers[2]) == nil }, func() string { return "" })
}

// CALL-8: a panic in the middle of an answer ends it as an error, and nothing else.
func TestPanicInTheMiddle(t *testing.T) {
	a, b := pair(t, "tcp", call.Limits{})
	rest(t, a, b)
	b.c.Serve(func(_ context.Context, c *call.Call, w *call.ResponseWriter) error {
		_, _ = w.Write([]byte("abc"))
		if c.Method == "" {
			panic("a secret")
		}
		return nil
	})
	for _, method := range []string{"", "sound"} {
		req := request(nil)
		req.Method = method
		resp, err := a.c.Do(t.Context(), b.did, req)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(resp.Body)
		if string(got) != "abc" {
			t.Errorf("%q", got)
		}
		if method == "" && (contracts.CodeOf(err) != contracts.Internal || strings.Contains(err.Error(), "secret")) || method != "" && err != nil {
			t.Error(err)
		}
	}
}

// CALL-1: a call works over a relay as well, on the one relayed connection.
func TestRelayed(t *testing.T) {
	r, err := libp2p.New(libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"), libp2p.DisableMetrics())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	if _, err := relay.New(r); err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, "tcp")
	w.kind = p2p.Private
	a, b := w.node(call.Limits{}), w.node(call.Limits{})
	at := peer.AddrInfo{ID: r.ID(), Addrs: r.Addrs()}
	for _, n := range []*node{a, b} {
		if err := n.h.Connect(t.Context(), at); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := client.Reserve(t.Context(), b.h.Host, at); err != nil {
		t.Fatal(err)
	}
	circuit, err := multiaddr.NewMultiaddr("/p2p/" + r.ID().String() + "/p2p-circuit")
	if err != nil {
		t.Fatal(err)
	}
	ctx := network.WithAllowLimitedConn(t.Context(), "test")
	if err := a.h.Connect(ctx, peer.AddrInfo{ID: b.h.ID(), Addrs: []multiaddr.Multiaddr{circuit}}); err != nil {
		t.Fatal(err)
	}
	for from, to := range map[*node]*node{a: b, b: a} {
		if _, err := from.dir.Bind(ctx, to.h.ID()); err != nil {
			t.Fatal(err)
		}
	}
	b.c.Serve(echo)
	for range 3 {
		resp, err := a.c.Do(t.Context(), b.did, request(&pattern{n: 10_000}))
		if err != nil {
			t.Fatal(err)
		}
		finishEcho(t, resp, 10_000)
	}
	conns := a.h.Host.Network().ConnsToPeer(b.h.ID())
	if len(conns) != 1 || !conns[0].Stat().Limited {
		t.Errorf("connections: %v", conns)
	}
}
