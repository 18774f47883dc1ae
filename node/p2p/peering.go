package p2p

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
)

// Backoff of reconnecting. The upper end bounds how long a healed cut goes
// unnoticed.
const (
	firstBackoff = time.Second
	lastBackoff  = 30 * time.Second
	dialTimeout  = 10 * time.Second
)

// Peering keeps connections to the peers that it is told of, for as long as Run runs.
type Peering struct {
	h   *Host
	log *slog.Logger

	mu    sync.Mutex
	peers map[peer.ID]*kept
	wake  chan struct{}
}

// kept is one peer to stay connected with; its fields are guarded by Peering.mu.
type kept struct {
	info    peer.AddrInfo
	backoff time.Duration
	next    time.Time
	dialing bool
	lastErr error
}

// NewPeering makes a manager for h's connections.
func NewPeering(h *Host, log *slog.Logger) *Peering {
	return &Peering{h: h, log: log, peers: map[peer.ID]*kept{}, wake: make(chan struct{}, 1)}
}

// Keep adds peers to stay connected with, or renews their addresses. The
// connection manager will not trim them.
func (p *Peering) Keep(infos ...peer.AddrInfo) {
	p.mu.Lock()
	for _, in := range infos {
		if in.ID == p.h.ID() || in.ID == "" {
			continue
		}
		p.h.ConnManager().Protect(in.ID, "peering")
		if k := p.peers[in.ID]; k != nil {
			k.info.Addrs = in.Addrs
		} else {
			p.peers[in.ID] = &kept{info: in, backoff: firstBackoff}
		}
	}
	p.mu.Unlock()
	p.nudge()
}

// Drop forgets a peer.
func (p *Peering) Drop(id peer.ID) {
	p.mu.Lock()
	delete(p.peers, id)
	p.mu.Unlock()
	p.h.ConnManager().Unprotect(id, "peering")
}

// Status of a kept peer, for people.
type Status struct {
	Peer      peer.ID
	Connected bool
	Err       error // of the last dial, nil if it worked or none was made
}

// Status gives the kept peers.
func (p *Peering) Status() []Status {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]Status, 0, len(p.peers))
	for id, k := range p.peers {
		out = append(out, Status{Peer: id, Connected: p.connected(id), Err: k.lastErr})
	}
	return out
}

func (p *Peering) connected(id peer.ID) bool {
	return p.h.Host.Network().Connectedness(id) == network.Connected
}

func (p *Peering) nudge() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// Run dials what is not connected, until ctx ends.
func (p *Peering) Run(ctx context.Context) error {
	notify := &network.NotifyBundle{DisconnectedF: func(_ network.Network, c network.Conn) {
		p.mu.Lock()
		if k := p.peers[c.RemotePeer()]; k != nil && !p.connected(c.RemotePeer()) {
			k.backoff, k.next = firstBackoff, time.Now().Add(jitter(firstBackoff))
		}
		p.mu.Unlock()
		p.nudge()
	}}
	p.h.Host.Network().Notify(notify)
	defer p.h.Host.Network().StopNotify(notify)
	var dials sync.WaitGroup
	defer dials.Wait()
	for {
		wait := p.dialDue(ctx, &dials)
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return nil
		case <-p.wake:
			t.Stop()
		case <-t.C:
		}
	}
}

// dialDue starts the dials that are due and says how long to wait for the next.
func (p *Peering) dialDue(ctx context.Context, dials *sync.WaitGroup) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	now, wait := time.Now(), lastBackoff
	for id, k := range p.peers {
		if k.dialing || p.connected(id) {
			continue
		}
		if d := k.next.Sub(now); d > 0 {
			wait = min(wait, d)
			continue
		}
		k.dialing = true
		info := k.info
		dials.Go(func() { p.dial(ctx, info) })
	}
	return wait
}

func (p *Peering) dial(ctx context.Context, info peer.AddrInfo) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	p.h.Peerstore().AddAddrs(info.ID, info.Addrs, peerstore.ConnectedAddrTTL)
	err := p.h.Connect(ctx, info)
	p.mu.Lock()
	k := p.peers[info.ID]
	if k != nil {
		k.dialing, k.lastErr = false, err
		if err == nil {
			k.backoff, k.next = firstBackoff, time.Time{}
		} else {
			k.next = time.Now().Add(jitter(k.backoff))
			k.backoff = min(2*k.backoff, lastBackoff)
		}
	}
	p.mu.Unlock()
	if err != nil {
		p.log.Debug("peer is out of reach", "peer", info.ID, "err", err)
	} else {
		// A healed cut: learn quickly who else is there.
		p.h.DHT.RefreshRoutingTable()
	}
	p.nudge()
}

// jitter spreads d over [d/2, 3d/2), so that peers cut off together do not come
// back together.
func jitter(d time.Duration) time.Duration {
	return d/2 + time.Duration(rand.Int64N(int64(d)))
}
