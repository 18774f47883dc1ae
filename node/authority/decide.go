package authority

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
	"github.com/talosprotocol/talos/identity/capability"
	"github.com/talosprotocol/talos/node/gate"
)

// Decide answers the gate. The owner may do everything. A stranger may do what the
// policy for strangers says; everybody else what the grants of the chains cover that
// were shown on the connection.
func (s *Service) Decide(ctx context.Context, now time.Time, r *gate.Request, c gate.Call) (gate.Decision, error) {
	if r.Who.Proof == gate.Owner {
		return gate.Decision{Grant: "owner"}, nil
	}
	proof, ok := map[gate.Proof]capability.Proof{gate.Channel: capability.Channel, gate.Attested: capability.Signed, gate.Signed: capability.Signed}[r.Who.Proof]
	if !ok || r.Who.DID == "" {
		return gate.Decision{}, contracts.Errorf(contracts.NoCapability, "%s needs a caller who proves who it is", r.Surface)
	}
	call, err := s.call(&c, r.Who.DID)
	if err != nil {
		return gate.Decision{}, err
	}
	id := peer.ID(r.Who.Session)
	if len(r.Token) > 0 {
		if _, err := s.authorize(ctx, id, r.Who.DID, proof, r.Token); err != nil {
			return gate.Decision{}, err
		}
	}
	holder, err := capability.NewHolder(r.Who.DID, proof)
	if err != nil {
		return gate.Decision{}, err
	}
	d := s.cache.Decide(session(id), &holder, &call, now)
	if !d.Allowed() {
		if by, ok := s.bound(holder, &call, now); ok {
			return s.decision(by, r), nil
		}
		if s.strangersMay(r.Surface) {
			return gate.Decision{Grant: "policy:strangers"}, nil
		}
		return gate.Decision{}, d.Err()
	}
	return s.decision(d, r), nil
}

// strangersMay says what needs no capability by policy.
func (s *Service) strangersMay(surface string) bool {
	return s.cfg.Strangers == StrangersMessage && (surface == "a2a.message.receive" || surface == "a2a.session.open")
}

// call makes the call that grants are asked about.
func (s *Service) call(c *gate.Call, by identity.DID) (capability.Call, error) {
	kind, err := capability.ParseKind(c.Kind)
	if err != nil {
		return capability.Call{}, err
	}
	access, err := capability.ParseAccess(c.Access)
	if err != nil {
		return capability.Call{}, err
	}
	call, err := capability.NewCall(kind, c.Name, c.Method, c.Resource, access)
	if err != nil {
		return call, err
	}
	if len(c.Args) > 0 {
		if call.Args, err = capability.ParseArgs(c.Args); err != nil {
			return call, err
		}
	}
	if call.Peer, err = capability.NewPrincipal(by); err != nil {
		return call, err
	}
	call.Gateway, err = capability.NewPrincipal(s.dir.Self().DID)
	return call, err
}

// decision turns a yes into what the gate needs of it.
func (s *Service) decision(d capability.Decision, r *gate.Request) gate.Decision {
	out := gate.Decision{Grant: d.Grant.ID(), Scope: d.Grant.Scope(d.Index)}
	out.Payers = slices.Clone(s.policy.Load().payers[r.Who.DID])
	if token, ok := strings.CutPrefix(out.Grant, "cap:"); ok {
		out.Capability = token
	}
	for _, l := range d.Grant.Limits() {
		if l.Budget >= 0 {
			out.Payers = append(out.Payers, gate.Payer{Account: "cap:" + l.Token, Unit: l.Unit, Max: l.Budget, Mode: gate.Hard})
		}
	}
	grant, req := d.Grant, capability.Request{Session: r.Who.Session, ID: r.ID, Until: d.Grant.Until()}
	out.Commit = func(now time.Time) error {
		used, err := s.meter.Take(grant, req, now)
		if err != nil || len(used) == 0 {
			return err
		}
		return s.keepCounts(used)
	}
	return out
}

// keepCounts makes counted calls durable before they begin.
func (s *Service) keepCounts(used []capability.Used) error {
	for _, u := range used {
		v := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, uint64(u.Calls)), uint64(u.Until))
		if err := s.cfg.Rows.Put(context.Background(), fmt.Appendf(nil, "cap/used/%s/%d", u.Token, u.Limit), v); err != nil {
			return err
		}
	}
	return nil
}

func (s *Service) loadCounts() error {
	var rows []capability.Used
	var failed error
	err := s.cfg.Rows.Scan([]byte("cap/used/"), func(k, v []byte) bool {
		parts := strings.Split(string(k), "/")
		u := capability.Used{}
		if len(parts) != 4 || len(v) != 16 {
			failed = contracts.Errorf(contracts.StorageCorrupt, "the count of a capability is not as it was written")
			return false
		}
		u.Token = parts[2]
		if _, err := fmt.Sscan(parts[3], &u.Limit); err != nil {
			failed = contracts.Errorf(contracts.StorageCorrupt, "the count of a capability is not as it was written")
			return false
		}
		u.Calls, u.Until = int64(binary.BigEndian.Uint64(v)), int64(binary.BigEndian.Uint64(v[8:]))
		rows = append(rows, u)
		return true
	})
	if err == nil {
		err = failed
	}
	s.meter.Restore(rows)
	return err
}
