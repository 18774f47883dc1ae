package auditlog_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/talosprotocol/talos/anchor"
	"github.com/talosprotocol/talos/anchor/anchortest"
	"github.com/talosprotocol/talos/anchor/auditlog"
)

// flat is a backend with the cost of a flat file: it copies what it is given into
// one buffer and waits as long as a sync takes. It serves Append and the reading
// back of heads, no more.
type flat struct {
	auditlog.Backend
	sync    time.Duration
	entries []auditlog.Entry
	buf     []byte
}

func (f *flat) State(context.Context) (auditlog.State, error) { return auditlog.State{}, nil }

func (f *flat) Append(_ context.Context, b *auditlog.Batch) error {
	f.buf = f.buf[:0]
	for i := range b.Entries {
		f.buf = append(append(append(f.buf, b.Entries[i].Leaf[:]...), b.Entries[i].Salt[:]...), b.Entries[i].Event...)
	}
	f.entries = append(f.entries, b.Entries...)
	for end := time.Now().Add(f.sync); time.Now().Before(end); {
		time.Sleep(f.sync / 4)
	}
	return nil
}

func (f *flat) Entries(_ context.Context, from uint64, limit int) ([]auditlog.Entry, error) {
	return f.entries[from : from+uint64(limit)], nil
}

func (f *flat) SetHead(context.Context, []byte, []byte) error { return nil }

// BenchmarkAppend is a durable append with canonical bytes, salt, tree and heads, by
// callers that share syncs of 0.2 ms, and of none, which is what the code itself
// costs.
func BenchmarkAppend(b *testing.B) {
	for _, pause := range []time.Duration{0, 200 * time.Microsecond} {
		for _, callers := range []int{1, 64, 256} {
			b.Run(fmt.Sprintf("sync=%v/callers=%d", pause, callers), func(b *testing.B) { benchAppend(b, pause, callers) })
		}
	}
}

func benchAppend(b *testing.B, pause time.Duration, callers int) {
	l, err := auditlog.Open(b.Context(), auditlog.Options{
		Origin: anchor.Origin{DID: did, Incarnation: 1}, Signer: anchor.Key(key("log")), Clock: bubble{}, Rand: rand.Reader,
		Backend: &flat{sync: pause}, HeadFile: new(anchortest.HeadCell),
	})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	b.ReportAllocs()
	b.ResetTimer()
	var left atomic.Int64
	left.Store(int64(b.N))
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			ev := event("result")
			ev.Surface, ev.Outcome = "llm:chat", "ok"
			for left.Add(-1) >= 0 {
				if _, err := l.Append(ctx, ev); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
	cancel()
	if err := <-done; err != nil {
		b.Fatal(err)
	}
}
