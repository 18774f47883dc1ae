package session

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
	"github.com/talosprotocol/talos/node/directory"
	"github.com/talosprotocol/talos/node/p2p"
	"github.com/talosprotocol/talos/ratchet"
	"github.com/talosprotocol/talos/ratchet/handshake"
)

const (
	prekeyName, sessionName = "prekey", "session"
	protocolVersion         = "1.0.0"
	bundleLife              = time.Hour       // live bundles are used at once
	fetchEvery              = 2 * time.Second // prekey requests of one peer
)

// loadPrekeys reads the prekeys, or makes the first ones.
func (m *Manager) loadPrekeys() error {
	b, err := m.store.Get([]byte{rowPrekeys})
	if err != nil {
		return err
	}
	if b != nil {
		if m.prekeys, err = handshake.DecodePrekeys(b); err != nil {
			return contracts.Errorf(contracts.StorageCorrupt, "prekeys: %w", err)
		}
		return nil
	}
	if m.prekeys, err = handshake.NewPrekeys(rand.Reader); err != nil {
		return err
	}
	return m.store.Update(m.ctx, func(tx Tx) error { tx.Put([]byte{rowPrekeys}, m.prekeys.Append(nil)); return nil })
}

// card says which keys speak for this node.
func (m *Manager) card() handshake.Card {
	s := m.dir.Self()
	return handshake.Card{
		DID: string(s.DID), KeyLog: uint64(s.SN), Seq: uint64(s.Seq), PeerIDs: []string{string(m.h.ID())},
		Agreement: [32]byte(s.Doc.Agreement.Bytes()), Signing: [32]byte(s.Doc.Invocation.Bytes()),
	}
}

// sign signs bytes that begin with their context already (package handshake).
func (m *Manager) sign(message []byte) ([]byte, error) {
	return ed25519.Sign(m.ownKeys().Invocation.Ed25519(), message), nil
}

// checkCard compares a card with the resolved document of its DID; one that does not
// fit is asked for afresh once, since keys rotate.
func (m *Manager) checkCard(ctx context.Context, did identity.DID) func(handshake.Card) error {
	return func(c handshake.Card) error {
		var last error
		for _, fresh := range []bool{false, true} {
			r, err := m.dir.Resolve(ctx, did, directory.Options{Fresh: fresh})
			if err != nil {
				return err
			}
			if r.State == nil {
				return contracts.Errorf(contracts.Unavailable, "%s has no agreement key; sessions need a did:talos", did)
			}
			if last = fits(c, r.State); last == nil {
				return nil
			}
		}
		return last
	}
}

func fits(c handshake.Card, s *identity.State) error {
	id, err := directory.PeerID(s.Doc.Peer)
	if err != nil {
		return err
	}
	if c.DID != string(s.DID) || c.KeyLog != uint64(s.SN) || [32]byte(s.Doc.Agreement.Bytes()) != c.Agreement ||
		[32]byte(s.Doc.Invocation.Bytes()) != c.Signing || len(c.PeerIDs) != 1 || c.PeerIDs[0] != string(id) {
		return contracts.Errorf(contracts.PeerNotBound, "the keys that %s shows are not those of its state %s", s.DID.Short(), s.Version())
	}
	return nil
}

// initiate makes a session with peer: a new one, or with replace a successor of the
// active one. The first flight carries an empty message, so that nothing with side
// effects travels before the peer has proved itself.
func (m *Manager) initiate(ctx context.Context, c *conversation, did identity.DID, replace bool) error {
	id, _, err := m.dir.Connect(ctx, did)
	if err != nil {
		return err
	}
	bundle, err := m.fetchBundle(ctx, id)
	if err != nil {
		return err
	}
	// Resolve outside the lock; the check under it is answered from memory.
	check := m.checkCard(ctx, did)
	if b, err := handshake.DecodeBundle(bundle); err != nil {
		return err
	} else if err := check(b.Card); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.load(); err != nil {
		return err
	}
	_, old := c.active()
	if old != nil && !replace {
		return nil // somebody was faster
	}
	return c.begin(ctx, did, id, bundle, old, check)
}

// begin makes and stores the initiator's side. The caller holds mu.
func (c *conversation) begin(ctx context.Context, did identity.DID, id peer.ID, bundle []byte, old *ratchet.State, check func(handshake.Card) error) error {
	m, now := c.m, c.m.now()
	if c.row == nil {
		c.row, c.states = &conversationRow{peer: string(did), opened: now}, map[ratchet.SessionID]*ratchet.State{}
		c.synced = true
	}
	p := handshake.Initiator{
		Card: m.card(), Agreement: m.ownKeys().Agreement.ECDH(), Sign: m.sign, Peer: string(did), CheckCard: check,
		Conversation: c.id, LocalPeer: string(m.h.ID()), RemotePeer: string(id), FirstSeq: c.row.next, Now: now, Rand: rand.Reader,
	}
	event := "session_open"
	if old != nil {
		psk, err := old.Export(ratchet.ExportRotation)
		if err != nil {
			return err
		}
		p.PSK, event = &psk, "session_rotate"
	}
	in, err := handshake.Initiate(p, bundle, ratchet.Outgoing{Kind: ratchet.KindAck, RecipientSeq: c.row.window.Next()})
	if err != nil {
		c.forgetIfNew()
		return err
	}
	if err := m.record(ctx, event, string(did), sessionID(in.Transcript), c.row.next, [32]byte{}); err != nil {
		c.forgetIfNew()
		return err
	}
	sid := c.adopt(in.State, false)
	seq := c.row.next
	c.row.next++
	out := outboxRow{session: sid, flight: true, kind: ratchet.KindAck, made: now, frame: in.Flight}
	err = c.commit(ctx, func(tx Tx) error {
		tx.Put(key(rowSession, sid), in.State.AppendState(nil))
		tx.Put(seqKey(rowOutbox, c.id, seq), out.encode())
		return nil
	})
	if err == nil {
		c.nudge()
	}
	return err
}

func (c *conversation) forgetIfNew() {
	if c.row != nil && len(c.row.sessions) == 0 && c.row.next == 0 && c.row.window.Next() == 0 {
		c.drop()
	}
}

// accept takes a first flight. The caller holds mu.
func (c *conversation) accept(ctx context.Context, did identity.DID, remote peer.ID, raw []byte, check func(handshake.Card) error) ([]Message, error) {
	m, now := c.m, c.m.now()
	info, err := handshake.Inspect(raw)
	if err != nil {
		return nil, err
	}
	if info.Conversation != c.id {
		return nil, contracts.Errorf(contracts.HandshakeFailed, "a flight of another conversation")
	}
	if err := c.load(); err != nil {
		return nil, err
	}
	replay := append([]byte{rowReplay}, info.ReplayID[:]...)
	if b, err := m.store.Get(replay); err != nil || b != nil {
		return nil, err // a copy of a flight that was accepted: acknowledge it again
	}
	if c.row == nil {
		c.row, c.states = &conversationRow{peer: string(did), opened: now}, map[ratchet.SessionID]*ratchet.State{}
		c.synced = true
	}
	m.pk.Lock()
	defer m.pk.Unlock()
	a, err := handshake.Accept(handshake.Responder{
		Card: m.card(), Agreement: m.ownKeys().Agreement.ECDH(), Prekeys: m.prekeys, CheckCard: check,
		LocalPeer: string(m.h.ID()), RemotePeer: string(remote), FirstSeq: c.row.next, Now: now,
		Seen: func([32]byte) bool { return false }, // looked up above
		PSK:  c.psk,
	}, raw)
	if err != nil {
		c.forgetIfNew()
		return nil, err
	}
	event := "session_accept"
	if a.Rotation {
		event = "session_rotate"
	}
	if err := m.record(ctx, event, string(did), sessionID(a.Transcript), a.First.Seq, sha256.Sum256(raw)); err != nil {
		c.forgetIfNew()
		return nil, err
	}
	_, before := c.active()
	id := c.adopt(a.State, before != nil)
	m.prekeys.Consume(a.Consumed)
	msgs, err := c.take(ctx, id, a.First, sha256.Sum256(raw), func(tx Tx) {
		tx.Put(replay, []byte{1})
		tx.Put([]byte{rowPrekeys}, m.prekeys.Append(nil))
		tx.Put(key(rowSession, id), a.State.AppendState(nil))
	})
	if err != nil {
		// The key was used up in memory only: the disk says whether that counts.
		c.drop()
		if e := m.loadPrekeys(); e != nil {
			m.log.Error("prekeys cannot be read again", "err", e)
		}
		return nil, err
	}
	if ref, _ := c.active(); ref != nil && ref.id == id {
		if _, err := c.seal(ctx, ratchet.KindAck, nil); err != nil { // confirms the handshake
			return msgs, err
		}
	}
	return msgs, nil
}

func (c *conversation) psk([16]byte) ([32]byte, bool) {
	_, st := c.active()
	if st == nil {
		return [32]byte{}, false
	}
	psk, err := st.Export(ratchet.ExportRotation)
	return psk, err == nil
}

// fetchBundle asks a peer for a bundle with fresh one-time keys.
func (m *Manager) fetchBundle(ctx context.Context, id peer.ID) ([]byte, error) {
	s, err := m.h.NewStream(ctx, id, m.h.Protocol(prekeyName, protocolVersion))
	if err != nil {
		return nil, contracts.Errorf(contracts.Unavailable, "asking for prekeys: %w", err)
	}
	defer s.Close() //nolint:errcheck // answered already
	stop := context.AfterFunc(ctx, func() { _ = s.Reset() })
	defer stop()
	_ = s.SetDeadline(time.Now().Add(p2p.ReadTimeout))
	if err := p2p.WriteFrame(s, []byte{1}); err != nil {
		return nil, contracts.Errorf(contracts.Unavailable, "asking for prekeys: %w", err)
	}
	b, err := p2p.ReadFrame(bufio.NewReader(s), handshake.MaxBundle)
	if err != nil {
		return nil, contracts.Errorf(contracts.Unavailable, "the peer gives no prekeys now: %w", err)
	}
	return b, nil
}

// servePrekeys gives a bound peer a bundle with one-time keys of its own.
func (m *Manager) servePrekeys(s network.Stream) {
	release, err := p2p.Reserve(s, "talos.prekey", handshake.MaxBundle)
	if err != nil {
		return
	}
	defer release()
	_ = s.SetDeadline(time.Now().Add(p2p.ReadTimeout))
	if b, err := p2p.ReadFrame(bufio.NewReader(s), 16); err != nil || len(b) != 1 || b[0] != 1 {
		_ = s.ResetWithError(network.StreamProtocolViolation)
		return
	}
	bundle, err := m.issue(s.Conn().RemotePeer())
	if err != nil {
		m.log.Info("prekeys refused", "peer", s.Conn().RemotePeer(), "err", err)
		_ = s.ResetWithError(network.StreamRateLimited)
		return
	}
	_ = p2p.WriteFrame(s, bundle)
	_ = s.Close()
}

// issue mints one-time keys for a peer and gives the bundle that names them, at most
// one in fetchEvery for each peer.
func (m *Manager) issue(id peer.ID) ([]byte, error) {
	if _, err := m.dir.Bind(m.ctx, id); err != nil {
		return nil, err
	}
	now := m.now()
	m.mu.Lock()
	last, ok := m.fetches[string(id)]
	if ok && now.Sub(last) < fetchEvery {
		m.mu.Unlock()
		return nil, contracts.Errorf(contracts.RateLimited, "a bundle was given %s ago", now.Sub(last))
	}
	for p, t := range m.fetches {
		if now.Sub(t) > fetchEvery {
			delete(m.fetches, p)
		}
	}
	m.fetches[string(id)] = now
	m.mu.Unlock()

	m.pk.Lock()
	defer m.pk.Unlock()
	m.prekeys.Expire(now)
	if m.prekeys.Available() == 0 {
		if err := m.prekeys.Mint(1, rand.Reader); err != nil {
			return nil, err
		}
	}
	bundle, _, err := m.prekeys.Issue(handshake.Issuing{Card: m.card(), Sign: m.sign, Now: now, Life: bundleLife, OneTime: true})
	if err != nil {
		return nil, err
	}
	// Stored before it is given away: no one-time key is ever named twice.
	err = m.store.Update(m.ctx, func(tx Tx) error { tx.Put([]byte{rowPrekeys}, m.prekeys.Append(nil)); return nil })
	return bundle, err
}
