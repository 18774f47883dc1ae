package capability

import (
	"crypto/sha256"
	"math"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/talosprotocol/talos/contracts"
)

// Limits of a Cache.
const (
	MaxSession       = 15 * time.Minute // after which a session shows its chain again
	MaxSessionGrants = 8
)

// SessionID names a session: 16 bytes that the executor has drawn. It is no secret and
// proves nothing; every decision asks for the holder.
type SessionID [16]byte

// Cache holds what sessions may do, so that a chain is verified once and then only
// looked up. Its memory is bounded; what it drops must be shown again. It is safe for
// concurrent use; decisions take no lock.
type Cache struct {
	v       *Verifier
	revoked *Set
	max     int
	high    atomic.Int64 // the latest second seen: time does not go back here
	table   table
	hand    uint64 // where the next eviction begins to look
}

// entry is one grant of a session. What a decision reads is in it, not behind it, and
// in the order in which it is read.
type entry struct {
	session SessionID
	epoch   atomic.Uint64 // at which the grant was last checked against the Set
	fresh   atomic.Int64  // until when that counts, Unix seconds
	until   int64         // of the session
	grant   Grant
	next    *entry
	code    [inlineCode]byte // of the grant, if it fits
}

// inlineCode is room for two scopes and three or four conditions of usual length.
const inlineCode = 224

func newEntry(session SessionID, g *Grant, until int64) *entry {
	e := &entry{session: session, until: until, grant: *g}
	if len(g.code) <= len(e.code) {
		e.grant.code = e.code[:copy(e.code[:], g.code)]
	}
	return e
}

// NewCache makes a cache of at most max sessions over a verifier, whose set of
// revocations is asked on every change.
func NewCache(v *Verifier, max int) *Cache {
	c := &Cache{v: v, revoked: v.Revoked, max: max}
	c.table.init(64)
	return c
}

// Authorize verifies a chain for holder and lets it count for session.
func (c *Cache) Authorize(session SessionID, chain []byte, holder Holder, now time.Time) (*Grant, error) {
	g, _, err := c.v.verify(chain, holder, c.clock(now.Unix()))
	if err != nil {
		return nil, err
	}
	return g, c.Bind(session, g, now)
}

// Bind lets a grant count for session, for MaxSession at most: one that Verify or
// NewGrant made. The same chain again renews it.
func (c *Cache) Bind(session SessionID, g *Grant, now time.Time) error {
	sec := c.clock(now.Unix())
	e := newEntry(session, g, min(g.until, sec+int64(MaxSession/time.Second)))
	c.table.mu.Lock()
	defer c.table.mu.Unlock()
	first := c.table.find(&session)
	if first != nil && first.grant.holder != g.holder {
		return contracts.Errorf(contracts.HolderMismatch, "the session is of %s", first.grant.Subject().Short())
	}
	list := []*entry{e}
	for o := first; o != nil; o = o.next {
		if o.until > sec && o.grant.about.id != g.about.id {
			list = append(list, newEntry(session, &o.grant, o.until))
		}
	}
	if len(list) > MaxSessionGrants {
		return contracts.Errorf(contracts.TooLarge, "a session has at most %d grants; close it, or use another", MaxSessionGrants)
	}
	if first == nil && c.table.live >= c.max {
		c.evict(sec)
	}
	// In the order of ids, so that decisions do not depend on the order in which grants
	// came; and all made anew, since readers may be on their way in the old ones.
	slices.SortFunc(list, func(a, b *entry) int { return strings.Compare(a.grant.about.id, b.grant.about.id) })
	for i := range list[1:] {
		list[i].next = list[i+1]
	}
	c.table.put(list[0])
	return nil
}

// evict makes room: one of the next eight sessions that is over, else the eighth.
func (c *Cache) evict(sec int64) {
	slots := *c.table.slots.Load()
	seen := 0
	for range slots {
		c.hand++
		e := slots[c.hand%uint64(len(slots))].entry.Load()
		if e == nil {
			continue
		}
		if seen++; e.until <= sec || seen == 8 || seen == c.table.live {
			c.table.remove(&e.session)
			return
		}
	}
}

// clock gives the time that counts: a wall clock that was set back lengthens nothing.
func (c *Cache) clock(sec int64) int64 {
	for {
		high := c.high.Load()
		if sec <= high {
			return high
		}
		if c.high.CompareAndSwap(high, sec) {
			return sec
		}
	}
}

// ClockBehind gives by how much now is before the latest time that was seen. More than
// a few seconds mean that a clock was set: until Confirm, what has expired stays so.
func (c *Cache) ClockBehind(now time.Time) time.Duration {
	return time.Duration(max(0, c.high.Load()-now.Unix())) * time.Second
}

// Confirm takes now for right, when somebody has looked why the clock went back. All
// sessions must show their chains again.
func (c *Cache) Confirm(now time.Time) {
	c.Purge(func(*Grant) bool { return true })
	c.high.Store(now.Unix())
}

// Decide answers whether the session's grants allow call to h at now: times, holder,
// revocation, scope, conditions. An unknown session is NO_CAPABILITY, and so is one
// whose chain must be shown again. Of several grants the first by id that allows
// counts, and of denials the one that came furthest. It allocates nothing.
func (c *Cache) Decide(session SessionID, h *Holder, call *Call, now time.Time) Decision {
	sec := c.clock(now.Unix())
	e := c.table.find(&session)
	worst, furthest := verdict{why: unknownSession}, (*Grant)(nil)
	for ; e != nil; e = e.next {
		v := c.decide(e, h, call, sec)
		if v.why == allowed {
			return v.decision(&e.grant)
		}
		if furthest == nil || v.step > worst.step {
			worst, furthest = v, &e.grant
		}
	}
	return worst.decision(furthest)
}

func (c *Cache) decide(e *entry, h *Holder, call *Call, sec int64) verdict {
	g := &e.grant
	if sec >= e.until && sec < g.until {
		return verdict{why: unknownSession, step: StepTimes}
	}
	if v := g.standing(h, sec); v.why != allowed {
		return v
	}
	if e.epoch.Load() != c.revoked.epoch.Load() || sec > e.fresh.Load() {
		if v := c.recheck(e, sec); v.why != allowed {
			return v
		}
	}
	return g.decide(h, call, sec)
}

// recheck asks the set again. The epoch is read before the set is: what is revoked in
// between is seen by the next decision.
func (c *Cache) recheck(e *entry, sec int64) verdict {
	epoch, until := c.revoked.epoch.Load(), int64(math.MaxInt64)
	if len(e.grant.about.links) > 0 {
		var err error
		if until, err = c.revoked.check(e.grant.about, sec); err != nil {
			return verdict{why: reason(slices.Index(reasons[:], contracts.CodeOf(err))), step: StepRevocation}
		}
	}
	e.fresh.Store(until)
	e.epoch.Store(epoch)
	return verdict{}
}

// Drop ends a session: its connection is gone.
func (c *Cache) Drop(session SessionID) {
	c.table.mu.Lock()
	defer c.table.mu.Unlock()
	c.table.remove(&session)
}

// Purge drops the sessions one of whose grants drop names: bindings that changed,
// tools whose manifest did. What is revoked, rotated or ended needs no purge to be
// denied; it only frees memory.
func (c *Cache) Purge(drop func(*Grant) bool) {
	c.table.mu.Lock()
	defer c.table.mu.Unlock()
	c.table.each(func(first *entry) {
		for e := first; e != nil; e = e.next {
			if drop(&e.grant) {
				c.table.remove(&e.session)
				return
			}
		}
	})
}

// Sweep drops what is over or taken back, to free its memory.
func (c *Cache) Sweep(now time.Time) {
	sec := c.clock(now.Unix())
	c.Purge(func(g *Grant) bool {
		if sec >= g.until {
			return true
		}
		_, err := c.revoked.check(g.about, sec)
		return err != nil && contracts.CodeOf(err) != contracts.RevocationStale
	})
}

// Len gives how many sessions are held.
func (c *Cache) Len() int {
	c.table.mu.Lock()
	defer c.table.mu.Unlock()
	return c.table.live
}

// SessionOf gives the id of a session that has a name of another form.
func SessionOf(name string) SessionID {
	sum := sha256.Sum256([]byte(name))
	return SessionID(sum[:16])
}
