package witness

import (
	"sync"
	"time"
)

// limiter holds a token bucket for each log that lately advanced. Only a head that
// the log's key signed takes a token, so nobody can spend another's. A bucket that
// has filled up again is the same as none, and is dropped: memory follows the logs
// that are active now.
type limiter struct {
	every time.Duration // one token
	burst int

	mu      sync.Mutex
	buckets map[string]bucket
	sweepAt int
}

// bucket is full again at the given time; each token taken moves it by every.
type bucket struct{ full time.Time }

func newLimiter(every time.Duration, burst int) *limiter {
	return &limiter{every: every, burst: burst, buckets: map[string]bucket{}, sweepAt: 1024}
}

// ready reports whether a token is there, without taking it.
func (l *limiter) ready(key string, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.fits(l.buckets[key], now)
}

func (l *limiter) fits(b bucket, now time.Time) bool {
	return b.full.Sub(now) <= time.Duration(l.burst-1)*l.every
}

// take takes a token, false if there is none.
func (l *limiter) take(key string, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.buckets[key]
	if !l.fits(b, now) {
		return false
	}
	if b.full.Before(now) {
		b.full = now
	}
	b.full = b.full.Add(l.every)
	l.buckets[key] = b
	if len(l.buckets) >= l.sweepAt {
		for k, b := range l.buckets {
			if !b.full.After(now) {
				delete(l.buckets, k)
			}
		}
		l.sweepAt = max(1024, 2*len(l.buckets))
	}
	return true
}
