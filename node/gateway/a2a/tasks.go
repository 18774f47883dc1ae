package a2a

import (
	"container/list"
	"sync"

	"github.com/talosprotocol/talos/identity"
)

const (
	maxOwned = 4096  // ids of one caller
	maxKnown = 65536 // of all
	maxID    = 256   // bytes of an id that is remembered

	ofTasks    = "task"
	ofContexts = "context"
)

// key names a task or a context of an agent.
type key struct{ agent, kind, id string }

// Tasks remembers whose task is whose. It is safe for concurrent use. When there are too
// many, those that their caller has not used for longest are forgotten: first of a caller
// who has too many, then of the one who has most. What is forgotten is nobody's.
type Tasks struct {
	mu    sync.Mutex
	all   map[key]*list.Element
	owned map[identity.DID]*list.List // of owned, last used first
}

type owned struct {
	key
	by identity.DID
}

// NewTasks makes an empty memory of tasks.
func NewTasks() *Tasks {
	return &Tasks{all: map[key]*list.Element{}, owned: map[identity.DID]*list.List{}}
}

// owns reports whether something is a caller's.
func (t *Tasks) owns(who identity.DID, k key) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.all[k]
	if e == nil || e.Value.(owned).by != who {
		return false
	}
	t.owned[who].MoveToFront(e)
	return true
}

// claim makes something a caller's if it is nobody's, and reports whether it is the
// caller's then.
func (t *Tasks) claim(who identity.DID, k key) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := t.all[k]; e != nil {
		return e.Value.(owned).by == who
	}
	if len(k.id) > maxID {
		return true // and nobody's: nobody can ask for it
	}
	l := t.owned[who]
	if l == nil {
		l = list.New()
		t.owned[who] = l
	}
	t.all[k] = l.PushFront(owned{k, who})
	if l.Len() > maxOwned {
		t.forget(who)
	}
	if len(t.all) > maxKnown {
		for did, other := range t.owned {
			if other.Len() > t.owned[who].Len() {
				who = did
			}
		}
		t.forget(who)
	}
	return true
}

// forget forgets what a caller has not used for longest.
func (t *Tasks) forget(who identity.DID) {
	l := t.owned[who]
	delete(t.all, l.Remove(l.Back()).(owned).key)
	if l.Len() == 0 {
		delete(t.owned, who)
	}
}
