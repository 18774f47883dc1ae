package session

import (
	"context"
	"encoding/binary"
	"slices"
	"time"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/ratchet"
)

// Store keeps the rows of this package, sealed at rest. Update runs f alone; what f
// puts is atomic and durable when Update returns nil, and none of it is there when f
// fails. Any other error of Update leaves open whether it is durable: the caller
// drops what it holds in memory and loads again. Scan goes in the order of keys,
// from the first after the key after.
type Store interface {
	Get(key []byte) ([]byte, error) // nil where there is none
	Scan(prefix, after []byte, f func(key, value []byte) bool) error
	Update(ctx context.Context, f func(Tx) error) error
}

// Tx is a transaction of a Store.
type Tx interface {
	Get(key []byte) ([]byte, error)
	Put(key, value []byte)
	Delete(key []byte)
}

// Keys of the rows: a letter, then ids in big endian.
const (
	rowConversation = 'c' // conversation
	rowSession      = 's' // session
	rowOutbox       = 'o' // conversation, sequence number
	rowAhead        = 'a' // conversation, sequence number
	rowInbox        = 'i' // index
	rowPrekeys      = 'p'
	rowReplay       = 'r' // replay id of an accepted first flight
	rowRotated      = 'k' // when the signed prekeys were made
	rowNextIndex    = 'n'
)

func key(kind byte, id [16]byte) []byte { return append([]byte{kind}, id[:]...) }

func seqKey(kind byte, id [16]byte, seq uint64) []byte {
	return binary.BigEndian.AppendUint64(key(kind, id), seq)
}

func indexKey(n uint64) []byte { return binary.BigEndian.AppendUint64([]byte{rowInbox}, n) }

// conversationRow is what is durable of a conversation.
type conversationRow struct {
	peer   string
	window ratchet.Window
	next   uint64 // sender_seq of the next message, as far as it is known to be used
	acked  uint64 // the peer has everything below, durably
	// redo: outbox rows below it lost their session and hold a body only; they are
	// sealed again once the peer has taken the flight that has this number.
	redo     uint64
	sessions []sessionRef
	opened   time.Time
}

// sessionRef is a session of a conversation; the first is the active one unless it
// only drains.
type sessionRef struct {
	id       ratchet.SessionID
	draining bool
	ours     bool // made by a first flight of this side
	created  time.Time
	changed  time.Time // when it began to drain
	// The key-log numbers that the handshake named, of this DID and the peer's.
	ownLog, peerLog uint64
}

func (c *conversationRow) encode() []byte {
	b := []byte{1, byte(len(c.peer))}
	b = append(b, c.peer...)
	b = binary.BigEndian.AppendUint64(b, c.next)
	b = binary.BigEndian.AppendUint64(b, c.acked)
	b = binary.BigEndian.AppendUint64(b, c.redo)
	b = binary.BigEndian.AppendUint64(b, uint64(c.opened.UnixMilli()))
	b = append(b, byte(len(c.sessions)))
	for _, s := range c.sessions {
		b = append(b, s.id[:]...)
		b = append(b, flag(s.draining)|flag(s.ours)<<1)
		b = binary.BigEndian.AppendUint64(b, uint64(s.created.UnixMilli()))
		b = binary.BigEndian.AppendUint64(b, uint64(s.changed.UnixMilli()))
		b = binary.BigEndian.AppendUint64(b, s.ownLog)
		b = binary.BigEndian.AppendUint64(b, s.peerLog)
	}
	return c.window.Append(b)
}

func decodeConversation(b []byte) (*conversationRow, error) {
	r := rowReader{b: b}
	if r.u8() != 1 {
		return nil, contracts.Errorf(contracts.StorageCorrupt, "a conversation row of unknown version")
	}
	c := &conversationRow{peer: string(r.take(int(r.u8())))}
	c.next, c.acked, c.redo, c.opened = r.u64(), r.u64(), r.u64(), r.time()
	for range r.u8() {
		s := sessionRef{id: ratchet.SessionID(r.id())}
		flags := r.u8()
		s.draining, s.ours = flags&1 != 0, flags&2 != 0
		s.created, s.changed = r.time(), r.time()
		s.ownLog, s.peerLog = r.u64(), r.u64()
		c.sessions = append(c.sessions, s)
	}
	if r.bad {
		return nil, contracts.Errorf(contracts.StorageCorrupt, "a conversation row is cut short")
	}
	var err error
	if c.window, err = ratchet.DecodeWindow(r.b); err != nil {
		return nil, contracts.Errorf(contracts.StorageCorrupt, "a conversation row: %w", err)
	}
	return c, nil
}

// outboxRow is a message on its way.
type outboxRow struct {
	session ratchet.SessionID
	flight  bool // the frame is a first flight
	kind    ratchet.Kind
	made    time.Time
	order   uint64 // the number that the message was accepted with
	body    []byte // kept so that a session that the peer has lost can be replaced
	frame   []byte
}

func (o *outboxRow) encode() []byte {
	b := append([]byte{1}, o.session[:]...)
	b = append(b, flag(o.flight), byte(o.kind))
	b = binary.BigEndian.AppendUint64(b, uint64(o.made.UnixMilli()))
	b = binary.BigEndian.AppendUint64(b, o.order)
	b = binary.BigEndian.AppendUint32(b, uint32(len(o.body)))
	b = append(b, o.body...)
	return append(b, o.frame...)
}

func decodeOutbox(b []byte) (*outboxRow, error) {
	r := rowReader{b: b}
	v := r.u8()
	o := &outboxRow{session: ratchet.SessionID(r.id()), flight: r.u8() == 1, kind: ratchet.Kind(r.u8()), made: r.time(), order: r.u64()}
	o.body = r.take(int(r.u32()))
	if v != 1 || r.bad {
		return nil, contracts.Errorf(contracts.StorageCorrupt, "an outbox row is not as it was written")
	}
	o.frame = r.b
	return o, nil
}

// Message is a message that was received, in its place in the inbox.
type Message struct {
	Index          uint64 // position in the inbox, from 1: the cursor
	Peer           string // DID of the sender
	Session        ratchet.SessionID
	Conversation   [16]byte
	Seq            uint64 // sender_seq
	Received       time.Time
	CiphertextHash [32]byte // SHA-256 of the frame
	Body           []byte
}

// inboxRow and the ahead row have one layout; an ahead row also keeps the kind.
func encodeMessage(kind ratchet.Kind, m *Message) []byte {
	b := []byte{1, byte(kind), byte(len(m.Peer))}
	b = append(b, m.Peer...)
	b = append(b, m.Session[:]...)
	b = append(b, m.Conversation[:]...)
	b = binary.BigEndian.AppendUint64(b, m.Seq)
	b = binary.BigEndian.AppendUint64(b, uint64(m.Received.UnixMilli()))
	b = append(b, m.CiphertextHash[:]...)
	return append(b, m.Body...)
}

func decodeMessage(b []byte) (kind ratchet.Kind, m Message, err error) {
	r := rowReader{b: b}
	v := r.u8()
	kind = ratchet.Kind(r.u8())
	m.Peer = string(r.take(int(r.u8())))
	m.Session, m.Conversation, m.Seq, m.Received = ratchet.SessionID(r.id()), r.id(), r.u64(), r.time()
	copy(m.CiphertextHash[:], r.take(32))
	if v != 1 || r.bad {
		return 0, m, contracts.Errorf(contracts.StorageCorrupt, "an inbox row is not as it was written")
	}
	m.Body = slices.Clone(r.b)
	return kind, m, nil
}

func flag(b bool) byte {
	if b {
		return 1
	}
	return 0
}

// rowReader cuts a row apart; a short row sets bad.
type rowReader struct {
	b   []byte
	bad bool
}

func (r *rowReader) take(n int) []byte {
	if n < 0 || n > len(r.b) {
		r.bad, r.b = true, nil
		return nil
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out
}

func (r *rowReader) u8() byte {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *rowReader) u32() uint32 {
	if b := r.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (r *rowReader) u64() uint64 {
	if b := r.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

func (r *rowReader) id() (id [16]byte) { copy(id[:], r.take(16)); return id }
func (r *rowReader) time() time.Time   { return time.UnixMilli(int64(r.u64())) }
