package handshake

import (
	"crypto/mlkem"
	"encoding/binary"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/ratchet"
)

// MaxFlight is the longest first flight in bytes.
const MaxFlight = preambleMax + 2 + maxCard + chacha20poly1305.Overhead + ratchet.MaxFrame

const (
	flightVersion = 1

	flagOneTime    = 1 << 0 // the flight uses a one-time X25519 key
	flagOneTimeKEM = 1 << 1 // … and a one-time ML-KEM key
	flagPSK        = 1 << 2 // a key of an earlier session is mixed in
	flagsAll       = flagOneTime | flagOneTimeKEM | flagPSK

	preambleMax = 1 + 2 + 4 + 16 + 32 + 4*4 + 2*34 + mlkem.CiphertextSize768 + 2*(1+maxPeerID)
)

// preamble is the clear part of a first flight (spec §5.1).
type preamble struct {
	min, max, chosen   byte
	flags              byte
	conversation       [16]byte
	bundle             [32]byte // digest of the bundle that it answers
	signedID, kemID    uint32
	oneTimeID          uint32
	oneTimeKEMID       uint32
	ephemeral          [32]byte // EK_A
	ratchetKey         [32]byte // the initiator's first ratchet key
	ct                 [mlkem.CiphertextSize768]byte
	localPeer, farPeer string // of the initiator, of the responder; may be empty
}

func (h *preamble) append(dst []byte) []byte {
	be := binary.BigEndian
	dst = append(dst, flightVersion)
	dst = be.AppendUint16(dst, Suite)
	dst = append(dst, h.min, h.max, h.chosen, h.flags)
	dst = append(dst, h.conversation[:]...)
	dst = append(dst, h.bundle[:]...)
	for _, id := range [4]uint32{h.signedID, h.kemID, h.oneTimeID, h.oneTimeKEMID} {
		dst = be.AppendUint32(dst, id)
	}
	dst = append(append(dst, codecX25519[:]...), h.ephemeral[:]...)
	dst = append(append(dst, codecX25519[:]...), h.ratchetKey[:]...)
	dst = append(dst, h.ct[:]...)
	for _, id := range [2]string{h.localPeer, h.farPeer} {
		dst = append(append(dst, byte(len(id))), id...)
	}
	return dst
}

// flight is a parsed first flight; its parts alias the input.
type flight struct {
	preamble
	raw   []byte // the preamble's bytes
	card  []byte // sealed
	frame []byte // of the ratchet
}

// parse reads a first flight strictly. It checks form and versions, no secrets.
func (f *flight) parse(b []byte) error {
	if len(b) > MaxFlight {
		return contracts.Errorf(contracts.FrameSize, "first flight of %d bytes", len(b))
	}
	r := &reader{b: b}
	if v := r.u8(); r.err == nil && v != flightVersion {
		return contracts.Errorf(contracts.UnsupportedVersion, "flight version %d", v)
	}
	if s := r.u16(); r.err == nil && s != Suite {
		return contracts.Errorf(contracts.UnsupportedVersion, "suite %#04x", s)
	}
	f.min, f.max, f.chosen, f.flags = r.u8(), r.u8(), r.u8(), r.u8()
	f.conversation = [16]byte(r.take(16))
	f.bundle = r.b32()
	f.signedID, f.kemID, f.oneTimeID, f.oneTimeKEMID = r.u32(), r.u32(), r.u32(), r.u32()
	f.ephemeral, f.ratchetKey = r.x25519(), r.x25519()
	copy(f.ct[:], r.take(len(f.ct)))
	for _, id := range [2]*string{&f.localPeer, &f.farPeer} {
		*id = string(r.take(int(r.u8())))
		if len(*id) > maxPeerID {
			r.fail(contracts.Errorf(contracts.Malformed, "peer id of %d bytes", len(*id)))
		}
	}
	f.raw = b[:len(b)-len(r.b)]
	f.card = r.take(int(r.u16()))
	if r.err != nil {
		return r.err
	}
	f.frame = r.b
	// Both sides speak one version only, so the highest common one is that one:
	// a flight that chose lower than it offered was tampered with.
	if f.min > f.max || f.max < Version || f.min > Version || f.chosen != Version {
		return contracts.Errorf(contracts.UnsupportedVersion, "flight offers versions %d to %d and chose %d", f.min, f.max, f.chosen)
	}
	if f.flags&^flagsAll != 0 || (f.flags&flagOneTime != 0) != (f.oneTimeID != 0) ||
		(f.flags&flagOneTimeKEM != 0) != (f.oneTimeKEMID != 0) || f.ephemeral == f.ratchetKey {
		return contracts.Errorf(contracts.Malformed, "first flight breaks a rule of its form")
	}
	return nil
}

// FlightInfo is what can be read of a first flight before it is accepted. None
// of it is authenticated.
type FlightInfo struct {
	Conversation [16]byte
	OneTime      bool     // it uses a one-time key
	Rotation     bool     // it needs the PSK of an earlier session
	ReplayID     [32]byte // the same for each copy of the flight
}

// Inspect reads what a caller needs to prepare Accept.
func Inspect(raw []byte) (FlightInfo, error) {
	var f flight
	if err := f.parse(raw); err != nil {
		return FlightInfo{}, err
	}
	return FlightInfo{
		Conversation: f.conversation, OneTime: f.flags&flagOneTime != 0,
		Rotation: f.flags&flagPSK != 0, ReplayID: preambleHash(f.raw, &f.bundle),
	}, nil
}
