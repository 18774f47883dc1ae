package directory

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/routing"
	"github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
	"github.com/talosprotocol/talos/node/p2p"
)

// Options of a resolution.
type Options struct {
	// Fresh asks the network even if the memory is still good.
	Fresh bool
	// MinSeq refuses states below it.
	MinSeq int64
}

// Resolved is the answer of a resolution. It is shared and must not be changed.
type Resolved struct {
	State       *identity.State // nil for a did:key
	Document    *contracts.DIDDocument
	Source      string    // key, self, memory, disk, peer, dht
	Fetched     time.Time // when a source last confirmed it
	Stale       bool      // no source answered now; good for reading, not for deciding
	Duplicitous bool
}

// sourceHello marks a state that a peer showed of itself and nobody asked for yet.
const sourceHello = "hello"

// lookupTimeout bounds the network's part of one resolution.
const lookupTimeout = 20 * time.Second

// Resolve gives the state of did. Errors: InvalidDID, MethodUnsupported, NotFound,
// Deactivated (with the tombstone), Duplicity, Rollback, Unavailable.
func (d *Directory) Resolve(ctx context.Context, did identity.DID, o Options) (*Resolved, error) {
	if r, ok := d.cache.Get(did); ok && !o.Fresh && d.usable(r, o) {
		if r.Source != sourceHello {
			return r.checked()
		}
		// Somebody means to use it: from now on nothing lower counts. A context bounds the
		// network, which is not asked here; ended, it would make the disk's answer chance.
		r, err := d.accept(context.WithoutCancel(ctx), did, r.State.Raw, "memory", o)
		if err != nil {
			return nil, err
		}
		return r.checked()
	}
	if did.IsKey() {
		doc, err := identity.KeyDocument(did)
		if err != nil {
			return nil, err
		}
		r := &Resolved{Document: doc, Source: "key", Fetched: d.now()}
		d.cache.Add(did, r)
		return r, nil
	}
	if self := d.self.Load(); self != nil && self.DID == did {
		return (&Resolved{State: self, Document: self.Doc.Raw, Source: "self", Fetched: d.now()}).checked()
	}
	known, err := d.recall(did)
	if err != nil {
		return nil, err
	}
	if known != nil && !o.Fresh && d.usable(known, o) {
		d.cache.Add(did, known)
		return known.checked()
	}
	r, err := d.ask(ctx, did, known, o)
	// A record that was just published may not have met the peers that we asked.
	for pause := firstPause; contracts.CodeOf(err) == contracts.NotFound && pause <= lastPause; pause *= 2 {
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil, err
		}
		r, err = d.ask(ctx, did, known, o)
	}
	return r, err
}

// Pauses before a DID that was not found is asked for again.
const (
	firstPause = 150 * time.Millisecond
	lastPause  = 600 * time.Millisecond
)

// usable reports whether an answer may be given again without asking.
func (d *Directory) usable(r *Resolved, o Options) bool {
	if r.State == nil || r.State.Deactivated() {
		return true // neither ever changes
	}
	now := d.now()
	return now.Sub(r.Fetched) < r.State.TTL && r.State.Seq >= o.MinSeq && r.State.ValidAt(now) == nil
}

// checked fills the document and turns what may not be used into errors.
func (r *Resolved) checked() (*Resolved, error) {
	if r.State != nil && r.State.Deactivated() {
		return r, contracts.Errorf(contracts.Deactivated, "%s was deactivated by its owner", r.State.DID)
	}
	if r.Duplicitous {
		return r, contracts.Errorf(contracts.Duplicity, "%s has two contradicting key logs", r.State.DID)
	}
	return r, nil
}

// ask asks the peer itself and the DHT, both: whoever stole a node's keys answers
// for it with the state before the owner's rotation, and the DHT knows the newer
// one. The higher counts; what is known already is the floor.
func (d *Directory) ask(ctx context.Context, did identity.DID, known *Resolved, o Options) (*Resolved, error) {
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	var best *Resolved
	var last error
	for _, source := range []struct {
		name string
		get  func(context.Context, identity.DID, *Resolved) ([]byte, error)
	}{{"peer", d.fromPeer}, {"dht", d.fromDHT}} {
		raw, err := source.get(ctx, did, known)
		if err == nil {
			var r *Resolved
			if r, err = d.accept(ctx, did, raw, source.name, o); err == nil {
				best = r // accept refuses what is lower than before
				continue
			}
		}
		if c := contracts.CodeOf(err); c == contracts.Duplicity || c == contracts.StorageCorrupt {
			return nil, err
		}
		if last == nil || contracts.CodeOf(last) == contracts.NotFound {
			last = err
		}
	}
	switch {
	case best != nil:
		return best.checked()
	case known != nil && known.State.Seq >= o.MinSeq:
		stale := *known
		stale.Stale = known.State.ValidAt(d.now()) != nil || d.now().Sub(known.Fetched) >= known.State.TTL
		return (&stale).checked()
	}
	return nil, last
}

// accept verifies and remembers a record that a source gave for did.
func (d *Directory) accept(ctx context.Context, did identity.DID, raw []byte, source string, o Options) (*Resolved, error) {
	s, err := d.validator.State(raw)
	if err != nil {
		return nil, err
	}
	if s.DID != did {
		return nil, contracts.Errorf(contracts.Malformed, "asked for %s, got the record of %s", did, s.DID)
	}
	if err := s.ValidAt(d.now()); err != nil {
		return nil, err
	}
	if s.Seq < o.MinSeq {
		return nil, contracts.Errorf(contracts.Rollback, "version %s of %s, wanted sequence %d or later", s.Version(), did.Short(), o.MinSeq)
	}
	return d.remember(ctx, s, source)
}

// fromPeer asks the DID's own node, if we are connected with it.
func (d *Directory) fromPeer(ctx context.Context, did identity.DID, known *Resolved) ([]byte, error) {
	if known == nil || known.State.Doc == nil {
		return nil, contracts.Errorf(contracts.NotFound, "no connection to %s", did.Short())
	}
	id, err := PeerID(known.State.Doc.Peer)
	if err != nil || len(d.h.Host.Network().ConnsToPeer(id)) == 0 {
		return nil, contracts.Errorf(contracts.NotFound, "no connection to %s", did.Short())
	}
	return d.fetch(ctx, id, did)
}

// fromDHT searches the DHT exhaustively.
func (d *Directory) fromDHT(ctx context.Context, did identity.DID, _ *Resolved) ([]byte, error) {
	if d.h.DHT.RoutingTable().Size() == 0 {
		return nil, contracts.Errorf(contracts.Unavailable, "no peer is connected to ask for %s; is a bootstrap reachable? talos doctor says more", did.Short())
	}
	raw, err := d.h.DHT.GetValue(ctx, Key(did))
	switch {
	case err == nil:
		return raw, nil
	case errors.Is(err, routing.ErrNotFound):
		return nil, contracts.Errorf(contracts.NotFound, "no record of %s in the DHT of %d peers; has its node been up and published?", did, d.h.DHT.RoutingTable().Size())
	default:
		return nil, contracts.Errorf(contracts.Unavailable, "searching the DHT for %s: %w", did.Short(), err)
	}
}

// AddrInfo gives the PeerID and the usable addresses of a document: those that end
// in that PeerID; on a public network no private ones.
func AddrInfo(doc *identity.Document, kind p2p.Kind) (peer.AddrInfo, error) {
	id, err := PeerID(doc.Peer)
	if err != nil {
		return peer.AddrInfo{}, err
	}
	info := peer.AddrInfo{ID: id}
	for _, text := range doc.Addrs {
		a, err := multiaddr.NewMultiaddr(text)
		if err != nil {
			continue
		}
		transport, last := peer.SplitAddr(a)
		if last != id || transport == nil || (kind == p2p.Public && !manet.IsPublicAddr(transport)) {
			continue
		}
		info.Addrs = append(info.Addrs, transport)
	}
	return info, nil
}

// Addrs gives the addresses of the host for a document, each with its PeerID, those
// that others are likeliest to reach first.
func Addrs(h *p2p.Host) []string {
	addrs := slices.Clone(h.Addrs())
	if h.Kind != p2p.Local {
		// A node on the loopback alone still says so: on one machine that is enough.
		public := slices.DeleteFunc(slices.Clone(addrs), manet.IsIPLoopback)
		if len(public) > 0 {
			addrs = public
		}
	}
	out := make([]string, 0, len(addrs))
	for _, a := range addrs {
		out = append(out, a.String()+"/p2p/"+h.ID().String())
	}
	slices.Sort(out)
	return out[:min(len(out), 8)]
}
