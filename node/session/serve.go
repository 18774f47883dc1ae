package session

import (
	"bufio"
	"context"
	"encoding/binary"
	"time"

	"github.com/libp2p/go-libp2p/core/network"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/node/directory"
	"github.com/talosprotocol/talos/node/p2p"
)

// serveSession takes a peer's frames: each is durable before it is answered. After a
// frame that it cannot take it answers so and ends the stream, so that nothing later
// is taken out of turn.
func (m *Manager) serveSession(s network.Stream) {
	release, err := p2p.Reserve(s, "talos.session", maxSessionFrame)
	if err != nil {
		return
	}
	defer release()
	if !m.enter() {
		_ = s.Reset()
		return
	}
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
	// What an older stream still holds is never taken after the first answer of a
	// newer one: the sender may rely on what that says.
	if !c.enter(s) {
		return
	}
	defer func() { <-c.turn }()
	if m.answer(s, frameHave, c) != nil {
		return
	}
	m.takeFrames(s, r, c)
}

// enter ends the peer's older stream and waits for its last commit.
func (c *conversation) enter(s network.Stream) bool {
	c.m.mu.Lock()
	old := c.incoming
	c.incoming = s
	c.m.mu.Unlock()
	if old != nil {
		_ = old.Reset()
	}
	select {
	case c.turn <- struct{}{}:
		return true
	case <-c.m.ctx.Done():
		return false
	}
}

func (m *Manager) takeFrames(s network.Stream, r *bufio.Reader, c *conversation) {
	for {
		_ = s.SetReadDeadline(time.Now().Add(p2p.ReadTimeout + 2*idleFor))
		b, err := p2p.ReadFrame(r, maxSessionFrame)
		if err != nil || len(b) < 2 {
			_ = s.Close()
			return
		}
		msgs, err := m.takeFrame(c, s, b)
		if len(msgs) > 0 || err != nil {
			m.announce()
		}
		switch {
		case err == nil || contracts.CodeOf(err) == contracts.FrameReplay:
			err = m.answer(s, frameHave, c)
		case refused(err):
			m.log.Info("frame refused", "peer", c.peer, "err", err)
			_ = m.answer(s, frameRefuse, c)
			_ = s.Close()
			return
		default: // this side's trouble: the peer sends the same again
			m.log.Warn("frame not taken", "peer", c.peer, "err", err)
			_ = s.Reset()
		}
		if err != nil {
			return
		}
	}
}

// refused reports whether a frame itself is at fault, so that it would be in vain to
// send it again.
func refused(err error) bool {
	switch contracts.CodeOf(err) {
	case contracts.Malformed, contracts.FrameSize, contracts.FrameTooFar, contracts.UnsupportedVersion, contracts.KeyInvalid,
		contracts.RatchetAuthFailed, contracts.RatchetInvalidHeader, contracts.RatchetInvalidDHKey, contracts.RatchetMaxSkip,
		contracts.SessionNotFound, contracts.SessionRollback, contracts.SessionState,
		contracts.HandshakeFailed, contracts.HandshakePrekey, contracts.HandshakeSignature, contracts.PeerNotBound:
		return true
	}
	return false
}

func (m *Manager) takeFrame(c *conversation, s network.Stream, b []byte) (msgs []Message, err error) {
	defer func() {
		if contracts.CodeOf(err) == contracts.SessionRollback {
			// Refusing is not enough: the peer will acknowledge the same again. This
			// side must learn its place from the peer's count.
			c.mu.Lock()
			c.suspect = true
			c.mu.Unlock()
			c.nudge()
		}
	}()
	switch b[0] {
	case frameRatchet:
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.receive(m.ctx, b[1:])
	case frameFlight:
		msgs, err = c.accept(m.ctx, s.Conn().RemotePeer(), b[1:])
		if contracts.CodeOf(err) == contracts.PeerNotBound {
			// The peer's keys may be newer than what is remembered.
			if _, e := m.dir.Resolve(m.ctx, c.peer, directory.Options{Fresh: true}); e == nil {
				msgs, err = c.accept(m.ctx, s.Conn().RemotePeer(), b[1:])
			}
		}
		return msgs, err
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
