package chain_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/talosprotocol/talos/anchor"
	"github.com/talosprotocol/talos/anchor/anchortest"
	"github.com/talosprotocol/talos/anchor/auditlog"
	"github.com/talosprotocol/talos/anchor/chain"
	"github.com/talosprotocol/talos/contracts"
)

var discard = slog.New(slog.DiscardHandler)

const anchorDID = "did:talos:zQmbWqxBEKC3P8tqsKc98xmWNzrzDtRLMiMPL8wBuTGsMnR"

func key(name string) ed25519.PrivateKey {
	s := sha256.Sum256([]byte("chain test key " + name))
	return ed25519.NewKeyFromSeed(s[:])
}

// table is rows in memory; fail makes the next writes fail, before or after they happen.
type table struct {
	mu    sync.Mutex
	rows  map[string][]byte
	fail  int // the number of the write from now that fails; 0: none
	after bool
}

var errDisk = errors.New("the disk has failed")

func (t *table) Get(key []byte) ([]byte, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return bytes.Clone(t.rows[string(key)]), nil
}

func (t *table) Put(ctx context.Context, key, value []byte) error {
	return t.Write(ctx, [][]byte{key}, [][]byte{value})
}

func (t *table) Delete(ctx context.Context, key []byte) error {
	return t.Write(ctx, [][]byte{key}, [][]byte{nil})
}

func (t *table) Write(_ context.Context, keys, values [][]byte) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	failing := false
	if t.fail > 0 {
		if t.fail--; t.fail == 0 {
			if failing = true; !t.after {
				return errDisk
			}
		}
	}
	if t.rows == nil {
		t.rows = map[string][]byte{}
	}
	for i, k := range keys {
		if values[i] == nil {
			delete(t.rows, string(k))
		} else {
			t.rows[string(k)] = bytes.Clone(values[i])
		}
	}
	if failing {
		return errDisk
	}
	return nil
}

func (t *table) Scan(prefix []byte, f func(key, value []byte) bool) error {
	t.mu.Lock()
	var keys []string
	for k := range t.rows {
		if bytes.HasPrefix([]byte(k), prefix) {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	values := make([][]byte, len(keys))
	for i, k := range keys {
		values[i] = bytes.Clone(t.rows[k])
	}
	t.mu.Unlock()
	for i, k := range keys {
		if !f([]byte(k), values[i]) {
			break
		}
	}
	return nil
}

type bubble struct{}

func (bubble) Now() time.Time                         { return time.Now() }
func (bubble) After(d time.Duration) <-chan time.Time { return time.After(d) }

// world is an anchor with its log and the logs that it follows.
type world struct {
	t     *testing.T
	rows  *table
	log   *auditlog.Log
	key   ed25519.PrivateKey
	mu    sync.Mutex
	heads map[string]anchor.Checkpoint
	src   chain.Source
}

// inBubble runs a test in virtual time.
func inBubble(t *testing.T, f func(t *testing.T, w *world)) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, rows: &table{}, key: key("anchor"), heads: map[string]anchor.Checkpoint{}}
		disk, cell := anchortest.NewDisk(t), new(anchortest.HeadCell)
		var err error
		w.log, err = auditlog.Open(t.Context(), auditlog.Options{
			Origin: anchor.Origin{DID: anchorDID, Incarnation: 1}, Signer: anchor.Key(w.key), Clock: bubble{}, Rand: rand.Reader,
			Backend: disk.Open(), HeadFile: cell,
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() { defer close(done); _ = w.log.Run(ctx) }()
		defer func() { cancel(); <-done }()
		w.src = chain.Source{Heads: w.scan, NewEvent: func(typ string) *contracts.AuditEvent {
			var r [10]byte
			_, _ = rand.Read(r[:])
			return anchor.NewEvent(typ, anchorDID, time.Now(), r)
		}}
		f(t, w)
	})
}

func (w *world) scan(_ context.Context, f func(anchor.Checkpoint) bool) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.heads {
		if !f(c) {
			break
		}
	}
	return nil
}

func origin(i int) string {
	s := sha256.Sum256(fmt.Append(nil, "log ", i))
	return fmt.Sprintf("did:talos:z%x/audit/1", s[:20])
}

// advance lets the logs from..to have heads of a size.
func (w *world) advance(from, to int, size uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := from; i < to; i++ {
		w.heads[origin(i)] = head(i, size)
	}
}

func head(i int, size uint64) anchor.Checkpoint {
	return anchor.Checkpoint{Origin: origin(i), Size: size, Root: sha256.Sum256(fmt.Append(nil, "root ", i, size))}
}

func (w *world) epochs(drivers ...chain.Driver) *chain.Epochs {
	w.t.Helper()
	e, err := chain.OpenEpochs(w.rows, w.log, w.src, drivers)
	if err != nil {
		w.t.Fatal(err)
	}
	return e
}

func (w *world) closeEpoch(e *chain.Epochs) *chain.Epoch {
	w.t.Helper()
	m, err := e.Close(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	return m
}

func (w *world) head() *anchor.Note {
	w.t.Helper()
	n, err := w.log.Checkpoint(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	return n
}

// ledger is a chain in memory for the tests of the submitter: what was sent is on it
// after a minute, unless somebody takes it away. State is a serial number and the
// commitment.
type ledger struct {
	mu    sync.Mutex
	down  bool
	serie byte
	sent  map[string]time.Time
	sends int
	drops int // how many sends are lost
}

func (l *ledger) Name() string         { return "ledger" }
func (l *ledger) Chain() string        { return "test:1" }
func (l *ledger) Every() time.Duration { return 10 * time.Minute }

func (l *ledger) sendings() (n, different int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sends, len(l.sent)
}

func (l *ledger) up() error {
	if l.down {
		return contracts.Errorf(contracts.Unavailable, "the chain is down")
	}
	return nil
}

func (l *ledger) Prepare(_ context.Context, head *anchor.Note) ([]byte, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.serie++
	c := head.Commitment()
	return append([]byte{l.serie}, c[:]...), l.up()
}

func (l *ledger) Submit(_ context.Context, _ *anchor.Note, state []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.up(); err != nil {
		return err
	}
	if l.sends++; l.drops > 0 {
		l.drops--
		return nil
	}
	if l.sent == nil {
		l.sent = map[string]time.Time{}
	}
	if _, ok := l.sent[string(state)]; !ok {
		l.sent[string(state)] = time.Now()
	}
	return nil
}

func (l *ledger) Status(_ context.Context, _ *anchor.Note, state []byte) (chain.Status, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.up(); err != nil {
		return chain.Status{}, err
	}
	at, ok := l.sent[string(state)]
	switch {
	case !ok:
		return chain.Status{Phase: chain.Unsent}, nil
	case time.Since(at) < time.Minute:
		return chain.Status{Phase: chain.Pending}, nil
	}
	return chain.Status{Phase: chain.Final, Body: state[1:]}, nil
}

func (l *ledger) Check(r *anchor.Receipt) error {
	if c := r.Head.Commitment(); !bytes.Equal(c[:], r.Body) {
		return contracts.Errorf(contracts.ProofInvalid, "another commitment")
	}
	return nil
}

func (w *world) submitter(d chain.Driver) *chain.Submitter {
	w.t.Helper()
	s, err := chain.NewSubmitter(d, w.rows, w.log.Head, discard)
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

// running runs a submitter until the function that it gives is called: a crash, since
// nothing is said to it before.
func (w *world) running(s *chain.Submitter) (crash func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Run(ctx) }()
	return func() { cancel(); <-done }
}
