package node

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"time"
	"unicode/utf8"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
	"github.com/talosprotocol/talos/node/api"
	"github.com/talosprotocol/talos/node/approval"
	"github.com/talosprotocol/talos/node/call"
	"github.com/talosprotocol/talos/node/execution"
	"github.com/talosprotocol/talos/node/gate"
)

const surfaceDecide = "governance.decide"

// openExecutions opens the record of what is done once, and finds what a crash left.
func (n *Node) openExecutions() (err error) {
	n.executions = execution.Open(n.store.Table(), time.Now)
	n.approvals = approval.New(approval.Config{DID: n.home.DID(), Key: n.signingKey, Rule: n.powers.Rule, Ask: n.askPeer, Now: time.Now})
	n.left, err = n.executions.Left()
	return err
}

// settleLeft records of what ran when the program ended last that its outcome is unknown.
func (n *Node) settleLeft(ctx context.Context) {
	for _, l := range n.left {
		ev := n.proofs.NewEvent("result")
		ev.Intent, ev.Outcome = l.Intent, "unknown"
		if a := l.Execution.Steps[0].Action; a != nil {
			ev.Surface, ev.Subject, ev.Peer, ev.RequestDigest = a.Surface, a.Caller, a.Caller, a.Request
		}
		if _, err := n.proofs.Log().AppendWith(ctx, n.store.With(nil, l.Rows), ev); err != nil {
			n.log.Error("what became of a call is not recorded", "execution", l.Execution.ID, "err", err)
			continue
		}
		n.log.Warn("a call ran when the program ended: what became of it is not known", "execution", l.Execution.ID)
	}
}

// pruneExecutions forgets what is old.
func (n *Node) pruneExecutions(ctx context.Context) error {
	tick := time.NewTicker(time.Hour)
	defer tick.Stop()
	for {
		for {
			k, err := n.executions.Prune(ctx)
			if err != nil && ctx.Err() == nil {
				n.log.Warn("old executions are still there", "err", err)
			}
			if k == 0 || err != nil {
				break
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// answer answers the calls of the mesh.
func (n *Node) answer(ctx context.Context, c *call.Call, w *call.ResponseWriter) error {
	switch c.Surface {
	case surfaceDecide:
		return n.decide(ctx, c, w)
	case surfaceCountersign:
		return n.countersigned(ctx, c, w)
	}
	return n.gateway.Handle(ctx, c, w)
}

// decide answers a node that asks whether it may do something.
func (n *Node) decide(ctx context.Context, c *call.Call, w *call.ResponseWriter) error {
	const most = 9 << 20
	b, err := io.ReadAll(io.LimitReader(c.Body, most+1))
	if err != nil {
		return call.NotBegun(err)
	}
	ask, err := contracts.ParseActionAsk(b)
	if err != nil {
		return call.NotBegun(err)
	}
	return n.gate.Do(ctx, &gate.Request{
		Surface: surfaceDecide, Who: gate.Principal{DID: c.Caller.DID, Proof: gate.Channel, Session: string(c.Peer)},
		Params: map[string]string{"self": string(n.DID())}, Token: c.Capability, Peer: c.Caller.DID, RequestDigest: ask.Action.Request,
	}, func(ctx context.Context, _ *gate.Pass) (gate.Result, error) {
		d, err := n.approvals.Serve(ctx, c.Caller.DID, ask)
		if err != nil {
			return gate.Result{}, err
		}
		_, err = w.Write(d.AppendCanonical(nil))
		return gate.Result{}, err
	})
}

// askPeer asks a governance peer.
func (n *Node) askPeer(ctx context.Context, did identity.DID, ask *contracts.ActionAsk) (*contracts.ActionDecision, identity.InvocationPublic, error) {
	none := identity.InvocationPublic{}
	if n.router == nil {
		return nil, none, contracts.Errorf(contracts.Unavailable, "this node has neither the role agent nor gateway")
	}
	b, err := n.router.Ask(ctx, did, surfaceDecide, ask.AppendCanonical(nil), 4<<10)
	if err != nil {
		return nil, none, err
	}
	d, err := contracts.ParseActionDecision(b)
	if err != nil {
		return nil, none, err
	}
	_, key, err := n.invocationKey(ctx, string(did))
	return d, key, err
}

func (l *local) desk() (*approval.Desk, error) {
	if l.n.approvals == nil {
		return nil, contracts.Errorf(contracts.Unavailable, "this node has neither the role agent nor gateway")
	}
	return l.n.approvals, nil
}

func (l *local) Approvals(context.Context) ([]api.Approval, error) {
	d, err := l.desk()
	if err != nil {
		return nil, err
	}
	out := []api.Approval{}
	for _, it := range d.Waiting() {
		out = append(out, waiting(&it, 200))
	}
	return out, nil
}

func (l *local) Approval(_ context.Context, id string) (*api.Approval, error) {
	d, err := l.desk()
	if err != nil {
		return nil, err
	}
	it, err := d.Get(id)
	if err != nil {
		return nil, err
	}
	a := waiting(it, len(it.Body))
	return &a, nil
}

func (l *local) Decide(_ context.Context, id string, approve bool, why string) (*api.Approval, error) {
	d, err := l.desk()
	if err != nil {
		return nil, err
	}
	it, err := d.Decide(id, approve, why)
	if err != nil {
		return nil, err
	}
	a := waiting(it, 0)
	return &a, nil
}

// waiting shows an item, with the beginning of its body.
func waiting(it *approval.Item, most int) api.Approval {
	a := api.Approval{
		ID: it.Action.ID, Asker: string(it.Asker), Caller: it.Action.Caller, Surface: it.Action.Surface, Access: it.Action.Access,
		Service: it.Action.Service, Method: it.Action.Method, At: it.At.UTC(), Until: it.At.Add(approval.Standing).UTC(),
	}
	if it.Decision != nil {
		a.Verdict, a.Why = it.Decision.Verdict, it.Decision.Why
	}
	b := it.Body
	if len(b) > most {
		b, a.Cut = b[:most], true
	}
	for a.Cut && len(b) > 0 && !utf8.Valid(b) && len(it.Body)-len(b) < most+utf8.UTFMax {
		b = b[:len(b)-1]
	}
	if utf8.Valid(b) {
		a.Text = string(b)
	} else {
		a.Body = base64.RawURLEncoding.EncodeToString(b)
	}
	return a
}

func (l *local) log() (*execution.Log, error) {
	if l.n.executions == nil {
		return nil, contracts.Errorf(contracts.Unavailable, "this node has neither the role agent nor gateway")
	}
	return l.n.executions, nil
}

func (l *local) Executions(_ context.Context, state, before string, limit int) ([]json.RawMessage, error) {
	log, err := l.log()
	if err != nil {
		return nil, err
	}
	all, err := log.List(state, before, limit)
	out := []json.RawMessage{}
	for _, e := range all {
		out = append(out, e.AppendCanonical(nil))
	}
	return out, err
}

func (l *local) Execution(_ context.Context, id string) (json.RawMessage, error) {
	log, err := l.log()
	if err != nil {
		return nil, err
	}
	e, err := log.Get(id)
	if err != nil {
		return nil, err
	}
	return e.AppendCanonical(nil), errors.Join(execution.Verify(e))
}

func (l *local) SettleExecution(ctx context.Context, id string, done bool) (json.RawMessage, error) {
	log, err := l.log()
	if err != nil {
		return nil, err
	}
	e, err := log.Settle(ctx, id, done)
	if err != nil {
		return nil, err
	}
	return e.AppendCanonical(nil), nil
}
