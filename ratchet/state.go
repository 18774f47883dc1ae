package ratchet

import (
	"crypto/ecdh"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"time"

	"github.com/talosprotocol/talos/contracts"
)

// Secrets is what a handshake derives for a session (spec/handshake.md §6). It
// never prints.
type Secrets struct {
	Root        [32]byte // root key
	FirstChain  [32]byte // chain key of the initiator's first chain
	HeaderA     [32]byte // header key of the initiator's first chain
	NextHeaderA [32]byte // header key of the initiator's second chain
	HeaderB     [32]byte // header key of the responder's first chain
	Confirm     [32]byte // key of the confirmation in the first reply
	Exporter    [32]byte // from which Export derives
}

// Params says what a session is bound to. Both sides give the same Conversation,
// Transcript and Secrets, and the two DIDs in exchanged places.
type Params struct {
	Conversation [16]byte
	Transcript   [32]byte // T of the handshake
	Local        string   // DID of this side
	Remote       string   // DID of the peer, different from Local
	Secrets      Secrets
	// FirstSeq is the first sender_seq of this side: 0 in a new conversation,
	// otherwise where the session that this one replaces has stopped.
	FirstSeq uint64
	Now      time.Time
}

// State is one side of a session. The zero value is not usable; make one with
// NewInitiator, NewResponder or DecodeState. It is not safe for concurrent use,
// must not be copied, and never prints its secrets.
type State struct {
	id  binding
	cur core
	// next is the step of an opened frame until Commit or Discard.
	next    core
	pending bool
	closed  bool

	dhCount uint64 // X25519 calls on received keys; tests read it

	// Scratch for the AEADs, whose arguments would otherwise escape.
	headBuf [maxHeader]byte
	aadBuf  [aadFixed + maxHeader + tagSize + 16]byte
	nonce   [nonceSize]byte
}

// binding is what a session is bound to, and never changes.
type binding struct {
	conversation [16]byte
	transcript   [32]byte
	hash         [32]byte // over the above and both DIDs, sorted
	exporter     key
	side         byte // 0 if this side's DID is the smaller, else 1
}

// core is all that a frame can change. It is copied whole: Open works on a copy,
// so slices in it are never written in place, only replaced.
type core struct {
	root key
	dhs  keyPair // own ratchet key; the secret half is erased once used

	send     sendChain
	nextSend key    // header key of the next sending chain
	pn       uint32 // length of the previous sending chain
	step     bool   // the next send makes a DH step
	seq      uint64 // next sender_seq
	reserve  horizon

	recv     recvChain
	nextRecv headerKey
	old      []oldChain // newest first

	peerSeq uint64 // highest sender_seq opened, plus 1
	peerAck uint64 // recipient_seq of that frame

	confirm    confirmation
	confirmTag [32]byte
	ackOwed    bool
	forced     bool // ask for a fresh key with each frame until one comes
}

type sendChain struct {
	live  bool
	hk    headerKey
	ck    key
	n     uint32
	start int64 // unix milliseconds of the chain's first possible send
}

type recvChain struct {
	live    bool
	hk      headerKey
	dh      [32]byte
	ck      key
	n       uint32
	based   bool
	base    uint64 // sender_seq minus n, the same for each frame of a chain
	skipped []skippedKey
}

// oldChain is a finished receiving chain that still has skipped keys.
type oldChain struct {
	hk      headerKey
	dh      [32]byte
	base    uint64
	skipped []skippedKey
}

// skippedKey is the message key of a frame that has not come yet.
type skippedKey struct {
	n  uint32
	at int64 // unix milliseconds when it was skipped
	mk key
}

// horizon is the stored position of the sending chain when it lies ahead of
// memory (see State.Reserve).
type horizon struct {
	on  bool
	ck  key
	n   uint32
	seq uint64
}

// confirmation says how far key confirmation has come (spec §5.4).
type confirmation byte

const (
	confirmDone    confirmation = iota
	confirmAwait                // initiator: the peer's first frame must carry the tag
	confirmPresent              // responder: each frame carries the tag
)

// NewInitiator gives the state of the side that sent the first flight. first is
// the ratchet key whose public half the flight carried; its secret is used for
// the DH step on the responder's first frame and then erased.
func NewInitiator(p Params, first *ecdh.PrivateKey) (*State, error) {
	s, err := newState(&p)
	if err != nil {
		return nil, err
	}
	c := &s.cur
	copy(c.dhs.secret[:], first.Bytes())
	copy(c.dhs.public[:], first.PublicKey().Bytes())
	c.dhs.priv = first
	c.send = sendChain{
		live: true, hk: newHeaderKey(p.Secrets.HeaderA), ck: p.Secrets.FirstChain,
		start: p.Now.UnixMilli(),
	}
	c.nextSend = p.Secrets.NextHeaderA
	c.nextRecv = newHeaderKey(p.Secrets.HeaderB)
	c.confirm = confirmAwait
	return s, nil
}

// NewResponder gives the state of the side that received the first flight.
// first is the initiator's ratchet key from the flight.
func NewResponder(p Params, first [32]byte) (*State, error) {
	s, err := newState(&p)
	if err != nil {
		return nil, err
	}
	if err := CheckX25519(first[:]); err != nil {
		return nil, err
	}
	c := &s.cur
	c.recv = recvChain{
		live: true, hk: newHeaderKey(p.Secrets.HeaderA), ck: p.Secrets.FirstChain, dh: first,
	}
	c.nextRecv = newHeaderKey(p.Secrets.NextHeaderA)
	c.nextSend = p.Secrets.HeaderB
	c.step = true
	c.confirm = confirmPresent
	return s, nil
}

func newState(p *Params) (*State, error) {
	if p.Local == p.Remote || p.Local == "" || p.Remote == "" || len(p.Local) > maxDID || len(p.Remote) > maxDID {
		return nil, contracts.Errorf(contracts.InvalidDID, "a session needs two different DIDs of at most %d bytes", maxDID)
	}
	if p.FirstSeq >= MaxSeq {
		return nil, errSeqFull
	}
	s := &State{id: binding{
		conversation: p.Conversation,
		transcript:   p.Transcript,
		exporter:     p.Secrets.Exporter,
	}}
	low, high := p.Local, p.Remote
	if low > high {
		low, high, s.id.side = high, low, 1
	}
	s.id.hash = bindingHash(p.Conversation, p.Transcript, low, high)
	s.cur.root = p.Secrets.Root
	s.cur.seq = p.FirstSeq
	confirmKey := key(p.Secrets.Confirm)
	var tag key
	hmacSum(&tag, &confirmKey, p.Transcript[:])
	s.cur.confirmTag = tag
	return s, nil
}

// bindingHash folds what never changes into 32 bytes, once, so that the
// associated data of each frame stays short (RAT-10).
func bindingHash(conversation [16]byte, transcript [32]byte, low, high string) [32]byte {
	b := make([]byte, 0, 128+len(low)+len(high))
	b = append(b, "talos-e2ee/2 binding\x00"...)
	b = append(b, conversation[:]...)
	b = append(b, transcript[:]...)
	for _, did := range [2]string{low, high} {
		b = binary.BigEndian.AppendUint16(b, uint16(len(did)))
		b = append(b, did...)
	}
	return sha256.Sum256(b)
}

// aadFixed is the length of the associated data that all seals share:
//
//	version | suite | flags | direction | binding
const aadFixed = 4 + 1 + 32

// aad puts the shared associated data of a frame into the scratch buffer.
// direction is the side that sends.
func (s *State) aad(prefix []byte, direction byte) []byte {
	b := append(s.aadBuf[:0], prefix...)
	b = append(b, direction)
	return append(b, s.id.hash[:]...)
}

// confirmed compares a confirmation tag in constant time.
func (c *core) confirmed(tag []byte) bool {
	return subtle.ConstantTimeCompare(tag, c.confirmTag[:]) == 1
}

// sends makes the DH step that is due: a fresh own key, and with it a new root,
// sending chain and header key.
func (c *core) sends(fresh keyPair, now time.Time) error {
	secret, err := fresh.dh(&c.recv.dh)
	if err != nil {
		return err
	}
	hk := c.nextSend
	ck, next := kdfRK(&c.root, &secret)
	c.dhs = fresh
	c.send = sendChain{live: true, hk: newHeaderKey(hk), ck: ck, start: now.UnixMilli()}
	c.nextSend = next
	c.step, c.forced = false, false
	c.reserve = horizon{}
	return nil
}
