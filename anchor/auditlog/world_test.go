package auditlog_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/talosprotocol/talos/anchor"
	"github.com/talosprotocol/talos/anchor/anchortest"
	"github.com/talosprotocol/talos/anchor/auditlog"
	"github.com/talosprotocol/talos/contracts"
)

const did = "did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK"

// bubble is the clock of testing/synctest: virtual time.
type bubble struct{}

func (bubble) Now() time.Time                         { return time.Now() }
func (bubble) After(d time.Duration) <-chan time.Time { return time.After(d) }

func key(name string) ed25519.PrivateKey {
	s := sha256.Sum256([]byte("audit log test key " + name))
	return ed25519.NewKeyFromSeed(s[:])
}

// site is the storage of one agent, and all heads that ever left it.
type site struct {
	t    testing.TB
	disk *anchortest.Disk
	file *anchortest.HeadCell
	opt  auditlog.Options

	mu    sync.Mutex
	heads []*anchor.Note
}

func newSite(t testing.TB) *site {
	s := &site{t: t, disk: anchortest.NewDisk(t), file: new(anchortest.HeadCell)}
	s.opt = auditlog.Options{
		Origin: anchor.Origin{DID: did, Incarnation: 1},
		Signer: anchor.Key(key("log")),
		Clock:  bubble{},
		Rand:   rand.Reader,
	}
	return s
}

// published checks each head that leaves against all that left before: no two of
// one size may differ. It is the judge of every test here.
func (s *site) published(n *anchor.Note) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, h := range s.heads {
		if h.Size == n.Size && h.Root != n.Root {
			s.t.Errorf("two heads of size %d were signed", n.Size)
		}
	}
	if k := len(s.heads); k > 0 && s.heads[k-1].Size > n.Size {
		s.t.Errorf("a head of size %d left after one of size %d", n.Size, s.heads[k-1].Size)
	}
	s.heads = append(s.heads, n)
}

func (s *site) sizes() []uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []uint64
	for _, h := range s.heads {
		out = append(out, h.Size)
	}
	return out
}

func (s *site) open() (*auditlog.Log, error) {
	o := s.opt
	o.Backend, o.HeadFile, o.Publish = s.disk.Open(), s.file, s.published
	return auditlog.Open(s.t.Context(), o)
}

// run opens the log and starts it. stop ends it and gives what Run returned.
func (s *site) run() (l *auditlog.Log, stop func() error) {
	s.t.Helper()
	l, err := s.open()
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	return l, sync.OnceValue(func() error { cancel(); return <-done })
}

func event(typ string) *contracts.AuditEvent {
	var r [10]byte
	_, _ = rand.Read(r[:])
	return anchor.NewEvent(typ, did, time.Now(), r)
}

func (s *site) append(l *auditlog.Log, n int) {
	s.t.Helper()
	for range n {
		if _, err := l.Append(s.t.Context(), event("noop")); err != nil {
			s.t.Fatal(err)
		}
	}
}

func wantCode(t testing.TB, err error, code contracts.Code) {
	t.Helper()
	if contracts.CodeOf(err) != code {
		t.Errorf("error %v has the code %q, want %q", err, contracts.CodeOf(err), code)
	}
}

// inBubble runs a test in virtual time.
func inBubble(t *testing.T, f func(t *testing.T, s *site)) {
	synctest.Test(t, func(t *testing.T) { f(t, newSite(t)) })
}
