package ratchet

import (
	"slices"
	"time"
)

// messageKey finds the key of the frame with header h on the copy c, advancing
// it: a kept key is taken out, a chain is skipped forward, or a DH step begins
// the peer's next chain. It does not know yet whether the frame is genuine, only
// that its header is: the caller drops c if the payload does not open.
func (s *State) messageKey(c *core, h *header, which int, now time.Time) (key, error) {
	at := now.UnixMilli()
	switch {
	case which >= 0:
		o := c.old[which]
		if h.dh != o.dh {
			return key{}, errHeader
		}
		if h.seq-uint64(h.n) != o.base {
			return key{}, errSeq
		}
		mk, rest, ok := takeSkipped(o.skipped, h.n, at)
		if !ok {
			return key{}, errReplay
		}
		c.old = slices.Clone(c.old)
		if c.old[which].skipped = rest; len(rest) == 0 {
			c.old = slices.Delete(c.old, which, which+1)
		}
		return mk, nil
	case which == byNext:
		if err := s.receiveStep(c, h, at); err != nil {
			return key{}, err
		}
	}
	return c.chainKey(h, at)
}

// chainKey takes the key of h out of the current chain, skipping forward.
func (c *core) chainKey(h *header, at int64) (key, error) {
	r := &c.recv
	if h.dh != r.dh {
		return key{}, errHeader
	}
	base := h.seq - uint64(h.n)
	if r.based && base != r.base {
		return key{}, errSeq
	}
	if h.n < r.n {
		mk, rest, ok := takeSkipped(r.skipped, h.n, at)
		if !ok {
			return key{}, errReplay
		}
		r.skipped = rest
		return mk, nil
	}
	r.base, r.based = base, true
	if err := c.skipTo(h.n, at); err != nil {
		return key{}, err
	}
	r.n++
	return kdfCK(&r.ck), nil
}

// receiveStep begins the peer's next chain: the old one is skipped to its end
// (pn) and kept if it still has keys.
func (s *State) receiveStep(c *core, h *header, at int64) error {
	// The peer may step only after it has seen our newest key.
	if c.step {
		return errHeader
	}
	if h.dh == c.dhs.public || c.recv.live && h.dh == c.recv.dh {
		return errDHKey
	}
	if !c.recv.live {
		if h.pn != 0 {
			return errHeader
		}
	} else {
		if h.pn < c.recv.n {
			return errHeader
		}
		if h.seq-uint64(h.n) < c.recv.base+uint64(h.pn) {
			return errSeq
		}
		if err := c.skipTo(h.pn, at); err != nil {
			return err
		}
	}
	// Before the X25519 of a frame that skips too far.
	if h.n > MaxGap {
		return errGap
	}
	s.dhCount++
	secret, err := s.cur.dhs.dh(&h.dh)
	if err != nil {
		return err
	}
	hk := c.nextRecv
	ck, next := kdfRK(&c.root, &secret)
	if len(c.recv.skipped) > 0 {
		o := oldChain{hk: c.recv.hk, dh: c.recv.dh, base: c.recv.base, skipped: c.recv.skipped}
		keep := min(len(c.old), MaxOldChains-1)
		c.old = append([]oldChain{o}, c.old[:keep]...)
	}
	c.recv = recvChain{live: true, hk: hk, dh: h.dh, ck: ck}
	c.nextRecv = newHeaderKey(next)
	c.endSending()
	return nil
}

// endSending drops the sending chain, which ends when the peer's fresh key is
// there: the next send makes a DH step. The own key has served and is erased.
func (c *core) endSending() {
	c.pn = c.send.n
	c.send = sendChain{}
	c.reserve = horizon{}
	c.dhs = keyPair{public: c.dhs.public}
	c.step, c.forced = true, false
}

// skipTo keeps the keys of the current chain from its position up to n.
func (c *core) skipTo(n uint32, at int64) error {
	r := &c.recv
	if n < r.n || n-r.n > MaxGap {
		return errGap
	}
	if n == r.n {
		return nil
	}
	kept := make([]skippedKey, len(r.skipped), len(r.skipped)+int(n-r.n))
	copy(kept, r.skipped)
	for ; r.n < n; r.n++ {
		kept = append(kept, skippedKey{n: r.n, at: at, mk: kdfCK(&r.ck)})
	}
	r.skipped = kept
	c.evict(at)
	return nil
}

// evict drops keys past SkippedTTL, then the oldest above MaxSkipped. Within a
// chain keys are in rising order of number and so of age; an older chain's keys
// are older.
func (c *core) evict(at int64) {
	total := len(c.recv.skipped)
	for i := range c.old {
		total += len(c.old[i].skipped)
	}
	over := total - MaxSkipped
	if over <= 0 && !c.hasExpired(at) {
		return
	}
	drop := func(keys []skippedKey) []skippedKey {
		i := 0
		for i < len(keys) && (over > 0 || expired(&keys[i], at)) {
			i++
			over--
		}
		if i == 0 {
			return keys
		}
		return slices.Clone(keys[i:])
	}
	var kept []oldChain
	for i := len(c.old) - 1; i >= 0; i-- {
		o := c.old[i]
		if o.skipped = drop(o.skipped); len(o.skipped) > 0 {
			kept = append(kept, o)
		}
	}
	slices.Reverse(kept)
	c.old = kept
	c.recv.skipped = drop(c.recv.skipped)
}

func (c *core) hasExpired(at int64) bool {
	for i := range c.old {
		if len(c.old[i].skipped) > 0 && expired(&c.old[i].skipped[0], at) {
			return true
		}
	}
	return len(c.recv.skipped) > 0 && expired(&c.recv.skipped[0], at)
}

func expired(k *skippedKey, at int64) bool { return at-k.at >= SkippedTTL.Milliseconds() }

// takeSkipped gives the key n and a copy of keys without it.
func takeSkipped(keys []skippedKey, n uint32, at int64) (mk key, rest []skippedKey, ok bool) {
	i, ok := slices.BinarySearchFunc(keys, n, func(k skippedKey, n uint32) int {
		return int(int64(k.n) - int64(n))
	})
	if !ok || expired(&keys[i], at) {
		return key{}, nil, false
	}
	mk = keys[i].mk
	rest = make([]skippedKey, 0, len(keys)-1)
	rest = append(rest, keys[:i]...)
	rest = append(rest, keys[i+1:]...)
	return mk, rest, true
}

// Expire drops the skipped keys that are past SkippedTTL and reports whether
// there were any: then the caller stores AppendState. Opening frames does so as
// well; a quiet session needs this call. It does nothing while a frame is
// pending.
func (s *State) Expire(now time.Time) bool {
	at := now.UnixMilli()
	if s.pending || !s.cur.hasExpired(at) {
		return false
	}
	s.next = s.cur
	s.next.evict(at)
	s.wipeReplaced()
	s.cur, s.next = s.next, core{}
	return true
}

// wipeReplaced erases the lists of skipped keys that next no longer shares with
// cur. Best effort: Go may have made copies (spec §8).
func (s *State) wipeReplaced() {
	shared := func(k []skippedKey) bool {
		if same(k, s.next.recv.skipped) {
			return true
		}
		for i := range s.next.old {
			if same(k, s.next.old[i].skipped) {
				return true
			}
		}
		return false
	}
	if k := s.cur.recv.skipped; !shared(k) {
		clear(k)
	}
	for i := range s.cur.old {
		if k := s.cur.old[i].skipped; !shared(k) {
			clear(k)
		}
	}
}

// same reports whether a and b are one list; lists never overlap in part.
func same(a, b []skippedKey) bool {
	return len(a) == 0 || len(b) > 0 && &a[0] == &b[0]
}
