package session

import (
	"context"

	"github.com/talosprotocol/talos/identity"
)

// void ends, in memory, the sessions whose handshake named keys that either DID has
// voided since: whoever stole them may have made or read the session. peerFrom is the
// first key-log number of the peer whose signatures count. The next commit makes it
// durable. The caller holds mu, with the row loaded.
func (c *conversation) void(peerFrom int64) {
	ownFrom := c.m.dir.Self().Keys.ValidFrom
	var keep []sessionRef
	for _, s := range c.row.sessions {
		if s.ownLog >= uint64(ownFrom) && s.peerLog >= uint64(peerFrom) {
			keep = append(keep, s)
			continue
		}
		delete(c.states, s.id)
		c.ended = append(c.ended, s.id)
	}
	c.row.sessions = keep
}

// voidFor is void with the state that the peer shows now, durable when it returns nil.
func (c *conversation) voidFor(ctx context.Context, peer *identity.State) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.load(); err != nil || c.row == nil {
		return err
	}
	c.void(peer.Keys.ValidFrom)
	if len(c.ended) == 0 {
		return nil
	}
	c.m.log.Info("sessions under voided keys are ended", "peer", c.peer, "count", len(c.ended))
	return c.commit(ctx, 0, func(Tx) error { return nil })
}
