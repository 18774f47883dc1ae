package store_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/talosprotocol/talos/anchor"
	"github.com/talosprotocol/talos/anchor/auditlog"
	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity/keystore"
)

// flatFile is the floor that a durable log is compared with: one file, one sync for
// all that wait.
type flatFile struct {
	f    *os.File
	jobs chan flatJob
}

type flatJob struct {
	b    []byte
	done chan error
}

func (f *flatFile) run() {
	for j := range f.jobs {
		group, buf := []flatJob{j}, j.b
	gather:
		for len(group) < 1024 {
			select {
			case j := <-f.jobs:
				group, buf = append(group, j), append(buf, j.b...)
			default:
				break gather
			}
		}
		_, err := f.f.Write(buf)
		if err == nil {
			err = f.f.Sync()
		}
		for _, j := range group {
			j.done <- err
		}
	}
}

func (f *flatFile) append(b []byte) error {
	j := flatJob{append([]byte{}, b...), make(chan error, 1)}
	f.jobs <- j
	return <-j.done
}

// parallel runs n calls of f in that many goroutines and gives the rate.
func parallel(b *testing.B, callers, n int, f func() error) float64 {
	b.Helper()
	var wg sync.WaitGroup
	start := time.Now()
	for range callers {
		wg.Go(func() {
			for range n / callers {
				if err := f(); err != nil {
					b.Error(err)
				}
			}
		})
	}
	wg.Wait()
	return float64(n/callers*callers) / time.Since(start).Seconds()
}

type headPath string

func (h headPath) Load(context.Context) ([]byte, error)    { return nil, nil }
func (h headPath) Store(_ context.Context, b []byte) error { return keystore.WriteFile(string(h), b) }

type wall struct{}

func (wall) Now() time.Time                         { return time.Now() }
func (wall) After(d time.Duration) <-chan time.Time { return time.After(d) }

// BenchmarkAuditAppend appends events to the log on badger, and the same bytes to a
// flat file with group commit, in the same run.
func BenchmarkAuditAppend(b *testing.B) {
	for _, callers := range []int{1, 64, 256} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			dir := b.TempDir()
			s := open(b, dir)
			_, key, _ := ed25519.GenerateKey(rand.Reader)
			l, err := auditlog.Open(b.Context(), auditlog.Options{
				Origin: anchor.Origin{DID: "did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK", Incarnation: 1}, Signer: anchor.Key(key),
				Backend: s.Audit(1), HeadFile: headPath(filepath.Join(dir, "head")), Clock: wall{}, Rand: rand.Reader, MaxBatch: 1024,
			})
			if err != nil {
				b.Fatal(err)
			}
			ctx, cancel := context.WithCancel(context.Background())
			done := make(chan error, 1)
			go func() { done <- l.Run(ctx) }()
			defer func() { cancel(); <-done }()
			f, err := os.Create(filepath.Join(dir, "flat"))
			if err != nil {
				b.Fatal(err)
			}
			flat := &flatFile{f, make(chan flatJob, 1024)}
			go flat.run()
			defer close(flat.jobs)
			event := func() *contracts.AuditEvent {
				var r [10]byte
				_, _ = rand.Read(r[:])
				seq := int64(7)
				ev := anchor.NewEvent("message_out", "did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK", time.Now(), r)
				ev.SenderSeq, ev.Outcome = &seq, "ok"
				return ev
			}
			raw, err := anchor.EncodeEvent(event())
			if err != nil {
				b.Fatal(err)
			}
			var ours, floor float64
			b.ReportAllocs()
			rounds := 0
			for b.Loop() {
				rounds++
				floor += parallel(b, callers, 64*callers, func() error { return flat.append(raw) })
				ours += parallel(b, callers, 64*callers, func() error { _, err := l.Append(ctx, event()); return err })
			}
			b.ReportMetric(ours/float64(rounds), "events/s")
			b.ReportMetric(ours/floor, "of-flat-file")
		})
	}
}
