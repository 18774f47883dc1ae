package ratchet

import "time"

// Message is an opened message. It is the peer's and in its place in the
// conversation, but becomes fact only with Commit. It prints no content.
type Message struct {
	Kind         Kind
	Body         []byte // aliases the dst given to Open
	Seq          uint64 // sender_seq
	RecipientSeq uint64 // what the peer expects next from this side
	N            uint32 // number in its chain
	AckWanted    bool   // the peer asks for a fresh key
	Stepped      bool   // the frame brought a fresh key of the peer
}

// Which header key opened a frame.
const (
	byCurrent = -1
	byNext    = -2
	byNone    = -3
	// 0 and above: index of an old chain
)

// Open verifies and decrypts a frame; the plaintext is appended to dst, which
// must not overlap frame. frame is not written to. The step that the frame makes
// stays pending until Commit or Discard; until then Seal, Reserve and Open are
// refused.
//
// Every error leaves the state byte-identical. Codes: Malformed, FrameSize,
// UnsupportedVersion, RatchetInvalidHeader, RatchetInvalidDHKey, RatchetAuthFailed,
// RatchetMaxSkip, FrameReplay; SessionRollback if the peer acknowledges what was
// never sent or takes an acknowledgement back: then freeze the session and make
// a new one; SessionState for a call out of turn. A peer must be told none of
// them apart.
func (s *State) Open(dst, frame []byte, now time.Time) (Message, error) {
	if s.pending {
		return Message{}, errPending
	}
	if s.closed {
		return Message{}, errClosed
	}
	var f view
	if err := f.parse(frame); err != nil {
		return Message{}, err
	}
	aad := s.aad(f.prefix, s.id.side^1)
	which, plain := s.openHeader(&f, aad)
	if which == byNone {
		return Message{}, errAuth
	}
	var h header
	if err := h.decode(plain, f.class); err != nil {
		return Message{}, err
	}
	s.next = s.cur
	m, err := s.openBody(dst, &f, &h, which, aad, now)
	if err != nil {
		s.next = core{}
		return Message{}, err
	}
	s.pending = true
	return m, nil
}

// openHeader tries the header keys: current, next, old from the newest. It
// touches no state, makes no DH and allocates nothing, so a forged frame costs
// at most seven short tags.
func (s *State) openHeader(f *view, aad []byte) (which int, plain []byte) {
	c := &s.cur
	if c.recv.live {
		if p, err := c.recv.hk.aead.Open(s.headBuf[:0], f.nonce, f.header, aad); err == nil {
			return byCurrent, p
		}
	}
	if p, err := c.nextRecv.aead.Open(s.headBuf[:0], f.nonce, f.header, aad); err == nil {
		return byNext, p
	}
	for i := range c.old {
		if p, err := c.old[i].hk.aead.Open(s.headBuf[:0], f.nonce, f.header, aad); err == nil {
			return i, p
		}
	}
	return byNone, nil
}

// openBody finds the message key on the copy, opens the payload with it, and
// only then believes what the header says about the conversation.
func (s *State) openBody(dst []byte, f *view, h *header, which int, aad []byte, now time.Time) (Message, error) {
	c := &s.next
	mk, err := s.messageKey(c, h, which, now)
	if err != nil {
		return Message{}, err
	}
	commit := commitment(&mk)
	aad = append(aad, f.header...)
	aad = append(aad, commit[:]...)
	out, err := newAEAD(&mk).Open(dst, f.nonce, f.payload, aad)
	clear(mk[:])
	if err != nil {
		return Message{}, errAuth
	}
	kind, body, err := splitPayload(out[len(dst):])
	if err != nil {
		clear(out[len(dst):])
		return Message{}, err
	}
	m := Message{
		Kind: Kind(kind &^ kindAck), Body: body, Seq: h.seq, RecipientSeq: h.recipientSeq,
		N: h.n, AckWanted: kind&kindAck != 0, Stepped: which == byNext,
	}
	if err := c.believe(h, which, m.AckWanted); err != nil {
		clear(out[len(dst):])
		return Message{}, err
	}
	return m, nil
}

// believe applies the authenticated rest of the header: acknowledgement, key
// confirmation, and the wish for a fresh key.
func (c *core) believe(h *header, which int, ackWanted bool) error {
	tag, err := findExt(h.ext, extConfirm)
	if err != nil {
		return err
	}
	switch c.confirm {
	case confirmAwait:
		if !c.confirmed(tag) {
			return errAuth
		}
		c.confirm, c.confirmTag = confirmDone, [32]byte{}
	case confirmPresent:
		if which == byNext { // the initiator answers to our key: it saw a tag
			c.confirm, c.confirmTag = confirmDone, [32]byte{}
		}
	}
	if h.recipientSeq > c.seq {
		return errRollback
	}
	// A later frame may not acknowledge less, nor an earlier one more.
	if h.seq >= c.peerSeq {
		if h.recipientSeq < c.peerAck {
			return errAck
		}
		c.peerSeq, c.peerAck = h.seq+1, h.recipientSeq
	} else if h.recipientSeq > c.peerAck {
		return errAck
	}
	if ackWanted && which < 0 && c.step {
		c.ackOwed = true
	}
	return nil
}

// AppendPending appends the encoding of the state as it will be after Commit.
// It panics if no opened frame is pending.
func (s *State) AppendPending(dst []byte) []byte {
	if !s.pending {
		panic("ratchet: AppendPending without an opened frame")
	}
	return s.append(dst, &s.next, false)
}

// Commit makes the step of the opened frame permanent and erases the keys that
// it used up. Call it after the transaction that stored AppendPending.
func (s *State) Commit() {
	if !s.pending {
		return
	}
	s.wipeReplaced()
	s.cur = s.next
	s.next = core{}
	s.pending = false
}

// Discard forgets the opened frame; the state is as it was before Open.
func (s *State) Discard() {
	s.next = core{}
	s.pending = false
}
