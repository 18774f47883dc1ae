package session

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
	"github.com/talosprotocol/talos/node/directory"
	"github.com/talosprotocol/talos/ratchet"
	"github.com/talosprotocol/talos/ratchet/handshake"
)

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

// checkCard compares a card with the resolved document of its DID. fresh asks the
// network, which nobody may do under a lock.
func (m *Manager) checkCard(ctx context.Context, did identity.DID, fresh bool) func(handshake.Card) error {
	return func(c handshake.Card) error {
		r, err := m.dir.Resolve(ctx, did, directory.Options{Fresh: fresh})
		if err != nil {
			return err
		}
		if r.State == nil {
			return contracts.Errorf(contracts.Unavailable, "%s has no agreement key; sessions need a did:talos", did)
		}
		return fits(c, r.State)
	}
}

// bundle reaches a peer and gets a bundle of it, whose card is checked already: one
// that does not fit what is remembered is compared with a fresh document, since keys
// rotate.
func (m *Manager) bundle(ctx context.Context, did identity.DID) (peer.ID, []byte, error) {
	id, _, err := m.dir.Connect(ctx, did)
	if err != nil {
		return "", nil, err
	}
	var raw []byte
	for again := range 2 {
		if err := m.door.Present(ctx, id, did, again == 1); err != nil {
			m.log.Debug("showing capabilities", "peer", did, "err", err)
		}
		if raw, err = m.fetchBundle(ctx, id); contracts.CodeOf(err) != contracts.NoCapability {
			break
		}
	}
	if err != nil {
		return "", nil, err
	}
	b, err := handshake.DecodeBundle(raw)
	if err != nil {
		return "", nil, err
	}
	if err = m.checkCard(ctx, did, false)(b.Card); err != nil {
		err = m.checkCard(ctx, did, true)(b.Card)
	}
	return id, raw, err
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
	select {
	case c.starting <- struct{}{}: // the others wait for the one that is begun
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-c.starting }()
	if done, err := c.begunBy(replace); done || err != nil {
		return err
	}
	id, bundle, err := m.bundle(ctx, did)
	if err != nil {
		return err
	}
	if done, err := c.begunBy(replace); done || err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.load(); err != nil {
		return err
	}
	_, old := c.active()
	return c.begin(ctx, beginning{id: id, bundle: bundle, old: old})
}

// begunBy reports whether there is nothing to begin: somebody was faster, or a
// handshake of this side is on its way already.
func (c *conversation) begunBy(replace bool) (bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.load(); err != nil {
		return false, err
	}
	ref, st := c.active()
	return st != nil && (!replace || ref.ours && !st.Confirmed()), nil
}

// beginning is what begin needs.
type beginning struct {
	id     peer.ID
	bundle []byte
	old    *ratchet.State // the session that this one succeeds, nil if none or lost
	// replace: a lost session is replaced; gone are the rows to be deleted with it,
	// void is the first number that will not come.
	replace bool
	gone    []write
	void    uint64
}

// begin makes and stores the initiator's side. The caller holds mu.
func (c *conversation) begin(ctx context.Context, g beginning) error {
	m, now := c.m, c.m.now()
	if c.row == nil {
		c.create()
	}
	p := handshake.Initiator{
		Card: m.card(), Agreement: m.ownKeys().Agreement.ECDH(), Sign: m.sign, Peer: string(c.peer), CheckCard: m.checkCard(ctx, c.peer, false),
		Conversation: c.id, LocalPeer: string(m.h.ID()), RemotePeer: string(g.id), FirstSeq: c.row.next, Now: now, Rand: rand.Reader,
	}
	event := "session_open"
	if g.old != nil {
		psk, err := g.old.Export(ratchet.ExportRotation)
		if err != nil {
			return err
		}
		p.PSK, event = &psk, "session_rotate"
	}
	in, err := handshake.Initiate(p, g.bundle, ratchet.Outgoing{Kind: ratchet.KindAck, RecipientSeq: c.row.window.Next()})
	if err != nil {
		c.drop()
		return err
	}
	sid := c.adopt(in.State, true, in.Peer.KeyLog)
	b := c.newBatch()
	b.rows, b.store = append(c.prune(), g.gone...), true
	seq := c.row.next
	b.event(event, seq, [32]byte{})
	b.put(seq, &outboxRow{session: sid, flight: true, kind: ratchet.KindAck, made: now, frame: in.Flight})
	if g.replace && g.void < seq {
		if _, err := b.add(ratchet.KindControl, ratchet.Hole{A: g.void, B: seq}.Append(nil)); err != nil {
			return err
		}
	}
	return b.commit(ctx)
}

// accept takes a first flight.
func (c *conversation) accept(ctx context.Context, remote peer.ID, raw []byte) ([]Message, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := c.m
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
		c.create()
		defer c.dropUnlessStored()
	}
	m.pk.Lock()
	defer m.pk.Unlock()
	a, err := c.verify(ctx, info, remote, raw)
	if err != nil {
		return nil, err
	}
	event := "session_accept"
	if a.Rotation {
		event = "session_rotate"
	}
	id := c.adopt(a.State, false, a.Peer.KeyLog)
	m.prekeys.Consume(a.Consumed)
	hash := sha256.Sum256(raw)
	in := intake{c: c, now: m.now(), touched: []ratchet.SessionID{id}, rows: []write{
		{replay, binary.BigEndian.AppendUint64(nil, uint64(m.now().UnixMilli()))},
		{[]byte{rowPrekeys}, m.prekeys.Append(nil)},
	}}
	in.events = append(in.events, Event{Type: event, Peer: string(c.peer), Session: id, Seq: a.First.Seq, CiphertextHash: hash})
	var msgs []Message
	if err = in.take(id, a.First, hash); err == nil {
		msgs, err = in.commit(ctx)
	}
	if err != nil {
		// The key was used up in memory only: the disk says whether that counts.
		c.drop()
		if e := m.loadPrekeys(); e != nil {
			m.log.Error("prekeys cannot be read again", "err", e)
		}
		return nil, err
	}
	m.used(remote)
	if ref, _ := c.active(); ref != nil && ref.id == id {
		c.ack(ctx) // confirms the handshake
	}
	return msgs, nil
}

// dropUnlessStored forgets a new conversation whose first flight was not taken.
func (c *conversation) dropUnlessStored() {
	if c.row != nil && len(c.row.sessions) == 0 {
		c.drop()
	}
}

// verify opens a flight. One that succeeds a session of this conversation has the key
// of that session mixed in, but not its name: where both sides rotate at once, the
// active one is not it, so all that are still there are tried. A failure leaves
// nothing behind.
func (c *conversation) verify(ctx context.Context, info handshake.FlightInfo, remote peer.ID, raw []byte) (a *handshake.Acceptance, err error) {
	m := c.m
	r := handshake.Responder{
		Card: m.card(), Agreement: m.ownKeys().Agreement.ECDH(), Prekeys: m.prekeys, CheckCard: m.checkCard(ctx, c.peer, false),
		LocalPeer: string(m.h.ID()), RemotePeer: string(remote), FirstSeq: c.row.next, Now: m.now(),
		Seen: func([32]byte) bool { return false }, // looked up before
	}
	if !info.Rotation {
		return handshake.Accept(r, raw)
	}
	err = contracts.Errorf(contracts.HandshakeFailed, "the flight succeeds a session that is not there")
	for _, ref := range c.row.sessions {
		r.PSK = func([16]byte) ([32]byte, bool) {
			psk, err := c.states[ref.id].Export(ratchet.ExportRotation)
			return psk, err == nil
		}
		if a, err = handshake.Accept(r, raw); contracts.CodeOf(err) != contracts.HandshakeFailed {
			return a, err
		}
	}
	return nil, err
}
