package session

import (
	"context"
	"encoding/binary"
	"time"

	"github.com/talosprotocol/talos/ratchet"
)

// Inbox gives up to limit messages after a cursor, oldest first.
func (m *Manager) Inbox(after uint64, limit int) ([]Message, error) {
	var out []Message
	var failed error
	err := m.store.Scan([]byte{rowInbox}, indexKey(after), func(k, v []byte) bool {
		if len(out) == limit {
			return false
		}
		_, msg, err := decodeMessage(v)
		if err != nil {
			failed = err
			return false
		}
		msg.Index = binary.BigEndian.Uint64(k[1:])
		out = append(out, msg)
		return true
	})
	if err == nil {
		err = failed
	}
	return out, err
}

// Acknowledge removes the messages up to a cursor: the application has them.
func (m *Manager) Acknowledge(ctx context.Context, upTo uint64) error {
	var keys [][]byte
	err := m.store.Scan([]byte{rowInbox}, nil, func(k, _ []byte) bool {
		if binary.BigEndian.Uint64(k[1:]) > upTo {
			return false
		}
		keys = append(keys, k)
		return true
	})
	if err != nil || len(keys) == 0 {
		return err
	}
	return m.store.Update(ctx, func(tx Tx) error {
		for _, k := range keys {
			tx.Delete(k)
		}
		return nil
	})
}

// Changed gives a channel that gets a token when the inbox has something new, until
// stop is called.
func (m *Manager) Changed() (changed <-chan struct{}, stop func()) {
	ch := make(chan struct{}, 1)
	m.mu.Lock()
	m.listeners[ch] = struct{}{}
	m.mu.Unlock()
	return ch, func() {
		m.mu.Lock()
		delete(m.listeners, ch)
		m.mu.Unlock()
	}
}

func (m *Manager) announce() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for ch := range m.listeners {
		select {
		case ch <- struct{}{}:
		default:
		}
	}
}

// Info is what a person may see of a session.
type Info struct {
	ID        ratchet.SessionID
	Peer      string
	Active    bool
	Confirmed bool
	Created   time.Time
	Sent      uint64 // messages of the conversation sent so far
	Acked     uint64 // of these, acknowledged by the peer
	Received  uint64 // messages of the peer received without a gap
}

// Sessions lists all sessions.
func (m *Manager) Sessions() ([]Info, error) {
	var peers []string
	err := m.store.Scan([]byte{rowConversation}, nil, func(_, v []byte) bool {
		if row, err := decodeConversation(v); err == nil {
			peers = append(peers, row.peer)
		}
		return true
	})
	if err != nil {
		return nil, err
	}
	var out []Info
	for _, p := range peers {
		infos, err := m.conversation(p).infos()
		if err != nil {
			return nil, err
		}
		out = append(out, infos...)
	}
	return out, nil
}

func (c *conversation) infos() ([]Info, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.load(); err != nil || c.row == nil {
		return nil, err
	}
	var out []Info
	for _, s := range c.row.sessions {
		out = append(out, Info{
			ID: s.id, Peer: c.row.peer, Active: !s.draining, Confirmed: c.states[s.id].Confirmed(), Created: s.created,
			Sent: c.row.next, Acked: c.row.acked, Received: c.row.window.Next(),
		})
	}
	return out, nil
}
