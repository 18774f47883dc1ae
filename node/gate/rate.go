package gate

import (
	"sync"
	"time"

	"github.com/talosprotocol/talos/contracts"
)

// Rate is how often something may be done: Burst at once, and one more every Every.
// The zero value does not limit.
type Rate struct {
	Burst int64
	Every time.Duration
}

// maxBuckets bounds what a limiter remembers. A bucket that is full again is forgotten
// first; if none is, new subjects are refused: a flood of names buys nobody anything.
const maxBuckets = 1 << 16

// Limiter is token buckets by key, in the form of the generic cell rate algorithm (ITU-T
// I.371): one time for each key. It is safe for concurrent use.
type Limiter struct {
	mu  sync.Mutex
	tat map[string]int64 // theoretical arrival time of the next event, ns
}

// NewLimiter makes an empty limiter.
func NewLimiter() *Limiter { return &Limiter{tat: map[string]int64{}} }

// Allow takes a token from the bucket of each key, or none from any: with an error of
// code RATE_LIMITED that says when to try again. rates[i] is that of keys[i].
func (l *Limiter) Allow(now time.Time, keys []string, rates []Rate) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	at := now.UnixNano()
	for i, k := range keys {
		r := rates[i]
		if r.Every <= 0 {
			continue
		}
		tat := max(l.tat[k], at)
		if early := tat - at - (r.Burst-1)*int64(r.Every); early > 0 {
			return contracts.Errorf(contracts.RateLimited, "the limit of %d at once and one every %s is reached; try again in %s", r.Burst, r.Every, time.Duration(early).Round(time.Millisecond))
		}
		if _, known := l.tat[k]; !known && len(l.tat) >= maxBuckets && !l.forget(at) {
			return contracts.Errorf(contracts.RateLimited, "%d callers are being limited already; try again later", maxBuckets)
		}
	}
	for i, k := range keys {
		if r := rates[i]; r.Every > 0 {
			l.tat[k] = max(l.tat[k], at) + int64(r.Every)
		}
	}
	return nil
}

// forget drops the buckets that are full, and reports whether there were any.
func (l *Limiter) forget(at int64) bool {
	before := len(l.tat)
	for k, tat := range l.tat {
		if tat <= at {
			delete(l.tat, k)
		}
	}
	return len(l.tat) < before
}

// Left says how many could be done at once now.
func (l *Limiter) Left(now time.Time, key string, r Rate) int64 {
	if r.Every <= 0 {
		return 1<<63 - 1
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	ahead := max(l.tat[key]-now.UnixNano(), 0)
	return max(r.Burst-(ahead+int64(r.Every)-1)/int64(r.Every), 0)
}
