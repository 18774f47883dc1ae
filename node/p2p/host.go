package p2p

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"sync/atomic"
	"time"

	ds "github.com/ipfs/go-datastore"
	"github.com/libp2p/go-libp2p"
	dht "github.com/libp2p/go-libp2p-kad-dht"
	record "github.com/libp2p/go-libp2p-record"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/host/autorelay"
	rcmgr "github.com/libp2p/go-libp2p/p2p/host/resource-manager"
	"github.com/libp2p/go-libp2p/p2p/net/connmgr"
	relayv2 "github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/relay"
	quic "github.com/libp2p/go-libp2p/p2p/transport/quic"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	"github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"github.com/talosprotocol/talos/contracts"
)

// Kind of a network decides which addresses count and who serves the DHT.
type Kind string

// The kinds of network.
const (
	Public  Kind = "public"  // the Internet: public addresses only
	Private Kind = "private" // an organisation's: any address but loopback
	Local   Kind = "local"   // one machine, or a simulation: any address
)

// Config of a host. The zero value of a limit means its default.
type Config struct {
	Network   string             // name; part of each protocol id
	Kind      Kind               // public, private or local
	Key       ed25519.PrivateKey // the peer key
	Listen    []string           // multiaddrs; none: no listening
	Announce  []string           // multiaddrs to publish instead of those found
	Bootstrap []peer.AddrInfo    // where to begin
	Server    bool               // serves the DHT even on a public network
	Relay     bool               // serves as circuit relay and peer exchange
	LowConns  int                // connection manager's low mark; 0: 96
	HighConns int                // its high mark; 0: 192
	PerIP     int                // connections per IP address; 0: 8 on public networks, else unlimited
	MemoryMiB int64              // resource manager's memory; 0: 256
	UserAgent string
	Options   []libp2p.Option // appended last, for simulated networks
	Refresh   time.Duration   // of the routing table; 0: 10 min on public networks, else 1 min
}

// Host is a libp2p host with its DHT.
type Host struct {
	host.Host
	DHT     *dht.IpfsDHT
	Network string
	Kind    Kind
	door    atomic.Pointer[Door]
}

// Door is asked before a stream that a peer has opened is served. An error refuses the
// stream, with a reset: whoever opened too many learns no more.
type Door func(id protocol.ID, from peer.ID) error

// SetDoor sets the door of all streams that come from now on; before, there is none.
func (h *Host) SetDoor(d Door) { h.door.Store(&d) }

// SetStreamHandler serves a stream protocol, behind the door.
func (h *Host) SetStreamHandler(id protocol.ID, serve network.StreamHandler) {
	h.Host.SetStreamHandler(id, func(s network.Stream) {
		if d := h.door.Load(); d != nil && (*d)(id, s.Conn().RemotePeer()) != nil {
			_ = s.ResetWithError(network.StreamResourceLimitExceeded)
			return
		}
		serve(s)
	})
}

// Protocol gives the id of a stream protocol on this host's network.
func (h *Host) Protocol(name, version string) protocol.ID {
	return protocol.ID(contracts.Protocol(h.Network, name, version))
}

// New makes the host and its DHT and listens. The DHT keeps its records in store
// and accepts only what the validators, by namespace, accept.
func New(cfg Config, store ds.Batching, validators record.NamespacedValidator) (*Host, error) {
	if !networkName(cfg.Network) {
		return nil, contracts.Errorf(contracts.ConfigInvalid, "network %.40q: a name has 1 to 32 of a-z, 0-9 and -", cfg.Network)
	}
	key, err := crypto.UnmarshalEd25519PrivateKey(cfg.Key)
	if err != nil {
		return nil, contracts.Errorf(contracts.KeyInvalid, "peer key: %w", err)
	}
	opts, err := hostOptions(cfg, key)
	if err != nil {
		return nil, err
	}
	if err := portsFree(cfg.Listen); err != nil {
		return nil, err
	}
	h, err := libp2p.New(opts...)
	if err != nil {
		return nil, contracts.Errorf(contracts.Unavailable, "starting libp2p (is a listen address taken? %v): %w", cfg.Listen, err)
	}
	if len(cfg.Listen) > 0 && len(h.Network().ListenAddresses()) == 0 {
		_ = h.Close()
		return nil, contracts.Errorf(contracts.Unavailable, "none of %v can be listened on; is a port taken?", cfg.Listen)
	}
	d, err := newDHT(cfg, h, store, validators)
	if err != nil {
		_ = h.Close()
		return nil, fmt.Errorf("starting the DHT: %w", err)
	}
	return &Host{Host: h, DHT: d, Network: cfg.Network, Kind: cfg.Kind}, nil
}

// Close closes the DHT, then the host.
func (h *Host) Close() error { return errors.Join(h.DHT.Close(), h.Host.Close()) }

// portsFree tries each fixed TCP port. libp2p shares ports (SO_REUSEPORT, which hole
// punching needs), so a second node on the same port would start without an error
// and take half of the first one's connections.
func portsFree(listen []string) error {
	addrs, err := parseAddrs(listen)
	if err != nil {
		return err
	}
	for _, a := range addrs {
		if port, err := a.ValueForProtocol(multiaddr.P_TCP); err != nil || port == "0" {
			continue
		}
		l, err := manet.Listen(a)
		if err != nil {
			return contracts.Errorf(contracts.Unavailable, "%s cannot be listened on; is the port taken? %w", a, err)
		}
		_ = l.Close()
	}
	return nil
}

func networkName(s string) bool {
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return len(s) > 0 && len(s) <= 32
}

func hostOptions(cfg Config, key crypto.PrivKey) ([]libp2p.Option, error) {
	limits, err := resources(cfg)
	if err != nil {
		return nil, err
	}
	low, high := orInt(cfg.LowConns, 96), orInt(cfg.HighConns, 192)
	cm, err := connmgr.NewConnManager(low, high, connmgr.WithGracePeriod(30*time.Second))
	if err != nil {
		return nil, contracts.Errorf(contracts.ConfigInvalid, "connection marks %d and %d: %w", low, high, err)
	}
	opts := []libp2p.Option{
		libp2p.Identity(key), libp2p.ResourceManager(limits), libp2p.ConnectionManager(cm),
		libp2p.UserAgent(cfg.UserAgent), libp2p.DisableMetrics(),
		libp2p.Transport(quic.NewTransport), libp2p.Transport(tcp.NewTCPTransport),
	}
	if len(cfg.Listen) == 0 {
		opts = append(opts, libp2p.NoListenAddrs)
	} else {
		opts = append(opts, libp2p.ListenAddrStrings(cfg.Listen...))
	}
	if len(cfg.Announce) > 0 {
		announce, err := parseAddrs(cfg.Announce)
		if err != nil {
			return nil, err
		}
		opts = append(opts, libp2p.AddrsFactory(func([]multiaddr.Multiaddr) []multiaddr.Multiaddr { return announce }))
	}
	switch {
	case cfg.Kind == Local:
		// Everybody reaches everybody; asking others for our address would only cost.
		opts = append(opts, libp2p.DisableRelay(), libp2p.DisableIdentifyAddressDiscovery())
	case cfg.Relay:
		opts = append(opts, libp2p.EnableRelayService(relayv2.WithResources(relayv2.DefaultResources())),
			libp2p.EnableNATService(), libp2p.EnableAutoNATv2(), libp2p.ForceReachabilityPublic())
	default:
		opts = append(opts, libp2p.EnableHolePunching(), libp2p.EnableAutoNATv2())
		if cfg.Kind == Public {
			opts = append(opts, libp2p.NATPortMap()) // asks the router; an organisation's network has its own rules
		}
		if len(cfg.Bootstrap) > 0 {
			opts = append(opts, libp2p.EnableAutoRelayWithStaticRelays(cfg.Bootstrap, autorelay.WithBootDelay(0)))
		}
	}
	return append(opts, cfg.Options...), nil
}

func parseAddrs(texts []string) ([]multiaddr.Multiaddr, error) {
	out := make([]multiaddr.Multiaddr, 0, len(texts))
	for _, t := range texts {
		a, err := multiaddr.NewMultiaddr(t)
		if err != nil {
			return nil, contracts.Errorf(contracts.ConfigInvalid, "address %.120q: %w", t, err)
		}
		out = append(out, a)
	}
	return out, nil
}

// resources makes the resource manager. libp2p's default allows eight connections
// for an IPv4 address, which an office behind one NAT or a testnet exceeds at
// once; so outside public networks the limit is by peer, not by address.
func resources(cfg Config) (network.ResourceManager, error) {
	limits := rcmgr.DefaultLimits
	libp2p.SetDefaultServiceLimits(&limits)
	manyCalls(&limits, cfg.Network)
	mem := cfg.MemoryMiB
	if mem == 0 {
		mem = 256
	}
	opts := []rcmgr.Option{rcmgr.WithMetricsDisabled()}
	perIP := cfg.PerIP
	if perIP == 0 && cfg.Kind != Public {
		perIP = math.MaxInt32
	}
	if perIP > 0 {
		v4, v6 := netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")
		opts = append(opts,
			rcmgr.WithLimitPerSubnet([]rcmgr.ConnLimitPerSubnet{{PrefixLength: 32, ConnCount: perIP}}, []rcmgr.ConnLimitPerSubnet{{PrefixLength: 64, ConnCount: perIP}}))
		if perIP == math.MaxInt32 {
			opts = append(opts, rcmgr.WithNetworkPrefixLimit(
				[]rcmgr.NetworkPrefixLimit{{Network: v4, ConnCount: math.MaxInt32}}, []rcmgr.NetworkPrefixLimit{{Network: v6, ConnCount: math.MaxInt32}}))
		}
	}
	rm, err := rcmgr.NewResourceManager(rcmgr.NewFixedLimiter(limits.Scale(mem<<20, 4096)), opts...)
	if err != nil {
		return nil, fmt.Errorf("resource limits: %w", err)
	}
	return rm, nil
}

// Calls have a stream each, and package call bounds how many of them there are: more than
// libp2p lets a protocol have by default.
const (
	callStreams = 2048
	peerStreams = 320 // of one peer
)

func manyCalls(limits *rcmgr.ScalingLimitConfig, net string) {
	all := rcmgr.BaseLimit{StreamsInbound: callStreams, StreamsOutbound: callStreams, Streams: 2 * callStreams, Memory: 96 << 20}
	one := rcmgr.BaseLimit{StreamsInbound: peerStreams, StreamsOutbound: peerStreams, Streams: 2 * peerStreams, Memory: 48 << 20}
	more := rcmgr.BaseLimitIncrease{StreamsInbound: 512, StreamsOutbound: 512, Streams: 1024, Memory: 64 << 20} // for each GiB
	id := protocol.ID(contracts.Protocol(net, "call", "1.0.0"))
	limits.AddProtocolLimit(id, all, more)
	limits.AddProtocolPeerLimit(id, one, more)
	limits.AddServiceLimit("talos.call", all, more)
	limits.AddServicePeerLimit("talos.call", one, more)
	limits.PeerBaseLimit.StreamsInbound, limits.PeerBaseLimit.Streams = 512, 1024
}

func newDHT(cfg Config, h host.Host, store ds.Batching, validators record.NamespacedValidator) (*dht.IpfsDHT, error) {
	refresh := cfg.Refresh
	if refresh == 0 {
		if refresh = time.Minute; cfg.Kind == Public {
			refresh = 10 * time.Minute
		}
	}
	opts := []dht.Option{
		dht.ProtocolPrefix(protocol.ID("/talos/" + cfg.Network)),
		dht.Validator(validators), dht.Datastore(store),
		dht.RoutingTableRefreshPeriod(refresh), dht.RoutingTableRefreshQueryTimeout(10 * time.Second),
		dht.MaxRecordAge(48 * time.Hour),
	}
	if len(cfg.Bootstrap) > 0 {
		opts = append(opts, dht.BootstrapPeers(cfg.Bootstrap...))
	}
	if cfg.Server || cfg.Kind != Public {
		// On private networks AutoNAT never says "public" and everybody would stay a
		// client of nobody.
		opts = append(opts, dht.Mode(dht.ModeServer))
	} else {
		opts = append(opts, dht.Mode(dht.ModeAuto))
	}
	if cfg.Kind == Public {
		opts = append(opts, dht.QueryFilter(dht.PublicQueryFilter), dht.RoutingTableFilter(dht.PublicRoutingTableFilter),
			dht.RoutingTablePeerDiversityFilter(dht.NewRTPeerDiversityFilter(h, 2, 3)))
	}
	d, err := dht.New(h, opts...)
	if err != nil {
		return nil, err
	}
	return d, d.Bootstrap(context.Background()) // starts the refresh; the context is not kept
}

func orInt(n, def int) int {
	if n == 0 {
		return def
	}
	return n
}
