package ratchet

import (
	"encoding/binary"

	"github.com/talosprotocol/talos/contracts"
)

// Window is the replay window and high-water mark of one direction of a
// conversation: which sender_seqs have been received. It outlives sessions. The
// zero value expects sequence number 0. It is a value: copy it to try a change.
//
// The caller keeps frames that are received ahead of a gap and hands them to the
// application in order when Accept or Void releases them.
type Window struct {
	next uint64
	bits [WindowSize / 64]uint64 // received, by seq mod WindowSize
}

// Next gives the lowest sequence number that is neither received nor void: the
// recipient_seq of this side.
func (w *Window) Next() uint64 { return w.next }

// Check reports whether seq may be accepted: FrameReplay if it was received or
// lies in a void hole, FrameTooFar if it is WindowSize or more past Next.
func (w *Window) Check(seq uint64) error {
	switch {
	case seq < w.next || seq-w.next < WindowSize && w.has(seq):
		return errDuplicate
	case seq-w.next >= WindowSize || seq >= MaxSeq:
		return errTooFar
	}
	return nil
}

// Accept marks seq as received. [from, to) are the sequence numbers that this
// releases, in order; those among them without a stored frame are void. It is
// empty while a lower one is missing. An error leaves the window unchanged.
func (w *Window) Accept(seq uint64) (from, to uint64, err error) {
	if err := w.Check(seq); err != nil {
		return w.next, w.next, err
	}
	w.set(seq)
	from, to = w.release()
	return from, to, nil
}

// Void closes the hole [a, b), which the peer says it will never send. at is the
// sender_seq of the control frame that said so: only what lies before it can be
// void. Frames of the hole that were received stay received; later ones are
// refused as replays. [from, to) is released as by Accept.
//
// Malformed for an empty hole or one that reaches to or past at; FrameTooFar for
// one that ends beyond the window. An error leaves the window unchanged.
func (w *Window) Void(a, b, at uint64) (from, to uint64, err error) {
	if a >= b || b > at {
		return w.next, w.next, contracts.Errorf(contracts.Malformed, "void hole [%d,%d) announced at %d", a, b, at)
	}
	if b > w.next && b-w.next > WindowSize {
		return w.next, w.next, errTooFar
	}
	for seq := max(a, w.next); seq < b; seq++ {
		w.set(seq)
	}
	from, to = w.release()
	return from, to, nil
}

// release moves next past all that is marked, clearing marks on the way.
func (w *Window) release() (from, to uint64) {
	from = w.next
	for w.has(w.next) {
		w.bits[w.next/64%uint64(len(w.bits))] &^= 1 << (w.next % 64)
		w.next++
	}
	return from, w.next
}

func (w *Window) has(seq uint64) bool {
	return w.bits[seq/64%uint64(len(w.bits))]>>(seq%64)&1 == 1
}

func (w *Window) set(seq uint64) {
	w.bits[seq/64%uint64(len(w.bits))] |= 1 << (seq % 64)
}

const (
	windowVersion = 1
	windowLen     = 1 + 8 + WindowSize/8
)

// Append appends the encoding of w: version u8 | next u64 | 1,024 marks.
func (w *Window) Append(dst []byte) []byte {
	dst = append(dst, windowVersion)
	dst = binary.BigEndian.AppendUint64(dst, w.next)
	for _, b := range w.bits {
		dst = binary.BigEndian.AppendUint64(dst, b)
	}
	return dst
}

// DecodeWindow reads what Append wrote, and nothing else.
func DecodeWindow(b []byte) (Window, error) {
	var w Window
	if len(b) > 0 && b[0] != windowVersion {
		return w, contracts.Errorf(contracts.UnsupportedVersion, "window version %d", b[0])
	}
	if len(b) != windowLen {
		return w, contracts.Errorf(contracts.Malformed, "window of %d bytes, want %d", len(b), windowLen)
	}
	w.next = binary.BigEndian.Uint64(b[1:])
	for i := range w.bits {
		w.bits[i] = binary.BigEndian.Uint64(b[9+8*i:])
	}
	if w.next > MaxSeq || w.has(w.next) {
		return Window{}, contracts.Errorf(contracts.Malformed, "window marks the number that it expects")
	}
	return w, nil
}

// Hole is the body of a VOID control message: sender_seqs [A, B) were never sent
// and never will be.
type Hole struct{ A, B uint64 }

const (
	controlVoid = 1
	holeLen     = 1 + 8 + 8
)

// Append appends the body of the control message: type u8 = 1 | A u64 | B u64.
func (h Hole) Append(dst []byte) []byte {
	dst = append(dst, controlVoid)
	dst = binary.BigEndian.AppendUint64(dst, h.A)
	return binary.BigEndian.AppendUint64(dst, h.B)
}

// DecodeHole reads the body of a VOID control message.
func DecodeHole(b []byte) (Hole, error) {
	if len(b) != holeLen || b[0] != controlVoid {
		return Hole{}, contracts.Errorf(contracts.Malformed, "not a VOID message")
	}
	h := Hole{binary.BigEndian.Uint64(b[1:]), binary.BigEndian.Uint64(b[9:])}
	if h.A >= h.B || h.B > MaxSeq {
		return Hole{}, contracts.Errorf(contracts.Malformed, "void hole [%d,%d)", h.A, h.B)
	}
	return h, nil
}
