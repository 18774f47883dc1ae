package ratchet

import (
	"encoding/binary"
	"io"
	"slices"
	"time"

	"github.com/talosprotocol/talos/contracts"
)

// Kind says what a message is for. It travels inside the sealed payload.
type Kind byte

// The kinds that this package names; 4 to 127 are free for later specs.
const (
	KindData    Kind = 0 // a message of the application
	KindAck     Kind = 1 // empty: acknowledges, and brings a fresh key
	KindControl Kind = 2 // of the session layer, such as VOID
	KindFirst   Kind = 3 // the first message: signature over T, then a message
)

// Outgoing is a message to be sealed. Body is at most MaxBody bytes and is not
// kept, nor written to.
type Outgoing struct {
	Kind Kind
	Body []byte
	// RecipientSeq is the sender_seq that this side expects next from its peer:
	// all below it is stored durably here.
	RecipientSeq uint64
}

// Receipt says what AppendSeal has done.
type Receipt struct {
	Seq     uint64 // sender_seq of the frame
	N       uint32 // its number in the sending chain
	Stepped bool   // a DH step was made
	// Store: the caller must store AppendState's bytes before it releases the
	// frame. False while a reserve covers the frame.
	Store bool
}

// AppendSeal appends the frame of m to dst. now is the time for the age of the
// chain; rand gives the nonce, and 32 bytes more if a DH step is due. dst and
// m.Body must not overlap.
//
// An error leaves the state unchanged: FrameSize for a body too long,
// SessionState if an opened frame is pending, the state is closed, or the chain
// is full until the peer sends a fresh key.
func (s *State) AppendSeal(dst []byte, m Outgoing, now time.Time, rand io.Reader) ([]byte, Receipt, error) {
	return s.seal(dst, m, nil, now, rand)
}

func (s *State) seal(dst []byte, m Outgoing, ext []byte, now time.Time, rand io.Reader) ([]byte, Receipt, error) {
	c := &s.cur
	if err := s.canSeal(&m); err != nil {
		return dst, Receipt{}, err
	}
	// All that may fail comes before the first change of state.
	if _, err := io.ReadFull(rand, s.nonce[:]); err != nil {
		return dst, Receipt{}, contracts.Errorf(contracts.Internal, "reading a nonce: %w", err)
	}
	stepped := c.step
	if stepped {
		if err := s.stepNow(now, rand); err != nil {
			return dst, Receipt{}, err
		}
	}
	if c.confirm == confirmPresent {
		ext = appendExt(make([]byte, 0, 64), extConfirm, c.confirmTag[:])
	}
	h := header{
		dh: c.dhs.public, pn: c.pn, n: c.send.n, seq: c.seq,
		recipientSeq: m.RecipientSeq, ext: ext,
	}
	kind := byte(m.Kind)
	if m.Kind != KindAck && (c.forced || h.n+1 >= HealAfter || c.chainAge(now) >= HealAge) {
		kind |= kindAck
	}
	mk := kdfCK(&c.send.ck)
	dst = s.write(dst, &h, kind, m.Body, &mk)
	clear(mk[:])
	r := Receipt{Seq: c.seq, N: h.n, Stepped: stepped, Store: true}
	c.send.n++
	c.seq++
	c.ackOwed = false
	if c.reserve.on {
		if c.send.n <= c.reserve.n {
			r.Store = false
		} else {
			c.reserve = horizon{}
		}
	}
	return dst, r, nil
}

// canSeal refuses what cannot be sealed.
func (s *State) canSeal(m *Outgoing) error {
	switch c := &s.cur; {
	case s.pending:
		return errPending
	case s.closed:
		return errClosed
	case len(m.Body) > MaxBody:
		return errBody
	case m.Kind >= kindAck:
		return errKind
	case c.seq >= MaxSeq || m.RecipientSeq > MaxSeq:
		return errSeqFull
	case !c.step && c.send.n >= MaxChain:
		return errChainFull
	}
	return nil
}

// stepNow makes the DH step of a send, all or nothing.
func (s *State) stepNow(now time.Time, rand io.Reader) error {
	fresh, err := newKeyPair(rand)
	if err != nil {
		return err
	}
	return s.cur.sends(fresh, now)
}

// write builds the frame: clear part, sealed header, sealed payload in place.
func (s *State) write(dst []byte, h *header, kind byte, body []byte, mk *key) []byte {
	class := headerClass(len(h.ext))
	sealedHeader := headerFixed + extArea[class] + tagSize
	plain := paddedLen(payloadFixed + len(body))
	dst = slices.Grow(dst, frameFixed+sealedHeader+plain+tagSize)

	start := len(dst)
	dst = append(dst, Version, Suite>>8, Suite&0xff, class)
	dst = append(dst, s.nonce[:]...)
	nonce := s.nonce[:]
	aad := s.aad(dst[start:start+4], s.id.side)

	head := h.append(s.headBuf[:0])
	dst = s.cur.send.hk.aead.Seal(dst, nonce, head, aad)

	commit := commitment(mk)
	aad = append(aad, dst[start+frameFixed:]...)
	aad = append(aad, commit[:]...)

	at := len(dst)
	dst = append(dst, kind)
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(body)))
	dst = append(dst, body...)
	dst = appendZeros(dst, plain-payloadFixed-len(body))
	return newAEAD(mk).Seal(dst[:at], nonce, dst[at:], aad)
}

func (c *core) chainAge(now time.Time) time.Duration {
	return time.Duration(now.UnixMilli()-c.send.start) * time.Millisecond
}

// NeedsDHStep reports whether the sending chain should heal: it carried
// HealAfter messages, is HealAge old and in use, or was restored from a reserve.
// Frames then ask the peer for an answer by themselves; a caller with nothing to
// send may send an empty message.
func (s *State) NeedsDHStep(now time.Time) bool {
	c := &s.cur
	if c.step || !c.send.live {
		return false
	}
	return c.forced || c.send.n >= HealAfter || c.send.n > 0 && c.chainAge(now) >= HealAge
}

// OwesAck reports whether the peer asked for a fresh key that it has not got:
// the caller should send something, KindAck if it has nothing to say.
func (s *State) OwesAck() bool { return s.cur.ackOwed }

// ForceDHStep makes the state ask for a fresh key of the peer with each frame
// until it has one, and step then. For a caller that suspects its state was
// copied. A state restored from a reserve does so by itself.
func (s *State) ForceDHStep() { s.cur.forced = !s.cur.step }
