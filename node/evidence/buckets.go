package evidence

import (
	"sync"
	"time"
)

// buckets bounds how often each of many keys may do something: burst at once, then
// one in every. A bucket that is full again is dropped, so memory follows those who
// are active. It is safe for concurrent use.
type buckets struct {
	every time.Duration
	burst int

	mu    sync.Mutex
	full  map[string]time.Time // when the bucket is full again
	sweep int
}

func newBuckets(every time.Duration, burst int) *buckets {
	return &buckets{every: every, burst: burst, full: map[string]time.Time{}, sweep: 1024}
}

func (b *buckets) take(key string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	full := b.full[key]
	if full.Sub(now) > time.Duration(b.burst-1)*b.every {
		return false
	}
	if full.Before(now) {
		full = now
	}
	b.full[key] = full.Add(b.every)
	if len(b.full) >= b.sweep {
		for k, f := range b.full {
			if f.Before(now) {
				delete(b.full, k)
			}
		}
		b.sweep = max(1024, 2*len(b.full))
	}
	return true
}
