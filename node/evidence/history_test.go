package evidence_test

import (
	"bufio"
	"context"
	"encoding/binary"
	"sync"
	"testing"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"

	"github.com/talosprotocol/talos/anchor"
	"github.com/talosprotocol/talos/node/p2p"
)

// history is a forged tree: leaf hashes that stand for no events.
type history struct {
	leaves, nodes []anchor.Hash
}

// forgedHistory gives n leaves; those at the indexes are another's.
func forgedHistory(n int, differ ...int) *history {
	h := &history{}
	var f anchor.Frontier
	for i := range n {
		leaf := anchor.Hash{byte(i), byte(i >> 8), 1}
		for _, d := range differ {
			if d == i {
				leaf[2] = 2
			}
		}
		h.leaves = append(h.leaves, leaf)
		h.nodes = f.Append(h.nodes, leaf)
	}
	return h
}

func (h *history) read(_ context.Context, numbers []uint64) ([]anchor.Hash, error) {
	out := make([]anchor.Hash, len(numbers))
	for i, n := range numbers {
		out[i] = h.nodes[n]
	}
	return out, nil
}

func (h *history) root(t testing.TB, size uint64) anchor.Hash {
	t.Helper()
	root, err := anchor.Nodes(h.read).RootAt(context.Background(), size)
	if err != nil {
		t.Fatal(err)
	}
	return root
}

// note signs a head of the history with a member's log key.
func (h *history) note(t testing.TB, m *member, size uint64) *anchor.Note {
	t.Helper()
	c := anchor.Checkpoint{Origin: m.Evidence().Log().Origin(), Size: size, Root: h.root(t, size)}
	n, err := anchor.Sign(c, anchor.Key(logKey(t, m.home).Ed25519()))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// liar answers on the log stream in place of a node: for all its histories, told
// apart by their roots, and with a head for each peer. Nil answers reset the stream.
type liar struct {
	*member
	t         testing.TB
	histories []*history
	spoil     func(ask, honest []byte) []byte // of proofs; nil: honest in every history

	mu    sync.Mutex
	shown map[peer.ID][]byte // a digest
	asked int                // for proofs
}

func newLiar(t testing.TB, m *member, histories ...*history) *liar {
	l := &liar{member: m, t: t, histories: histories, shown: map[peer.ID][]byte{}}
	serveRaw(m.Host().Host, m.Host().Protocol("log", "1.0.0"), func(from peer.ID, ask []byte) []byte {
		l.mu.Lock()
		defer l.mu.Unlock()
		out := l.answer(from, ask)
		if ask[0] != 4 {
			return out
		}
		if l.asked++; l.spoil != nil {
			out = l.spoil(ask, out)
		}
		return out
	})
	return l
}

// show says which head of whose log a peer is shown.
func (l *liar) show(to, owner *member, n *anchor.Note) {
	d := owner.digest(l.t, n)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.shown[to.Host().ID()] = d
}

func (l *liar) questions() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.asked
}

func (l *liar) answer(from peer.ID, ask []byte) []byte {
	switch {
	case ask[0] == 1:
		out := append([]byte{0}, ask[1:33]...) // it knows the convictions that the asker knows
		if d := l.shown[from]; d != nil {
			return append(append(out, 1), d...)
		}
		return append(out, 0)
	case ask[0] == 4 && len(ask) == 149:
		d, err := anchor.ParseDigest(ask[1:141])
		if err != nil {
			return nil
		}
		index := binary.BigEndian.Uint64(ask[141:])
		for _, h := range l.histories {
			if d.Size <= uint64(len(h.leaves)) && h.root(l.t, d.Size) == d.Root {
				proof, err := anchor.Nodes(h.read).Inclusion(context.Background(), index, d.Size)
				if err != nil {
					return nil
				}
				out := append([]byte{0}, h.leaves[index][:]...)
				for i := range proof {
					out = append(out, proof[i][:]...)
				}
				return out
			}
		}
	}
	return append([]byte{1}, "NOT_FOUND"...)
}

// serveRaw answers one frame with another; a nil answer resets the stream.
func serveRaw(h host.Host, id protocol.ID, answer func(peer.ID, []byte) []byte) {
	h.SetStreamHandler(id, func(st network.Stream) {
		ask, err := p2p.ReadFrame(bufio.NewReader(st), 1<<16)
		var out []byte
		if err == nil && len(ask) > 0 {
			out = answer(st.Conn().RemotePeer(), ask)
		}
		if out == nil {
			_ = st.Reset()
			return
		}
		_ = p2p.WriteFrame(st, out)
		_ = st.Close()
	})
}

// exchangeRaw sends one frame and reads one.
func exchangeRaw(t testing.TB, st network.Stream, body []byte) []byte {
	t.Helper()
	defer st.Close() //nolint:errcheck // a test
	if err := p2p.WriteFrame(st, body); err != nil {
		t.Fatal(err)
	}
	b, err := p2p.ReadFrame(bufio.NewReader(st), 1<<16)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// digestsOf gives the digests in an answer of heads.
func digestsOf(t testing.TB, answer []byte) (out []*anchor.Digest) {
	t.Helper()
	if len(answer) < 34 || answer[0] != 0 || len(answer) != 34+int(answer[33])*anchor.DigestSize {
		t.Fatalf("an answer of %d bytes", len(answer))
	}
	for rest := answer[34:]; len(rest) > 0; rest = rest[anchor.DigestSize:] {
		d, err := anchor.ParseDigest(rest[:anchor.DigestSize])
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, d)
	}
	return out
}
