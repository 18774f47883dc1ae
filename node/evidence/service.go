package evidence

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/libp2p/go-libp2p/core/peer"
	"golang.org/x/sync/errgroup"

	"github.com/talosprotocol/talos/anchor"
	"github.com/talosprotocol/talos/anchor/auditlog"
	"github.com/talosprotocol/talos/anchor/chain"
	"github.com/talosprotocol/talos/anchor/witness"
	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/gossip"
	"github.com/talosprotocol/talos/identity"
	"github.com/talosprotocol/talos/identity/keystore"
	"github.com/talosprotocol/talos/node/directory"
	"github.com/talosprotocol/talos/node/p2p"
)

// Rows is a plain durable table for cosigned heads and evidence. Put is durable
// when it returns nil; Scan goes in the order of keys.
type Rows interface {
	Get(key []byte) ([]byte, error)
	Put(ctx context.Context, key, value []byte) error
	Delete(ctx context.Context, key []byte) error
	// Write makes several rows durable together; a nil value removes its row.
	Write(ctx context.Context, keys, values [][]byte) error
	Scan(prefix []byte, f func(key, value []byte) bool) error
}

// Config of the service.
type Config struct {
	DID         identity.DID
	Incarnation uint16
	LogKey      identity.LogKey
	WitnessKey  identity.WitnessKey // anchors only
	Anchors     []identity.DID      // whom to submit to
	Backend     auditlog.Backend
	Witness     witness.Store // anchors only
	Rows        Rows
	HeadFile    string // path; the file is apart from the store, see package auditlog
	Free        func() (uint64, error)
	Interval    time.Duration // between checkpoints; 0: the log's default
	Succession  *auditlog.Succession
	Chains      []chain.Driver // anchors only: where the log goes beside the other anchors
	EpochEvery  time.Duration  // between epochs; a minute if zero
}

// Service is the running part. It is safe for concurrent use.
type Service struct {
	cfg  Config
	h    *p2p.Host
	dir  *directory.Directory
	log  *slog.Logger
	keys *liveKeys
	al   *auditlog.Log
	wit  *witness.Witness
	news chan *anchor.Note // the newest head, for the submitter

	epochs     *chain.Epochs // nil unless the node is an anchor
	submitters []*chain.Submitter
	collecting sync.Mutex             // one at a time asks for anchorings
	held       map[identity.DID]*held // guarded by collecting

	digests  *gossip.Topic
	evidence *gossip.Topic

	rows sync.Mutex // one at a time reads a row to change it

	mu      sync.Mutex              // never held over I/O
	acked   map[identity.DID]uint64 // size that an anchor cosigned last, as far as known
	newest  anchor.Head             // the newest head with cosignatures; Note nil: none
	kept    chan struct{}           // closed and replaced when newest changes
	seen    map[string][]*anchor.Note
	order   []string                      // of seen, oldest first
	ids     map[[convictionID]byte]string // origins of the convictions that are kept
	summary [32]byte                      // of ids
	told    map[peer.ID]told              // the peers whose connections we have bound
	awaited map[string]ahead              // by origin

	met         *lru.Cache[string, *anchor.Digest] // newest heads that peers have shown of their own
	recorded    atomic.Uint64                      // events that record those
	unannounced atomic.Bool                        // there are new convictions
	patience    time.Duration                      // with a log that has gossiped a head, on an anchor

	meeting    chan peer.ID // to exchange heads with
	learning   chan peer.ID // to learn convictions from
	pairs      chan pair    // of heads to compare
	asked      *buckets     // by peer
	joins      *buckets     // by peer
	inquired   *buckets     // by log
	records    *buckets     // by DID
	allRecords *buckets
}

// New opens the log and, on an anchor, the witness; joins the topics; serves the
// stream. With an error of type *auditlog.Quarantine the service is usable for
// reading.
func New(ctx context.Context, cfg Config, h *p2p.Host, dir *directory.Directory, g *gossip.Gossip, log *slog.Logger) (*Service, error) {
	s := newService(cfg, h, dir, log)
	if err := s.openRows(); err != nil {
		return nil, err
	}
	if err := s.openWitness(ctx); err != nil {
		return nil, err
	}
	var err error
	// Evidence first: a digest may find some at once.
	if s.evidence, err = g.Join("evidence", "1", s.judgeEvidence, s.takeEvidence); err != nil {
		return nil, err
	}
	if s.digests, err = g.Join("digest", "1", s.judgeDigest, s.takeDigest); err != nil {
		return nil, err
	}
	opts := auditlog.Options{
		Origin: anchor.Origin{DID: string(cfg.DID), Incarnation: cfg.Incarnation},
		Signer: anchor.Key(cfg.LogKey.Ed25519()), Backend: cfg.Backend, HeadFile: headFile(cfg.HeadFile),
		Clock: wallClock{}, Rand: rand.Reader, Publish: s.publish, Free: cfg.Free, Interval: cfg.Interval,
		MaxBatch: 1024, Begin: cfg.Succession,
	}
	if len(cfg.Anchors) > 0 {
		opts.Confirm = s.confirm
	}
	if s.al, err = auditlog.Open(ctx, opts); s.al == nil {
		return s, err
	}
	if failed := s.openChains(); failed != nil {
		return nil, failed
	}
	h.SetStreamHandler(h.Protocol(streamName, streamVersion), s.serve)
	h.SetStreamHandler(h.Protocol(logName, logVersion), s.serveLog)
	dir.OnBound(s.newlyBound)
	if failed := s.evidence.OnPeer(s.newInTopic); failed != nil {
		return nil, failed
	}
	return s, err
}

func newService(cfg Config, h *p2p.Host, dir *directory.Directory, log *slog.Logger) *Service {
	s := &Service{
		cfg: cfg, h: h, dir: dir, log: log, keys: newLiveKeys(dir), news: make(chan *anchor.Note, 1), kept: make(chan struct{}),
		acked: map[identity.DID]uint64{}, held: map[identity.DID]*held{}, seen: map[string][]*anchor.Note{}, ids: map[[convictionID]byte]string{},
		summary: sha256.Sum256(nil), told: map[peer.ID]told{}, awaited: map[string]ahead{}, patience: aheadFor,
		meeting: make(chan peer.ID, exchangeQueue), learning: make(chan peer.ID, exchangeQueue), pairs: make(chan pair, inquiryQueue),
		asked: newBuckets(logEvery, logBurst), joins: newBuckets(joinEvery, joinBurst), inquired: newBuckets(inquireEvery, inquireBurst),
		records: newBuckets(recordEvery, 1), allRecords: newBuckets(recordAllEvery, recordAllBurst),
	}
	s.met, _ = lru.NewWithEvict(metLogs, func(origin string, _ *anchor.Digest) { // fails for sizes below 1 only
		if err := cfg.Rows.Delete(context.Background(), metKey(origin)); err != nil {
			log.Debug("forgetting a peer's head", "err", err)
		}
	})
	return s
}

// wallClock is the clock of the machine.
type wallClock struct{}

func (wallClock) Now() time.Time                         { return time.Now() }
func (wallClock) After(d time.Duration) <-chan time.Time { return time.After(d) }

// headFile keeps the newest signed head in a small file of its own.
type headFile string

func (f headFile) Load(context.Context) ([]byte, error) {
	b, err := os.ReadFile(string(f))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	return b, err
}

func (f headFile) Store(_ context.Context, head []byte) error {
	return keystore.WriteFile(string(f), head)
}

// openWitness starts the witness of an anchor. The mark that its key has been used
// is a file beside the head file, apart from the store. A new incarnation has a new
// witness key, which begins a record of its own.
func (s *Service) openWitness(ctx context.Context) error {
	if !s.cfg.WitnessKey.Valid() {
		return nil
	}
	mark, store := "witness-used", s.cfg.Witness
	if s.cfg.Incarnation > 1 {
		mark = fmt.Sprintf("witness-used-%d", s.cfg.Incarnation)
		store = prefixed{store, fmt.Sprintf("%d ", s.cfg.Incarnation)}
	}
	mark = filepath.Join(filepath.Dir(s.cfg.HeadFile), mark)
	_, err := os.Stat(mark)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		// Unreadable is not unused: a witness that forgot would sign a second history.
		return contracts.Errorf(contracts.Unavailable, "the mark of the witness key: %w", err)
	}
	s.wit, err = witness.Open(ctx, witness.Options{
		Name: string(s.cfg.DID), Signer: anchor.Key(s.cfg.WitnessKey.Ed25519()), Keys: s.keys,
		Store: store, Now: time.Now, KeyUsed: err == nil, Convicted: s.convicted,
	})
	if err != nil {
		return err
	}
	return keystore.WriteFile(mark, []byte(s.cfg.DID))
}

// prefixed is a part of a witness's store.
type prefixed struct {
	witness.Store
	prefix string
}

func (p prefixed) Load(ctx context.Context, key string) ([]byte, error) {
	return p.Store.Load(ctx, p.prefix+key)
}

func (p prefixed) Swap(ctx context.Context, key string, old, record []byte) error {
	return p.Store.Swap(ctx, p.prefix+key, old, record)
}

func (p prefixed) Scan(ctx context.Context, f func(key string, record []byte) bool) error {
	return p.Store.Scan(ctx, func(key string, record []byte) bool {
		rest, ok := strings.CutPrefix(key, p.prefix)
		return !ok || f(rest, record)
	})
}

// Log gives the audit log.
func (s *Service) Log() *auditlog.Log { return s.al }

// Append makes an event of this node durable in its log.
func (s *Service) Append(ctx context.Context, ev *contracts.AuditEvent) (uint64, error) {
	return s.al.Append(ctx, ev)
}

// NewEvent begins an event of this node.
func (s *Service) NewEvent(typ string) *contracts.AuditEvent {
	var r [10]byte
	_, _ = rand.Read(r[:]) // never fails
	return anchor.NewEvent(typ, string(s.cfg.DID), time.Now(), r)
}

// Run commits events, makes checkpoints and submits them, until ctx ends. A log that
// is put in quarantine takes nothing more and says so; the rest goes on, as it does
// when the quarantine is found at the start.
func (s *Service) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	logDone := make(chan struct{})
	g.Go(func() error {
		err := s.al.Run(ctx)
		close(logDone)
		var q *auditlog.Quarantine
		if errors.As(err, &q) {
			s.log.Error("the audit log is in quarantine: nothing that must be recorded is accepted", "err", q)
			return nil
		}
		return err
	})
	run := func(f func(context.Context)) { g.Go(func() error { f(ctx); return nil }) }
	run(func(ctx context.Context) { s.submitLoop(ctx, logDone) })
	for range exchangers {
		run(s.exchange)
	}
	for range inquirers {
		run(s.inquire)
	}
	run(s.learn)
	run(s.keepTelling)
	run(s.announce)
	run(s.collect)
	for _, sub := range s.submitters {
		g.Go(func() error { return sub.Run(ctx) })
	}
	if s.wit != nil {
		run(s.runEpochs)
		run(s.remind)
		run(s.overdue)
	}
	g.Go(func() error { <-ctx.Done(); return nil })
	return g.Wait()
}
