package session

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/node/directory"
	"github.com/talosprotocol/talos/node/p2p"
)

const (
	readBuffer = 32 << 10
	maxTaken   = 128 << 10 // bytes of frames in one transaction, and one frame more
)

// serveSession takes a peer's frames: each is durable before it is answered. After a
// frame that it cannot take it answers so and ends the stream, so that nothing later
// is taken out of turn.
func (m *Manager) serveSession(s network.Stream) {
	release, err := p2p.Reserve(s, "talos.session", readBuffer+maxTaken+maxSessionFrame)
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
	r := bufio.NewReaderSize(s, readBuffer)
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
	if err := c.voidFor(m.ctx, who.State); err != nil {
		m.log.Warn("sessions under voided keys are not ended yet", "peer", c.peer, "err", err)
		_ = s.Reset()
		return
	}
	if m.answer(s, frameHave, c, 0) != nil {
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

// takeFrames takes what the peer sends, as many frames at once as are there already.
func (m *Manager) takeFrames(s network.Stream, r *bufio.Reader, c *conversation) {
	total := uint64(0)
	var deadline time.Time
	for {
		if now := time.Now(); deadline.Sub(now) < p2p.ReadTimeout+idleFor {
			deadline = now.Add(p2p.ReadTimeout + 2*idleFor)
			_ = s.SetReadDeadline(deadline)
		}
		frames, ended := readFrames(r)
		if ended != nil && len(frames) == 0 {
			_ = s.Close()
			return
		}
		n, msgs, err := m.take(c, s, frames)
		total += uint64(n)
		if len(msgs) > 0 || err != nil {
			m.announce()
		}
		switch {
		case err == nil:
			err = errors.Join(m.answer(s, frameHave, c, total), ended)
		case mayTell(err): // the peer keeps it, and may send it when it may
			m.log.Info("a message of a peer that may not send", "peer", c.peer, "err", err)
			_ = m.answer(s, frameHave, c, total)
			_ = p2p.WriteFrame(s, appendDenial(nil, err))
		case refused(err):
			m.log.Info("frame refused", "peer", c.peer, "err", err)
			_ = m.answer(s, frameRefuse, c, total)
			_ = s.Close()
			return
		default: // this side's trouble: the peer sends the same again
			m.log.Warn("frame not taken", "peer", c.peer, "err", err)
			_ = s.Reset()
		}
		if err != nil {
			_ = s.Close()
			return
		}
	}
}

// readFrames reads a frame, and those behind it that need no waiting.
func readFrames(r *bufio.Reader) ([][]byte, error) {
	var out [][]byte
	for size := 0; len(out) == 0 || len(out) < pipeline && size < maxTaken && p2p.Buffered(r); {
		b, err := p2p.ReadFrame(r, maxSessionFrame)
		if err == nil && len(b) < 2 {
			err = contracts.Errorf(contracts.Malformed, "an empty session frame")
		}
		if err != nil {
			return out, err
		}
		out, size = append(out, b), size+len(b)
	}
	return out, nil
}

// take takes frames in their order, those of the ratchet in one transaction. n is how
// many; err is the fault of the one after them.
func (m *Manager) take(c *conversation, s network.Stream, frames [][]byte) (n int, msgs []Message, err error) {
	for n < len(frames) && err == nil {
		var more []Message
		if frames[n][0] != frameRatchet {
			if more, err = m.takeFlight(c, s, frames[n]); err == nil || contracts.CodeOf(err) == contracts.FrameReplay {
				err = nil
				n++
			}
		} else {
			var run [][]byte
			for _, f := range frames[n:] {
				if f[0] != frameRatchet {
					break
				}
				run = append(run, f[1:])
			}
			k := 0
			k, more, err = m.takeRun(c, s.Conn().RemotePeer(), run)
			n += k
		}
		msgs = append(msgs, more...)
	}
	return n, msgs, err
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

// takeRun takes frames of the ratchet.
func (m *Manager) takeRun(c *conversation, from peer.ID, run [][]byte) (n int, msgs []Message, err error) {
	c.mu.Lock()
	n, msgs, err = c.receive(m.ctx, from, run)
	c.mu.Unlock()
	c.suspectIf(err)
	return n, msgs, err
}

// suspectIf: a peer that acknowledges what this side never sent will do so again when
// it is refused. This side must learn its place from the peer's count.
func (c *conversation) suspectIf(err error) {
	if contracts.CodeOf(err) != contracts.SessionRollback {
		return
	}
	c.mu.Lock()
	c.suspect = true
	c.mu.Unlock()
	c.nudge()
}

// takeFlight takes a first flight.
func (m *Manager) takeFlight(c *conversation, s network.Stream, b []byte) ([]Message, error) {
	if b[0] != frameFlight {
		return nil, contracts.Errorf(contracts.Malformed, "a session frame of unknown kind %d", b[0])
	}
	msgs, err := c.accept(m.ctx, s.Conn().RemotePeer(), b[1:])
	if contracts.CodeOf(err) == contracts.PeerNotBound {
		// The peer's keys may be newer than what is remembered.
		if _, e := m.dir.Resolve(m.ctx, c.peer, directory.Options{Fresh: true}); e == nil {
			msgs, err = c.accept(m.ctx, s.Conn().RemotePeer(), b[1:])
		}
	}
	c.suspectIf(err)
	return msgs, err
}

// answer says what is durable here.
func (m *Manager) answer(s network.Stream, kind byte, c *conversation, taken uint64) error {
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
	return p2p.WriteFrame(s, binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64([]byte{kind}, next), taken))
}
