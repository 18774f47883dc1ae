package node

import (
	"context"
	"encoding/json"
	"io"
	"time"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
	"github.com/talosprotocol/talos/node/call"
	"github.com/talosprotocol/talos/node/execution"
	"github.com/talosprotocol/talos/node/gate"
	"github.com/talosprotocol/talos/node/receipt"
)

const surfaceCountersign = "gateway.countersign"

// openReceipts makes the keeper of receipts.
func (n *Node) openReceipts() {
	n.receipts = receipt.New(receipt.Config{
		DID: n.home.DID(), Key: n.signingKey, Self: n.dir.Self, Rows: n.store.Table(), Log: n.log, Now: time.Now,
		Store: func(ctx context.Context, rows []execution.Row, events []receipt.Event) error {
			evs := make([]*contracts.AuditEvent, len(events))
			for i, e := range events {
				ev := n.proofs.NewEvent("receipt")
				ev.Peer, ev.Surface, ev.RequestDigest, ev.ResultDigest, ev.Outcome = string(e.Peer), e.Surface, e.Request, e.Digest, "ok"
				if e.Disputed {
					ev.Outcome = "error"
				}
				evs[i] = ev
			}
			_, err := n.proofs.Log().AppendWith(ctx, n.store.With(nil, rows), evs...)
			return err
		},
		Hand: func(ctx context.Context, to identity.DID, c *contracts.Countersignatures) error {
			_, err := n.router.Ask(ctx, to, surfaceCountersign, c.AppendCanonical(nil), 1<<10)
			return err
		},
	})
}

// countersigned takes a caller's signatures of receipts.
func (n *Node) countersigned(ctx context.Context, c *call.Call, w *call.ResponseWriter) error {
	const most = 256 << 10
	b, err := io.ReadAll(io.LimitReader(c.Body, most+1))
	if err != nil {
		return call.NotBegun(err)
	}
	sigs, err := contracts.ParseCountersignatures(b)
	if err != nil {
		return call.NotBegun(err)
	}
	_, key, err := n.invocationKey(ctx, string(c.Caller.DID))
	if err != nil {
		return call.NotBegun(err)
	}
	return n.gate.Do(ctx, &gate.Request{Surface: surfaceCountersign, Who: gate.Principal{DID: c.Caller.DID, Proof: gate.Channel, Session: string(c.Peer)}},
		func(ctx context.Context, _ *gate.Pass) (gate.Result, error) {
			if err := n.receipts.Countersigned(ctx, c.Caller.DID, key, sigs); err != nil {
				return gate.Result{}, err
			}
			_, err := w.Write([]byte("{}"))
			return gate.Result{}, err
		})
}

func (l *local) Receipts(_ context.Context, side, before string, limit int) ([]contracts.KeptReceipt, error) {
	if l.n.receipts == nil {
		return nil, contracts.Errorf(contracts.Unavailable, "this node has neither the role agent nor gateway")
	}
	switch side {
	case "", receipt.Caller, receipt.Executor:
	default:
		return nil, contracts.Errorf(contracts.Malformed, "side is caller or executor")
	}
	all, err := l.n.receipts.List(side, before, limit)
	if all == nil {
		all = []contracts.KeptReceipt{}
	}
	return all, err
}

func (l *local) ReceiptFile(ctx context.Context, side, before string, limit int) (json.RawMessage, error) {
	all, err := l.Receipts(ctx, side, before, limit)
	if err != nil {
		return nil, err
	}
	f, err := l.n.receipts.File(all)
	if err != nil {
		return nil, err
	}
	return f.AppendCanonical(nil), nil
}
