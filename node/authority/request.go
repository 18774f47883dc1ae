package authority

import (
	"context"
	"encoding/json"
	"strconv"
	"strings"
	"time"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
	"github.com/talosprotocol/talos/identity/capability"
)

// Wanted is a request for a capability.
type Wanted struct {
	ID     string       `json:"id,omitempty"`
	From   identity.DID `json:"from,omitempty"` // as the connection proved it
	Scopes []string     `json:"scopes"`
	Why    string       `json:"why,omitempty"` // in the words of whoever asks
	Hours  int          `json:"hours"`
	At     time.Time    `json:"at,omitzero"`
}

// ask gives the request as it travels, checked.
func (w *Wanted) ask() (*contracts.CapabilityAsk, error) {
	a := &contracts.CapabilityAsk{Scopes: w.Scopes, Hours: int64(w.Hours), Why: w.Why}
	if err := a.Validate(); err != nil {
		return nil, contracts.Errorf(contracts.Malformed, "a request names 1 to 8 scopes, a reason of up to 500 bytes, and 1 to 720 hours: %w", err)
	}
	_, err := capability.NewScopes(a.Scopes...)
	return a, err
}

// Request asks another node's owner for a capability. The answer comes as an offer,
// when the owner has approved.
func (s *Service) Request(ctx context.Context, to identity.DID, w Wanted) error {
	a, err := w.ask()
	if err != nil {
		return err
	}
	_, err = s.ask(ctx, to, askGrant, a.AppendCanonical(nil))
	return err
}

const rowWanted = "cap/want/"

// enqueue keeps a stranger's request for the owner: a few of each, a bounded number of
// all, and the same one once.
func (s *Service) enqueue(ctx context.Context, from identity.DID, body []byte) error {
	a, err := contracts.ParseCapabilityAsk(body)
	if err != nil {
		return err
	}
	w := Wanted{Scopes: a.Scopes, Why: a.Why, Hours: int(a.Hours)}
	if _, err := w.ask(); err != nil {
		return err
	}
	s.write.Lock()
	defer s.write.Unlock()
	all, err := s.Requests()
	if err != nil {
		return err
	}
	mine, next := 0, 1
	for _, o := range all {
		if o.From == from {
			mine++
			if strings.Join(o.Scopes, " ") == strings.Join(w.Scopes, " ") && o.Hours == w.Hours {
				return nil // it waits already
			}
		}
		if n, _ := strconv.Atoi(o.ID); n >= next {
			next = n + 1
		}
	}
	if mine >= maxRequestOf || len(all) >= maxRequests {
		return contracts.Errorf(contracts.RateLimited, "%d requests wait for the owner, %d of yours", len(all), mine)
	}
	w.ID, w.From, w.At = strconv.Itoa(next), from, s.now().UTC().Truncate(time.Second)
	b, err := json.Marshal(w)
	if err != nil {
		return contracts.Errorf(contracts.Internal, "encoding a request: %w", err)
	}
	return s.cfg.Rows.Put(ctx, []byte(rowWanted+strings.Repeat("0", 10-len(w.ID))+w.ID), b)
}

// Requests lists what waits for the owner, oldest first.
func (s *Service) Requests() (out []Wanted, err error) {
	var failed error
	err = s.cfg.Rows.Scan([]byte(rowWanted), func(_, v []byte) bool {
		var w Wanted
		if e := json.Unmarshal(v, &w); e != nil {
			failed = contracts.Errorf(contracts.StorageCorrupt, "a request of the queue is not as it was written")
			return false
		}
		out = append(out, w)
		return true
	})
	if err == nil {
		err = failed
	}
	return out, err
}

// Settle ends a request: approved ones get what they ask for.
func (s *Service) Settle(ctx context.Context, id string, approve bool) (chain *Chain, delivered bool, err error) {
	all, err := s.Requests()
	if err != nil {
		return nil, false, err
	}
	for _, w := range all {
		if w.ID != id {
			continue
		}
		if approve {
			if chain, delivered, err = s.Grant(ctx, Terms{To: w.From, Scopes: w.Scopes, Life: time.Duration(w.Hours) * time.Hour}); err != nil {
				return nil, false, err
			}
		}
		return chain, delivered, s.cfg.Rows.Delete(ctx, []byte(rowWanted+strings.Repeat("0", 10-len(w.ID))+w.ID))
	}
	return nil, false, contracts.Errorf(contracts.NotFound, "no request %.20q waits", id)
}
