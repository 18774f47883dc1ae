package capability

import (
	"encoding/binary"
	"sync"
	"sync/atomic"
)

// table finds the entries of sessions: open addressing with linear probing, read
// without a lock, written under one. A look-up touches one slot and one entry, as a
// rule; a map with a lock would touch five lines, and their cost is what a decision
// costs.
type table struct {
	mu    sync.Mutex
	slots atomic.Pointer[[]slot]
	used  int // slots with a tag, also of entries that are gone
	live  int
}

// slot holds an entry, or none: free has the tag 0, and one whose entry is gone keeps
// its tag until the table is made anew.
type slot struct {
	tag   atomic.Uint64
	entry atomic.Pointer[entry]
}

// tagOf mixes all of an id. Ids are drawn by us; who could choose them could make
// look-ups slow, not wrong, since the id in the entry is what decides.
func tagOf(s *SessionID) uint64 {
	x := binary.LittleEndian.Uint64(s[:]) ^ binary.LittleEndian.Uint64(s[8:])*0x9e3779b97f4a7c15
	x ^= x >> 32
	x *= 0xd6e8feb86659fd93
	return (x ^ x>>32) | 1
}

func (t *table) init(slots int) {
	s := make([]slot, slots)
	t.slots.Store(&s)
}

// find gives the entry of a session, nil if there is none. It may run beside writers.
func (t *table) find(s *SessionID) *entry {
	slots, tag := *t.slots.Load(), tagOf(s)
	mask := uint64(len(slots) - 1)
	for i := tag >> 1 & mask; ; i = (i + 1) & mask {
		at := &slots[i]
		switch at.tag.Load() {
		case tag:
			if e := at.entry.Load(); e != nil && e.session == *s {
				return e
			}
		case 0:
			return nil
		}
	}
}

// put stores the entry of a session, in place of the one before. The caller holds mu.
func (t *table) put(e *entry) {
	slots, tag := *t.slots.Load(), tagOf(&e.session)
	if 4*(t.used+1) > 3*len(slots) {
		slots = t.rebuild()
	}
	mask := uint64(len(slots) - 1)
	for i := tag >> 1 & mask; ; i = (i + 1) & mask {
		at := &slots[i]
		old := at.entry.Load()
		switch {
		case at.tag.Load() == 0:
			at.entry.Store(e)
			at.tag.Store(tag) // last: a reader that sees the tag sees the entry
			t.used++
			t.live++
			return
		case old != nil && old.session == e.session:
			at.entry.Store(e)
			return
		}
	}
}

// remove drops a session. The caller holds mu.
func (t *table) remove(s *SessionID) {
	slots, tag := *t.slots.Load(), tagOf(s)
	mask := uint64(len(slots) - 1)
	for i := tag >> 1 & mask; slots[i].tag.Load() != 0; i = (i + 1) & mask {
		if e := slots[i].entry.Load(); e != nil && e.session == *s {
			slots[i].entry.Store(nil)
			t.live--
			return
		}
	}
}

// rebuild makes the table anew, without what is gone, with half of it free
// at least. Readers go on in the old one; what they miss is found at the next
// call.
func (t *table) rebuild() []slot {
	size := 64
	for size < 2*(t.live+1) {
		size *= 2
	}
	next := make([]slot, size)
	mask := uint64(size - 1)
	t.each(func(e *entry) {
		tag := tagOf(&e.session)
		i := tag >> 1 & mask
		for next[i].tag.Load() != 0 {
			i = (i + 1) & mask
		}
		next[i].entry.Store(e)
		next[i].tag.Store(tag)
	})
	t.used = t.live
	t.slots.Store(&next)
	return next
}

// each visits the entries. The caller holds mu.
func (t *table) each(f func(*entry)) {
	slots := *t.slots.Load()
	for i := range slots {
		if e := slots[i].entry.Load(); e != nil {
			f(e)
		}
	}
}
