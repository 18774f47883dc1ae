package node

import (
	"context"

	"github.com/talosprotocol/talos/identity"
	"github.com/talosprotocol/talos/node/call"
)

// ServeCalls has a test answer the calls of the mesh; honest is the node's own answer.
func (n *Node) ServeCalls(h func(ctx context.Context, c *call.Call, w *call.ResponseWriter, honest call.Handler) error) {
	n.calls.Serve(func(ctx context.Context, c *call.Call, w *call.ResponseWriter) error { return h(ctx, c, w, n.answer) })
}

// SigningKey gives the key that signs receipts.
func (n *Node) SigningKey() (identity.InvocationKey, error) { return n.signingKey() }

// WithFree says how much room the disk has.
func WithFree(f func(dir string) (uint64, error)) Option { return func(o *options) { o.free = f } }

// Calls gives the calls of the mesh.
func (n *Node) Calls() *call.Calls { return n.calls }
