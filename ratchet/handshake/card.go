package handshake

import (
	"encoding/binary"
	"slices"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/ratchet"
)

// Limits of a card (spec §7).
const (
	maxDID     = 512
	maxPeerIDs = 8
	maxPeerID  = 64
	maxCard    = 1 + 2 + maxDID + 8 + 34 + 34 + 8 + 1 + maxPeerIDs*(1+maxPeerID)
)

// Card says which keys speak for a DID. Both cards are part of the transcript;
// neither proves anything until the caller has compared it with the resolved
// document of its DID.
type Card struct {
	DID       string
	KeyLog    uint64   // number of the newest key-log event
	Agreement [32]byte // IK: X25519, for this protocol only
	Signing   [32]byte // Ed25519, the DID's hot key
	PeerIDs   []string // binary libp2p peer ids, 1 to 8, in rising order
	Seq       uint64   // of the DID document
}

const cardVersion = 1

// Append appends the one encoding of c (spec §3). It refuses what DecodeCard
// would refuse.
func (c *Card) Append(dst []byte) ([]byte, error) {
	if err := c.check(); err != nil {
		return dst, err
	}
	be := binary.BigEndian
	dst = append(dst, cardVersion)
	dst = be.AppendUint16(dst, uint16(len(c.DID)))
	dst = append(dst, c.DID...)
	dst = be.AppendUint64(dst, c.KeyLog)
	dst = append(append(dst, codecX25519[:]...), c.Agreement[:]...)
	dst = append(append(dst, codecEd25519[:]...), c.Signing[:]...)
	dst = be.AppendUint64(dst, c.Seq)
	dst = append(dst, byte(len(c.PeerIDs)))
	for _, id := range c.PeerIDs {
		dst = append(append(dst, byte(len(id))), id...)
	}
	return dst, nil
}

// DecodeCard reads what Append wrote, and nothing else. Malformed,
// UnsupportedVersion, KeyInvalid or RatchetInvalidDHKey.
func DecodeCard(b []byte) (Card, error) {
	r := &reader{b: b}
	if len(b) > maxCard {
		return Card{}, contracts.Errorf(contracts.TooLarge, "card of %d bytes", len(b))
	}
	if v := r.u8(); r.err == nil && v != cardVersion {
		return Card{}, contracts.Errorf(contracts.UnsupportedVersion, "card version %d", v)
	}
	var c Card
	n := int(r.u16())
	if n > maxDID {
		return Card{}, contracts.Errorf(contracts.Malformed, "DID of %d bytes", n)
	}
	c.DID = string(r.take(n))
	c.KeyLog = r.u64()
	c.Agreement = r.x25519()
	c.Signing = r.ed25519()
	c.Seq = r.u64()
	for range int(r.u8()) {
		if r.err != nil {
			break
		}
		c.PeerIDs = append(c.PeerIDs, string(r.take(int(r.u8()))))
	}
	if err := r.end(); err != nil {
		return Card{}, err
	}
	if err := c.check(); err != nil {
		return Card{}, err
	}
	return c, nil
}

func (c *Card) check() error {
	if c.DID == "" || len(c.DID) > maxDID {
		return contracts.Errorf(contracts.Malformed, "DID of %d bytes", len(c.DID))
	}
	if n := len(c.PeerIDs); n == 0 || n > maxPeerIDs {
		return contracts.Errorf(contracts.Malformed, "card with %d peer ids, want 1 to %d", n, maxPeerIDs)
	}
	for i, id := range c.PeerIDs {
		if id == "" || len(id) > maxPeerID || i > 0 && id <= c.PeerIDs[i-1] {
			return contracts.Errorf(contracts.Malformed, "peer ids of a card must be short, distinct and in order")
		}
	}
	if err := ratchet.CheckX25519(c.Agreement[:]); err != nil {
		return err
	}
	return checkEd25519(&c.Signing)
}

// has reports whether the card names the peer id; an empty one, for a message
// that came through a mailbox, is not asked for.
func (c *Card) has(peer string) bool { return peer == "" || slices.Contains(c.PeerIDs, peer) }
