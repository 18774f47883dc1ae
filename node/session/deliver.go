package session

import (
	"bufio"
	"context"
	"encoding/binary"
	"math/rand/v2"
	"time"

	"github.com/libp2p/go-libp2p/core/network"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
	"github.com/talosprotocol/talos/node/p2p"
	"github.com/talosprotocol/talos/ratchet/handshake"
)

// Frames of the session stream (spec/session.md): a byte, then
const (
	frameRatchet = 0x01 // a ratchet frame
	frameFlight  = 0x02 // a first flight
	frameHave    = 0x03 // next u64: everything below is durable here
	frameRefuse  = 0x04 // next u64: the last frame was not taken; the stream ends

	maxSessionFrame = handshake.MaxFlight + 1
	pipeline        = 64               // frames on the way without an answer
	idleFor         = 30 * time.Second // an idle stream is closed
	firstRetry      = 200 * time.Millisecond
	lastRetry       = time.Minute
)

// deliver makes sure that a goroutine delivers the outbox of c.
func (m *Manager) deliver(c *conversation) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.delivering[string(c.peer)] || m.ctx.Err() != nil {
		return
	}
	m.delivering[string(c.peer)] = true
	m.work.Go(func() { m.deliverLoop(c, c.peer) })
}

// deliverLoop sends until the outbox is empty and nothing came for a while.
func (m *Manager) deliverLoop(c *conversation, peer identity.DID) {
	retry := time.Duration(m.retry.Load())
	for m.ctx.Err() == nil {
		some, err := c.settle(m.ctx)
		if err == nil && !some {
			if m.stopDelivering(c, string(peer)) {
				return
			}
			continue
		}
		if err == nil {
			err = m.prepare(c)
		}
		if err == nil {
			err = m.session(c, peer)
		}
		if err == nil {
			retry = time.Duration(m.retry.Load())
			continue
		}
		if m.ctx.Err() != nil {
			break
		}
		m.log.Debug("delivery", "peer", peer, "err", err, "retry", retry)
		t := time.NewTimer(retry/2 + rand.N(retry))
		select {
		case <-t.C:
		case <-m.ctx.Done():
			t.Stop()
		}
		retry = min(2*retry, lastRetry)
	}
	m.mu.Lock()
	delete(m.delivering, string(peer))
	m.mu.Unlock()
}

// stopDelivering ends the goroutine unless something came in between.
func (m *Manager) stopDelivering(c *conversation, peer string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	select {
	case <-c.wake:
		return false
	default:
		delete(m.delivering, peer)
		return true
	}
}

// prepare makes the session that what waits needs: one if there is none any more,
// and a fresh one once a day.
func (m *Manager) prepare(c *conversation) error {
	c.mu.Lock()
	err := c.load()
	ref, st := c.active()
	missing := err == nil && st == nil && c.row != nil && c.row.redo > 0
	due := st != nil && st.Confirmed() && c.row.redo == 0 && m.now().Sub(ref.created) > rotateAfter
	c.mu.Unlock()
	switch {
	case missing:
		return m.initiate(m.ctx, c, c.peer, false)
	case due:
		if err := m.initiate(m.ctx, c, c.peer, true); err != nil {
			m.log.Info("rotation is put off", "peer", c.peer, "err", err)
		}
	}
	return err
}

type pendingRow struct {
	seq uint64
	row *outboxRow
}

// pending gives up to limit outbox rows from a sequence number on, below to.
func (c *conversation) pending(from, to uint64, limit int) ([]pendingRow, error) {
	var out []pendingRow
	var failed error
	var after []byte
	if from > 0 {
		after = seqKey(rowOutbox, c.id, from-1)
	}
	err := c.m.store.Scan(key(rowOutbox, c.id), after, func(k, v []byte) bool {
		seq := binary.BigEndian.Uint64(k[17:])
		if seq >= to {
			return false
		}
		row, err := decodeOutbox(v)
		if err != nil {
			failed = err
			return false
		}
		out = append(out, pendingRow{seq, row})
		return len(out) < limit
	})
	if err == nil {
		err = failed
	}
	return out, err
}

// session runs one stream: what waits goes out in order, answers come back in
// order, acknowledged rows go.
func (m *Manager) session(c *conversation, peer identity.DID) error {
	dial, cancel := context.WithTimeout(m.ctx, p2p.ReadTimeout)
	defer cancel()
	id, _, err := m.dir.Connect(dial, peer)
	if err != nil {
		return err
	}
	acked, err := c.ackedNow()
	if err != nil {
		return err
	}
	s, err := m.h.NewStream(dial, id, m.h.Protocol(sessionName, protocolVersion))
	if err != nil {
		return contracts.Errorf(contracts.Unavailable, "opening a session stream: %w", err)
	}
	defer s.Close() //nolint:errcheck // what matters was acknowledged
	stop := context.AfterFunc(m.ctx, func() { _ = s.Reset() })
	defer stop()
	_ = s.SetDeadline(time.Now().Add(p2p.ReadTimeout))
	if err := p2p.WriteFrame(s, []byte{0}); err != nil {
		return err
	}
	d := &delivery{m: m, c: c, peer: peer, s: s, acked: acked, answers: make(chan answer, pipeline), quit: make(chan struct{})}
	defer close(d.quit)
	m.work.Go(d.read)
	return d.run()
}

// delivery is one stream in use. run owns all fields; read only sends answers.
type delivery struct {
	m       *Manager
	c       *conversation
	peer    identity.DID
	s       network.Stream
	answers chan answer
	quit    chan struct{}
	acked   uint64 // what the peer had acknowledged before the stream began
	from    uint64 // the next row to send
	flying  int    // frames without an answer
}

type answer struct {
	kind byte
	next uint64
	err  error
}

func (d *delivery) read() {
	r := bufio.NewReader(d.s)
	for {
		b, err := p2p.ReadFrame(r, 16)
		a := answer{err: err}
		if err == nil {
			if len(b) != 9 || (b[0] != frameHave && b[0] != frameRefuse) {
				a.err = contracts.Errorf(contracts.Malformed, "an answer in no form that this node knows")
			} else {
				a.kind, a.next = b[0], binary.BigEndian.Uint64(b[1:])
			}
		}
		select {
		case d.answers <- a:
		case <-d.quit:
			return
		}
		if a.err != nil {
			return
		}
	}
}

func (d *delivery) run() error {
	first := <-d.answers // where the peer stands, before anything is sent
	if first.err != nil {
		return first.err
	}
	if err := d.c.compare(d.m.ctx, first.next, d.acked); err != nil {
		return d.recover(err, first.next)
	}
	idle := time.NewTimer(idleFor)
	defer idle.Stop()
	for {
		if err := d.fill(); err != nil {
			return err
		}
		_ = d.s.SetDeadline(time.Now().Add(p2p.ReadTimeout + idleFor))
		select {
		case a := <-d.answers:
			if a.err != nil {
				return a.err
			}
			d.flying--
			if a = d.newest(a); a.err != nil {
				return a.err
			}
			if err := d.c.have(d.m.ctx, a.next); contracts.CodeOf(err) == contracts.SessionRollback {
				return d.recover(err, a.next)
			} else if err != nil {
				return err
			}
			if _, err := d.c.settle(d.m.ctx); err != nil {
				return err
			}
			if a.kind == frameRefuse {
				return d.recover(contracts.Errorf(contracts.SessionState, "the peer refused a frame"), a.next)
			}
			idle.Reset(idleFor)
		case <-d.c.wake:
			idle.Reset(idleFor)
		case <-idle.C:
			if d.flying == 0 {
				return nil
			}
			return contracts.Errorf(contracts.Unavailable, "the peer does not answer")
		case <-d.m.ctx.Done():
			return nil
		}
	}
}

// newest takes the answers that came behind a one by now: one commit serves all.
func (d *delivery) newest(a answer) answer {
	for a.err == nil && a.kind == frameHave {
		select {
		case a = <-d.answers:
			d.flying--
		default:
			return a
		}
	}
	return a
}

// fill sends rows while the pipeline has room.
func (d *delivery) fill() error {
	if d.flying >= pipeline {
		return nil
	}
	rows, err := d.c.sendable(d.from, pipeline-d.flying)
	if err != nil {
		return err
	}
	var out []byte
	for _, p := range rows {
		kind := byte(frameRatchet)
		if p.row.flight {
			kind = frameFlight
		}
		out = p2p.AppendFrame(out, append([]byte{kind}, p.row.frame...))
		d.from, d.flying = p.seq+1, d.flying+1
	}
	if len(out) == 0 {
		return nil
	}
	_ = d.s.SetWriteDeadline(time.Now().Add(p2p.WriteTimeout))
	_, err = d.s.Write(out)
	return err
}

// have removes the rows that the peer has. A peer that has more than was ever sent
// talks with a copy of this store.
func (c *conversation) have(ctx context.Context, next uint64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.load(); err != nil || c.row == nil {
		return err
	}
	if next > c.row.next {
		return contracts.Errorf(contracts.SessionRollback, "the peer has %d messages of ours and %d were sent: somebody else sends for this DID", next, c.row.next)
	}
	gone := map[string][]byte{}
	rows, err := c.pending(c.row.redo, next, maxWaiting)
	if err != nil {
		return err
	}
	for _, p := range rows {
		gone[string(seqKey(rowOutbox, c.id, p.seq))] = nil
	}
	if next <= c.row.acked && len(gone) == 0 {
		return nil
	}
	c.acknowledged(next)
	return c.commit(ctx, func(tx Tx) error { put(tx, gone); return nil })
}

// sendable gives rows that may travel: not those that wait to be sealed again.
func (c *conversation) sendable(from uint64, limit int) ([]pendingRow, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.load(); err != nil || c.row == nil {
		return nil, err
	}
	return c.pending(max(from, c.row.redo), endOfRows, limit)
}

func (c *conversation) ackedNow() (uint64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.load(); err != nil || c.row == nil {
		return 0, err
	}
	return c.row.acked, nil
}
