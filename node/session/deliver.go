package session

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
	"github.com/talosprotocol/talos/node/p2p"
	"github.com/talosprotocol/talos/ratchet"
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
	peer := ""
	m.mu.Lock()
	defer m.mu.Unlock()
	for p, x := range m.conversations {
		if x == c {
			peer = p
		}
	}
	if m.delivering[peer] || m.ctx.Err() != nil {
		return
	}
	m.delivering[peer] = true
	m.work.Go(func() { m.deliverLoop(c, identity.DID(peer)) })
}

// deliverLoop sends until the outbox is empty and nothing came for a while.
func (m *Manager) deliverLoop(c *conversation, peer identity.DID) {
	retry := firstRetry
	for m.ctx.Err() == nil {
		rows, err := c.pending(0, 1)
		if err == nil && len(rows) == 0 {
			if m.stopDelivering(c, string(peer)) {
				return
			}
			continue
		}
		if err == nil {
			err = m.session(c, peer)
		}
		if err == nil {
			retry = firstRetry
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

type pendingRow struct {
	seq uint64
	row *outboxRow
}

// pending gives up to limit outbox rows from a sequence number on.
func (c *conversation) pending(from uint64, limit int) ([]pendingRow, error) {
	var out []pendingRow
	var failed error
	var after []byte
	if from > 0 {
		after = seqKey(rowOutbox, c.id, from-1)
	}
	err := c.m.store.Scan(key(rowOutbox, c.id), after, func(k, v []byte) bool {
		row, err := decodeOutbox(v)
		if err != nil {
			failed = err
			return false
		}
		out = append(out, pendingRow{binary.BigEndian.Uint64(k[17:]), row})
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
	d := &delivery{m: m, c: c, peer: peer, s: s, answers: make(chan answer, pipeline), quit: make(chan struct{})}
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
	if err := d.c.compare(d.m.ctx, first.next); err != nil {
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
			if err := d.c.have(d.m.ctx, a.next); err != nil {
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

// fill sends rows while the pipeline has room.
func (d *delivery) fill() error {
	if d.flying >= pipeline {
		return nil
	}
	rows, err := d.c.pending(d.from, pipeline-d.flying)
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

// have removes the rows that the peer has.
func (c *conversation) have(ctx context.Context, next uint64) error {
	rows, err := c.pending(0, 4*pipeline)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.load(); err != nil || c.row == nil || next <= c.row.acked && (len(rows) == 0 || rows[0].seq >= next) {
		return err
	}
	c.acknowledged(next)
	return c.commit(ctx, func(tx Tx) error {
		for _, p := range rows {
			if p.seq < next {
				tx.Delete(seqKey(rowOutbox, c.id, p.seq))
			}
		}
		return nil
	})
}

// compare looks at where the peer stands before the first frame of a stream. It may
// not have more than was sent before this run began (then our store is an old
// copy), nor less than it has acknowledged (then the peer's is).
func (c *conversation) compare(ctx context.Context, next uint64) error {
	c.mu.Lock()
	if err := c.load(); err != nil || c.row == nil {
		c.mu.Unlock()
		return err
	}
	old, synced := c.loaded, c.synced
	c.synced = true
	acked, used := c.row.acked, c.row.next
	peer := c.row.peer
	ref, _ := c.active()
	c.mu.Unlock()
	id := ratchet.SessionID{}
	if ref != nil {
		id = ref.id
	}
	var err error
	switch {
	case !synced && next > old, next > used:
		err = contracts.Errorf(contracts.SessionRollback, "the peer has %d messages of ours where this store remembers %d: the store is an older copy", next, old)
	case next < acked:
		err = contracts.Errorf(contracts.SessionRollback, "the peer has %d messages of ours and had acknowledged %d: its store is an older copy", next, acked)
	default:
		return c.have(ctx, next)
	}
	c.m.log.Warn("rollback", "peer", peer, "err", err)
	return errors.Join(err, c.m.audit.Record(ctx, Event{Type: "session_close", Peer: peer, Session: id, Code: contracts.SessionRollback}))
}

// recover replaces a session that one side has lost: a fresh handshake, a VOID over
// the numbers that will not come any more, and what the peer does not have sealed
// again under the new session.
func (d *delivery) recover(cause error, next uint64) error {
	c, m := d.c, d.m
	ctx, cancel := context.WithTimeout(m.ctx, p2p.ReadTimeout)
	defer cancel()
	id, _, err := m.dir.Connect(ctx, d.peer)
	if err != nil {
		return errors.Join(cause, err)
	}
	bundle, err := m.fetchBundle(ctx, id)
	if err != nil {
		return errors.Join(cause, err)
	}
	rows, err := c.pending(0, maxOutbox)
	if err != nil {
		return errors.Join(cause, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.load(); err != nil || c.row == nil {
		return errors.Join(cause, err)
	}
	return c.replace(ctx, d.peer, id, bundle, rows, next)
}

// replace does what recover says. The caller holds mu.
func (c *conversation) replace(ctx context.Context, did identity.DID, id peer.ID, bundle []byte, rows []pendingRow, next uint64) error {
	for i := range c.row.sessions {
		if s := &c.row.sessions[i]; !s.draining {
			s.draining, s.changed = true, c.m.now()
		}
	}
	made := c.loaded // rows from here on were made by this run and never delivered
	c.row.next = max(c.row.next, next)
	c.row.acked = next
	c.loaded, c.synced = c.row.next, true
	if err := c.begin(ctx, did, id, bundle, nil, c.m.checkCard(ctx, did)); err != nil {
		return err
	}
	if first := c.row.next - 1; next < first {
		if _, err := c.seal(ctx, ratchet.KindControl, ratchet.Hole{A: next, B: first}.Append(nil)); err != nil {
			return err
		}
	}
	for _, p := range rows {
		if (p.seq >= next || p.seq >= made) && p.row.kind == ratchet.KindData {
			if _, err := c.seal(ctx, ratchet.KindData, p.row.body); err != nil {
				return err
			}
		}
	}
	return c.commit(ctx, func(tx Tx) error {
		for _, p := range rows {
			tx.Delete(seqKey(rowOutbox, c.id, p.seq))
		}
		return nil
	})
}

// serveSession takes a peer's frames: each is durable before it is answered. After a
// frame that it cannot take it answers so and ends the stream, so that nothing later
// is taken out of turn.
func (m *Manager) serveSession(s network.Stream) {
	release, err := p2p.Reserve(s, "talos.session", maxSessionFrame)
	if err != nil {
		return
	}
	defer release()
	m.work.Add(1)
	defer m.work.Done()
	stop := context.AfterFunc(m.ctx, func() { _ = s.Reset() })
	defer stop()
	_ = s.SetDeadline(time.Now().Add(p2p.ReadTimeout))
	who, err := m.dir.Bind(m.ctx, s.Conn().RemotePeer())
	if err != nil || who.State == nil {
		m.log.Info("session stream of an unbound peer", "peer", s.Conn().RemotePeer(), "err", err)
		_ = s.ResetWithError(network.StreamProtocolViolation)
		return
	}
	c := m.conversation(string(who.DID))
	r := bufio.NewReaderSize(s, 16<<10)
	if b, err := p2p.ReadFrame(r, 16); err != nil || len(b) != 1 || b[0] != 0 {
		_ = s.ResetWithError(network.StreamProtocolViolation)
		return
	}
	if m.answer(s, frameHave, c) != nil {
		return
	}
	for {
		_ = s.SetReadDeadline(time.Now().Add(p2p.ReadTimeout + 2*idleFor))
		b, err := p2p.ReadFrame(r, maxSessionFrame)
		if err != nil || len(b) < 2 {
			_ = s.Close()
			return
		}
		msgs, err := m.takeFrame(c, who.DID, s, b)
		if len(msgs) > 0 {
			m.announce()
		}
		switch contracts.CodeOf(err) {
		case "", contracts.FrameReplay:
			err = m.answer(s, frameHave, c)
		default:
			m.log.Info("frame refused", "peer", who.DID, "err", err)
			_ = m.answer(s, frameRefuse, c)
			_ = s.Close()
			return
		}
		if err != nil {
			return
		}
	}
}

func (m *Manager) takeFrame(c *conversation, who identity.DID, s network.Stream, b []byte) ([]Message, error) {
	switch b[0] {
	case frameRatchet:
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.receive(m.ctx, b[1:])
	case frameFlight:
		check := m.checkCard(m.ctx, who)
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.accept(m.ctx, who, s.Conn().RemotePeer(), b[1:], check)
	}
	return nil, contracts.Errorf(contracts.Malformed, "a session frame of unknown kind %d", b[0])
}

// answer says what is durable here.
func (m *Manager) answer(s network.Stream, kind byte, c *conversation) error {
	c.mu.Lock()
	err := c.load()
	next := uint64(0)
	if c.row != nil {
		next = c.row.window.Next()
	}
	c.mu.Unlock()
	if err != nil {
		_ = s.Reset()
		return err
	}
	_ = s.SetWriteDeadline(time.Now().Add(p2p.WriteTimeout))
	return p2p.WriteFrame(s, binary.BigEndian.AppendUint64([]byte{kind}, next))
}
