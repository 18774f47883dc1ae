package gateway

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/sony/gobreaker/v2"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
)

const (
	openAfter  = 3 // failures in a row
	openFor    = 5 * time.Second
	maxTracked = 4096

	retryShare = 0.1 // of calls may be retried elsewhere, on average
	retryBurst = 10

	liarFor = time.Hour
)

// health is what is known of the gateways that were used: a breaker for each service of
// each, and how long it takes until an answer begins. It is safe for concurrent use.
type health struct {
	mu       sync.Mutex
	services map[serviceKey]*state
	liars    map[identity.DID]time.Time // until when they are left out
	retries  float64                    // that may be made now
}

type serviceKey struct {
	did        identity.DID
	kind, name string
}

type state struct {
	breaker *gobreaker.TwoStepCircuitBreaker[struct{}]
	ewma    time.Duration // until the header of an answer
	running int
}

func newHealth() *health {
	return &health{services: map[serviceKey]*state{}, liars: map[identity.DID]time.Time{}, retries: retryBurst}
}

func (h *health) of(k serviceKey) *state {
	s := h.services[k]
	if s == nil {
		if len(h.services) >= maxTracked {
			clear(h.services) // what is known is only an advantage
		}
		s = &state{breaker: gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
			Timeout:     openFor,
			ReadyToTrip: func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= openAfter },
			IsExcluded:  func(err error) bool { return errors.Is(err, context.Canceled) },
		})}
		h.services[k] = s
	}
	return s
}

// begin notes that a call begins; done is told how it went: nil, an error that speaks
// against the gateway, or one that does not. That the caller went away says nothing either
// way. It fails while the breaker is open.
func (h *health) begin(k serviceKey) (done func(err error, took time.Duration), err error) {
	h.mu.Lock()
	s := h.of(k)
	h.mu.Unlock()
	settle, err := s.breaker.Allow()
	if err != nil {
		return nil, contracts.Errorf(contracts.Unavailable, "%s of %s has failed %d times in a row; it is tried again in a moment", k.name, k.did.Short(), openAfter)
	}
	h.mu.Lock()
	s.running++
	h.mu.Unlock()
	return func(err error, took time.Duration) {
		if against(err) || errors.Is(err, context.Canceled) {
			settle(err)
		} else {
			settle(nil)
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		s.running--
		if err == nil {
			if s.ewma == 0 {
				s.ewma = took
			}
			s.ewma += (took - s.ewma) / 5
		}
	}, nil
}

// against reports whether an error says that a gateway is not well. That it refuses this
// caller, or this request, does not.
func against(err error) bool {
	switch contracts.CodeOf(err) {
	case contracts.Unavailable, contracts.Internal, contracts.RateLimited, contracts.Busy, contracts.StorageFull, contracts.AuditQuarantined, contracts.SignatureInvalid:
		return err != nil
	}
	return false
}

// lied notes that a gateway's receipt was not right: it is not chosen any more for a while.
func (h *health) lied(k serviceKey, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.liars) >= maxTracked {
		clear(h.liars)
	}
	h.liars[k.did] = now.Add(liarFor)
}

func (h *health) liar(did identity.DID, now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return now.Before(h.liars[did])
}

// cost orders gateways: how long one takes, by how much it has to do for this node.
func (h *health) cost(k serviceKey) time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.services[k]
	if s == nil {
		return 0 // not known: it is tried
	}
	return s.ewma * time.Duration(1+s.running)
}

// open reports whether the breaker of a service lets nothing through now.
func (h *health) open(k serviceKey) bool {
	h.mu.Lock()
	s := h.services[k]
	h.mu.Unlock()
	return s != nil && s.breaker.State() == gobreaker.StateOpen
}

// called counts a call, which earns a part of a retry.
func (h *health) called() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.retries = min(h.retries+retryShare, retryBurst)
}

// mayRetry takes a retry: when all gateways fail, the calls must not multiply.
func (h *health) mayRetry() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.retries < 1 {
		return false
	}
	h.retries--
	return true
}

// order puts candidates in the order in which they are asked: those whose breaker is open
// last, the own region first, and of the rest the better of two picked at random.
func (h *health) order(all []candidate, region string) []candidate {
	rank := func(c candidate) int {
		switch {
		case h.open(c.key):
			return 2
		case region != "" && c.region != region:
			return 1
		}
		return 0
	}
	byRank := [3][]candidate{}
	for _, c := range all {
		byRank[rank(c)] = append(byRank[rank(c)], c)
	}
	out := all[:0:0]
	for _, group := range byRank {
		rand.Shuffle(len(group), func(i, j int) { group[i], group[j] = group[j], group[i] })
		if len(group) > 1 && h.cost(group[1].key) < h.cost(group[0].key) {
			group[0], group[1] = group[1], group[0]
		}
		out = append(out, group...)
	}
	return out
}
