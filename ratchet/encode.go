package ratchet

import (
	"encoding/binary"
	"slices"
)

// The encoding of a state (spec §6): fixed fields in big-endian order, absent
// ones zero, then the chains with skipped keys. There is one encoding of a state.
const stateVersion = 1

// Bits of the encoding's flags.
const (
	flagSide    = 1 << iota // this side's DID is the larger
	flagSend                // there is a sending chain
	flagRecv                // there is a receiving chain
	flagStep                // a DH step is due
	flagForced              // asks for a fresh key
	flagAckOwed             // the peer asked for a fresh key
	flagBased               // base of the receiving chain is known
	flagsKnown  = 1<<iota - 1
)

const (
	stateFixed = 1 + 2 + 1 + 16 + 6*32 + // version, flags, confirm, conversation … confirm tag
		2*32 + 32 + 32 + // own key pair, next header keys
		32 + 32 + 4 + 8 + 4 + 8 + // send: hk, ck, n, start; pn, seq
		32 + 32 + 32 + 4 + 8 + // recv: hk, dh, ck, n, base
		8 + 8 // peerSeq, peerAck
	skippedLen = 4 + 8 + 32
	maxState   = stateFixed + 2 + 1 + MaxOldChains*(32+32+8+2) + MaxSkipped*skippedLen
)

// AppendState appends the encoding of the state that is safe to store: with a
// reserve, the sending position is the reserved one. It holds secrets; the store
// encrypts it. Everything but the sending position is exact.
func (s *State) AppendState(dst []byte) []byte { return s.append(dst, &s.cur, false) }

// AppendFinal appends the encoding with the exact sending position and closes
// the State: for a clean stop, so that nothing is skipped. A pending frame is
// discarded.
func (s *State) AppendFinal(dst []byte) []byte {
	s.Discard()
	s.closed = true
	return s.append(dst, &s.cur, true)
}

func (s *State) append(dst []byte, c *core, exact bool) []byte {
	var flags uint16
	set := func(on bool, f uint16) {
		if on {
			flags |= f
		}
	}
	reserved := c.reserve.on && !exact
	set(s.id.side == 1, flagSide)
	set(c.send.live, flagSend)
	set(c.recv.live, flagRecv)
	set(c.step, flagStep)
	// A state that is loaded from a reserve was not stopped cleanly: heal.
	set(c.forced || reserved, flagForced)
	set(c.ackOwed, flagAckOwed)
	set(c.recv.based, flagBased)

	ck, n, seq := &c.send.ck, c.send.n, c.seq
	if reserved {
		ck, n, seq = &c.reserve.ck, c.reserve.n, c.reserve.seq
	}
	be := binary.BigEndian
	b := append(slices.Grow(dst, c.encodedLen()), stateVersion)
	b = be.AppendUint16(b, flags)
	b = append(b, byte(c.confirm))
	b = append(b, s.id.conversation[:]...)
	b = append(b, s.id.transcript[:]...)
	b = append(b, s.id.hash[:]...)
	b = append(b, s.id.exporter[:]...)
	b = append(b, c.confirmTag[:]...)
	b = append(b, c.root[:]...)
	b = append(b, c.dhs.secret[:]...)
	b = append(b, c.dhs.public[:]...)
	b = append(b, c.nextSend[:]...)
	b = append(b, c.nextRecv.k[:]...)
	b = append(b, c.send.hk.k[:]...)
	b = append(b, ck[:]...)
	b = be.AppendUint32(b, n)
	b = be.AppendUint64(b, uint64(c.send.start))
	b = be.AppendUint32(b, c.pn)
	b = be.AppendUint64(b, seq)
	b = append(b, c.recv.hk.k[:]...)
	b = append(b, c.recv.dh[:]...)
	b = append(b, c.recv.ck[:]...)
	b = be.AppendUint32(b, c.recv.n)
	b = be.AppendUint64(b, c.recv.base)
	b = be.AppendUint64(b, c.peerSeq)
	b = be.AppendUint64(b, c.peerAck)
	b = appendSkipped(b, c.recv.skipped)
	b = append(b, byte(len(c.old)))
	for i := range c.old {
		o := &c.old[i]
		b = append(b, o.hk.k[:]...)
		b = append(b, o.dh[:]...)
		b = be.AppendUint64(b, o.base)
		b = appendSkipped(b, o.skipped)
	}
	return b
}

// encodedLen gives the length of the encoding.
func (c *core) encodedLen() int {
	n := stateFixed + 2 + 1 + len(c.recv.skipped)*skippedLen
	for i := range c.old {
		n += 32 + 32 + 8 + 2 + len(c.old[i].skipped)*skippedLen
	}
	return n
}

func appendSkipped(b []byte, keys []skippedKey) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(len(keys)))
	for i := range keys {
		b = binary.BigEndian.AppendUint32(b, keys[i].n)
		b = binary.BigEndian.AppendUint64(b, uint64(keys[i].at))
		b = append(b, keys[i].mk[:]...)
	}
	return b
}
