package execution

import (
	"container/list"
	"time"
)

const (
	keptFor   = 10 * time.Minute
	keptBytes = 64 << 20
	// MaxKept is the most bytes of an answer that is kept.
	MaxKept = 1 << 20
)

// kept holds answers in memory, never in the store: they have content. It is guarded by
// the log's lock.
type kept struct {
	byID  map[string]*list.Element
	order *list.List // the oldest first
	bytes int
}

type keptAnswer struct {
	id     string
	answer any
	size   int
	until  time.Time
}

func newKept() *kept { return &kept{byID: map[string]*list.Element{}, order: list.New()} }

func (k *kept) put(now time.Time, id string, answer any, size int) {
	if size > MaxKept {
		return
	}
	k.byID[id] = k.order.PushBack(&keptAnswer{id, answer, size, now.Add(keptFor)})
	k.bytes += size
	for k.order.Len() > 0 {
		oldest := k.order.Front().Value.(*keptAnswer)
		if k.bytes <= keptBytes && now.Before(oldest.until) {
			return
		}
		k.order.Remove(k.order.Front())
		delete(k.byID, oldest.id)
		k.bytes -= oldest.size
	}
}

func (k *kept) get(now time.Time, id string) any {
	e, ok := k.byID[id]
	if !ok || !now.Before(e.Value.(*keptAnswer).until) {
		return nil
	}
	return e.Value.(*keptAnswer).answer
}
