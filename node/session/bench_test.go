package session_test

import (
	"bytes"
	"io"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/protocol"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
	"github.com/talosprotocol/talos/node/session"
	"github.com/talosprotocol/talos/node/store"
)

// BenchmarkRoundTrip sends a message and waits for the answer of the other
// application, and compares that with an echo on a raw stream of the same hosts.
func BenchmarkRoundTrip(b *testing.B) {
	x, y := pair(b)
	echo := protocol.ID("/echo")
	y.h.SetStreamHandler(echo, func(s network.Stream) { _, _ = io.Copy(s, s) })
	s, err := x.h.NewStream(b.Context(), y.h.ID(), echo)
	if err != nil {
		b.Fatal(err)
	}
	body := make([]byte, 256)
	const rounds = 2000
	start := time.Now()
	for range rounds {
		if _, err := s.Write(body); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(s, body); err != nil {
			b.Fatal(err)
		}
	}
	raw := time.Since(start) / rounds
	x.send(b, y, "begin")
	y.expect(b, "begin")
	gotX, stopX := x.m.Changed()
	gotY, stopY := y.m.Changed()
	defer stopX()
	defer stopY()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := x.m.Send(b.Context(), y.did, body); err != nil {
			b.Fatal(err)
		}
		<-gotY
		if _, err := y.m.Send(b.Context(), x.did, body); err != nil {
			b.Fatal(err)
		}
		<-gotX
		for _, m := range []*session.Manager{x.m, y.m} {
			if err := m.Acknowledge(b.Context(), 1<<62); err != nil {
				b.Fatal(err)
			}
		}
	}
	each := b.Elapsed() / time.Duration(b.N)
	b.ReportMetric(float64(raw.Nanoseconds()), "raw-ns/op")
	b.ReportMetric(float64(each)/float64(raw), "times-raw")
}

// BenchmarkDurable accepts messages of 512 callers on 24 sessions, each with a node of
// its own, and a store on disk: what Send promises while delivery goes on.
func BenchmarkDurable(b *testing.B) {
	x, y := pair(b)
	x.crash()
	st, err := store.Open(b.TempDir(), store.Options{Key: bytes.Repeat([]byte{1}, 32)})
	if err != nil {
		b.Fatal(err)
	}
	defer st.Close() //nolint:errcheck // a benchmark
	if x.m, err = session.New(x.h, x.dir, st.Session(), x.keys, silent{}, logger(b), x.now); err != nil {
		b.Fatal(err)
	}
	defer func() { _ = x.m.Close(); x.m = nil }()
	x.send(b, y, "begin")
	peers := sessions(b, x, 24)
	var wg sync.WaitGroup
	work := make(chan int)
	body := make([]byte, 256)
	for range 512 {
		wg.Go(func() {
			for i := range work {
				for { // an outbox that is full empties as the peer takes it
					_, err := x.m.Send(b.Context(), peers[i%len(peers)], body)
					if contracts.CodeOf(err) == contracts.OutboxFull {
						time.Sleep(time.Millisecond)
						continue
					}
					if err != nil {
						b.Errorf("sending: %v", err)
					}
					break
				}
			}
		})
	}
	runtime.GC()
	b.ResetTimer()
	n := b.N
	for i := range n {
		work <- i
	}
	close(work)
	wg.Wait()
	b.StopTimer()
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "msg/s")
}

// sessions gives peers with a session each.
func sessions(b *testing.B, x *member, n int) []identity.DID {
	b.Helper()
	out := make([]identity.DID, n)
	for i := range out {
		out[i] = newMember(b, x.clock, x).did
		x.clock.Add(10)
		if _, err := x.m.Send(b.Context(), out[i], []byte("begin")); err != nil {
			b.Fatal(err)
		}
	}
	return out
}
