package gate

import (
	"slices"
	"strings"
	"time"
)

// Limited is a bucket that is not full: who did something lately, and how much of it is
// left at once.
type Limited struct {
	Surface, Subject string
	Rate             Rate
	Left             int64
}

// Limited gives the subjects' buckets on surfaces that are not full at now, by surface
// and subject. There are at most as many as a limiter remembers.
func (g *Gate) Limited(now time.Time) []Limited {
	var out []Limited
	for _, k := range g.limits.used(now) {
		surface, who, ok := strings.Cut(strings.TrimPrefix(k, "s:"), ":")
		s := g.reg.Surface(surface)
		if !strings.HasPrefix(k, "s:") || !ok || s == nil {
			continue // of the node, of a grant, or of denials
		}
		r := rateOf(s)
		out = append(out, Limited{Surface: surface, Subject: who, Rate: r, Left: g.limits.Left(now, k, r)})
	}
	slices.SortFunc(out, func(a, b Limited) int {
		if c := strings.Compare(a.Surface, b.Surface); c != 0 {
			return c
		}
		return strings.Compare(a.Subject, b.Subject)
	})
	return out
}

// Rates gives what one subject may do at once and how often after it, by surface, of
// those that have a limit.
func (r *Registry) Rates() map[string]Rate {
	out := map[string]Rate{}
	for id, s := range r.byID {
		if rate := rateOf(s); rate.Every > 0 {
			out[id] = rate
		}
	}
	return out
}

// used gives the keys of the buckets that are not full, in no order.
func (l *Limiter) used(now time.Time) (keys []string) {
	at := now.UnixNano()
	l.mu.Lock()
	defer l.mu.Unlock()
	for k, tat := range l.tat {
		if tat > at {
			keys = append(keys, k)
		}
	}
	return keys
}
