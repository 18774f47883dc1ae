package node

import (
	"context"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
	"github.com/talosprotocol/talos/identity/capability"
	"github.com/talosprotocol/talos/node/authority"
	"github.com/talosprotocol/talos/node/directory"
	"github.com/talosprotocol/talos/node/execution"
	"github.com/talosprotocol/talos/node/gate"
)

// book enters what the gate decides into the audit log, with the budgets that change.
type book struct{ n *Node }

func (b book) Enter(ctx context.Context, e gate.Event, spent []gate.Spent, more []execution.Row) error {
	ev := b.n.proofs.NewEvent(e.Type)
	ev.ID = e.ID
	ev.Surface, ev.Peer, ev.Session, ev.Scope, ev.Capability = e.Surface, string(e.Peer), e.Session, e.Scope, e.Capability
	ev.Intent, ev.Outcome, ev.Code, ev.Reason = e.Intent, e.Outcome, string(e.Code), e.Reason
	ev.RequestDigest, ev.ResultDigest = e.RequestDigest, e.ResultDigest
	if e.Subject != "owner" {
		ev.Subject = e.Subject
	}
	if e.HighRisk {
		risky := true
		ev.HighRisk = &risky
	}
	for _, f := range []struct {
		to **int64
		v  int64
	}{{&ev.UnitsIn, e.UnitsIn}, {&ev.UnitsOut, e.UnitsOut}, {&ev.CostMicro, e.CostMicro}, {&ev.DurationMs, int64(e.Duration / time.Millisecond)}} {
		if f.v > 0 {
			*f.to = &f.v
		}
	}
	_, err := b.n.proofs.Log().AppendWith(ctx, b.n.store.With(spent, more), ev)
	return err
}

// approver asks the desk of the node, which is there when calls are.
type approver struct{ n *Node }

func (a approver) Approve(ctx context.Context, r *gate.Request, s *contracts.Surface, c gate.Call) (*gate.Approval, error) {
	if a.n.approvals == nil {
		return nil, nil //nolint:nilnil // a node without calls
	}
	return a.n.approvals.Approve(ctx, r, s, c)
}

// door is the gate as sessions see it.
type door struct{ n *Node }

func (d door) Admit(ctx context.Context, did identity.DID, id peer.ID, what string) error {
	_, err := d.n.gate.Check(ctx, &gate.Request{
		Surface: what, Who: gate.Principal{DID: did, Proof: gate.Channel, Session: string(id)}, Peer: did,
		Params: map[string]string{"self": string(d.n.DID())},
	})
	return err
}

func (d door) Present(ctx context.Context, id peer.ID, did identity.DID, again bool) error {
	return d.n.powers.Present(ctx, id, did, again)
}

// signer signs as the node's DID, with its control key.
func (n *Node) signer() (capability.Signer, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	k, err := n.home.keyset()
	if err != nil {
		return capability.Signer{}, err
	}
	return capability.Signer{DID: n.home.DID(), KSN: n.home.State.SN, Key: k.control.Ed25519()}, nil
}

// rootsOf reads which other DIDs are roots of authority here, and for what.
func rootsOf(c *contracts.NodeConfig) (map[identity.DID][]capability.Kind, error) {
	roots := map[identity.DID][]capability.Kind{}
	for _, r := range c.Roots {
		did, err := identity.ParseDID(r.DID)
		if err != nil {
			return nil, contracts.Errorf(contracts.ConfigInvalid, "a root of the configuration: %w", err)
		}
		if _, twice := roots[did]; twice {
			return nil, contracts.Errorf(contracts.ConfigInvalid, "the configuration names the root %s twice", did)
		}
		for _, text := range r.Kinds {
			kind, err := capability.ParseKind(text)
			if err != nil {
				return nil, contracts.Errorf(contracts.ConfigInvalid, "a root of the configuration: %w", err)
			}
			roots[did] = append(roots[did], kind)
		}
	}
	return roots, nil
}

// openPowers starts what the node knows of who may do what.
func (n *Node) openPowers(ctx context.Context) (err error) {
	p, err := readPolicy(n.home.path(filePolicy))
	if err != nil {
		return err
	}
	roots, err := rootsOf(n.home.Config)
	if err != nil {
		return err
	}
	n.powers, err = authority.New(ctx, authority.Config{
		Signer: n.signer, Roots: roots, Strangers: n.home.Config.Strangers, Policy: p, Rows: n.store.Table(), Revocations: n.store.Revocations(),
		Record: func(ctx context.Context, typ string, to identity.DID, token capability.TokenID) error {
			ev := n.proofs.NewEvent(typ)
			ev.Peer, ev.Capability, ev.Outcome = string(to), token.String(), "ok"
			_, err := n.proofs.Append(ctx, ev)
			return err
		},
	}, n.host, n.dir, n.gossip, n.log, time.Now)
	return err
}

// invocationKey finds the key that signs requests for a DID.
func (n *Node) invocationKey(ctx context.Context, keyID string) (identity.DID, identity.InvocationPublic, error) {
	did, err := identity.ParseDID(keyID)
	if err != nil {
		return "", identity.InvocationPublic{}, err
	}
	if did.IsKey() {
		key, err := identity.ParseMultikey[identity.Invocation](strings.TrimPrefix(keyID, "did:key:"))
		return did, key, err
	}
	r, err := n.dir.Resolve(ctx, did, directory.Options{})
	if err != nil {
		return "", identity.InvocationPublic{}, err
	}
	return did, r.State.Doc.Invocation, nil
}

// openGate makes the door.
func (n *Node) openGate(ctx context.Context) error {
	if err := n.openPowers(ctx); err != nil {
		return err
	}
	reg, err := gate.NewRegistry(contracts.Surfaces())
	if err != nil {
		return err
	}
	rows, err := n.store.Budgets().All()
	if err != nil {
		return err
	}
	ledger := gate.NewLedger()
	ledger.Load(rows)
	n.gate = gate.New(gate.Options{Registry: reg, Authority: n.powers, Approver: approver{n}, Book: book{n}, Ledger: ledger, Log: n.log, Now: time.Now})
	return nil
}

// guardMesh lets the streams of open surfaces pass the gate before anything of them is
// read: their rates hold for each peer. Those that are not open ask it themselves, when
// they know who asks for what.
func (n *Node) guardMesh() {
	prefix := "/talos/" + n.home.Config.Network + "/"
	n.host.SetDoor(func(id protocol.ID, from peer.ID) error {
		s := n.gate.Registry().Mesh(strings.TrimPrefix(string(id), prefix))
		if s == nil {
			return contracts.Errorf(contracts.Forbidden, "%s is on no surface", id)
		}
		if s.Open == nil || !*s.Open {
			return nil
		}
		_, err := n.gate.Check(context.Background(), &gate.Request{Surface: s.ID, Who: gate.Principal{Session: from.String()}})
		return err
	})
}

// checkMesh refuses to run with a stream protocol that is on no surface (GATE-1). The
// DHT and gossip are libp2p's own: what they take, their validators judge.
func (n *Node) checkMesh() error {
	prefix := "/talos/" + n.home.Config.Network + "/"
	for _, id := range n.host.Mux().Protocols() {
		name, ours := strings.CutPrefix(string(id), prefix)
		if !ours || strings.HasPrefix(name, "kad/") || strings.HasPrefix(name, "lan/") {
			continue
		}
		if n.gate.Registry().Mesh(name) == nil {
			return contracts.Errorf(contracts.Internal, "the stream protocol %s is on no surface of the registry", id)
		}
	}
	return nil
}
