package evidence_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"testing"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/talosprotocol/talos/anchor"
	"github.com/talosprotocol/talos/anchor/auditlog"
	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/node"
	"github.com/talosprotocol/talos/node/directory"
	"github.com/talosprotocol/talos/node/evidence"
)

// peerHeads gives what a member has recorded of a log's heads: sizes, in order.
func (m *member) peerHeads(t testing.TB, origin string) (sizes []int64) {
	t.Helper()
	for after := auditlog.Cursor(0); ; {
		got, next, err := m.Evidence().Log().List(t.Context(), after, auditlog.MaxPage)
		if err != nil {
			t.Fatal(err)
		}
		if len(got) == 0 {
			return sizes
		}
		for i := range got {
			ev, err := anchor.DecodeEvent(got[i].Event)
			if err != nil {
				t.Fatal(err)
			}
			if ev.Type == "peer_head" && ev.HeadOrigin == origin {
				if !bytes.HasPrefix([]byte(origin), []byte(ev.Peer)) {
					t.Errorf("a head of %s recorded as of %s", origin, ev.Peer)
				}
				sizes = append(sizes, *ev.HeadSize)
			}
		}
		after = next
	}
}

func (m *member) connect(t testing.TB, to *member) {
	t.Helper()
	wait(t, "a bound connection", func() bool { // its state may not be published yet
		_, _, err := m.Directory().Connect(t.Context(), to.DID())
		return err == nil
	})
}

// hears connects a member with a liar and waits until the liar's head is recorded.
func (m *member) hears(t testing.TB, l *liar, n *anchor.Note) {
	t.Helper()
	l.show(m, l.member, n)
	m.connect(t, l.member)
	wait(t, "a recorded head", func() bool {
		sizes := m.peerHeads(t, n.Origin)
		return len(sizes) == 1 && sizes[0] == int64(n.Size)
	})
}

func convicted(m *member, origin string) bool {
	all, err := m.Evidence().Evidence()
	return err == nil && all[origin] != nil
}

// Row 3: an agent shows each of two peers another history, and no anchor any. Once the
// two talk with each other, it is convicted: by two heads of one size alone, also when
// it has gone, and by its own answers for two sizes. WIT-20, WIT-21.
func TestRow3_ForkSeenByTwoPeersAndNoAnchor(t *testing.T) {
	one, two := forgedHistory(60), forgedHistory(90, 33)
	for name, sizes := range map[string][2]uint64{"A": {50, 50}, "B": {50, 90}} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 0, 3)
			a, b, l := w.agents[0], w.agents[1], newLiar(t, w.agents[2], one, two)
			a.hears(t, l, one.note(t, l.member, sizes[0]))
			b.hears(t, l, two.note(t, l.member, sizes[1]))
			origin := l.Evidence().Log().Origin()
			if convicted(a, origin) || convicted(b, origin) {
				t.Fatal("convicted before the two have talked")
			}
			if name == "A" {
				if err := l.stop(); err != nil {
					t.Fatal(err)
				}
				w.agents = w.agents[:2]
			}
			a.connect(t, b)
			w.caught(t, origin, name)
		})
	}
}

// An honest peer's heads are recorded when they are new, and its log is found to be
// one history; a pair at rest stays so: records of heads make no new ones. WIT-20,
// WIT-21.
func TestHeadsOfAnHonestPeer(t *testing.T) {
	w := newWorld(t, 0, 2)
	a, b := w.agents[0], w.agents[1]
	b.record(t, 5, 0)
	first, err := b.Evidence().Log().Checkpoint(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	a.connect(t, b)
	wait(t, "the head of b", func() bool { return len(a.peerHeads(t, first.Origin)) == 1 })
	// Whatever is exchanged within the minute, no second record.
	b.record(t, 5, 0)
	if _, err := b.Evidence().Log().Checkpoint(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		if err := a.Evidence().Exchange(t.Context(), b.Host().ID()); err != nil {
			t.Fatal(err)
		}
	}
	if sizes := a.peerHeads(t, first.Origin); len(sizes) != 1 {
		t.Errorf("records of sizes %v", sizes)
	}
	if convicted(a, first.Origin) {
		t.Error("an honest log is convicted")
	}
	// What is kept survives a restart, and is what the next head is compared with.
	if err := a.stop(); err != nil {
		t.Fatal(err)
	}
	if rows := a.peerHeadsAfterRestart(t, first.Origin); rows != 1 {
		t.Errorf("%d kept heads after a restart", rows)
	}
}

// peerHeadsAfterRestart starts a member again and counts what it tells of an origin.
func (m *member) peerHeadsAfterRestart(t testing.TB, origin string) (n int) {
	t.Helper()
	again := start(t, m.home)
	h := outsideHost(t)
	if err := h.Connect(t.Context(), peer.AddrInfo{ID: again.Host().ID(), Addrs: again.Host().Addrs()}); err != nil {
		t.Fatal(err)
	}
	st, err := h.NewStream(t.Context(), again.Host().ID(), again.Host().Protocol("log", "1.0.0"))
	if err != nil {
		t.Fatal(err)
	}
	none := sha256.Sum256(nil)
	for _, d := range digestsOf(t, exchangeRaw(t, st, append(append([]byte{1}, none[:]...), 0))) {
		if d.Origin == origin {
			n++
		}
	}
	return n
}

// A peer that shows heads in another's name, or with wrong signatures, is believed
// nothing; a stranger's heads are not recorded. WIT-20, WIT-21.
func TestForgedHeadsOfPeers(t *testing.T) {
	w := newWorld(t, 0, 3)
	a, victim := w.agents[0], w.agents[1]
	l := newLiar(t, w.agents[2])
	forged := victim.forge(t, 40, 1)
	forged.Signatures[0].Body[5] ^= 1
	own := l.forge(t, 40, 1)
	own.Signatures[0].Body[5] ^= 1
	for n, owner := range map[*anchor.Note]*member{forged: victim, own: l.member} {
		l.show(a, owner, n)
		_ = a.Evidence().Exchange(t.Context(), l.Host().ID())
		a.connect(t, l.member)
		_ = a.Evidence().Exchange(t.Context(), l.Host().ID())
		if sizes := a.peerHeads(t, n.Origin); len(sizes) != 0 {
			t.Errorf("a forged head of %s is recorded: %v", n.Origin, sizes)
		}
	}
	// A valid head of another's log, from one who is not its owner, is no peer's head.
	l.show(a, victim, victim.forge(t, 40, 1))
	if err := a.Evidence().Exchange(t.Context(), l.Host().ID()); err != nil {
		t.Error(err)
	}
	if sizes := a.peerHeads(t, victim.Evidence().Log().Origin()); len(sizes) != 0 {
		t.Errorf("a head from a third party is recorded: %v", sizes)
	}
	if all, _ := a.Evidence().Evidence(); len(all) != 0 {
		t.Errorf("%d convictions", len(all))
	}
}

// Evidence that was gossiped when nobody was there to hear it reaches each node that
// comes later, at once. WIT-22.
func TestConvictionsReachWhoComesLater(t *testing.T) {
	w := newWorld(t, 0, 2)
	a, against := w.agents[0], w.agents[1]
	if _, err := a.Directory().Resolve(t.Context(), against.DID(), directory.Options{}); err != nil {
		t.Fatal(err)
	}
	for _, m := range []*member{against, w.boot} { // a is alone
		if err := m.stop(); err != nil {
			t.Fatal(err)
		}
	}
	wait(t, "solitude", func() bool { return len(a.Host().Host.Network().Peers()) == 0 })
	origin := against.Evidence().Log().Origin()
	for root := byte(1); root <= 2; root++ {
		a.Evidence().JudgeDigest(against.digest(t, against.forge(t, 40, root)))
	}
	if !convicted(a, origin) {
		t.Fatal("not convicted")
	}
	// A chain of newcomers, each connected with the one before alone.
	last := a
	for range 3 {
		next := start(t, initHome(t, node.InitOptions{Bootstrap: last.Status().Addresses}))
		wait(t, "the conviction", func() bool { return convicted(next, origin) })
		last = next
	}
	all, _ := last.Evidence().Evidence()
	if c, _, err := evidence.VerifyMessage(all[origin]); err != nil || c.Type != "A" {
		t.Errorf("%+v, %v", c, err)
	}
}

// Who was in the topic already when a log was convicted is told by the log stream too,
// in case gossip did not reach it. WIT-22.
func TestANewConvictionIsAnnounced(t *testing.T) {
	w := newWorld(t, 0, 2)
	a, against := w.agents[0], w.agents[1]
	tp, h := w.outsiderHost(t, "evidence")
	none, told := sha256.Sum256(nil), make(chan struct{}, 1000)
	serveRaw(h, a.Host().Protocol("log", "1.0.0"), func(from peer.ID, ask []byte) []byte {
		if ask[0] == 1 && from == a.Host().ID() && !bytes.Equal(ask[1:33], none[:]) {
			told <- struct{}{}
		}
		return append(append([]byte{0}, ask[1:33]...), 0)
	})
	wait(t, "the topic", func() bool { return len(tp.Peers()) == len(w.all()) })
	if _, err := a.Directory().Resolve(t.Context(), against.DID(), directory.Options{}); err != nil {
		t.Fatal(err)
	}
	for root := byte(1); root <= 2; root++ {
		a.Evidence().JudgeDigest(against.digest(t, against.forge(t, 40, root)))
	}
	wait(t, "an announcement", func() bool { return len(told) > 0 })
}

// A peer that offers convictions which are none teaches nothing, and is left at its
// first lie. WIT-17, WIT-22.
func TestLearningFromAHostilePeer(t *testing.T) {
	w := newWorld(t, 0, 2)
	a := w.agents[0].Evidence()
	h := outsideHost(t)
	if err := h.Connect(t.Context(), peer.AddrInfo{ID: w.agents[0].Host().ID(), Addrs: w.agents[0].Host().Addrs()}); err != nil {
		t.Fatal(err)
	}
	good := evidenceAgainst(t, w.agents[1])
	id := func(b byte) []byte { return bytes.Repeat([]byte{b}, 16) }
	asked := 0
	for name, answer := range map[string]func(ask []byte) []byte{
		"nothing":                func([]byte) []byte { return nil },
		"half an id":             func([]byte) []byte { return make([]byte, 9) },
		"ids that descend":       func([]byte) []byte { return append(append([]byte{0}, id(9)...), id(8)...) },
		"the same id":            func([]byte) []byte { return append(append([]byte{0}, id(9)...), id(9)...) },
		"too many":               func([]byte) []byte { return append([]byte{0}, make([]byte, 16*257)...) },
		"garbage":                offer(id(7), []byte("garbage")),
		"evidence under another": offer(id(7), good),
		"endless pages": func(ask []byte) []byte { // of ids that never end, and no evidence
			return append(append([]byte{0}, ask[1:16]...), ask[16]+1)
		},
	} {
		asked = 0
		serveRaw(h, w.agents[0].Host().Protocol("log", "1.0.0"), func(_ peer.ID, ask []byte) []byte { asked++; return answer(ask) })
		err := a.Learn(t.Context(), h.ID())
		if all, _ := a.Evidence(); err == nil || len(all) != 0 {
			t.Errorf("%s: %v, %d convictions", name, err, len(all))
		}
		if asked > 3 {
			t.Errorf("%s: %d questions", name, asked)
		}
	}
	sum := sha256.Sum256([]byte(w.agents[1].Evidence().Log().Origin()))
	serveRaw(h, w.agents[0].Host().Protocol("log", "1.0.0"), func(_ peer.ID, ask []byte) []byte { return offer(sum[:16], good)(ask) })
	if err := a.Learn(t.Context(), h.ID()); err != nil {
		t.Error(err)
	}
	w.caught(t, w.agents[1].Evidence().Log().Origin(), "A")
}

// offer answers with one id and with the evidence for it.
func offer(id, message []byte) func([]byte) []byte {
	return func(ask []byte) []byte {
		switch {
		case ask[0] == 3:
			return append([]byte{0}, message...)
		case bytes.Compare(ask[1:], id) < 0:
			return append([]byte{0}, id...)
		}
		return []byte{0}
	}
}

// evidenceAgainst makes a valid message that convicts a member.
func evidenceAgainst(t testing.TB, m *member) []byte {
	t.Helper()
	e := anchor.ForkOfSize(m.forge(t, 40, 1), m.forge(t, 40, 2))
	msg := contracts.EvidenceMessage{V: "talos-evidence-message/1", Evidence: base64.RawURLEncoding.EncodeToString(e.AppendCanonical(nil))}
	msg.States = []string{base64.RawURLEncoding.EncodeToString(m.Directory().Self().Raw)}
	return msg.AppendCanonical(nil)
}
