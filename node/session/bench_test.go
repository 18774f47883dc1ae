package session_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"io"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/protocol"

	"github.com/talosprotocol/talos/anchor"
	"github.com/talosprotocol/talos/anchor/auditlog"
	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
	"github.com/talosprotocol/talos/identity/keystore"
	"github.com/talosprotocol/talos/node/session"
	"github.com/talosprotocol/talos/node/store"
)

// onDisk is a member's manager as a node has it: on a store on disk, with an audit log
// in it.
type onDisk struct {
	st  *store.Store
	log *auditlog.Log
	did string
}

type headPath string

func (h headPath) Load(context.Context) ([]byte, error)    { return nil, nil }
func (h headPath) Store(_ context.Context, b []byte) error { return keystore.WriteFile(string(h), b) }

type wall struct{}

func (wall) Now() time.Time                         { return time.Now() }
func (wall) After(d time.Duration) <-chan time.Time { return time.After(d) }

func (d *onDisk) Record(ctx context.Context, n int, f func(session.Tx) error, evs ...session.Event) error {
	out := make([]*contracts.AuditEvent, len(evs))
	for i, e := range evs {
		var r [10]byte
		_, _ = rand.Read(r[:])
		ev := anchor.NewEvent(e.Type, d.did, time.Now(), r)
		ev.Peer, ev.Outcome = e.Peer, "ok"
		ev.Session = fmt.Sprintf("%x-%x-%x-%x-%x", e.Session[:4], e.Session[4:6], e.Session[6:8], e.Session[8:10], e.Session[10:])
		seq := int64(e.Seq)
		ev.SenderSeq, ev.CiphertextHash = &seq, base64.RawURLEncoding.EncodeToString(e.CiphertextHash[:])
		out[i] = ev
	}
	if f == nil {
		_, err := d.log.AppendWith(ctx, nil, out...)
		return err
	}
	with, failed := d.st.Session().With(n, f)
	if _, err := d.log.AppendWith(ctx, with, out...); err != nil {
		return err
	}
	return failed()
}

// durable puts a member on a disk, until the benchmark ends.
func (m *member) durable(b *testing.B) {
	b.Helper()
	m.crash()
	dir := b.TempDir()
	d := &onDisk{did: string(m.did)}
	var err error
	if d.st, err = store.Open(dir, store.Options{Key: bytes.Repeat([]byte{1}, 32)}); err != nil {
		b.Fatal(err)
	}
	_, key, _ := ed25519.GenerateKey(rand.Reader)
	if d.log, err = auditlog.Open(b.Context(), auditlog.Options{
		Origin: anchor.Origin{DID: d.did, Incarnation: 1}, Signer: anchor.Key(key), Backend: d.st.Audit(1),
		HeadFile: headPath(filepath.Join(dir, "head")), Clock: wall{}, Rand: rand.Reader, MaxBatch: 1024,
	}); err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.log.Run(ctx) }()
	if m.m, err = session.New(m.h, m.dir, d.st.Session(), m.keys, d, nil, logger(b), m.now); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = m.m.Close()
		m.m = nil
		cancel()
		<-done
		_ = d.st.Close()
	})
}

// raw measures an echo of a body on a stream of the same hosts.
func raw(b *testing.B, x, y *member, body []byte) time.Duration {
	b.Helper()
	echo := protocol.ID("/echo")
	y.h.SetStreamHandler(echo, func(s network.Stream) { _, _ = io.Copy(s, s) })
	s, err := x.h.NewStream(b.Context(), y.h.ID(), echo)
	if err != nil {
		b.Fatal(err)
	}
	const rounds = 5000
	start := time.Now()
	for range rounds {
		if _, err := s.Write(body); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(s, body); err != nil {
			b.Fatal(err)
		}
	}
	return time.Since(start) / rounds
}

// BenchmarkFrame sends a message of 1 KiB and waits until the peer has answered that
// it has it: with stores in memory, which is what the code costs, and on disk.
func BenchmarkFrame(b *testing.B) {
	for _, disk := range []bool{false, true} {
		b.Run(map[bool]string{false: "memory", true: "durable"}[disk], func(b *testing.B) {
			x, y := pair(b)
			body := make([]byte, 1024)
			floor := raw(b, x, y, body)
			if disk {
				x.durable(b)
				y.durable(b)
			}
			send := func() {
				sent, err := x.m.Send(b.Context(), y.did, body)
				if err == nil {
					err = x.m.Delivered(b.Context(), y.did, sent.Seq)
				}
				if err != nil {
					b.Fatal(err)
				}
			}
			send()
			b.ReportAllocs()
			for b.Loop() {
				send()
			}
			b.ReportMetric(float64(floor.Nanoseconds()), "raw-ns/op")
			b.ReportMetric(float64(b.Elapsed()/time.Duration(b.N))/float64(floor), "times-raw")
		})
	}
}

// BenchmarkRoundTrip sends a message and waits for the answer of the other
// application: two messages, and a step of the Diffie-Hellman ratchet for each.
func BenchmarkRoundTrip(b *testing.B) {
	x, y := pair(b)
	body := make([]byte, 256)
	floor := raw(b, x, y, body)
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
	b.ReportMetric(float64(b.Elapsed()/time.Duration(b.N))/float64(floor), "times-raw")
}

// BenchmarkDurable accepts messages of 1 KiB from 4 callers for each of many sessions,
// each with a node of its own, on a store on disk with an audit log: what Send promises.
// In "away" the peers are gone and the messages wait; in "delivered" the peers take them
// at the same time, with stores in memory: they are other machines, but their work is in
// the figure.
func BenchmarkDurable(b *testing.B) {
	for _, c := range []struct {
		sessions int
		away     bool
	}{{512, true}, {64, false}} {
		b.Run(fmt.Sprintf("sessions=%d/%s", c.sessions, map[bool]string{true: "away", false: "delivered"}[c.away]), func(b *testing.B) {
			var err error
			if shared, err = store.Open("", store.Options{Key: make([]byte, 32), InMemory: true}); err != nil {
				b.Fatal(err)
			}
			defer func() { shared = nil }()
			x, y := pair(b)
			x.durable(b)
			x.send(b, y, "begin")
			peers := sessions(b, x, c.sessions, c.away)
			if c.away && b.N > c.sessions*(session.MaxOutbox-16) {
				b.Fatalf("%d messages do not fit the outboxes; ask for fewer by -benchtime", b.N)
			}
			body := make([]byte, 1024)
			work := make(chan int)
			var wg sync.WaitGroup
			for i := range 4 * c.sessions {
				wg.Go(func() {
					for range work {
						x.accept(b, peers[i%c.sessions].did, body)
					}
				})
			}
			runtime.GC()
			b.ResetTimer()
			for range b.N {
				work <- 0
			}
			close(work)
			wg.Wait()
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
		})
	}
}

// accept sends a message; an outbox that is full empties as the peer takes it.
func (m *member) accept(b *testing.B, to identity.DID, body []byte) {
	for {
		_, err := m.m.Send(b.Context(), to, body)
		if contracts.CodeOf(err) != contracts.OutboxFull {
			if err != nil {
				b.Errorf("sending: %v", err)
			}
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// sessions gives peers with a session each, that has begun on both sides; away ones
// have left since.
func sessions(b *testing.B, x *member, n int, away bool) []*member {
	b.Helper()
	out := make([]*member, n)
	for i := range out {
		out[i] = newMember(b, x.clock, x)
		x.clock.Add(10)
		sent, err := x.m.Send(b.Context(), out[i].did, []byte("begin"))
		if err == nil {
			err = x.m.Delivered(b.Context(), out[i].did, sent.Seq)
		}
		if err != nil {
			b.Fatal(err)
		}
		if away {
			_ = out[i].m.Close()
			_ = out[i].h.Close()
			out[i].m = nil
		}
	}
	return out
}
