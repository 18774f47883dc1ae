package call

import (
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
)

// link is a stream whose reads and writes wait for a bounded time, and no longer at all
// after hurry, but for last words. Deadlines are renewed when an eighth of them has passed: to set one for
// each frame would cost more than the frame.
type link struct {
	network.Stream

	mu              sync.Mutex
	hurried         bool // nobody sets another deadline
	readBy, writeBy time.Time
}

// readWithin has reads fail after d without renewal; 0: never.
func (l *link) readWithin(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if by, changed := renew(l.readBy, d); changed && !l.hurried {
		l.readBy = by
		_ = l.SetReadDeadline(by)
	}
}

// writeWithin has writes fail after d without renewal.
func (l *link) writeWithin(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if by, changed := renew(l.writeBy, d); changed && !l.hurried {
		l.writeBy = by
		_ = l.SetWriteDeadline(by)
	}
}

func renew(by time.Time, d time.Duration) (time.Time, bool) {
	if d == 0 {
		return time.Time{}, !by.IsZero()
	}
	now := time.Now()
	return now.Add(d), by.Sub(now) < d-d/8 || by.Sub(now) > d
}

// hurry ends the waits of reads and writes, those under way included.
func (l *link) hurry() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.hurried {
		l.hurried = true
		_ = l.SetDeadline(time.Unix(1, 0))
	}
}

// lastWords lets the end of an answer be written and taken within d, whether hurry was
// called before or is called later.
func (l *link) lastWords(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.hurried = true
	_ = l.SetDeadline(time.Now().Add(d))
}
