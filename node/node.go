package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	record "github.com/libp2p/go-libp2p-record"
	"github.com/libp2p/go-libp2p/core/peer"
	drouting "github.com/libp2p/go-libp2p/p2p/discovery/routing"
	"github.com/multiformats/go-multiaddr"
	"golang.org/x/sync/errgroup"

	"github.com/talosprotocol/talos/anchor/auditlog"
	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/gossip"
	"github.com/talosprotocol/talos/identity"
	"github.com/talosprotocol/talos/node/api"
	"github.com/talosprotocol/talos/node/approval"
	"github.com/talosprotocol/talos/node/authority"
	"github.com/talosprotocol/talos/node/call"
	"github.com/talosprotocol/talos/node/directory"
	"github.com/talosprotocol/talos/node/evidence"
	"github.com/talosprotocol/talos/node/execution"
	"github.com/talosprotocol/talos/node/gate"
	"github.com/talosprotocol/talos/node/gateway"
	"github.com/talosprotocol/talos/node/gateway/a2a"
	"github.com/talosprotocol/talos/node/gateway/mcp"
	"github.com/talosprotocol/talos/node/p2p"
	"github.com/talosprotocol/talos/node/receipt"
	"github.com/talosprotocol/talos/node/session"
	"github.com/talosprotocol/talos/node/store"
)

// Version of the program, set by the release build.
var Version = "0.1.0-dev"

// Node is a node with all its parts, running or about to. It is safe for
// concurrent use.
type Node struct {
	home    *Home
	log     *slog.Logger
	started time.Time
	store   *store.Store
	host    *p2p.Host
	peering *p2p.Peering
	dir     *directory.Directory
	gossip  *gossip.Gossip
	proofs  *evidence.Service
	talks   *session.Manager // nil unless the node is an agent
	gate    *gate.Gate
	powers  *authority.Service
	calls   *call.Calls      // these three are nil unless the node is an agent or a gateway
	gateway *gateway.Gateway // what it offers
	router  *gateway.Router  // and how it uses what others offer
	tools   *mcp.Driver      // the MCP servers that it exposes
	exposed []contracts.ToolExposure

	executions *execution.Log // what is done once; these two are nil as well
	approvals  *approval.Desk // what waits for an approval
	left       []execution.Left
	receipts   *receipt.Keeper
	agents     []contracts.AgentExposure // that it exposes
	agentTasks *a2a.Tasks                // whose task at an A2A agent is whose
	api        *api.Server
	mu         sync.Mutex // guards home after New
}

// Option changes how New builds a node.
type Option func(*options)

type options struct {
	host    func(*p2p.Config)
	memory  bool
	withAPI bool
	free    func(dir string) (uint64, error)
}

// WithHost changes the host's configuration, for simulated networks.
func WithHost(f func(*p2p.Config)) Option { return func(o *options) { o.host = f } }

// InMemory keeps the store in memory, for simulated networks.
func InMemory() Option { return func(o *options) { o.memory = true } }

// WithoutAPI leaves the loopback API out, for programs that embed the node.
func WithoutAPI() Option { return func(o *options) { o.withAPI = false } }

// New builds the node of a home, from the lowest floor to the highest. Nothing is
// done for anybody before Run. A log in quarantine does not stop it: the node then
// runs without accepting what must be recorded, and says so.
func New(ctx context.Context, home *Home, log *slog.Logger, opts ...Option) (n *Node, err error) {
	o := options{withAPI: true, free: store.FreeBytes}
	for _, f := range opts {
		f(&o)
	}
	if home.State.Deactivated() {
		return nil, contracts.Errorf(contracts.Deactivated, "%s was deactivated; make a new home", home.DID())
	}
	keys, err := home.keyset() // who am I
	if err != nil {
		return nil, err
	}
	n = &Node{home: home, log: log, started: time.Now()}
	defer func() {
		if err != nil {
			_ = n.close()
			n = nil
		}
	}()
	if n.store, err = store.Open(home.path("store"), store.Options{Key: home.keys.Get(keyStore), InMemory: o.memory, FreeBytes: o.free}); err != nil { // what I remember
		return n, err
	}
	validator := directory.NewValidator(time.Now)
	cfg, err := n.hostConfig(keys, o)
	if err != nil {
		return n, err
	}
	if n.host, err = p2p.New(cfg, n.store.Datastore(), record.NamespacedValidator{directory.Namespace: validator}); err != nil { // where I am
		return n, err
	}
	if err = n.openMesh(cfg, validator); err != nil { // whom I know
		return n, err
	}
	if err = n.openEvidence(ctx, keys, o.free); err != nil { // what I can prove
		return n, err
	}
	if err = n.openGate(ctx); err != nil { // who may do what
		return n, err
	}
	if home.Has("agent") || home.Has("gateway") {
		if err = n.openServices(); err != nil { // what I offer and use
			return n, err
		}
		if n.talks, err = session.New(n.host, n.dir, n.store.Session(), session.Keys{Agreement: keys.agreement, Invocation: keys.invocation}, recorder{n}, door{n}, log, time.Now); err != nil { // with whom I talk
			return n, err
		}
	}
	if err = n.checkMesh(); err != nil {
		return n, err
	}
	n.guardMesh()
	if o.withAPI {
		n.api, err = api.New(api.Config{
			Socket: home.path(fileSocket), Address: home.Config.API, TokenFile: home.path(fileToken), AddressFile: home.path(fileAddress), Gate: n.gate,
			Attester: gate.NewAttester(n.invocationKey, n.started).For(n.DID()),
		}, &local{n}, log)
	}
	return n, err
}

// openMesh joins the network: peers to keep, DIDs, gossip.
func (n *Node) openMesh(cfg p2p.Config, validator *directory.Validator) (err error) {
	n.peering = p2p.NewPeering(n.host, n.log)
	n.peering.Keep(cfg.Bootstrap...)
	n.peering.Keep(n.savedPeers()...)
	n.dir = directory.New(n.host, n.store.Directory(), validator, n.log)
	if err := n.home.Resign(directory.Addrs(n.host), time.Now()); err != nil {
		return err
	}
	n.dir.SetSelf(n.home.State)
	n.gossip, err = gossip.New(n.host.Host, gossip.Config{
		Network: cfg.Network, PeerExchange: cfg.Relay, Discovery: drouting.NewRoutingDiscovery(n.host.DHT),
	}, n.log)
	return err
}

func (n *Node) hostConfig(k keyset, o options) (p2p.Config, error) {
	c := n.home.Config
	bootstrap, err := parsePeers(c.Bootstrap)
	if err != nil {
		return p2p.Config{}, err
	}
	cfg := p2p.Config{
		Network: c.Network, Kind: p2p.Kind(c.Kind), Key: k.peer.Ed25519(), Listen: c.Listen, Announce: c.Announce, Bootstrap: bootstrap,
		Server: n.home.Has("bootstrap") || n.home.Has("anchor") || n.home.Has("gateway"), Relay: n.home.Has("bootstrap"), UserAgent: "talos/" + Version,
		LowConns: int(orZero(c.ConnectionsLow)), HighConns: int(orZero(c.ConnectionsHigh)), PerIP: int(orZero(c.ConnectionsPerIp)), MemoryMiB: orZero(c.MemoryMib),
	}
	if n.home.Has("bootstrap") && cfg.LowConns == 0 {
		cfg.LowConns, cfg.HighConns = 600, 900
	}
	if o.host != nil {
		o.host(&cfg)
	}
	return cfg, nil
}

func orZero(p *int64) int64 {
	if p == nil {
		return 0
	}
	return *p
}

// parsePeers reads multiaddrs with /p2p/ and joins those of one peer.
func parsePeers(texts []string) ([]peer.AddrInfo, error) {
	addrs := make([]multiaddr.Multiaddr, 0, len(texts))
	for _, t := range texts {
		a, err := multiaddr.NewMultiaddr(t)
		if err != nil {
			return nil, contracts.Errorf(contracts.ConfigInvalid, "bootstrap %.160q: %w", t, err)
		}
		addrs = append(addrs, a)
	}
	infos, err := peer.AddrInfosFromP2pAddrs(addrs...)
	if err != nil {
		return nil, contracts.Errorf(contracts.ConfigInvalid, "bootstrap: %w; an address ends in /p2p/ and the peer's id", err)
	}
	return infos, nil
}

func (n *Node) openEvidence(ctx context.Context, k keyset, free func(dir string) (uint64, error)) error {
	c := n.home.Config
	cfg := evidence.Config{
		DID: n.home.DID(), Incarnation: uint16(n.home.State.Doc.Incarnation), LogKey: k.log, WitnessKey: k.witness,
		Rows: n.store.Table(), Witness: n.store.Witness(), HeadFile: n.home.path(fmt.Sprintf("audit-head-%d.json", n.home.State.Doc.Incarnation)),
		Free: func() (uint64, error) { return free(n.home.Dir) }, Interval: time.Duration(orZero(c.CheckpointSeconds)) * time.Second,
	}
	cfg.Backend, cfg.EpochEvery = n.store.Audit(cfg.Incarnation), time.Duration(orZero(c.EpochSeconds))*time.Second
	for _, a := range c.Anchors {
		if did := identity.DID(a); did != n.home.DID() {
			cfg.Anchors = append(cfg.Anchors, did)
		}
	}
	if cfg.Incarnation > 1 {
		cfg.Succession = &auditlog.Succession{Reason: "compromised"}
	}
	var err error
	if cfg.Chains, err = n.chains(); err != nil {
		return err
	}
	n.proofs, err = evidence.New(ctx, cfg, n.host, n.dir, n.gossip, n.log)
	var q *auditlog.Quarantine
	if errors.As(err, &q) {
		n.log.Error("the audit log is in quarantine: nothing that must be recorded is accepted", "err", q)
		return nil
	}
	return err
}

// Run runs the node until ctx ends or a part fails for good, and closes it.
func (n *Node) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return n.peering.Run(ctx) })
	g.Go(func() error { return n.dir.Run(ctx) })
	g.Go(func() error { return n.keepState(ctx) })
	g.Go(func() error { return n.keepPeers(ctx) })
	g.Go(func() error { return n.powers.Run(ctx) })
	// What ends when the node stops is recorded too: the log ends after those who call.
	late, end := context.WithCancel(context.WithoutCancel(ctx))
	keeping, stopKeeping := context.WithCancel(late)
	var callers sync.WaitGroup
	call := func(f func(context.Context) error) {
		callers.Add(1)
		g.Go(func() error { defer callers.Done(); return f(ctx) })
	}
	if n.router != nil {
		call(n.router.Run)
		call(n.drain)
		g.Go(func() error { return n.pruneExecutions(ctx) })
	}
	if n.api != nil {
		call(n.api.Run)
	}
	kept := make(chan struct{})
	g.Go(func() error {
		<-ctx.Done()
		callers.Wait()
		n.gate.Wait()
		stopKeeping()
		<-kept
		end()
		return nil
	})
	g.Go(func() error {
		defer close(kept)
		if n.receipts == nil || n.proofs.Log().Err() != nil {
			return nil
		}
		return n.receipts.Run(keeping)
	})
	if n.proofs.Log().Err() == nil {
		g.Go(func() error { return n.proofs.Run(late) })
	}
	g.Go(func() error {
		select {
		case <-ctx.Done():
			return nil
		case <-n.store.Failed():
			return n.store.Fatal()
		}
	})
	if n.proofs.Log().Err() == nil {
		if _, err := n.proofs.Append(ctx, n.proofs.NewEvent("node_start")); err != nil {
			n.log.Error("the start was not recorded", "err", err)
		}
		n.settleLeft(ctx)
	}
	err := g.Wait()
	return errors.Join(err, n.close())
}

// close closes what New opened, from the highest floor to the lowest.
func (n *Node) close() error {
	var errs []error
	if n.api != nil {
		errs = append(errs, n.api.Close())
	}
	if n.calls != nil {
		errs = append(errs, n.calls.Close())
	}
	if n.tools != nil {
		errs = append(errs, n.tools.Close())
	}
	if n.talks != nil {
		errs = append(errs, n.talks.Close())
	}
	if n.gossip != nil {
		errs = append(errs, n.gossip.Close())
	}
	if n.host != nil {
		errs = append(errs, n.host.Close())
	}
	if n.store != nil {
		errs = append(errs, n.store.Close())
	}
	return errors.Join(errs...)
}
