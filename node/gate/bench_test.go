package gate_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"log/slog"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/talosprotocol/talos/anchor"
	"github.com/talosprotocol/talos/anchor/auditlog"
	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
	"github.com/talosprotocol/talos/identity/capability"
	"github.com/talosprotocol/talos/identity/keystore"
	"github.com/talosprotocol/talos/node/execution"
	"github.com/talosprotocol/talos/node/gate"
	"github.com/talosprotocol/talos/node/store"
)

// grants is an authority like the node's, over 10,000 sessions of the cache.
type grants struct {
	cache    *capability.Cache
	meter    *capability.Meter
	sessions []capability.SessionID
	who      []gate.Principal
	holders  []capability.Holder
	paying   bool
}

func newGrants(b *testing.B, n int, cst ...contracts.Constraint) *grants {
	self, err := identity.DIDFromMultihash(append([]byte{0x12, 0x20}, make([]byte, 32)...))
	if err != nil {
		b.Fatal(err)
	}
	g := &grants{cache: capability.NewCache(&capability.Verifier{Executor: self, Revoked: capability.NewSet(self)}, 2*n), meter: capability.NewMeter(capability.NewReplay(1000))}
	for i := range n {
		mh := append([]byte{0x12, 0x20}, make([]byte, 32)...)
		copy(mh[2:], fmt.Sprintf("%032d", i))
		did, err := identity.DIDFromMultihash(mh)
		if err != nil {
			b.Fatal(err)
		}
		s := capability.SessionOf(fmt.Sprint(i))
		grant, err := capability.NewGrant(capability.Binding{
			ID: fmt.Sprint("rbac:", i), Subject: did, Scopes: []string{"tool:fs/method:write"}, From: now, Until: now.Add(time.Hour), Constraints: cst,
		})
		if err == nil {
			err = g.cache.Bind(s, grant, now)
		}
		if err != nil {
			b.Fatal(err)
		}
		h, err := capability.NewHolder(did, capability.Channel)
		if err != nil {
			b.Fatal(err)
		}
		g.sessions, g.holders = append(g.sessions, s), append(g.holders, h)
		g.who = append(g.who, gate.Principal{DID: did, Proof: gate.Channel, Session: fmt.Sprint(i)})
	}
	return g
}

func (g *grants) Decide(_ context.Context, now time.Time, r *gate.Request, c gate.Call) (gate.Decision, error) {
	kind, err := capability.ParseKind(c.Kind)
	if err != nil {
		return gate.Decision{}, err
	}
	access, err := capability.ParseAccess(c.Access)
	if err != nil {
		return gate.Decision{}, err
	}
	call, err := capability.NewCall(kind, c.Name, c.Method, c.Resource, access)
	if err != nil {
		return gate.Decision{}, err
	}
	var i int
	if i, err = strconv.Atoi(r.Who.Session); err != nil {
		return gate.Decision{}, err
	}
	d := g.cache.Decide(g.sessions[i], &g.holders[i], &call, now)
	if !d.Allowed() {
		return gate.Decision{}, d.Err()
	}
	out := gate.Decision{Grant: d.Grant.ID(), Scope: d.Grant.Scope(d.Index)}
	if g.paying {
		out.Payers = []gate.Payer{{Account: r.Who.Subject(), Unit: gate.Calls, Max: 1 << 50, Mode: gate.Hard}}
	}
	out.Commit = func(now time.Time) error {
		_, err := g.meter.Take(d.Grant, capability.Request{}, now)
		return err
	}
	return out, nil
}

// free enters nothing; what the gate itself costs is left.
type free struct{}

func (free) Enter(context.Context, gate.Event, []gate.Spent, []execution.Row) error { return nil }

const benchActor = "did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK"

// durable enters events as the node does: audit log and budget rows in one transaction.
type durable struct {
	log *auditlog.Log
	s   *store.Store
}

func (d durable) Enter(ctx context.Context, e gate.Event, rows []gate.Spent, more []execution.Row) error {
	var random [10]byte
	_, _ = rand.Read(random[:])
	ev := anchor.NewEvent(e.Type, benchActor, time.Now(), random)
	ev.Surface, ev.Subject, ev.Outcome, ev.Intent = e.Surface, e.Subject, e.Outcome, e.Intent
	_, err := d.log.AppendWith(ctx, d.s.With(rows, more), ev)
	return err
}

type headFile string

func (h headFile) Load(context.Context) ([]byte, error)    { return nil, nil }
func (h headFile) Store(_ context.Context, b []byte) error { return keystore.WriteFile(string(h), b) }

type wallClock struct{}

func (wallClock) Now() time.Time                         { return time.Now() }
func (wallClock) After(d time.Duration) <-chan time.Time { return time.After(d) }

// benchGate makes a gate of one surface.
func benchGate(b *testing.B, auth gate.Authority, book gate.Book, change func(*contracts.Surface)) *gate.Gate {
	s := surface("s", change)
	reg, err := gate.NewRegistry([]contracts.Surface{s})
	if err != nil {
		b.Fatal(err)
	}
	return gate.New(gate.Options{Registry: reg, Authority: auth, Book: book, Ledger: gate.NewLedger(), Log: slog.New(slog.DiscardHandler), Now: func() time.Time { return now }})
}

// BenchmarkGate adds part after part to one call at the door, at 10,000 sessions: the
// authority alone, registry and template, rates, a budget, a count of the grant, intent
// and result (kept nowhere), and both durable, with 1 caller and with 64.
func BenchmarkGate(b *testing.B) {
	const n = 10_000
	plain := newGrants(b, n)
	counted := newGrants(b, n, contracts.Constraint{Op: "calls", N: ptr(int64(1 << 50))})
	paying := *counted
	paying.paying = true
	none := func(s *contracts.Surface) { s.Record = "none" }
	rated := func(s *contracts.Surface) {
		s.Record, s.Burst, s.PerMinute = "none", ptr(int64(1<<40)), ptr(int64(60_000_000))
	}
	all := func(s *contracts.Surface) { s.Burst, s.PerMinute = ptr(int64(1<<40)), ptr(int64(60_000_000)) }
	request := func(g *grants, i int) *gate.Request {
		return &gate.Request{Surface: "s", Who: g.who[i%n], Cost: gate.Amounts{gate.Calls: 1}}
	}
	b.Run("1-authority", func(b *testing.B) {
		b.ReportAllocs()
		i := 0
		for b.Loop() {
			if _, err := plain.Decide(b.Context(), now, request(plain, i), gate.Call{Kind: "tool", Name: "fs", Method: "write", Access: "write"}); err != nil {
				b.Fatal(err)
			}
			i++
		}
	})
	for _, part := range []struct {
		name   string
		g      *grants
		change func(*contracts.Surface)
	}{{"2-registry", plain, none}, {"3-rates", plain, rated}, {"4-count", counted, rated}, {"5-budget", &paying, rated}, {"6-recorded", &paying, all}} {
		b.Run(part.name, func(b *testing.B) {
			g := benchGate(b, part.g, free{}, part.change)
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				if err := g.Do(b.Context(), request(part.g, i), nothing); err != nil {
					b.Fatal(err)
				}
				i++
			}
		})
	}
	b.Run("2-denied", func(b *testing.B) {
		g := benchGate(b, plain, free{}, func(s *contracts.Surface) { s.Method, s.Record = "erase", "none" })
		b.ReportAllocs()
		i := 0
		for b.Loop() {
			if err := g.Do(b.Context(), request(plain, i), nothing); contracts.CodeOf(err) != contracts.ScopeMismatch {
				b.Fatal(err)
			}
			i++
		}
	})
	for _, callers := range []int{1, 64} {
		b.Run(fmt.Sprintf("7-durable/callers=%d", callers), func(b *testing.B) { benchDurable(b, &paying, all, callers, request) })
	}
}

func benchDurable(b *testing.B, auth *grants, change func(*contracts.Surface), callers int, request func(*grants, int) *gate.Request) {
	dir := b.TempDir()
	s, err := store.Open(dir, store.Options{Key: make([]byte, 32)})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close() //nolint:errcheck // a benchmark's
	_, private, _ := ed25519.GenerateKey(rand.Reader)
	log, err := auditlog.Open(b.Context(), auditlog.Options{
		Origin: anchor.Origin{DID: benchActor, Incarnation: 1}, Signer: anchor.Key(private),
		Backend: s.Audit(1), HeadFile: headFile(filepath.Join(dir, "head")), Clock: wallClock{}, Rand: rand.Reader, MaxBatch: 1024,
	})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan error, 1)
	go func() { done <- log.Run(ctx) }()
	defer func() { cancel(); <-done }()
	g := benchGate(b, auth, durable{log, s}, change)
	jobs := make(chan int)
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for i := range jobs {
				if err := g.Do(b.Context(), request(auth, i), nothing); err != nil {
					b.Error(err)
				}
			}
		})
	}
	b.ResetTimer()
	for i := range b.N {
		jobs <- i
	}
	close(jobs)
	wg.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "calls/s")
}
