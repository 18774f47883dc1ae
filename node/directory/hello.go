package directory

import (
	"bufio"
	"context"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
	"github.com/talosprotocol/talos/node/p2p"
)

// The streams of this package (spec/directory.md).
const (
	helloName, helloVersion = "hello", "1.0.0"
	didName, didVersion     = "did", "1.0.0"

	messageVersion = 0x01
	helloState     = 0x01 // followed by a state record
	helloKey       = 0x02 // the DID is the did:key of the handshake key

	didGet      = 0x01 // followed by the 34 bytes of a DID
	didOK       = 0x00 // followed by a state record
	didNotFound = 0x01

	maxMessage = identity.MaxStateBytes + 64
)

// helloMessage is what this node says of itself.
func (d *Directory) helloMessage() []byte {
	if s := d.self.Load(); s != nil {
		return append([]byte{messageVersion, helloState}, s.Raw...)
	}
	return []byte{messageVersion, helloKey}
}

// Bind gives who stands behind the connections to a peer, asking by hello unless it
// is known. It fails with PeerNotBound if the peer claims a DID whose state does not
// list the key of its handshake.
func (d *Directory) Bind(ctx context.Context, id peer.ID) (*Peer, error) {
	d.mu.Lock()
	p := d.bound[id]
	d.mu.Unlock()
	if p != nil {
		return p, nil
	}
	answer, err := d.exchange(ctx, id, helloName, helloVersion, d.helloMessage())
	if err != nil {
		return nil, err
	}
	if p, err = d.admit(id, answer); err != nil {
		return nil, err
	}
	d.mu.Lock()
	tell := d.onBound
	d.mu.Unlock()
	if tell != nil {
		tell(id)
	}
	return p, nil
}

// OnBound has f called with each peer whose connection this node has newly bound: by
// asking, so that of two nodes one is told. f must not wait. The last f counts.
func (d *Directory) OnBound(f func(peer.ID)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.onBound = f
}

// Bound gives who is bound to a peer's connections already, nil if nobody.
func (d *Directory) Bound(id peer.ID) *Peer {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.bound[id]
}

// Peers gives the bound peers.
func (d *Directory) Peers() map[peer.ID]*Peer {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := make(map[peer.ID]*Peer, len(d.bound))
	for id, p := range d.bound {
		out[id] = p
	}
	return out
}

func (d *Directory) unbind(id peer.ID) {
	d.mu.Lock()
	delete(d.bound, id)
	d.mu.Unlock()
}

func (d *Directory) bind(id peer.ID, p *Peer) *Peer {
	d.mu.Lock()
	defer d.mu.Unlock()
	// A peer that left in between is not kept: nothing would ever remove it.
	if len(d.h.Host.Network().ConnsToPeer(id)) > 0 {
		d.bound[id] = p
	}
	return p
}

// admit checks a hello against the handshake key and what is remembered.
func (d *Directory) admit(id peer.ID, hello []byte) (*Peer, error) {
	key, err := handshakeKey(id)
	if err != nil {
		return nil, err
	}
	if len(hello) < 2 || hello[0] != messageVersion {
		return nil, contracts.Errorf(contracts.UnsupportedVersion, "a hello of version %x; this node speaks %d", hello[:min(1, len(hello))], messageVersion)
	}
	switch hello[1] {
	case helloKey:
		if len(hello) != 2 {
			return nil, contracts.Errorf(contracts.Malformed, "a did:key hello has two bytes")
		}
		return d.bind(id, &Peer{DID: identity.KeyDID(key)}), nil
	case helloState:
	default:
		return nil, contracts.Errorf(contracts.Malformed, "a hello of unknown kind %d", hello[1])
	}
	s, err := d.validator.State(hello[2:])
	if err != nil {
		return nil, err
	}
	if err := d.standing(s); err != nil {
		return nil, err
	}
	if !s.Doc.Peer.Equal(key) {
		return nil, contracts.Errorf(contracts.PeerNotBound, "peer %s claims %s, whose state lists another peer key", id, s.DID)
	}
	// Only a state that we remember, or a first sight, enters the memory: a stranger's
	// hello is no reason to write to the disk.
	d.cache.Add(s.DID, &Resolved{State: s, Document: s.Doc.Raw, Source: sourceHello, Fetched: d.now()})
	return d.bind(id, &Peer{DID: s.DID, State: s}), nil
}

// standing reports why a state that verifies may not speak for its DID now.
func (d *Directory) standing(s *identity.State) error {
	if err := s.ValidAt(d.now()); err != nil {
		return err
	}
	if s.Deactivated() {
		return contracts.Errorf(contracts.Deactivated, "%s was deactivated by its owner", s.DID)
	}
	known, err := d.recall(s.DID)
	if err != nil || known == nil {
		return err
	}
	if _, bad := identity.Duplicitous(known.State.KeyLog, s.KeyLog); bad || known.Duplicitous {
		return contracts.Errorf(contracts.Duplicity, "%s has two contradicting key logs", s.DID)
	}
	if identity.Compare(s, known.State) < 0 {
		return contracts.Errorf(contracts.Rollback, "version %s of %s, but %s was seen before", s.Version(), s.DID.Short(), known.State.Version())
	}
	return nil
}

// serveHello answers a hello with ours. A refused one learns only that.
func (d *Directory) serveHello(s network.Stream) {
	d.serve(s, "talos.hello", func(id peer.ID, in []byte) []byte {
		if _, err := d.admit(id, in); err != nil {
			d.log.Info("hello refused", "peer", id, "err", err)
			return nil
		}
		return d.helloMessage()
	})
}

// serveDID answers for any DID whose state this node remembers or is.
func (d *Directory) serveDID(s network.Stream) {
	d.serve(s, "talos.did", func(_ peer.ID, in []byte) []byte {
		if len(in) != 36 || in[0] != messageVersion || in[1] != didGet {
			return nil
		}
		did, err := identity.DIDFromMultihash(in[2:])
		if err != nil {
			return nil
		}
		if self := d.self.Load(); self != nil && self.DID == did {
			return append([]byte{messageVersion, didOK}, self.Raw...)
		}
		if known, err := d.recall(did); err == nil && known != nil {
			return append([]byte{messageVersion, didOK}, known.State.Raw...)
		}
		return []byte{messageVersion, didNotFound}
	})
}

// fetch asks a peer for its state of did.
func (d *Directory) fetch(ctx context.Context, id peer.ID, did identity.DID) ([]byte, error) {
	mh := did.Multihash()
	answer, err := d.exchange(ctx, id, didName, didVersion, append([]byte{messageVersion, didGet}, mh[:]...))
	if err != nil {
		return nil, err
	}
	if len(answer) < 2 || answer[0] != messageVersion {
		return nil, contracts.Errorf(contracts.Malformed, "peer %s answers in no form that this node knows", id)
	}
	if answer[1] != didOK {
		return nil, contracts.Errorf(contracts.NotFound, "peer %s has no state of %s", id, did.Short())
	}
	return answer[2:], nil
}

// exchange sends one frame and reads one, on a stream of its own.
func (d *Directory) exchange(ctx context.Context, id peer.ID, name, version string, out []byte) ([]byte, error) {
	s, err := d.h.NewStream(ctx, id, d.h.Protocol(name, version))
	if err != nil {
		return nil, contracts.Errorf(contracts.Unavailable, "opening %s with %s: %w", name, id, err)
	}
	defer s.Close() //nolint:errcheck // answered already
	stop := context.AfterFunc(ctx, func() { _ = s.Reset() })
	defer stop()
	_ = s.SetDeadline(time.Now().Add(p2p.ReadTimeout))
	if err := p2p.WriteFrame(s, out); err != nil {
		return nil, contracts.Errorf(contracts.Unavailable, "%s with %s: %w", name, id, err)
	}
	in, err := p2p.ReadFrame(bufio.NewReader(s), maxMessage)
	if err != nil {
		return nil, contracts.Errorf(contracts.Unavailable, "peer %s refused %s or went away: %w", id, name, err)
	}
	return in, nil
}

// serve reads one frame and writes the answer; nil resets the stream.
func (d *Directory) serve(s network.Stream, service string, answer func(peer.ID, []byte) []byte) {
	release, err := p2p.Reserve(s, service, maxMessage)
	if err != nil {
		return
	}
	defer release()
	_ = s.SetDeadline(time.Now().Add(p2p.WriteTimeout))
	in, err := p2p.ReadFrame(bufio.NewReader(s), maxMessage)
	if err != nil {
		_ = s.ResetWithError(network.StreamProtocolViolation)
		return
	}
	out := answer(s.Conn().RemotePeer(), in)
	if out == nil {
		_ = s.ResetWithError(network.StreamProtocolViolation)
		return
	}
	_ = p2p.WriteFrame(s, out)
	_ = s.Close()
}
