package handshake

import (
	"crypto/ecdh"
	"crypto/ed25519"
	"time"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/ratchet"
)

// errFailed is the one answer to a flight whose cryptography does not hold.
var errFailed = contracts.Errorf(contracts.HandshakeFailed, "first flight does not authenticate")

// Responder is what the party that is called brings along.
type Responder struct {
	quiet
	Card      Card             // of this side, as in its bundles
	Agreement *ecdh.PrivateKey // private half of Card.Agreement
	Prekeys   *Prekeys         // read only

	// CheckCard is as in Initiator.
	CheckCard func(Card) error
	// LocalPeer and RemotePeer are the binary peer ids of the connection that
	// the flight came on; both empty if it came from a mailbox.
	LocalPeer, RemotePeer string
	// Seen reports whether a flight without one-time keys was accepted before;
	// the caller keeps the ReplayID of each until the signed prekeys that it
	// used are erased. nil refuses flights without one-time keys.
	Seen func(replayID [32]byte) bool
	// PSK gives the rotation key of the session that a conversation has now.
	// nil refuses flights that need one.
	PSK      func(conversation [16]byte) (psk [32]byte, ok bool)
	FirstSeq uint64 // see ratchet.Params
	Now      time.Time
}

// Acceptance is a session that the peer began.
type Acceptance struct {
	quiet
	// State has opened and committed the first frame. It is unconfirmed until
	// the peer has answered to a reply.
	State *ratchet.State
	// First is the first message, with its own kind.
	First        ratchet.Message
	Peer         Card
	Conversation [16]byte
	Transcript   [32]byte
	// Consumed must be given to Prekeys.Consume, and the result stored, in the
	// transaction that stores State.
	Consumed Consumed
	// ReplayID must be stored in that transaction if OneTime is false.
	ReplayID [32]byte
	// OneTime is false for a first flight without a one-time key: until
	// State.Confirmed, messages of the session must not cause side effects.
	OneTime  bool
	Rotation bool // an earlier session's key was mixed in
}

// Accept verifies a first flight and makes the responder's side of the session.
// Any failure leaves nothing behind: no state, no key consumed.
//
// Codes: those of a strict parse (Malformed, FrameSize, UnsupportedVersion,
// KeyInvalid, RatchetInvalidDHKey), PeerNotBound, HandshakePrekey for keys that
// are not there any more, FrameReplay, HandshakeFailed for cryptography that
// does not hold, HandshakeSignature; errors of CheckCard as they are. A peer must
// be told none of them apart.
func Accept(p Responder, raw []byte) (*Acceptance, error) {
	var f flight
	if err := f.parse(raw); err != nil {
		return nil, err
	}
	if publicOf(p.Agreement) != p.Card.Agreement {
		return nil, contracts.Errorf(contracts.KeyInvalid, "private agreement key is not that of the card")
	}
	if f.ephemeral == p.Card.Agreement || f.ratchetKey == p.Card.Agreement {
		return nil, contracts.Errorf(contracts.RatchetInvalidDHKey, "the peer shows this side's own key")
	}
	if !sameRoad(f.farPeer, p.LocalPeer) || !sameRoad(f.localPeer, p.RemotePeer) {
		return nil, contracts.Errorf(contracts.PeerNotBound, "the flight was made for another connection")
	}
	signed, one, err := p.Prekeys.find(&f.preamble, p.Now)
	if err != nil {
		return nil, err
	}
	t0 := preambleHash(f.raw, &f.bundle)
	if one == nil && (p.Seen == nil || p.Seen(t0)) {
		return nil, contracts.Errorf(contracts.FrameReplay, "flight without a one-time key was seen, or none is wanted")
	}
	sh, err := p.agree(&f, signed, one)
	if err != nil {
		return nil, err
	}
	card, peer, err := p.identify(&f, sh, signed, &t0)
	if err != nil {
		return nil, err
	}
	t := transcript(f.raw, &f.bundle, peer.DID, p.Card.DID, card)
	a := &Acceptance{
		Peer: peer, Conversation: f.conversation, Transcript: t, ReplayID: t0,
		OneTime: one != nil, Rotation: f.flags&flagPSK != 0,
	}
	if one != nil {
		a.Consumed = Consumed{OneTime: one.id, OneTimeKEM: one.id + 1}
	}
	if err := p.open(a, &f, sh); err != nil {
		return nil, err
	}
	return a, nil
}

// sameRoad reports whether the peer id in a flight fits the connection's. A
// flight made for a mailbox names none, and one made for a connection may be
// delivered by a mailbox later: the ratchet authenticates.
func sameRoad(named, actual string) bool { return named == "" || actual == "" || named == actual }

// agree computes all shared secrets but DH1.
func (p *Responder) agree(f *flight, signed, one *pair) (sh *shared, err error) {
	sh = &shared{}
	if f.flags&flagPSK != 0 {
		if p.PSK == nil {
			return nil, errFailed
		}
		psk, ok := p.PSK(f.conversation)
		if !ok {
			return nil, errFailed
		}
		sh.psk = &psk
	}
	if sh.dh2, err = exchange(p.Agreement, &f.ephemeral); err != nil {
		return nil, err
	}
	if sh.dh3, err = exchange(signed.xPriv, &f.ephemeral); err != nil {
		return nil, err
	}
	kem := signed
	if one != nil {
		kem = one
		if sh.dh4, err = exchange(one.xPriv, &f.ephemeral); err != nil {
			return nil, err
		}
	}
	if sh.kem, err = kem.dk.Decapsulate(f.ct[:]); err != nil {
		return nil, errFailed
	}
	return sh, nil
}

// identify opens the initiator's card and adds DH1.
func (p *Responder) identify(f *flight, sh *shared, signed *pair, t0 *[32]byte) ([]byte, Card, error) {
	key, err := sh.identityKey(t0)
	if err != nil {
		return nil, Card{}, err
	}
	b, err := openCard(key, f.card, t0)
	if err != nil {
		return nil, Card{}, err
	}
	peer, err := DecodeCard(b)
	if err != nil {
		return nil, Card{}, err
	}
	if peer.DID == p.Card.DID || peer.Agreement == p.Card.Agreement || peer.Signing == p.Card.Signing {
		return nil, Card{}, contracts.Errorf(contracts.RatchetInvalidDHKey, "the peer shows this side's own key")
	}
	if !peer.has(p.RemotePeer) || !peer.has(f.localPeer) || !p.Card.has(p.LocalPeer) {
		return nil, Card{}, contracts.Errorf(contracts.PeerNotBound, "the connection's peer id is not on the card")
	}
	if sh.dh1, err = exchange(signed.xPriv, &peer.Agreement); err != nil {
		return nil, Card{}, err
	}
	return b, peer, nil
}

// open makes the state, opens the first frame, and believes it only after the
// card is checked against its DID and the signature over T holds.
func (p *Responder) open(a *Acceptance, f *flight, sh *shared) error {
	secrets, err := sh.session(&a.Transcript)
	if err != nil {
		return err
	}
	state, err := ratchet.NewResponder(ratchet.Params{
		Conversation: f.conversation, Transcript: a.Transcript, Local: p.Card.DID, Remote: a.Peer.DID,
		Secrets: secrets, FirstSeq: p.FirstSeq, Now: p.Now,
	}, f.ratchetKey)
	if err != nil {
		return err
	}
	m, err := state.Open(nil, f.frame, p.Now)
	if err != nil {
		return err
	}
	if m.Kind != ratchet.KindFirst || len(m.Body) < FirstOverhead || m.Body[FirstOverhead-1] >= 0x80 {
		return errFailed
	}
	if err := p.CheckCard(a.Peer); err != nil {
		return err
	}
	if !verify(&a.Peer.Signing, contracts.ContextHandshake, a.Transcript[:], m.Body[:ed25519.SignatureSize]) {
		return contracts.Errorf(contracts.HandshakeSignature, "the transcript is not signed by the initiator")
	}
	state.Commit()
	m.Kind = ratchet.Kind(m.Body[FirstOverhead-1])
	m.Body = m.Body[FirstOverhead:]
	a.State, a.First = state, m
	return nil
}
