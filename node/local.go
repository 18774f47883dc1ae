package node

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/talosprotocol/talos/anchor/auditlog"
	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
	"github.com/talosprotocol/talos/node/api"
	"github.com/talosprotocol/talos/node/authority"
	"github.com/talosprotocol/talos/node/directory"
	"github.com/talosprotocol/talos/node/session"
)

// local is the node as the loopback API sees it.
type local struct{ n *Node }

func (l *local) Status(context.Context) api.Status { return l.n.Status() }

// Status says how the node is, and in words what is not well.
func (n *Node) Status() api.Status {
	st, pub := n.dir.Self(), n.dir.Published()
	s := api.Status{
		DID: string(st.DID), Version: Version, Network: n.home.Config.Network, Roles: n.home.Config.Roles, State: st.Version(), Strangers: cmp.Or(n.home.Config.Strangers, authority.StrangersAsk),
		PeerID: n.host.ID().String(), Addresses: directory.Addrs(n.host), Started: n.started, Peers: len(n.host.Host.Network().Peers()),
		Table: n.host.DHT.RoutingTable().Size(), Published: pub.Version, Acks: pub.Acks,
		AuditOrigin: n.proofs.Log().Origin(), AuditSize: n.proofs.Log().Size(),
	}
	for _, k := range n.peering.Status() {
		s.Bootstraps++
		if k.Connected {
			s.Reached++
		}
	}
	if n.talks != nil {
		if k, err := n.talks.Active(); err == nil {
			s.Sessions = k
		}
	}
	s.Witnessed, s.Cosigners = n.proofs.Witnessed()
	if ev, err := n.proofs.Evidence(); err == nil {
		s.Evidence = len(ev)
	}
	why := func(format string, args ...any) { s.NotReady = append(s.NotReady, fmt.Sprintf(format, args...)) }
	if err := n.proofs.Log().Err(); err != nil {
		s.AuditErr = err.Error()
		why("audit log: %v", err)
	}
	if pub.Err != nil && pub.Acks == 0 {
		s.PublishErr = pub.Err.Error()
	}
	if contracts.CodeOf(pub.Err) == contracts.Rollback {
		why("%v", pub.Err)
	} else if s.Table == 0 && !n.home.Has("bootstrap") {
		why("no peer: none of the %d bootstraps and last peers is reached", s.Bootstraps)
	} else if (pub.Version != st.Version() || pub.Acks == 0) && !n.home.Has("bootstrap") {
		why("the newest state %s is not published yet", st.Version())
	}
	if err := n.store.Fatal(); err != nil {
		why("store: %v", err)
	}
	s.Ready = len(s.NotReady) == 0
	return s
}

func (l *local) Peers(context.Context) []api.Peer {
	h, bound := l.n.host, l.n.dir.Peers()
	out := []api.Peer{}
	for _, id := range h.Host.Network().Peers() {
		conns := h.Host.Network().ConnsToPeer(id)
		if len(conns) == 0 {
			continue
		}
		p := api.Peer{
			ID: id.String(), Address: conns[0].RemoteMultiaddr().String(), Direction: conns[0].Stat().Direction.String(),
			LatencyMS: h.Peerstore().LatencyEWMA(id).Milliseconds(),
		}
		if b := bound[id]; b != nil {
			p.DID = string(b.DID)
		}
		if v, err := h.Peerstore().Get(id, "AgentVersion"); err == nil {
			p.Agent, _ = v.(string)
		}
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b api.Peer) int { return cmpString(a.ID, b.ID) })
	return out
}

func cmpString(a, b string) int {
	if a < b {
		return -1
	}
	if a > b {
		return 1
	}
	return 0
}

func (l *local) Resolve(ctx context.Context, did string, fresh bool) (*api.Resolution, error) {
	d, err := identity.ParseDID(did)
	if err != nil {
		return nil, err
	}
	r, err := l.n.dir.Resolve(ctx, d, directory.Options{Fresh: fresh})
	if r == nil {
		return nil, err
	}
	out := &api.Resolution{}
	if r.Document != nil {
		out.Document = r.Document.AppendCanonical(nil)
	}
	out.Resolution = api.ResolutionMetadata{Source: r.Source, VerifiedAt: &r.Fetched, Stale: r.Stale}
	if s := r.State; s != nil {
		out.Metadata = api.DocumentMetadata{VersionID: s.Version(), Updated: &s.IssuedAt, NextUpdate: &s.Until, Deactivated: s.Deactivated()}
	}
	return out, err
}

func (l *local) Send(ctx context.Context, to string, body []byte, wait time.Duration) (*api.Sent, error) {
	did, err := identity.ParseDID(to)
	if err != nil {
		return nil, err
	}
	s, err := l.n.Send(ctx, did, body)
	if err != nil {
		return nil, err
	}
	delivered := false
	if wait > 0 {
		ctx, cancel := context.WithTimeout(ctx, wait)
		defer cancel()
		delivered = l.n.talks.Delivered(ctx, did, s.Seq) == nil
	}
	return &api.Sent{
		SessionID: uuidText(s.Session), SenderID: string(l.n.DID()), RecipientID: to, SenderSeq: s.Seq,
		CiphertextHash: base64.RawURLEncoding.EncodeToString(s.CiphertextHash[:]), Delivered: delivered,
	}, nil
}

func (l *local) Inbox(ctx context.Context, after uint64, limit int, wait bool) ([]api.Message, error) {
	msgs, err := l.n.Inbox(ctx, after, limit, wait)
	if err != nil {
		return nil, err
	}
	out := make([]api.Message, 0, len(msgs))
	for _, m := range msgs {
		a := api.Message{
			Index: m.Index, SenderID: m.Peer, SessionID: uuidText(m.Session), SenderSeq: m.Seq, Received: m.Received.UTC(),
			CiphertextHash: base64.RawURLEncoding.EncodeToString(m.CiphertextHash[:]),
		}
		if utf8.Valid(m.Body) {
			a.Text = string(m.Body)
		} else {
			a.Body = base64.RawURLEncoding.EncodeToString(m.Body)
		}
		out = append(out, a)
	}
	return out, nil
}

// talker gives the manager of conversations, or says that there is none.
func (l *local) talker() (*session.Manager, error) {
	if l.n.talks == nil {
		return nil, contracts.Errorf(contracts.Forbidden, "this node is no agent; add the role agent to its configuration")
	}
	return l.n.talks, nil
}

func (l *local) Acknowledge(ctx context.Context, upTo uint64) error {
	m, err := l.talker()
	if err != nil {
		return err
	}
	return m.Acknowledge(ctx, upTo)
}

func (l *local) Sessions(context.Context) ([]api.Session, error) {
	m, err := l.talker()
	if err != nil {
		return nil, err
	}
	infos, err := m.Sessions()
	out := make([]api.Session, 0, len(infos))
	for _, i := range infos {
		out = append(out, api.Session{
			ID: uuidText(i.ID), Peer: i.Peer, Active: i.Active, Confirmed: i.Confirmed, Created: i.Created.UTC(), Sent: i.Sent, Acked: i.Acked, Received: i.Received,
		})
	}
	return out, err
}

func (l *local) RotateSession(ctx context.Context, did string) error {
	return l.onSession(ctx, did, (*session.Manager).Rotate)
}

func (l *local) CloseSession(ctx context.Context, did string) error {
	return l.onSession(ctx, did, (*session.Manager).End)
}

func (l *local) onSession(ctx context.Context, did string, f func(*session.Manager, context.Context, identity.DID) error) error {
	m, err := l.talker()
	if err != nil {
		return err
	}
	d, err := identity.ParseDID(did)
	if err != nil {
		return err
	}
	return f(m, ctx, d)
}

func (l *local) Events(ctx context.Context, after uint64, limit int, last bool) (*api.Events, error) {
	log := l.n.proofs.Log()
	from := auditlog.Cursor(after)
	if last {
		from = log.Tail(uint64(limit))
	}
	entries, next, err := log.List(ctx, from, limit)
	if err != nil {
		return nil, err
	}
	out := &api.Events{Origin: log.Origin(), Size: log.Size(), Next: uint64(next), Events: []api.Event{}}
	for i := range entries {
		e := &entries[i]
		a := api.Event{Index: e.Leaf.Index(), Leaf: e.Leaf.Hash().String(), Event: json.RawMessage("null")}
		if !e.Erased() {
			a.Event = e.Event
		}
		out.Events = append(out.Events, a)
	}
	return out, nil
}

func (l *local) Prove(ctx context.Context, index uint64, sealed bool) ([]byte, error) {
	return l.n.proofs.Prove(ctx, index, sealed)
}

func (l *local) Anchoring(_ context.Context, limit int) (json.RawMessage, error) {
	v, err := l.n.proofs.Anchoring(limit)
	if err != nil {
		return nil, err
	}
	if v == nil {
		return nil, contracts.Errorf(contracts.Unavailable, "this node is no anchor")
	}
	return json.Marshal(v)
}

func (l *local) Evidence(context.Context) (map[string]json.RawMessage, error) {
	m, err := l.n.proofs.Evidence()
	out := make(map[string]json.RawMessage, len(m))
	for k, v := range m {
		out[k] = v
	}
	return out, err
}

func (l *local) RotateKeys(ctx context.Context, recovery string, compromised bool) (*api.Status, error) {
	return l.changeKeys(ctx, func() error { return l.n.home.Rotate(recovery, compromised, time.Now()) })
}

func (l *local) Deactivate(ctx context.Context, recovery string) (*api.Status, error) {
	return l.changeKeys(ctx, func() error { return l.n.home.Deactivate(recovery, time.Now()) })
}

// changeKeys makes the change, which the gate has recorded, and publishes the new state.
func (l *local) changeKeys(ctx context.Context, change func() error) (*api.Status, error) {
	n := l.n
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := change(); err != nil {
		return nil, err
	}
	if !n.home.State.Deactivated() && n.talks != nil {
		k, err := n.home.keyset()
		if err != nil {
			return nil, err
		}
		n.talks.SetKeys(session.Keys{Agreement: k.agreement, Invocation: k.invocation})
	}
	if _, err := n.dir.Publish(ctx, n.home.State); err != nil {
		n.log.Warn("the new state is signed and stored, but not published yet", "err", err)
	}
	if n.home.State.Deactivated() {
		s := n.Status()
		s.State, s.NotReady = n.home.State.Version(), append(s.NotReady, "the DID was deactivated; stop the node")
		return &s, nil
	}
	n.dir.SetSelf(n.home.State)
	s := n.Status()
	return &s, nil
}
