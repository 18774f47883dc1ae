package node

import (
	"context"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
	"github.com/talosprotocol/talos/node/authority"
	"github.com/talosprotocol/talos/node/directory"
	"github.com/talosprotocol/talos/node/evidence"
	"github.com/talosprotocol/talos/node/gate"
	"github.com/talosprotocol/talos/node/p2p"
	"github.com/talosprotocol/talos/node/session"
)

// DID gives the node's DID.
func (n *Node) DID() identity.DID { return n.dir.Self().DID }

// Host gives the libp2p host.
func (n *Node) Host() *p2p.Host { return n.host }

// Evidence gives the audit log and what anchors said of it.
func (n *Node) Evidence() *evidence.Service { return n.proofs }

// Directory resolves DIDs.
func (n *Node) Directory() *directory.Directory { return n.dir }

// Send accepts a message for another agent; see session.Manager.Send.
func (n *Node) Send(ctx context.Context, to identity.DID, body []byte) (session.Sent, error) {
	if n.talks == nil {
		return session.Sent{}, contracts.Errorf(contracts.Forbidden, "this node is no agent; add the role agent to its configuration")
	}
	return n.talks.Send(ctx, to, body)
}

// Inbox gives up to limit messages after a cursor, and waits for one until ctx ends
// if wait is set.
func (n *Node) Inbox(ctx context.Context, after uint64, limit int, wait bool) ([]session.Message, error) {
	if n.talks == nil {
		return nil, contracts.Errorf(contracts.Forbidden, "this node is no agent; add the role agent to its configuration")
	}
	changed, stop := n.talks.Changed()
	defer stop()
	for {
		msgs, err := n.talks.Inbox(after, limit)
		if err != nil || len(msgs) > 0 || !wait {
			return msgs, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, nil
		}
	}
}

// Gate gives the door that whatever is done for others must pass.
func (n *Node) Gate() *gate.Gate { return n.gate }

// Powers gives the capabilities of the node.
func (n *Node) Powers() *authority.Service { return n.powers }

// Sessions gives the manager of conversations, nil unless the node is an agent.
func (n *Node) Sessions() *session.Manager { return n.talks }

// Prove makes the proof bundle of an entry of the node's audit log.
func (n *Node) Prove(ctx context.Context, index uint64) ([]byte, error) {
	return n.proofs.Prove(ctx, index, false)
}
