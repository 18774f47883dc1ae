package evidence

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/talosprotocol/talos/anchor"
	"github.com/talosprotocol/talos/anchor/auditlog"
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
}

// Service is the running part. It is safe for concurrent use.
type Service struct {
	cfg  Config
	h    *p2p.Host
	dir  *directory.Directory
	log  *slog.Logger
	al   *auditlog.Log
	wit  *witness.Witness
	news chan *anchor.Note // the newest head, for the submitter

	digests  *gossip.Topic
	evidence *gossip.Topic

	mu    sync.Mutex
	acked map[identity.DID]uint64 // size that an anchor cosigned last, as far as known
	seen  map[string][]*anchor.Note
	order []string // of seen, oldest first
}

// New opens the log and, on an anchor, the witness; joins the topics; serves the
// stream. With an error of type *auditlog.Quarantine the service is usable for
// reading.
func New(ctx context.Context, cfg Config, h *p2p.Host, dir *directory.Directory, g *gossip.Gossip, log *slog.Logger) (*Service, error) {
	s := &Service{
		cfg: cfg, h: h, dir: dir, log: log, news: make(chan *anchor.Note, 1),
		acked: map[identity.DID]uint64{}, seen: map[string][]*anchor.Note{},
	}
	if err := s.openWitness(ctx); err != nil {
		return nil, err
	}
	var err error
	if s.digests, err = g.Join("digest", "1", s.judgeDigest, s.takeDigest); err != nil {
		return nil, err
	}
	if s.evidence, err = g.Join("evidence", "1", s.judgeEvidence, s.takeEvidence); err != nil {
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
	h.SetStreamHandler(h.Protocol(streamName, streamVersion), s.serve)
	s.al, err = auditlog.Open(ctx, opts)
	return s, err
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
// is a file beside the head file, apart from the store.
func (s *Service) openWitness(ctx context.Context) error {
	if !s.cfg.WitnessKey.Valid() {
		return nil
	}
	mark := filepath.Join(filepath.Dir(s.cfg.HeadFile), "witness-used")
	_, err := os.Stat(mark)
	s.wit, err = witness.Open(ctx, witness.Options{
		Name: string(s.cfg.DID), Signer: anchor.Key(s.cfg.WitnessKey.Ed25519()), Keys: liveKeys{s.dir},
		Store: s.cfg.Witness, Now: time.Now, KeyUsed: err == nil, Convicted: s.convicted,
	})
	if err != nil {
		return err
	}
	return keystore.WriteFile(mark, []byte(s.cfg.DID))
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

// Run commits events, makes checkpoints and submits them, until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	var g errgroup.Group
	logDone := make(chan struct{})
	g.Go(func() error { defer close(logDone); return s.al.Run(ctx) })
	g.Go(func() error { s.submitLoop(ctx, logDone); return nil })
	return g.Wait()
}

// Keys of the rows: 'c' incarnation size for a cosigned head, 'e' origin for
// evidence.
func (s *Service) headKey(size uint64) []byte {
	k := binary.BigEndian.AppendUint16([]byte{'c'}, s.cfg.Incarnation)
	return binary.BigEndian.AppendUint64(k, size)
}

// heads gives the heads with cosignatures that were kept, oldest first.
func (s *Service) heads() ([]anchor.Head, error) {
	var out []anchor.Head
	prefix := binary.BigEndian.AppendUint16([]byte{'c'}, s.cfg.Incarnation)
	err := s.cfg.Rows.Scan(prefix, func(_, v []byte) bool {
		if h, err := s.parseHead(v); err == nil {
			out = append(out, h)
		}
		return true
	})
	return out, err
}

func (s *Service) parseHead(text []byte) (anchor.Head, error) {
	n, err := anchor.ParseNote(text)
	if err != nil {
		return anchor.Head{}, err
	}
	key := s.cfg.LogKey.Public().Bytes()
	h := anchor.Head{Note: n.Bare(key)}
	for _, sig := range n.Signatures {
		if sig.Name != n.Origin {
			h.Cosignatures = append(h.Cosignatures, sig)
		}
	}
	return h, nil
}

// Prove makes the bundle of an entry: under the oldest head that covers it and has
// the most cosignatures, with the state records that hold all keys. If no head
// covers it yet, one is made.
func (s *Service) Prove(ctx context.Context, index uint64, sealed bool) ([]byte, error) {
	if index >= s.al.Size() {
		return nil, contracts.Errorf(contracts.NotFound, "the log has %d entries; the first is 0", s.al.Size())
	}
	heads, err := s.heads()
	if err != nil {
		return nil, err
	}
	o := auditlog.BundleOptions{Sealed: sealed}
	for _, h := range heads {
		switch {
		case h.Note.Size <= index:
			o.Prior = &h
		case o.Head.Note == nil || len(h.Cosignatures) > len(o.Head.Cosignatures):
			o.Head = h
		}
	}
	if o.Head.Note == nil {
		if o.Head, err = s.freshHead(ctx); err != nil {
			return nil, err
		}
	}
	dids := []identity.DID{s.cfg.DID}
	for _, h := range []*anchor.Head{&o.Head, o.Prior} {
		if h == nil {
			continue
		}
		for _, c := range h.Cosignatures {
			dids = append(dids, identity.DID(c.Name))
		}
	}
	slices.Sort(dids)
	for _, did := range slices.Compact(dids) {
		r, err := s.dir.Resolve(ctx, did, directory.Options{})
		if err != nil {
			return nil, contracts.Errorf(contracts.CodeOf(err), "the state of %s for the bundle: %w", did.Short(), err)
		}
		o.States = append(o.States, r.State.Raw)
	}
	return s.al.Bundle(ctx, index, o)
}

// freshWait is how long a proof waits for the anchors: a node that has just started
// has not reached them yet.
const freshWait = 10 * time.Second

// freshHead makes a head that covers all entries and waits for the cosignatures of
// the anchors; when they do not come in time, it gives what there is.
func (s *Service) freshHead(ctx context.Context) (h anchor.Head, err error) {
	end := time.Now().Add(freshWait)
	for {
		n, err := s.al.Checkpoint(ctx)
		if err != nil && contracts.CodeOf(err) != contracts.Unavailable {
			return h, err
		}
		if err == nil {
			h.Note = n
			if b, e := s.cfg.Rows.Get(s.headKey(n.Size)); e == nil && b != nil {
				if h, err = s.parseHead(b); err != nil {
					return h, err
				}
			}
		}
		if len(h.Cosignatures) >= len(s.cfg.Anchors) && h.Note != nil || time.Now().After(end) {
			if h.Note == nil {
				return h, err
			}
			return h, nil
		}
		t := time.NewTimer(50 * time.Millisecond)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return h, ctx.Err()
		}
	}
}

// Witnessed gives the newest size that anchors cosigned, and how many of them.
func (s *Service) Witnessed() (size uint64, by int) {
	heads, err := s.heads()
	if err != nil || len(heads) == 0 {
		return 0, 0
	}
	h := heads[len(heads)-1]
	return h.Note.Size, len(h.Cosignatures)
}

// liveKeys finds keys through the directory.
type liveKeys struct{ dir *directory.Directory }

const keyTimeout = 5 * time.Second

func (k liveKeys) state(did string) (*identity.State, error) {
	d, err := identity.ParseDID(did)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), keyTimeout)
	defer cancel()
	r, err := k.dir.Resolve(ctx, d, directory.Options{})
	if err != nil {
		return nil, err
	}
	if r.State == nil {
		return nil, contracts.Errorf(contracts.OriginUnknown, "%s is a did:key and keeps no log", did)
	}
	return r.State, nil
}

func (k liveKeys) keys(did string) (identity.StateKeys, error) {
	s, err := k.state(did)
	if err != nil {
		return nil, contracts.Errorf(contracts.OriginUnknown, "%.80s: %w", did, err)
	}
	return identity.StateKeys{s.DID: s}, nil
}
