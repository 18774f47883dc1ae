package node

import (
	"context"
	"encoding/base64"
	"fmt"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/node/session"
)

// recorder writes the events of sessions into the audit log, together with the rows
// that they are about.
type recorder struct{ n *Node }

func (r recorder) Record(ctx context.Context, bytes int, f func(session.Tx) error, events ...session.Event) error {
	evs := make([]*contracts.AuditEvent, len(events))
	for i, e := range events {
		evs[i] = r.event(e)
	}
	if f == nil {
		_, err := r.n.proofs.Log().AppendWith(ctx, nil, evs...)
		return err
	}
	with, failed := r.n.store.Session().With(bytes, f)
	if _, err := r.n.proofs.Log().AppendWith(ctx, with, evs...); err != nil {
		return err
	}
	return failed()
}

func (r recorder) event(e session.Event) *contracts.AuditEvent {
	ev := r.n.proofs.NewEvent(e.Type)
	ev.Peer = e.Peer
	ev.Outcome = "ok"
	if e.Session != ([16]byte{}) {
		ev.Session = uuidText(e.Session)
	}
	if e.CiphertextHash != ([32]byte{}) {
		seq := int64(e.Seq)
		ev.SenderSeq = &seq
		ev.CiphertextHash = base64.RawURLEncoding.EncodeToString(e.CiphertextHash[:])
	}
	if e.Code != "" {
		ev.Code, ev.Outcome = string(e.Code), "error"
	}
	return ev
}

func uuidText(id [16]byte) string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:])
}
