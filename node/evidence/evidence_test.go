package evidence_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"log/slog"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/talosprotocol/talos/anchor"
	"github.com/talosprotocol/talos/anchor/witness"
	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/gossip"
	"github.com/talosprotocol/talos/node/directory"
	"github.com/talosprotocol/talos/node/evidence"
	"github.com/talosprotocol/talos/node/p2p"
)

// caught waits until every member holds evidence against an origin and verifies it
// as a stranger would: offline.
func (w *world) caught(t *testing.T, origin, typ string) {
	t.Helper()
	begin := time.Now()
	for _, m := range w.all() {
		wait(t, "evidence", func() bool {
			all, err := m.Evidence().Evidence()
			return err == nil && all[origin] != nil
		})
		all, _ := m.Evidence().Evidence()
		c, _, err := evidence.VerifyMessage(all[origin])
		if err != nil || c.Origin != origin || c.Type != typ || len(all) != 1 {
			t.Errorf("conviction %+v of %d, %v", c, len(all), err)
		}
	}
	t.Logf("%d nodes hold the evidence after %s", len(w.all()), time.Since(begin).Round(time.Millisecond))
}

// Row 1: an agent shows each of two anchors another history and tells nobody. The
// anchors' digests convict it, everywhere, and it is frozen. WIT-15, WIT-9.
func TestRow1_TwoHistoriesAtTwoAnchors(t *testing.T) {
	w := newWorld(t, 2, 3)
	// The liar's own node keeps an honest log under no anchor; the forged heads are
	// signed with its key beside it.
	liar := start(t, w.agentHome(t))
	w.agents = append(w.agents, liar)
	w.ready(t)
	if err := w.agents[0].submit(t, w.anchors[0], liar.forge(t, 1000, 1)); err != nil {
		t.Fatal(err)
	}
	if err := w.agents[0].submit(t, w.anchors[1], liar.forge(t, 1000, 2)); err != nil {
		t.Fatal(err)
	}
	w.caught(t, liar.Evidence().Log().Origin(), "A")
	for _, a := range w.anchors {
		wait(t, "a frozen log", func() bool {
			return contracts.CodeOf(w.agents[0].submit(t, a, liar.forge(t, 1001, 1))) == contracts.OriginFrozen
		})
	}
}

// WIT-14: forged digests are rejected, unknown logs ignored, and neither holds up a
// log that is known.
func TestDigestSpam(t *testing.T) {
	w := newWorld(t, 1, 2)
	known, judge := w.agents[0], w.agents[1].Evidence()
	if _, err := w.agents[1].Directory().Resolve(t.Context(), known.DID(), directory.Options{}); err != nil {
		t.Fatal(err)
	}
	good := known.digest(t, known.forge(t, 500, 1))
	forged := bytes.Clone(good)
	forged[len(forged)-1] ^= 1
	if v := judge.JudgeDigest(forged); v != gossip.Reject {
		t.Errorf("a forged digest: %d", v)
	}
	if v := judge.JudgeDigest(good[1:]); v != gossip.Reject {
		t.Errorf("a short digest: %d", v)
	}
	spam, rnd := bytes.Clone(good), rand.NewChaCha8([32]byte{1})
	unknown := func() []byte {
		_, _ = rnd.Read(spam[2:34])
		return bytes.Clone(spam)
	}
	// All the places for lookups are taken by strangers' spam.
	done := make(chan gossip.Verdict, 5000)
	for range cap(done) {
		b := unknown()
		go func() { done <- judge.JudgeDigest(b) }()
	}
	// It is accepted, so it took none of them: what finds no place is ignored.
	if v := judge.JudgeDigest(good); v != gossip.Accept {
		t.Errorf("a known log's digest under spam: %d", v)
	}
	for range cap(done) {
		if v := <-done; v != gossip.Ignore {
			t.Fatalf("an unknown log's digest: %d", v)
		}
	}
	if v := judge.JudgeDigest(good); v != gossip.Ignore {
		t.Errorf("a replayed digest: %d", v)
	}
	if v := judge.JudgeDigest(known.digest(t, known.forge(t, 500, 2))); v != gossip.Ignore {
		t.Errorf("a second root: %d", v)
	}
	w.caught(t, known.Evidence().Log().Origin(), "A")
}

// Type B, two sizes and one index with two leaves, travels like any evidence.
func TestRow2_TwoSizesConvict(t *testing.T) {
	w := newWorld(t, 1, 2)
	liar := w.agents[0]
	var branches [2]anchor.Branch
	for i := range branches {
		leaf := anchor.Hash{byte(i + 1)}
		size := uint64(i + 2)
		other := []anchor.Hash{{7}, {8}}[:i+1]
		root, proof := tree(leaf, other)
		n, err := anchor.Sign(anchor.Checkpoint{Origin: liar.Evidence().Log().Origin(), Size: size, Root: root}, anchor.Key(logKey(t, liar.home).Ed25519()))
		if err != nil {
			t.Fatal(err)
		}
		branches[i] = anchor.Branch{Note: n, Leaf: leaf, Proof: proof}
	}
	w.tellEvidence(t, liar, anchor.ForkAtIndex(0, branches[0], branches[1]))
	w.caught(t, liar.Evidence().Log().Origin(), "B")
}

// WIT-12, AUD-10: an anchor that makes up heads, sizes and cosignatures neither stops
// a log nor holds it up. WIT-13: the honest one gets its heads all the same.
func TestALyingAnchorStopsNobody(t *testing.T) {
	w := newWorld(t, 2, 0)
	liar := w.anchors[0]
	_, priv, _ := ed25519.GenerateKey(nil)
	h := liar.Host()
	h.SetStreamHandler(h.Protocol("witness", "1.0.0"), func(st network.Stream) {
		b := make([]byte, 4096)
		n, _ := st.Read(b)
		_, off := binary.Uvarint(b[:n])
		out := (&witness.Stale{Size: 1 << 40, Code: contracts.CheckpointStale})
		answer := witness.Answer(nil, out)
		if ask := b[off:n]; len(ask) > 1 && ask[0] == 2 {
			note, err := anchor.Sign(anchor.Checkpoint{Origin: string(ask[1:]), Size: 1 << 40, Root: anchor.Hash{9}}, anchor.Key(priv))
			if err == nil {
				answer = witness.Answer(note.Append(nil), nil)
			}
		}
		_ = p2p.WriteFrame(st, answer.Append(nil))
		_ = st.Close()
	})
	agent := start(t, w.agentHome(t, w.anchorDIDs...))
	agent.record(t, 3, 1)
	if err := agent.Evidence().Log().Err(); err != nil {
		t.Errorf("the log stopped: %v", err)
	}
	// With nobody but the liar the log takes events and signs nothing.
	alone := start(t, w.agentHome(t, w.anchorDIDs[0]))
	alone.record(t, 3, 0)
	if _, err := alone.Evidence().Log().Checkpoint(t.Context()); contracts.CodeOf(err) != contracts.Unavailable {
		t.Errorf("a checkpoint that no anchor confirmed: %v", err)
	}
	if err := alone.Evidence().Log().Err(); err != nil || alone.Evidence().Log().Head() != nil {
		t.Errorf("the log: %v, head %v", err, alone.Evidence().Log().Head())
	}
	// What the honest one answers is the log's own signature.
	text, err := agent.ask(t, w.anchors[1], append([]byte{2}, agent.Evidence().Log().Origin()...))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := anchor.Open(text, logKey(t, agent.home).Public().Bytes()); err != nil {
		t.Errorf("the honest anchor's answer: %v", err)
	}
	if text, err := agent.ask(t, w.anchors[1], append([]byte{2}, alone.Evidence().Log().Origin()...)); err != nil || len(text) != 0 {
		t.Errorf("a log without a head: %q, %v", text, err)
	}
}

// outsider joins the topics of the network beside the nodes, with no rules.
func (w *world) outsider(t *testing.T, topic string) *gossip.Topic {
	t.Helper()
	tp, _ := w.outsiderHost(t, topic)
	return tp
}

func (w *world) outsiderHost(t *testing.T, topic string) (*gossip.Topic, host.Host) {
	t.Helper()
	h := outsideHost(t)
	g, err := gossip.New(h, gossip.Config{Network: "test"}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = g.Close() })
	tp, err := g.Join(topic, "1", func([]byte) gossip.Verdict { return gossip.Accept }, func(context.Context, []byte) {})
	if err != nil {
		t.Fatal(err)
	}
	// With every node: what is relayed in the first second, before the meshes stand,
	// can be lost.
	for _, m := range w.all() {
		if err := h.Connect(t.Context(), peer.AddrInfo{ID: m.Host().ID(), Addrs: m.Host().Addrs()}); err != nil {
			t.Fatal(err)
		}
	}
	wait(t, "peers in the topic", func() bool { return len(tp.Peers()) == len(w.all()) })
	return tp, h
}

func outsideHost(t testing.TB) host.Host {
	t.Helper()
	h, err := libp2p.New(libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"), libp2p.DisableMetrics())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.Close() })
	return h
}

// tellEvidence gossips evidence against a member's log from outside.
func (w *world) tellEvidence(t *testing.T, against *member, e *contracts.Evidence) {
	t.Helper()
	m := contracts.EvidenceMessage{V: "talos-evidence-message/1", Evidence: base64.RawURLEncoding.EncodeToString(e.AppendCanonical(nil))}
	m.States = []string{base64.RawURLEncoding.EncodeToString(against.Directory().Self().Raw)}
	b := m.AppendCanonical(nil)
	if _, _, err := evidence.VerifyMessage(b); err != nil {
		t.Fatal(err)
	}
	if err := w.outsider(t, "evidence").Publish(t.Context(), b); err != nil {
		t.Fatal(err)
	}
}

// tree gives root and proof of index 0 for a leaf hash followed by one or two others.
func tree(leaf anchor.Hash, others []anchor.Hash) (anchor.Hash, []anchor.Hash) {
	node := func(a, b anchor.Hash) anchor.Hash {
		return sha256.Sum256(append(append([]byte{1}, a[:]...), b[:]...))
	}
	root := leaf
	for _, o := range others {
		root = node(root, o)
	}
	return root, others
}
