package call_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"testing"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/protocol"

	"github.com/talosprotocol/talos/node/call"
)

// rawProtocol does what a call does, without one: it is the limit.
const rawProtocol = protocol.ID("/talos/test/raw/1.0.0")

// BenchmarkCall is a call with a body of 1 KiB each way, one after the other, and with
// as many at once as there are processors ("parallel").
func BenchmarkCall(b *testing.B) {
	body := bytes.Repeat([]byte{'x'}, 1<<10)
	for _, transport := range []string{"tcp", "quic"} {
		from, to := pair(b, transport, call.Limits{})
		to.c.Serve(echo)
		to.h.SetStreamHandler(rawProtocol, func(s network.Stream) {
			_, _ = io.Copy(s, s)
			_ = s.Close()
		})
		do := func(b *testing.B) {
			resp, err := from.c.Do(b.Context(), to.did, request(bytes.NewReader(body)))
			if err != nil {
				b.Error(err)
				return
			}
			if n, err := io.Copy(io.Discard, resp.Body); n != int64(len(body)) || err != nil {
				b.Errorf("%d bytes, %v", n, err)
			}
		}
		b.Run(transport+"/call", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				do(b)
			}
		})
		b.Run(transport+"/call, parallel", func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(p *testing.PB) {
				for p.Next() {
					do(b)
				}
			})
		})
		b.Run(transport+"/raw", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				s, err := from.h.NewStream(b.Context(), to.h.ID(), rawProtocol)
				if err != nil {
					b.Fatal(err)
				}
				_, _ = s.Write(body)
				_ = s.CloseWrite()
				if n, err := io.Copy(io.Discard, s); n != int64(len(body)) || err != nil {
					b.Fatalf("%d bytes, %v", n, err)
				}
				_ = s.Close()
			}
		})
	}
}

// BenchmarkChunk is a part of a streamed answer, sent at once: a token of a model (256
// bytes), or as much as travels in one frame; the larger ones show what larger frames
// would gain.
func BenchmarkChunk(b *testing.B) {
	for _, transport := range []string{"tcp", "quic"} {
		from, to := pair(b, transport, call.Limits{})
		for _, size := range []int{256, 16 << 10, 32 << 10, 64 << 10} {
			chunk := bytes.Repeat([]byte{'x'}, size)
			b.Run(fmt.Sprintf("%s/call/%d", transport, size), func(b *testing.B) {
				to.c.Serve(func(_ context.Context, _ *call.Call, w *call.ResponseWriter) error {
					for range b.N {
						if _, err := w.Write(chunk); err != nil {
							return err
						}
						if err := w.Flush(); err != nil {
							return err
						}
					}
					return nil
				})
				b.ReportAllocs()
				b.SetBytes(int64(size))
				resp, err := from.c.Do(b.Context(), to.did, request(nil))
				if err != nil {
					b.Fatal(err)
				}
				sink(b, resp.Body, int64(size)*int64(b.N))
			})
			b.Run(fmt.Sprintf("%s/raw/%d", transport, size), func(b *testing.B) {
				to.h.SetStreamHandler(rawProtocol, func(s network.Stream) {
					_, _ = io.ReadFull(s, make([]byte, 1))
					for range b.N {
						if _, err := s.Write(chunk); err != nil {
							break
						}
					}
					_ = s.CloseWrite()
					_, _ = io.Copy(io.Discard, s)
					_ = s.Close()
				})
				b.ReportAllocs()
				b.SetBytes(int64(size))
				s, err := from.h.NewStream(b.Context(), to.h.ID(), rawProtocol)
				if err != nil {
					b.Fatal(err)
				}
				_, _ = s.Write([]byte{1})
				sink(b, s, int64(size)*int64(b.N))
				_ = s.Close()
			})
		}
	}
}

// sink reads without allocating.
func sink(b *testing.B, r io.Reader, want int64) {
	p := make([]byte, 64<<10)
	for got := int64(0); ; {
		n, err := r.Read(p)
		got += int64(n)
		if err != nil {
			if err != io.EOF || got != want {
				b.Fatalf("%d bytes, %v; want %d", got, err, want)
			}
			return
		}
	}
}
