package session

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/binary"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/node/p2p"
	"github.com/talosprotocol/talos/ratchet/handshake"
)

const (
	prekeyName, sessionName = "prekey", "session"
	protocolVersion         = "1.0.0"
	bundleLife              = time.Hour       // live bundles are used at once
	fetchEvery              = 2 * time.Second // prekey requests of one peer
	// maxFetches is how many one-time keys of one peer may be outstanding. They live
	// for twice bundleLife, and the pool has 1,024 places for all peers.
	maxFetches = 16
	// replayLife is how long accepted flights are known: longer than their keys.
	replayLife = handshake.SignedLife + handshake.SignedGrace + bundleLife
)

// fetch is what one peer has asked for.
type fetch struct {
	last time.Time
	open []time.Time // when the keys were given that no flight has used yet
}

// loadPrekeys reads the prekeys, or makes the first ones.
func (m *Manager) loadPrekeys() error {
	b, err := m.store.Get([]byte{rowPrekeys})
	if err != nil {
		return err
	}
	made, err := m.store.Get([]byte{rowRotated})
	if err != nil {
		return err
	}
	if b != nil {
		p, err := handshake.DecodePrekeys(b)
		if err != nil {
			return contracts.Errorf(contracts.StorageCorrupt, "prekeys: %w", err)
		}
		m.prekeys, m.rotated = p, time.Time{}
		if len(made) == 8 {
			m.rotated = time.UnixMilli(int64(binary.BigEndian.Uint64(made)))
		}
		return nil
	}
	if m.prekeys, err = handshake.NewPrekeys(rand.Reader); err != nil {
		return err
	}
	m.rotated = m.now()
	return m.storePrekeys(nil)
}

// fetchBundle asks a peer for a bundle with fresh one-time keys.
func (m *Manager) fetchBundle(ctx context.Context, id peer.ID) ([]byte, error) {
	s, err := m.h.NewStream(ctx, id, m.h.Protocol(prekeyName, protocolVersion))
	if err != nil {
		return nil, contracts.Errorf(contracts.Unavailable, "asking for prekeys: %w", err)
	}
	defer s.Close() //nolint:errcheck // answered already
	stop := context.AfterFunc(ctx, func() { _ = s.Reset() })
	defer stop()
	_ = s.SetDeadline(time.Now().Add(p2p.ReadTimeout))
	if err := p2p.WriteFrame(s, []byte{1}); err != nil {
		return nil, contracts.Errorf(contracts.Unavailable, "asking for prekeys: %w", err)
	}
	b, err := p2p.ReadFrame(bufio.NewReader(s), handshake.MaxBundle)
	if err != nil {
		return nil, contracts.Errorf(contracts.Unavailable, "the peer gives no prekeys now: %w", err)
	}
	if len(b) > 0 && b[0] == denied {
		return nil, denial(b)
	}
	return b, nil
}

// servePrekeys gives a bound peer a bundle with one-time keys of its own.
func (m *Manager) servePrekeys(s network.Stream) {
	release, err := p2p.Reserve(s, "talos.prekey", handshake.MaxBundle)
	if err != nil {
		return
	}
	defer release()
	if !m.enter() {
		_ = s.Reset()
		return
	}
	defer m.work.Done()
	_ = s.SetDeadline(time.Now().Add(p2p.ReadTimeout))
	if b, err := p2p.ReadFrame(bufio.NewReader(s), 16); err != nil || len(b) != 1 || b[0] != 1 {
		_ = s.ResetWithError(network.StreamProtocolViolation)
		return
	}
	bundle, err := m.issue(s.Conn().RemotePeer())
	if mayTell(err) {
		_ = p2p.WriteFrame(s, appendDenial(nil, err))
		_ = s.Close()
		return
	}
	if err != nil {
		m.log.Info("prekeys refused", "peer", s.Conn().RemotePeer(), "err", err)
		_ = s.ResetWithError(network.StreamRateLimited)
		return
	}
	_ = p2p.WriteFrame(s, bundle)
	_ = s.Close()
}

// issue mints a one-time key for a peer and gives the bundle that names it.
func (m *Manager) issue(id peer.ID) ([]byte, error) {
	who, err := m.dir.Bind(m.ctx, id)
	if err != nil {
		return nil, err
	}
	if who.State == nil {
		return nil, contracts.Errorf(contracts.PeerNotBound, "prekeys are for peers with a did:talos")
	}
	if err := m.door.Admit(m.ctx, who.DID, id, openSurface); err != nil {
		return nil, err
	}
	now := m.now()
	if err := m.allow(id, now); err != nil {
		return nil, err
	}
	m.pk.Lock()
	defer m.pk.Unlock()
	gone, err := m.refresh(now)
	if err != nil {
		return nil, err
	}
	if m.prekeys.Available() == 0 {
		if err := m.prekeys.Mint(1, rand.Reader); err != nil {
			return nil, err
		}
	}
	bundle, _, err := m.prekeys.Issue(handshake.Issuing{Card: m.card(), Sign: m.sign, Now: now, Life: bundleLife, OneTime: true})
	if err != nil {
		return nil, err
	}
	// Stored before it is given away: no one-time key is ever named twice.
	return bundle, m.storePrekeys(gone)
}

// allow keeps to the limits of one peer.
func (m *Manager) allow(id peer.ID, now time.Time) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for p, f := range m.fetches {
		f.open = slices.DeleteFunc(f.open, func(t time.Time) bool { return now.Sub(t) > 2*bundleLife })
		if len(f.open) == 0 && now.Sub(f.last) > fetchEvery {
			delete(m.fetches, p)
		}
	}
	f := m.fetches[string(id)]
	if f == nil {
		f = &fetch{}
		m.fetches[string(id)] = f
	}
	if since := now.Sub(f.last); since < fetchEvery {
		return contracts.Errorf(contracts.RateLimited, "a bundle was given %s ago", since)
	}
	if len(f.open) >= maxFetches {
		return contracts.Errorf(contracts.RateLimited, "%d bundles were given and not used", len(f.open))
	}
	f.last, f.open = now, append(f.open, now)
	return nil
}

// used takes a key off a peer's account: a flight has used it.
func (m *Manager) used(id peer.ID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if f := m.fetches[string(id)]; f != nil && len(f.open) > 0 {
		f.open = f.open[1:]
	}
}

// refresh drops keys past their time and makes new signed ones once a day, when it
// also forgets the flights that no key can open any more: their rows. The caller
// holds pk.
func (m *Manager) refresh(now time.Time) (gone [][]byte, err error) {
	m.prekeys.Expire(now)
	if now.Sub(m.rotated) < handshake.SignedLife {
		return nil, nil
	}
	if err := m.prekeys.Rotate(rand.Reader); err != nil {
		return nil, err
	}
	m.rotated = now
	err = m.store.Scan([]byte{rowReplay}, nil, func(k, v []byte) bool {
		if len(v) == 8 && now.Sub(time.UnixMilli(int64(binary.BigEndian.Uint64(v)))) > replayLife {
			gone = append(gone, slices.Clone(k))
		}
		return true
	})
	return gone, err
}

func (m *Manager) storePrekeys(gone [][]byte) error {
	return m.store.Update(m.ctx, func(tx Tx) error {
		tx.Put([]byte{rowPrekeys}, m.prekeys.Append(nil))
		tx.Put([]byte{rowRotated}, binary.BigEndian.AppendUint64(nil, uint64(m.rotated.UnixMilli())))
		for _, k := range gone {
			tx.Delete(k)
		}
		return nil
	})
}
