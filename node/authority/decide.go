package authority

import (
	"context"
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
	until, err := replayUntil(r.ID, now)
	if err != nil {
		return gate.Decision{}, err
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
			return s.decision(by, r, until), nil
		}
		if s.strangersMay(r.Surface) {
			return gate.Decision{Grant: "policy:strangers"}, nil
		}
		return gate.Decision{}, d.Err()
	}
	return s.decision(d, r, until), nil
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
func (s *Service) decision(d capability.Decision, r *gate.Request, until time.Time) gate.Decision {
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
	grant, req := d.Grant, capability.Request{Session: r.Who.Session, ID: r.ID, Until: until}
	out.Commit = func(now time.Time) error {
		taken, err := s.meter.Take(grant, req, now)
		if err != nil {
			return err
		}
		return s.keepTaken(taken)
	}
	return out
}
