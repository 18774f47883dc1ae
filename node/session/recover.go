package session

import (
	"cmp"
	"context"
	"errors"
	"slices"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/node/p2p"
	"github.com/talosprotocol/talos/ratchet"
)

const (
	endOfRows   = uint64(ratchet.MaxSeq)
	maxWaiting  = 4 * ratchet.WindowSize // more rows than one conversation can have
	resealRows  = 128                    // sealed again in one transaction,
	resealBytes = 512 << 10              // and their size, within what badger takes
)

// compare looks at where the peer stands before the first frame of a stream. It may
// not have more than was sent before this run began (then our store is an old
// copy), nor less than it had acknowledged before the stream began (then the peer's
// is).
func (c *conversation) compare(ctx context.Context, next, acked uint64) error {
	c.mu.Lock()
	if err := c.load(); err != nil || c.row == nil && next == 0 {
		c.suspect = false
		c.mu.Unlock()
		return err
	}
	if c.row == nil {
		c.create() // this store is not even an older copy
	}
	id := ratchet.SessionID{}
	if ref, _ := c.active(); ref != nil {
		id = ref.id
	}
	var err error
	switch {
	case !c.synced && next > c.loaded, next > c.row.next:
		err = contracts.Errorf(contracts.SessionRollback, "the peer has %d messages of ours where this store remembers %d: the store is an older copy", next, c.loaded)
	case next < acked:
		err = contracts.Errorf(contracts.SessionRollback, "the peer has %d messages of ours and had acknowledged %d: its store is an older copy", next, acked)
	default:
		c.synced, c.suspect = true, false
	}
	c.mu.Unlock()
	if err == nil {
		return c.have(next)
	}
	c.m.log.Warn("rollback", "peer", c.peer, "err", err)
	return errors.Join(err, c.m.audit.Record(ctx, 0, nil, Event{Type: "session_close", Peer: string(c.peer), Session: id, Code: contracts.SessionRollback}))
}

// recover replaces a session that one side has lost. The peer takes nothing from this
// stream any more, and from an older one never: next is final.
func (d *delivery) recover(cause error, next uint64) error {
	c, m := d.c, d.m
	ctx, cancel := context.WithTimeout(m.ctx, p2p.ReadTimeout)
	defer cancel()
	id, bundle, err := m.bundle(ctx, d.peer)
	if err != nil {
		return errors.Join(cause, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.load(); err != nil || c.row == nil {
		return errors.Join(cause, err)
	}
	return c.replace(ctx, id, bundle, next)
}

// replace begins a new session, whose second message voids the numbers that will not
// come any more. The bodies of what the peer does not have stay in the outbox below
// redo, and are sealed again when it has taken the flight: so a peer that refuses
// again and again costs no numbers, and a crash in between loses or repeats nothing.
// All in one transaction. The caller holds mu.
func (c *conversation) replace(ctx context.Context, id peer.ID, bundle []byte, next uint64) error {
	rows, err := c.pending(0, endOfRows, maxWaiting)
	if err != nil {
		return err
	}
	again := c.row.redo > 0 && next <= c.row.redo
	for _, p := range rows {
		again = again && (p.seq < c.row.redo || p.row.kind != ratchet.KindData)
	}
	if again { // the last flight was never taken: this one takes its place
		c.row.next = c.row.redo
	}
	c.row.next = max(c.row.next, next)
	var gone []write
	for _, p := range rows {
		// Rows from loaded on were made by this run: if it has not been compared yet,
		// their numbers may be those of other messages at the peer.
		lost := p.seq >= next || p.seq < c.row.redo || !c.synced && p.seq >= c.loaded
		if !lost || p.row.kind != ratchet.KindData || p.row.flight {
			gone = append(gone, write{seqKey(rowOutbox, c.id, p.seq), nil})
		}
	}
	for i := range c.row.sessions {
		if s := &c.row.sessions[i]; !s.draining {
			s.draining, s.changed = true, c.m.now()
		}
	}
	c.row.acked, c.row.redo = next, c.row.next
	c.loaded, c.synced, c.suspect = c.row.next, true, false
	c.low, c.lowKnown = c.row.next, true
	c.forget()
	return c.begin(ctx, beginning{id: id, bundle: bundle, replace: true, gone: gone, void: next})
}

// settle seals again what a replaced session has left, once the peer has taken the
// flight of the new one. some reports whether anything waits.
func (c *conversation) settle(ctx context.Context) (some bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.load(); err != nil || c.row == nil {
		return c.suspect, err
	}
	if _, st := c.active(); c.row.redo > 0 && c.row.acked > c.row.redo && st != nil {
		if err := c.reseal(ctx, false); err != nil {
			return true, err
		}
	}
	if err := c.findLow(); err != nil {
		return true, err
	}
	// Numbers without a row wait for nothing: there are none from low on.
	return max(c.low, c.row.acked) < c.row.next || c.row.redo > 0 || c.suspect, nil
}

// reseal moves the bodies below redo behind all other rows, in the order in which
// they were accepted, some in one transaction. early: the peer has not taken the
// flight, so they must fit into its window.
func (c *conversation) reseal(ctx context.Context, early bool) error {
	rows, err := c.pending(0, c.row.redo, maxWaiting)
	if err != nil {
		return err
	}
	if early && c.row.next-c.row.acked+uint64(len(rows)) >= maxOutbox {
		return contracts.Errorf(contracts.OutboxFull, "a lost session is being replaced; try again")
	}
	slices.SortFunc(rows, func(a, b pendingRow) int { return cmp.Compare(a.row.order, b.row.order) })
	for len(rows) > 0 {
		b := c.newBatch()
		if err := b.hole(); err != nil {
			return err
		}
		for size := 0; len(rows) > 0 && len(b.rows) < resealRows && size < resealBytes; rows = rows[1:] {
			p := rows[0]
			if _, err := b.add(p.row.kind, p.row.body, p.row.order); err != nil {
				return err
			}
			b.delete(seqKey(rowOutbox, c.id, p.seq))
			size += len(p.row.body)
		}
		if len(rows) == 0 {
			c.row.redo = 0
		}
		if err := b.commit(ctx); err != nil {
			return err
		}
	}
	if c.row.redo == 0 {
		return nil
	}
	c.row.redo, c.lowKnown = 0, false // there was nothing to seal again
	return c.commit(ctx, 0, func(Tx) error { return nil })
}
