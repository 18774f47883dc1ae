package testnet_test

import (
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	ds "github.com/ipfs/go-datastore"
	dssync "github.com/ipfs/go-datastore/sync"
	"github.com/libp2p/go-libp2p"
	record "github.com/libp2p/go-libp2p-record"
	"github.com/libp2p/go-libp2p/core/control"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/transport/quicreuse"
	"github.com/marcopolo/simnet"
	"github.com/multiformats/go-multiaddr"
	"github.com/quic-go/quic-go"
	"go.uber.org/fx"

	"github.com/talosprotocol/talos/gossip"
	"github.com/talosprotocol/talos/node/directory"
	"github.com/talosprotocol/talos/node/p2p"
)

// simLink is the delay of a packet from any node to any other.
const simLink = 100 * time.Millisecond

// sim is a network of hosts whose packets go over simulated links, for the virtual
// time of package synctest. A cut drops what crosses from one half to the other.
type sim struct {
	net    simnet.Simnet
	cut    atomic.Bool
	sparse bool // nodes dial nobody on their own
	nodes  []*simNode
}

// simNode is a node's lower floors: host, DHT, peering and one topic.
type simNode struct {
	h      *p2p.Host
	peers  *p2p.Peering
	g      *gossip.Gossip
	topic  *gossip.Topic
	cancel context.CancelFunc
	done   sync.WaitGroup

	mu    sync.Mutex
	got   map[string]time.Time // payloads and when they came
	dials map[peer.ID]bool     // whom it may dial in a sparse network
}

func newSim() *sim {
	s := &sim{}
	s.net.LatencyFunc = simnet.StaticLatency(simLink)
	s.net.Logger = slog.New(slog.DiscardHandler)
	s.net.Start()
	return s
}

// half says on which side of a cut an address is: odd and even nodes.
func half(a net.Addr) bool { return a.(*net.UDPAddr).IP.To4()[3]%2 == 0 }

// cutConn is a node's socket.
type cutConn struct {
	*simnet.SimConn
	s    *sim
	side bool
}

// WriteTo loses the packet if a cut lies on its way.
func (c cutConn) WriteTo(b []byte, to net.Addr) (int, error) {
	if c.s.cut.Load() && half(to) != c.side {
		return len(b), nil
	}
	return c.SimConn.WriteTo(b, to)
}

// source tells QUIC the address of the only interface.
type source struct{ ip net.IP }

func (s source) PreferredSourceIPForDestination(*net.UDPAddr) (net.IP, error) { return s.ip, nil }

// transport makes a host's QUIC run over the simulated network. libp2p does not
// close a connection manager that it was given; the hook does.
func (s *sim) transport(ip net.IP) libp2p.Option {
	link := simnet.NodeBiDiLinkSettings{
		Downlink: simnet.LinkSettings{BitsPerSecond: 20 * simnet.Mibps}, Uplink: simnet.LinkSettings{BitsPerSecond: 20 * simnet.Mibps},
	}
	return libp2p.QUICReuse(
		func(l fx.Lifecycle, reset quic.StatelessResetKey, token quic.TokenGeneratorKey, opts ...quicreuse.Option) (*quicreuse.ConnManager, error) {
			cm, err := quicreuse.NewConnManager(reset, token, opts...)
			if err == nil {
				l.Append(fx.StopHook(cm.Close))
			}
			return cm, err
		},
		quicreuse.OverrideSourceIPSelector(func() (quicreuse.SourceIPSelector, error) { return source{ip}, nil }),
		quicreuse.OverrideListenUDP(func(_ string, a *net.UDPAddr) (net.PacketConn, error) {
			return cutConn{s.net.NewEndpoint(a, link), s, half(a)}, nil
		}),
	)
}

// add makes the next node, which stays connected with the given ones. Its keys are
// the same in each run.
func (s *sim) add(t *testing.T, judge func([]byte) gossip.Verdict, keep ...*simNode) *simNode {
	t.Helper()
	i := len(s.nodes)
	seed := make([]byte, ed25519.SeedSize)
	binary.BigEndian.PutUint32(seed, uint32(i)+1)
	ip := simnet.IntToPublicIPv4(i)
	n := &simNode{got: map[string]time.Time{}, dials: map[peer.ID]bool{}}
	opts := []libp2p.Option{s.transport(ip)}
	if s.sparse {
		opts = append(opts, libp2p.ConnectionGater(n))
	}
	var err error
	n.h, err = p2p.New(p2p.Config{
		Network: "sim", Kind: p2p.Local, Key: ed25519.NewKeyFromSeed(seed), Listen: []string{fmt.Sprintf("/ip4/%s/udp/4000/quic-v1", ip)},
		Options: opts, Refresh: time.Hour,
	}, dssync.MutexWrap(ds.NewMapDatastore()), record.NamespacedValidator{directory.Namespace: directory.NewValidator(time.Now)})
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	n.peers = p2p.NewPeering(n.h, log)
	for _, k := range keep {
		n.peers.Keep(peer.AddrInfo{ID: k.h.ID(), Addrs: k.h.Addrs()})
	}
	if n.g, err = gossip.New(n.h.Host, gossip.Config{Network: "sim"}, log); err != nil {
		t.Fatal(err)
	}
	if n.topic, err = n.g.Join("digest", "1", judge, n.take); err != nil {
		t.Fatal(err)
	}
	var ctx context.Context
	ctx, n.cancel = context.WithCancel(context.Background())
	n.done.Go(func() { _ = n.peers.Run(ctx) })
	s.nodes = append(s.nodes, n)
	return n
}

// connect connects two nodes of a sparse network, where the DHT would connect each
// with all otherwise.
func (s *sim) connect(t *testing.T, a, b *simNode) {
	t.Helper()
	a.mu.Lock()
	a.dials[b.h.ID()] = true
	a.mu.Unlock()
	if err := a.h.Connect(t.Context(), peer.AddrInfo{ID: b.h.ID(), Addrs: b.h.Addrs()}); err != nil {
		t.Fatal(err)
	}
}

// The node is the gater of its connections in a sparse network.

func (n *simNode) InterceptPeerDial(id peer.ID) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.dials[id]
}

func (n *simNode) InterceptAddrDial(peer.ID, multiaddr.Multiaddr) bool { return true }

func (n *simNode) InterceptAccept(network.ConnMultiaddrs) bool { return true }

func (n *simNode) InterceptSecured(network.Direction, peer.ID, network.ConnMultiaddrs) bool {
	return true
}

func (n *simNode) InterceptUpgraded(network.Conn) (bool, control.DisconnectReason) { return true, 0 }

func (n *simNode) take(_ context.Context, b []byte) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, ok := n.got[string(b)]; !ok {
		n.got[string(b)] = time.Now()
	}
}

// publish gossips a payload, which the node itself then has.
func (n *simNode) publish(t *testing.T, b []byte) {
	t.Helper()
	n.take(t.Context(), b)
	if err := n.topic.Publish(t.Context(), b); err != nil {
		t.Fatal(err)
	}
}

// have counts the nodes that had a payload by a time.
func (s *sim) have(b []byte, by time.Time) (n int) {
	for _, m := range s.nodes {
		m.mu.Lock()
		if at, ok := m.got[string(b)]; ok && !at.After(by) {
			n++
		}
		m.mu.Unlock()
	}
	return n
}

// close ends everything: synctest allows no goroutine to stay.
func (s *sim) close(t *testing.T) {
	t.Helper()
	for _, n := range s.nodes {
		n.cancel()
		n.done.Wait()
		_ = n.g.Close()
		if err := n.h.Close(); err != nil {
			t.Errorf("closing: %v", err)
		}
	}
	s.net.Close()
}
