package handshake

import (
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/mlkem"
	"io"
	"time"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/ratchet"
)

// Initiator is what the party that begins brings along.
type Initiator struct {
	quiet
	Card      Card             // of this side
	Agreement *ecdh.PrivateKey // private half of Card.Agreement
	// Sign signs with the Ed25519 key of Card.Signing.
	Sign func(message []byte) ([]byte, error)

	Peer string // DID that the bundle must be of
	// CheckCard compares the peer's card with the resolved document of its DID:
	// nil only if signing key, agreement key, peer ids and key-log number agree.
	CheckCard    func(Card) error
	MinBundleSeq uint64 // highest bundle number seen of the peer

	Conversation [16]byte
	// LocalPeer and RemotePeer are the binary peer ids of the connection that the
	// flight will travel on; empty for a mailbox.
	LocalPeer, RemotePeer string
	// PSK, if not nil, is State.Export(ratchet.ExportRotation) of the session
	// that this one replaces.
	PSK      *[32]byte
	FirstSeq uint64 // see ratchet.Params
	Now      time.Time
	Rand     io.Reader // 32 bytes each for two keys, 12 for a nonce

	// encapsulate stands in for the standard library's, which brings its own
	// randomness, when vectors are made.
	encapsulate func(*mlkem.EncapsulationKey768) (shared, ct []byte)
}

// Initiation is a session of which the peer does not know yet.
type Initiation struct {
	quiet
	// State is ready to send. It is unconfirmed until the peer's first reply.
	State *ratchet.State
	// Flight is the message for the peer; sent again unchanged until it is
	// answered. State and Flight go into one transaction.
	Flight     []byte
	Peer       Card
	Transcript [32]byte
	BundleSeq  uint64
	// OneTime reports whether a one-time key was used. If not, the peer will
	// refuse side effects of first.
	OneTime bool
}

// Initiate begins a session with the owner of the encoded bundle; first is its
// first message, of at most ratchet.MaxBody less FirstOverhead bytes.
//
// Errors are those of DecodeBundle and Bundle.Verify, RatchetInvalidDHKey for a
// small-order key, PeerNotBound if RemotePeer is not on the peer's card, and
// those of CheckCard, Sign and Rand. Nothing is kept of a failure.
func Initiate(p Initiator, bundle []byte, first ratchet.Outgoing) (*Initiation, error) {
	b, err := DecodeBundle(bundle)
	if err != nil {
		return nil, err
	}
	if err := b.Verify(p.Peer, p.MinBundleSeq, p.Now, p.CheckCard); err != nil {
		return nil, err
	}
	if err := p.check(b); err != nil {
		return nil, err
	}
	ephemeral, err := newKey(p.Rand)
	if err != nil {
		return nil, err
	}
	ratchetKey, err := newKey(p.Rand)
	if err != nil {
		return nil, err
	}
	h := preamble{
		min: Version, max: Version, chosen: Version, conversation: p.Conversation, bundle: b.digest,
		signedID: b.SignedID, kemID: b.KEMID, oneTimeID: b.OneTimeID, oneTimeKEMID: b.OneTimeKEMID,
		ephemeral: publicOf(ephemeral), ratchetKey: publicOf(ratchetKey),
		localPeer: p.LocalPeer, farPeer: p.RemotePeer,
	}
	sh, err := p.agree(b, ephemeral, &h)
	if err != nil {
		return nil, err
	}
	return p.finish(b, sh, &h, ratchetKey, first)
}

func (p *Initiator) check(b *Bundle) error {
	if publicOf(p.Agreement) != p.Card.Agreement {
		return contracts.Errorf(contracts.KeyInvalid, "private agreement key is not that of the card")
	}
	if p.Card.DID == p.Peer {
		return contracts.Errorf(contracts.HandshakeFailed, "a session with oneself")
	}
	if b.Card.Agreement == p.Card.Agreement || b.Signed == p.Card.Agreement || b.Card.Signing == p.Card.Signing {
		return contracts.Errorf(contracts.RatchetInvalidDHKey, "the peer shows this side's own key")
	}
	if !b.Card.has(p.RemotePeer) || !p.Card.has(p.LocalPeer) {
		return contracts.Errorf(contracts.PeerNotBound, "the connection's peer id is not on the card")
	}
	return nil
}

// agree computes all shared secrets and completes the preamble.
func (p *Initiator) agree(b *Bundle, ephemeral *ecdh.PrivateKey, h *preamble) (*shared, error) {
	var err error
	dh := func(k *ecdh.PrivateKey, remote *[32]byte) (out []byte) {
		if err == nil {
			out, err = exchange(k, remote)
		}
		return out
	}
	sh := &shared{
		dh1: dh(p.Agreement, &b.Signed),
		dh2: dh(ephemeral, &b.Card.Agreement),
		dh3: dh(ephemeral, &b.Signed),
		psk: p.PSK,
	}
	if b.OneTimeID != 0 {
		h.flags |= flagOneTime
		sh.dh4 = dh(ephemeral, &b.OneTime)
	}
	if err != nil {
		return nil, err
	}
	kem := b.KEM
	if b.OneTimeKEMID != 0 {
		h.flags |= flagOneTimeKEM
		kem = b.OneTimeKEM
	}
	if p.PSK != nil {
		h.flags |= flagPSK
	}
	encapsulate := p.encapsulate
	if encapsulate == nil {
		encapsulate = (*mlkem.EncapsulationKey768).Encapsulate
	}
	var ct []byte
	sh.kem, ct = encapsulate(kem)
	copy(h.ct[:], ct)
	return sh, nil
}

// FirstOverhead is what the signature and the kind take of the first message.
const FirstOverhead = ed25519.SignatureSize + 1

// finish derives the session, seals card and first message, and builds the
// flight.
func (p *Initiator) finish(b *Bundle, sh *shared, h *preamble, ratchetKey *ecdh.PrivateKey, first ratchet.Outgoing) (*Initiation, error) {
	raw := h.append(make([]byte, 0, preambleMax))
	card, err := p.Card.Append(nil)
	if err != nil {
		return nil, err
	}
	t0 := preambleHash(raw, &h.bundle)
	idKey, err := sh.identityKey(&t0)
	if err != nil {
		return nil, err
	}
	t := transcript(raw, &h.bundle, p.Card.DID, b.Card.DID, card)
	secrets, err := sh.session(&t)
	if err != nil {
		return nil, err
	}
	sig, err := p.Sign(contracts.Signed(contracts.ContextHandshake, t[:]))
	if err != nil {
		return nil, contracts.Errorf(contracts.Internal, "signing the transcript: %w", err)
	}
	if len(sig) != ed25519.SignatureSize {
		return nil, contracts.Errorf(contracts.Internal, "signature of %d bytes", len(sig))
	}
	state, err := ratchet.NewInitiator(ratchet.Params{
		Conversation: h.conversation, Transcript: t, Local: p.Card.DID, Remote: b.Card.DID,
		Secrets: secrets, FirstSeq: p.FirstSeq, Now: p.Now,
	}, ratchetKey)
	if err != nil {
		return nil, err
	}
	body := append(append(sig[:len(sig):len(sig)], byte(first.Kind)), first.Body...)
	out := append(raw, 0, 0)
	out[len(raw)], out[len(raw)+1] = byte((len(card)+16)>>8), byte(len(card)+16)
	out = sealCard(out, idKey, card, &t0)
	out, _, err = state.AppendSeal(out, ratchet.Outgoing{
		Kind: ratchet.KindFirst, Body: body, RecipientSeq: first.RecipientSeq,
	}, p.Now, p.Rand)
	if err != nil {
		return nil, err
	}
	return &Initiation{
		State: state, Flight: out, Peer: b.Card, Transcript: t, BundleSeq: b.Seq, OneTime: b.HasOneTime(),
	}, nil
}

// sealCard encrypts the initiator's card. The key is used once, so the nonce is
// zero.
func sealCard(dst, key, card []byte, t0 *[32]byte) []byte {
	a, err := chacha20poly1305.New(key)
	if err != nil {
		panic("handshake: " + err.Error()) // the length is fixed
	}
	return a.Seal(dst, make([]byte, a.NonceSize()), card, t0[:])
}

func openCard(key, sealed []byte, t0 *[32]byte) ([]byte, error) {
	a, err := chacha20poly1305.New(key)
	if err != nil {
		panic("handshake: " + err.Error())
	}
	b, err := a.Open(nil, make([]byte, a.NonceSize()), sealed, t0[:])
	if err != nil {
		return nil, errFailed
	}
	return b, nil
}

// newKey reads 32 bytes of rand; ecdh's GenerateKey would ignore the reader.
func newKey(rand io.Reader) (*ecdh.PrivateKey, error) {
	var b [32]byte
	if _, err := io.ReadFull(rand, b[:]); err != nil {
		return nil, contracts.Errorf(contracts.Internal, "reading randomness: %w", err)
	}
	k, err := ecdh.X25519().NewPrivateKey(b[:])
	clear(b[:])
	if err != nil {
		return nil, contracts.Errorf(contracts.Internal, "making an X25519 key: %w", err)
	}
	return k, nil
}

func publicOf(k *ecdh.PrivateKey) [32]byte { return [32]byte(k.PublicKey().Bytes()) }

// exchange is X25519 with the refusal of a zero result.
func exchange(k *ecdh.PrivateKey, remote *[32]byte) ([]byte, error) {
	pub, err := ecdh.X25519().NewPublicKey(remote[:])
	if err == nil {
		var out []byte
		if out, err = k.ECDH(pub); err == nil {
			return out, nil
		}
	}
	return nil, contracts.Errorf(contracts.RatchetInvalidDHKey, "X25519 key of small order")
}
