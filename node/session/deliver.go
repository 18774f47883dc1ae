package session

import (
	"bufio"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"slices"
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
	frameHave    = 0x03 // next u64, taken u64: everything below next is durable here
	frameRefuse  = 0x04 // next u64, taken u64: the frame after those taken was not; the stream ends
	answerLen    = 17

	maxSessionFrame = handshake.MaxFlight + 1
	pipeline        = 64               // frames on the way without an answer
	idleFor         = 30 * time.Second // an idle stream is closed
	firstAnswer     = 10 * time.Second // until the peer says where it stands
	firstRetry      = 200 * time.Millisecond
	lastRetry       = time.Minute
	// flushAfter is how long acknowledged rows stay when nothing else is committed.
	flushAfter = 20 * time.Millisecond
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
		retry = min(2*retry, lastRetry)
		select {
		case <-t.C:
		case <-c.arrived: // the peer is back
			retry = time.Duration(m.retry.Load())
		case <-m.ctx.Done():
		}
		t.Stop()
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
	id, who, err := m.dir.Connect(dial, peer)
	if err != nil {
		return err
	}
	m.expect(id, c)
	if err := m.door.Present(dial, id, peer, c.unseen.Swap(false)); err != nil {
		m.log.Debug("showing capabilities", "peer", peer, "err", err)
	}
	if who.State != nil {
		if err := c.voidFor(m.ctx, who.State); err != nil {
			return err
		}
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
	_ = s.SetDeadline(time.Now().Add(firstAnswer))
	if err := p2p.WriteFrame(s, []byte{0}); err != nil {
		return err
	}
	d := &delivery{m: m, c: c, peer: peer, s: s, acked: acked, answers: make(chan answer, pipeline), quit: make(chan struct{})}
	defer close(d.quit)
	m.work.Go(d.read)
	err = d.run()
	c.unseen.Store(contracts.CodeOf(err) == contracts.NoCapability)
	return errors.Join(err, c.flush(m.ctx))
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
	sent    uint64 // frames on this stream,
	taken   uint64 // and how many of them the peer has answered
	out     []byte
}

type answer struct {
	kind        byte
	next, taken uint64
	err         error
}

func (d *delivery) read() {
	r := bufio.NewReader(d.s)
	for {
		b, err := p2p.ReadFrame(r, maxDenial)
		a := answer{err: err}
		if err == nil {
			if len(b) > 0 && b[0] == denied {
				a.err = denial(b)
			} else if len(b) != answerLen || (b[0] != frameHave && b[0] != frameRefuse) {
				a.err = contracts.Errorf(contracts.Malformed, "an answer in no form that this node knows")
			} else {
				a.kind, a.next, a.taken = b[0], binary.BigEndian.Uint64(b[1:]), binary.BigEndian.Uint64(b[9:])
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
	var first answer // where the peer stands, before anything is sent
	for waiting := true; waiting; {
		select {
		case first = <-d.answers:
			waiting = false
		case <-d.c.arrived:
			if d.anew() {
				return errAnew
			}
		}
	}
	if first.err != nil {
		return first.err
	}
	if err := d.c.compare(d.m.ctx, first.next, d.acked); err != nil {
		return d.recover(err, first.next)
	}
	idle, flush := time.NewTimer(idleFor), time.NewTimer(flushAfter)
	defer idle.Stop()
	defer flush.Stop()
	var deadline time.Time
	for {
		if err := d.fill(); err != nil {
			return err
		}
		if now := time.Now(); deadline.Sub(now) < p2p.ReadTimeout { // set anew now and then: each costs
			deadline = now.Add(p2p.ReadTimeout + idleFor)
			_ = d.s.SetDeadline(deadline)
		}
		select {
		case a := <-d.answers:
			if over, err := d.answered(a); over || err != nil {
				return err
			}
			idle.Reset(idleFor)
			flush.Reset(flushAfter)
		case <-d.c.wake:
			idle.Reset(idleFor)
		case <-flush.C:
			if err := d.c.flush(d.m.ctx); err != nil {
				return err
			}
		case <-d.c.arrived:
			if d.sent > d.taken && d.anew() {
				return errAnew
			}
		case <-idle.C:
			if d.sent == d.taken {
				return nil
			}
			return contracts.Errorf(contracts.Unavailable, "the peer does not answer")
		case <-d.m.ctx.Done():
			return nil
		}
	}
}

// answered takes the newest of the answers that are there. over: the session was
// replaced, and the stream is of no use any more.
func (d *delivery) answered(a answer) (over bool, err error) {
	for a.err == nil && a.kind == frameHave && len(d.answers) > 0 {
		a = <-d.answers
	}
	if a.err != nil {
		return true, a.err
	}
	if a.taken < d.taken || a.taken > d.sent {
		return true, contracts.Errorf(contracts.Malformed, "the peer answers %d frames of %d", a.taken, d.sent)
	}
	d.taken = a.taken
	if err := d.c.have(a.next); contracts.CodeOf(err) == contracts.SessionRollback {
		return true, d.recover(err, a.next)
	} else if err != nil {
		return true, err
	}
	if _, err := d.c.settle(d.m.ctx); err != nil {
		return true, err
	}
	if a.kind == frameRefuse {
		return true, d.recover(contracts.Errorf(contracts.SessionState, "the peer refused a frame"), a.next)
	}
	return false, nil
}

var errAnew = contracts.Errorf(contracts.Unavailable, "the peer has connected anew")

// anew reports whether the peer has made another connection than the stream's, which
// may be that of a program that is no more.
func (d *delivery) anew() bool {
	return len(d.m.h.Host.Network().ConnsToPeer(d.s.Conn().RemotePeer())) > 1
}

// fill sends rows while the pipeline has room.
func (d *delivery) fill() error {
	room := pipeline - int(d.sent-d.taken)
	if room <= 0 {
		return nil
	}
	rows, err := d.c.sendable(d.from, room)
	if err != nil || len(rows) == 0 {
		return err
	}
	d.out = d.out[:0]
	for _, p := range rows {
		kind := byte(frameRatchet)
		if p.row.flight {
			kind = frameFlight
		}
		d.out = binary.AppendUvarint(d.out, uint64(1+len(p.row.frame)))
		d.out = append(append(d.out, kind), p.row.frame...)
		d.from, d.sent = p.seq+1, d.sent+1
	}
	_ = d.s.SetWriteDeadline(time.Now().Add(p2p.WriteTimeout))
	_, err = d.s.Write(d.out)
	return err
}

// have notes what the peer has; the rows go with the next commit. A peer that has
// more than was ever sent talks with a copy of this store.
func (c *conversation) have(next uint64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.load(); err != nil || c.row == nil {
		return err
	}
	if next > c.row.next {
		return contracts.Errorf(contracts.SessionRollback, "the peer has %d messages of ours and %d were sent: somebody else sends for this DID", next, c.row.next)
	}
	c.acknowledged(next)
	c.remember(nil)
	return nil
}

// flush deletes the rows that the peer has.
func (c *conversation) flush(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.load(); err != nil || c.row == nil {
		return err
	}
	from, to, err := c.acknowledgedRows()
	if err != nil || from == to {
		return err
	}
	return c.commit(ctx, 0, func(Tx) error { return nil })
}

// sendable gives rows that may travel: not those that wait to be sealed again.
func (c *conversation) sendable(from uint64, limit int) ([]pendingRow, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.load(); err != nil || c.row == nil {
		return nil, err
	}
	from = max(from, c.row.redo, c.row.acked)
	if from < min(c.complete, c.row.next) {
		rows, err := c.pending(from, c.complete, limit)
		if err != nil || len(rows) > 0 {
			return rows, err
		}
	}
	i, _ := slices.BinarySearchFunc(c.recent, from, func(p pendingRow, seq uint64) int { return cmp.Compare(p.seq, seq) })
	rows := c.recent[i:]
	return slices.Clone(rows[:min(len(rows), limit)]), nil
}

func (c *conversation) ackedNow() (uint64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.load(); err != nil || c.row == nil {
		return 0, err
	}
	return c.row.acked, nil
}
