package capability

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/talosprotocol/talos/contracts"
)

// MaxCounted bounds the tokens whose calls a Meter counts.
const MaxCounted = 65536

// Meter does the last two checks of a decision, replay and counters, and takes what an
// allowed call uses up: all of it or nothing. It is safe for concurrent use.
type Meter struct {
	mu     sync.Mutex
	replay *Replay
	counts map[countKey]*count
}

// countKey is one limit of one token; siblings below the token share it.
type countKey struct {
	token  string
	n, per int64
}

type count struct {
	used  int64 // calls
	next  int64 // GCRA: the theoretical arrival time, nanoseconds
	until int64 // Unix seconds
}

// Used is what a restart must not forget of a token: its calls so far. Rates are not
// in it, they recover by themselves.
type Used struct {
	Token string
	Limit int64 // which of the token's limits
	Calls int64
	Until int64 // Unix seconds: it may be forgotten after it
}

// NewMeter makes a meter with a replay window, which it owns from then on.
func NewMeter(r *Replay) *Meter { return &Meter{replay: r, counts: map[countKey]*count{}} }

// Taken is what an allowed call has used up, and what must be durable before it begins.
type Taken struct {
	Used []Used
	Seen *Seen // the request; nil if it has no id
}

// Restore gives a meter what was used before a restart, and the requests that were seen.
func (m *Meter) Restore(rows []Used, seen []Seen) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, u := range rows {
		m.counts[countKey{token: u.Token, n: u.Limit}] = &count{used: u.Calls, until: u.Until}
	}
	// An id may come again when its time is over, and then has two rows: the later counts.
	for _, s := range slices.SortedFunc(slices.Values(seen), func(a, b Seen) int { return cmp.Compare(b.Until(), a.Until()) }) {
		m.replay.restore(s)
	}
}

// Request names a call for the replay window.
type Request struct {
	Session string
	ID      string    // empty: the transport has an order of its own, and nothing is remembered
	Until   time.Time // until when the request could be valid
}

// Take takes what an allowed call uses up, or refuses it and takes nothing: REPLAY,
// BUDGET_EXHAUSTED, RATE_LIMITED. What it gives is to be made durable before the call
// begins.
func (m *Meter) Take(g *Grant, r Request, now time.Time) (t Taken, err error) {
	if r.ID == "" && !g.counted {
		return t, nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	sec := now.Unix()
	var key replayKey
	if r.ID != "" {
		key = keyOf(r.Session, r.ID)
		if err := m.replay.check(key, r.Until.Unix(), sec); err != nil {
			return t, err
		}
	}
	for i := range g.about.limits {
		if err := m.allows(&g.about.limits[i], now); err != nil {
			return t, err
		}
	}
	// Nothing refuses from here on.
	if r.ID != "" {
		m.replay.add(key, r.Until.Unix())
		seen := replayItem{key, r.Until.Unix()}.seen()
		t.Seen = &seen
	}
	for i := range g.about.limits {
		l := &g.about.limits[i]
		c := m.counts[l.key()]
		switch {
		case l.Calls >= 0:
			c.used++
			t.Used = append(t.Used, Used{Token: l.Token, Limit: l.Calls, Calls: c.used, Until: l.Until})
		case l.Rate > 0:
			c.next = max(c.next, now.UnixNano()) + l.gap()
		}
	}
	return t, nil
}

func (l *Limit) key() countKey {
	if l.Rate > 0 {
		return countKey{token: l.Token, n: l.Rate, per: l.Per}
	}
	return countKey{token: l.Token, n: l.Calls}
}

// gap is the time between two calls at the full rate, nanoseconds, at least one.
func (l *Limit) gap() int64 { return max(1, l.Per*int64(time.Second)/l.Rate) }

// allows asks one limit, and makes room for its count.
func (m *Meter) allows(l *Limit, now time.Time) error {
	if l.Calls < 0 && l.Rate == 0 {
		return nil // a budget: the caller's ledger reserves it
	}
	c := m.counts[l.key()]
	if c == nil {
		if err := m.room(now.Unix()); err != nil {
			return err
		}
		c = &count{until: l.Until}
		m.counts[l.key()] = c
	}
	if l.Rate == 0 {
		if c.used >= l.Calls {
			return contracts.Errorf(contracts.BudgetExhausted, "the %d calls of token %s are used up; ask for a new one", l.Calls, clip(l.Token, 12))
		}
		return nil
	}
	// A full burst fits in the period: calls may come early by all of it but one gap.
	if wait := c.next - now.UnixNano() - (l.Per*int64(time.Second) - l.gap()); wait > 0 {
		return contracts.Errorf(contracts.RateLimited, "%d calls in %d s are allowed; try again in %s", l.Rate, l.Per, time.Duration(wait).Round(time.Millisecond))
	}
	return nil
}

// room keeps the counts bounded. What a token has used is never forgotten before the
// token ends.
func (m *Meter) room(now int64) error {
	if len(m.counts) < MaxCounted {
		return nil
	}
	for k, c := range m.counts {
		if c.until < now {
			delete(m.counts, k)
		}
	}
	if len(m.counts) >= MaxCounted {
		return contracts.Errorf(contracts.RateLimited, "the calls of %d tokens are counted, and there is no room for another", MaxCounted)
	}
	return nil
}

// Remembered gives how many requests are remembered.
func (m *Meter) Remembered() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.replay.Len()
}
