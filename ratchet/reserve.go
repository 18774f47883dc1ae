package ratchet

import (
	"io"
	"time"
)

// Reserve moves the stored position of the sending chain ReserveAhead messages
// ahead of memory, after making the DH step that is due, if any. The caller then
// stores AppendState's bytes; once they are durable, Reserved frames may be
// sealed and released without storing again.
//
// If storing fails, the State must not be used any more: load it again, because
// disk and memory may disagree (see Store). An error of Reserve itself leaves
// the state unchanged.
func (s *State) Reserve(now time.Time, rand io.Reader) error {
	if err := s.canSeal(&Outgoing{}); err != nil {
		return err
	}
	if s.cur.step {
		if err := s.stepNow(now, rand); err != nil {
			return err
		}
	}
	c := &s.cur
	h := horizon{on: true, ck: c.send.ck, n: c.send.n, seq: c.seq}
	for range min(ReserveAhead, MaxChain-uint64(c.send.n), MaxSeq-c.seq) {
		skipCK(&h.ck)
		h.n++
		h.seq++
	}
	c.reserve = h
	return nil
}

// Reserved gives how many frames the reserve still covers; 0 without one.
func (s *State) Reserved() int {
	if !s.cur.reserve.on || s.cur.step {
		return 0
	}
	return int(s.cur.reserve.n - s.cur.send.n)
}
