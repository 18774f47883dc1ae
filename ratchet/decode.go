package ratchet

import (
	"encoding/binary"

	"github.com/talosprotocol/talos/contracts"
)

// reader takes fixed fields off a byte string; too short makes it bad for good.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) take(n int) []byte {
	if r.bad || len(r.b) < n {
		r.bad = true
		return make([]byte, n)
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out
}

func (r *reader) u8() byte          { return r.take(1)[0] }
func (r *reader) u16() uint16       { return binary.BigEndian.Uint16(r.take(2)) }
func (r *reader) u32() uint32       { return binary.BigEndian.Uint32(r.take(4)) }
func (r *reader) u64() uint64       { return binary.BigEndian.Uint64(r.take(8)) }
func (r *reader) b32() (k [32]byte) { copy(k[:], r.take(32)); return k }

// DecodeState reads what AppendState, AppendPending or AppendFinal wrote. A
// reserve that was stored is where the state goes on: the numbers up to it are
// skipped, and the state asks its peer for a fresh key.
//
// UnsupportedVersion for a version that it does not know, Malformed for anything
// that is not the one encoding of a possible state. Nothing is kept of b.
func DecodeState(b []byte) (*State, error) {
	if len(b) == 0 || len(b) > maxState {
		return nil, contracts.Errorf(contracts.Malformed, "state of %d bytes", len(b))
	}
	if b[0] != stateVersion {
		return nil, contracts.Errorf(contracts.UnsupportedVersion, "state version %d", b[0])
	}
	r := &reader{b: b[1:]}
	s := &State{}
	flags := s.decodeFixed(r)
	c := &s.cur
	c.recv.skipped = decodeSkipped(r)
	count := int(r.u8())
	if count > MaxOldChains {
		r.bad = true
	}
	for i := 0; i < count && !r.bad; i++ {
		o := oldChain{hk: newHeaderKey(r.b32()), dh: r.b32(), base: r.u64(), skipped: decodeSkipped(r)}
		c.old = append(c.old, o)
	}
	if r.bad || len(r.b) != 0 || !s.possible(flags) {
		return nil, contracts.Errorf(contracts.Malformed, "not the encoding of a session state")
	}
	return s, nil
}

func (s *State) decodeFixed(r *reader) (flags uint16) {
	c := &s.cur
	flags = r.u16()
	c.confirm = confirmation(r.u8())
	copy(s.id.conversation[:], r.take(16))
	s.id.transcript = r.b32()
	s.id.hash = r.b32()
	s.id.exporter = r.b32()
	c.confirmTag = r.b32()
	c.root = r.b32()
	c.dhs.secret = r.b32()
	c.dhs.public = r.b32()
	c.nextSend = r.b32()
	c.nextRecv = newHeaderKey(r.b32())
	c.send.hk = newHeaderKey(r.b32())
	c.send.ck = r.b32()
	c.send.n = r.u32()
	c.send.start = int64(r.u64())
	c.pn = r.u32()
	c.seq = r.u64()
	c.recv.hk = newHeaderKey(r.b32())
	c.recv.dh = r.b32()
	c.recv.ck = r.b32()
	c.recv.n = r.u32()
	c.recv.base = r.u64()
	c.peerSeq = r.u64()
	c.peerAck = r.u64()

	if flags&flagSide != 0 {
		s.id.side = 1
	}
	c.send.live = flags&flagSend != 0
	c.recv.live = flags&flagRecv != 0
	c.step = flags&flagStep != 0
	c.forced = flags&flagForced != 0
	c.ackOwed = flags&flagAckOwed != 0
	c.recv.based = flags&flagBased != 0
	return flags
}

func decodeSkipped(r *reader) []skippedKey {
	n := int(r.u16())
	if n == 0 || n > MaxSkipped || len(r.b) < n*skippedLen {
		r.bad = r.bad || n != 0
		return nil
	}
	keys := make([]skippedKey, n)
	for i := range keys {
		keys[i] = skippedKey{n: r.u32(), at: int64(r.u64()), mk: r.b32()}
		if i > 0 && keys[i].n <= keys[i-1].n {
			r.bad = true
		}
	}
	return keys
}

// possible refuses an encoding that no sequence of calls can produce.
func (s *State) possible(flags uint16) bool {
	c := &s.cur
	total := len(c.recv.skipped)
	for i := range c.old {
		o := &c.old[i]
		total += len(o.skipped)
		if len(o.skipped) == 0 || o.skipped[len(o.skipped)-1].n >= MaxChain || o.base > MaxSeq {
			return false
		}
	}
	if last := len(c.recv.skipped) - 1; last >= 0 && c.recv.skipped[last].n >= c.recv.n {
		return false
	}
	noSend := c.send.n == 0 && c.send.start == 0 && zero((*[32]byte)(&c.send.ck)) && zero((*[32]byte)(&c.send.hk.k))
	noRecv := !c.recv.based && zero(&c.recv.dh) && zero((*[32]byte)(&c.recv.ck)) && zero((*[32]byte)(&c.recv.hk.k))
	switch {
	case flags&^flagsKnown != 0, total > MaxSkipped, c.confirm > confirmPresent:
	case c.send.live == c.step: // a chain, or a step that makes one
	case !c.send.live && (!noSend || !zero((*[32]byte)(&c.dhs.secret)) || c.forced):
	case c.send.live && CheckX25519(c.dhs.public[:]) != nil:
	case !c.recv.live && (!noRecv || c.step):
	case c.recv.live && CheckX25519(c.recv.dh[:]) != nil:
	case !c.recv.based && (c.recv.base != 0 || c.recv.n != 0):
	case (c.confirm == confirmDone) != zero(&c.confirmTag):
	case c.send.n > MaxChain, c.recv.n > MaxChain, c.pn > MaxChain:
	case c.seq > MaxSeq, c.recv.base > MaxSeq, c.peerSeq > MaxSeq, c.peerAck > c.seq:
	default:
		return true
	}
	return false
}
