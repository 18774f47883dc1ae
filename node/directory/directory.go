package directory

import (
	"context"
	"crypto/ed25519"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
	"github.com/talosprotocol/talos/node/p2p"
)

// cachedStates is how many answers the memory keeps.
const cachedStates = 8192

// Directory resolves DIDs and speaks for its own. It is safe for concurrent use.
type Directory struct {
	h         *p2p.Host
	store     Store
	validator *Validator
	log       *slog.Logger
	now       func() time.Time
	cache     *lru.Cache[identity.DID, *Resolved]

	self    atomic.Pointer[identity.State]
	changed chan struct{} // self was replaced: publish
	// overtaken holds a later state of this DID than self.
	overtaken chan *identity.State
	status    atomic.Pointer[PublishStatus]

	mu      sync.Mutex
	bound   map[peer.ID]*Peer
	onBound func(peer.ID)
}

// Peer is who stands behind a connection: its DID and the state that lists the
// connection's key.
type Peer struct {
	DID   identity.DID
	State *identity.State // nil for a did:key
}

// New makes a directory on h and serves hello and did there.
func New(h *p2p.Host, store Store, v *Validator, log *slog.Logger) *Directory {
	c, _ := lru.New[identity.DID, *Resolved](cachedStates) // fails for sizes below 1 only
	d := &Directory{
		h: h, store: store, validator: v, log: log, now: v.now, cache: c,
		changed: make(chan struct{}, 1), overtaken: make(chan *identity.State, 1), bound: map[peer.ID]*Peer{},
	}
	d.status.Store(&PublishStatus{})
	h.SetStreamHandler(h.Protocol(helloName, helloVersion), d.serveHello)
	h.SetStreamHandler(h.Protocol(didName, didVersion), d.serveDID)
	h.Host.Network().Notify(&network.NotifyBundle{DisconnectedF: func(n network.Network, c network.Conn) {
		if len(n.ConnsToPeer(c.RemotePeer())) == 0 {
			d.unbind(c.RemotePeer())
		}
	}})
	return d
}

// SetSelf makes s the state of this node and has Run publish it.
func (d *Directory) SetSelf(s *identity.State) {
	d.self.Store(s)
	d.cache.Remove(s.DID)
	select {
	case d.changed <- struct{}{}:
	default:
	}
}

// Self gives the state of this node.
func (d *Directory) Self() *identity.State { return d.self.Load() }

// PeerID gives the libp2p id of a peer key.
func PeerID(k identity.PeerPublic) (peer.ID, error) {
	pub, err := crypto.UnmarshalEd25519PublicKey(k.Bytes())
	if err != nil {
		return "", contracts.Errorf(contracts.KeyInvalid, "peer key: %w", err)
	}
	return peer.IDFromPublicKey(pub)
}

// handshakeKey gives the Ed25519 key that a PeerID was made of, which the transport
// handshake has proved.
func handshakeKey(id peer.ID) (identity.PeerPublic, error) {
	pub, err := id.ExtractPublicKey()
	if err != nil {
		return identity.PeerPublic{}, contracts.Errorf(contracts.KeyInvalid, "peer %s: %w", id, err)
	}
	raw, err := pub.Raw()
	if err != nil || len(raw) != ed25519.PublicKeySize {
		return identity.PeerPublic{}, contracts.Errorf(contracts.KeyInvalid, "peer %s has no Ed25519 key", id)
	}
	return identity.NewPublic[identity.Peer](raw)
}

// Connect resolves did, connects to its node and binds the connection to it. A
// known state whose addresses or key fail is asked for afresh once.
func (d *Directory) Connect(ctx context.Context, did identity.DID) (peer.ID, *Peer, error) {
	if did.IsKey() {
		return "", nil, contracts.Errorf(contracts.Unavailable, "%s is a did:key and names no address", did)
	}
	var last error
	for _, fresh := range []bool{false, true} {
		r, err := d.Resolve(ctx, did, Options{Fresh: fresh})
		if err != nil {
			return "", nil, err
		}
		id, p, err := d.connect(ctx, r.State)
		if err == nil {
			return id, p, nil
		}
		last = err
	}
	return "", nil, last
}

func (d *Directory) connect(ctx context.Context, s *identity.State) (peer.ID, *Peer, error) {
	info, err := AddrInfo(s.Doc, d.h.Kind)
	if err != nil {
		return "", nil, err
	}
	if info.ID == d.h.ID() {
		return "", nil, contracts.Errorf(contracts.Malformed, "%s is this node itself", s.DID)
	}
	if d.h.Host.Network().Connectedness(info.ID) != network.Connected {
		d.h.Peerstore().AddAddrs(info.ID, info.Addrs, peerstore.TempAddrTTL)
		if err := d.h.Connect(ctx, info); err != nil {
			return "", nil, contracts.Errorf(contracts.Unavailable, "the node of %s is out of reach: %w", s.DID.Short(), err)
		}
	}
	p, err := d.Bind(ctx, info.ID)
	if err != nil {
		return "", nil, err
	}
	if p.DID != s.DID {
		return "", nil, contracts.Errorf(contracts.PeerNotBound, "peer %s calls itself %s, not %s", info.ID, p.DID, s.DID)
	}
	return info.ID, p, nil
}
