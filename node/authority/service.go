package authority

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/gossip"
	"github.com/talosprotocol/talos/identity"
	"github.com/talosprotocol/talos/identity/capability"
	"github.com/talosprotocol/talos/node/directory"
	"github.com/talosprotocol/talos/node/p2p"
)

// Rows is a plain durable table. Put is durable when it returns nil; Scan goes in the
// order of keys.
type Rows interface {
	Get(key []byte) ([]byte, error)
	Put(ctx context.Context, key, value []byte) error
	// Write puts several rows, all or none; a nil value deletes.
	Write(ctx context.Context, keys, values [][]byte) error
	Delete(ctx context.Context, key []byte) error
	Scan(prefix []byte, f func(key, value []byte) bool) error
}

// What strangers, who have shown no capability, may do.
const (
	StrangersAsk     = "ask"     // ask for a capability, and nothing else
	StrangersMessage = "message" // also send messages
)

// Config of the service.
type Config struct {
	Signer      func() (capability.Signer, error) // of this node's DID
	Roots       map[identity.DID][]capability.Kind
	Strangers   string
	Policy      *contracts.Policy // nil: nobody has a role
	Rows        Rows
	Revocations capability.RecordStore
	// Record makes an event of authority durable: cap_grant or cap_revoke.
	Record func(ctx context.Context, typ string, peer identity.DID, token capability.TokenID) error
}

// Limits of the service.
const (
	maxSessions  = 65536
	maxReplay    = 1 << 18
	heartbeat    = time.Minute
	resolveIn    = 5 * time.Second
	maxHeld      = 1024 // tokens in the wallet
	maxHeldOf    = 64   // of them from one issuer
	maxRequests  = 128  // of strangers, waiting
	maxRequestOf = 4
)

// Service is the running part. It is safe for concurrent use.
type Service struct {
	cfg      Config
	h        *p2p.Host
	dir      *directory.Directory
	log      *slog.Logger
	now      func() time.Time
	set      *capability.Set
	verifier *capability.Verifier
	cache    *capability.Cache
	meter    *capability.Meter
	policy   atomic.Pointer[policy]
	topic    *gossip.Topic

	logs   logStore
	saving sync.Mutex // one at a time stores records of others' logs
	write  sync.Mutex // one at a time changes wallet, requests or own log

	mu       sync.Mutex
	shown    map[peer.ID]map[string]error // chains that were shown on the connections of a peer; nil: accepted
	rounds   map[peer.ID]uint64           // how often something was shown there
	showing  map[peer.ID]chan struct{}    // closed by who shows something now
	sessions map[peer.ID]bool             // peers that have grants in the cache
	pulled   map[identity.DID]time.Time   // when a log was last asked for
}

// New starts the service: it reads what is known of revocations, joins their topic and
// serves its stream.
func New(ctx context.Context, cfg Config, h *p2p.Host, dir *directory.Directory, g *gossip.Gossip, log *slog.Logger, now func() time.Time) (*Service, error) {
	self := dir.Self().DID
	s := &Service{
		cfg: cfg, h: h, dir: dir, log: log, now: now, set: capability.NewSet(self),
		meter: capability.NewMeter(capability.NewReplay(maxReplay)),
		shown: map[peer.ID]map[string]error{}, rounds: map[peer.ID]uint64{}, showing: map[peer.ID]chan struct{}{}, sessions: map[peer.ID]bool{}, pulled: map[identity.DID]time.Time{},
	}
	if cfg.Policy == nil {
		cfg.Policy = &contracts.Policy{V: "talos-policy/1"}
	}
	if err := s.SetPolicy(cfg.Policy); err != nil {
		return nil, err
	}
	s.verifier = &capability.Verifier{Executor: self, Roots: cfg.Roots, Resolve: s.issuer, Revoked: s.set}
	s.cache = capability.NewCache(s.verifier, maxSessions)
	if err := s.loadLogs(ctx); err != nil {
		return nil, err
	}
	if err := s.loadTaken(); err != nil {
		return nil, err
	}
	var err error
	if s.topic, err = g.Join("revocation", "1", s.judge, s.take); err != nil {
		return nil, err
	}
	h.SetStreamHandler(h.Protocol(streamName, streamVersion), s.serve)
	h.Host.Network().Notify(&network.NotifyBundle{DisconnectedF: func(n network.Network, c network.Conn) {
		if len(n.ConnsToPeer(c.RemotePeer())) == 0 {
			s.forget(c.RemotePeer())
		}
	}})
	return s, nil
}

// Run signs and tells the heads of the own revocation log, until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	tick := time.NewTicker(heartbeat)
	defer tick.Stop()
	for {
		if err := s.beat(ctx); err != nil && ctx.Err() == nil {
			s.log.Debug("the head of the revocation log was not told", "err", err)
		}
		select {
		case <-tick.C:
			s.cache.Sweep(s.now())
			s.set.Forget(s.now())
			if err := s.sweepCounts(ctx); err != nil && ctx.Err() == nil {
				s.log.Warn("what was counted for capabilities that have ended stays in the store", "err", err)
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// issuer gives the keys of an issuer, as fresh as the directory has them.
func (s *Service) issuer(did identity.DID) (*capability.Issuer, error) {
	ctx, cancel := context.WithTimeout(context.Background(), resolveIn)
	defer cancel()
	r, err := s.dir.Resolve(ctx, did, directory.Options{})
	if err != nil {
		if r != nil && r.State != nil && contracts.CodeOf(err) == contracts.Deactivated {
			i, e := capability.NewIssuer(r.State)
			if e == nil {
				s.set.Note(i)
			}
		}
		return nil, err
	}
	if r.State == nil {
		return nil, contracts.Errorf(contracts.IssuerUnresolved, "%s has no key log", did.Short())
	}
	return capability.NewIssuer(r.State)
}

// session names the session of a peer's connections.
func session(id peer.ID) capability.SessionID { return capability.SessionOf("channel " + string(id)) }

// forget ends what was shown on the connections of a peer that is gone.
func (s *Service) forget(id peer.ID) {
	s.mu.Lock()
	had := s.sessions[id]
	delete(s.sessions, id)
	delete(s.shown, id)
	delete(s.rounds, id)
	s.mu.Unlock()
	if had {
		s.cache.Drop(session(id))
	}
}

// authorize verifies a chain for the DID behind a peer and lets it count for the peer's
// connections. Issuers are asked for their revocation logs when this program meets them
// first, since it may have been away, and when what is known is too old to decide.
func (s *Service) authorize(ctx context.Context, id peer.ID, did identity.DID, proof capability.Proof, chain []byte) (*capability.Grant, error) {
	holder, err := capability.NewHolder(did, proof)
	if err != nil {
		return nil, err
	}
	s.catchUp(ctx, chain, true)
	g, err := s.cache.Authorize(session(id), chain, holder, s.now())
	if contracts.CodeOf(err) == contracts.RevocationStale {
		s.catchUp(ctx, chain, false)
		g, err = s.cache.Authorize(session(id), chain, holder, s.now())
	}
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.sessions[id] = true
	s.mu.Unlock()
	if s.h.Host.Network().Connectedness(id) != network.Connected {
		s.forget(id) // it has left in between: nothing would ever forget it
		return nil, contracts.Errorf(contracts.Unavailable, "the peer is gone")
	}
	return g, nil
}
