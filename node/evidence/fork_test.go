package evidence_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"math/bits"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"

	"github.com/talosprotocol/talos/anchor"
	"github.com/talosprotocol/talos/anchor/witness"
	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/node/evidence"
)

// Row 2: an agent shows an anchor two histories at two sizes, told apart at one index.
// The anchor refuses the second, asks the agent about both, and finds the index; the
// evidence convicts by itself, everywhere. WIT-18, WIT-19.
func TestRow2_ForkAtTwoSizesIsProvenByAsking(t *testing.T) {
	one, two := forgedHistory(400), forgedHistory(333, 77, 140)
	for name, show := range map[string]func(w *world, l *liar){
		"no proof joins them": func(w *world, l *liar) {
			proof, err := anchor.Nodes(two.read).Consistency(t.Context(), 200, 333)
			if err != nil {
				t.Fatal(err)
			}
			_, err = w.agents[0].ask(t, w.anchors[0], witness.AppendRequest([]byte{1}, witness.Request{OldSize: 200, Proof: proof, Note: two.note(t, l.member, 333).Append(nil)}))
			if contracts.CodeOf(err) != contracts.ProofInvalid {
				t.Errorf("the second history: %v", err)
			}
		},
		"an older one that was never submitted": func(w *world, l *liar) {
			_, err := w.agents[0].ask(t, w.anchors[0], witness.AppendRequest([]byte{1}, witness.Request{Note: two.note(t, l.member, 150).Append(nil)}))
			if contracts.CodeOf(err) != contracts.CheckpointStale {
				t.Errorf("an older head: %v", err)
			}
		},
		"the other is only gossiped": func(w *world, l *liar) {
			if err := w.outsider(t, "digest").Publish(t.Context(), l.digest(t, two.note(t, l.member, 333))); err != nil {
				t.Fatal(err)
			}
		},
		"the other is only gossiped, and the first goes on": func(w *world, l *liar) {
			if err := w.outsider(t, "digest").Publish(t.Context(), l.digest(t, two.note(t, l.member, 333))); err != nil {
				t.Fatal(err)
			}
			proof, err := anchor.Nodes(one.read).Consistency(t.Context(), 200, 400)
			if err != nil {
				t.Fatal(err)
			}
			_, err = w.agents[0].ask(t, w.anchors[0], witness.AppendRequest([]byte{1}, witness.Request{OldSize: 200, Proof: proof, Note: one.note(t, l.member, 400).Append(nil)}))
			if err != nil && contracts.CodeOf(err) != contracts.OriginFrozen {
				t.Errorf("the first history: %v", err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			defer evidence.SetPatience(200 * time.Millisecond)()
			w := newWorld(t, 1, 1)
			l := newLiar(t, start(t, w.agentHome(t)), one, two)
			w.agents = append(w.agents, l.member)
			w.ready(t)
			if err := w.agents[0].submit(t, w.anchors[0], one.note(t, l.member, 200)); err != nil {
				t.Fatal(err)
			}
			show(w, l)
			w.caught(t, l.Evidence().Log().Origin(), "B")
			all, _ := w.anchors[0].Evidence().Evidence()
			c, _, err := evidence.VerifyMessage(all[l.Evidence().Log().Origin()])
			if err != nil || c.Below != 77 && c.Below != 140 {
				t.Errorf("conviction %+v, %v", c, err)
			}
			t.Logf("found at %d after %d questions", c.Below, l.questions())
		})
	}
}

// A log that answers with anything but proofs, or not at all, convicts nobody, costs
// little, and ends the comparison. WIT-17, WIT-18.
func TestAnInquiryOfAHostileLog(t *testing.T) {
	w := newWorld(t, 0, 2)
	one, two := forgedHistory(200), forgedHistory(333, 77)
	l, asker := newLiar(t, w.agents[0], one, two), w.agents[1].Evidence()
	a, b := one.note(t, l.member, 200), two.note(t, l.member, 333)
	w.agents[1].connect(t, l.member)
	find := func(ctx context.Context) (*contracts.Evidence, error) {
		before := l.questions()
		e, err := asker.FindFork(ctx, b, a)
		if n, limit := l.questions()-before, 2*(1+bits.Len(200)); n > limit {
			t.Errorf("%d questions, at most %d", n, limit)
		}
		return e, err
	}
	for name, spoil := range map[string]func(ask, honest []byte) []byte{
		"nothing":        func(_, _ []byte) []byte { return nil },
		"an empty frame": func(_, _ []byte) []byte { return []byte{} },
		"garbage":        func(_, honest []byte) []byte { return bytes.Repeat([]byte{0}, len(honest)) },
		"another kind":   func(_, honest []byte) []byte { return append([]byte{7}, honest[1:]...) },
		"a short proof":  func(_, honest []byte) []byte { return honest[:len(honest)-32] },
		"half a hash":    func(_, honest []byte) []byte { return honest[:len(honest)-5] },
		"a long proof":   func(_, honest []byte) []byte { return append(honest, make([]byte, 64*32)...) },
		"a flipped bit":  func(_, honest []byte) []byte { honest[40] ^= 1; return honest },
		"another leaf":   func(_, honest []byte) []byte { honest[1] ^= 1; return honest },
		"one history": func(ask, honest []byte) []byte {
			if binary.BigEndian.Uint64(ask[37:]) == 333 {
				return append([]byte{1}, "NOT_FOUND"...)
			}
			return honest
		},
		"64 KiB":           func(_, _ []byte) []byte { return make([]byte, 1<<16) },
		"an error of 1 MB": func(_, _ []byte) []byte { return append([]byte{1}, make([]byte, 1<<20)...) },
	} {
		l.mu.Lock()
		l.spoil = spoil
		l.mu.Unlock()
		if e, err := find(t.Context()); err == nil || e != nil {
			t.Errorf("%s: %v, %v", name, e, err)
		}
	}
	// One that takes the question and says nothing is left when the time is over.
	h := l.Host()
	hang := make(chan network.Stream, 8)
	h.SetStreamHandler(h.Protocol("log", "1.0.0"), func(st network.Stream) { hang <- st })
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-hang; cancel() }()
	if e, err := asker.FindFork(ctx, a, b); err == nil || e != nil {
		t.Errorf("silence: %v, %v", e, err)
	}
	// One that never ends is left at the limit of the answer.
	h.SetStreamHandler(h.Protocol("log", "1.0.0"), func(st network.Stream) {
		for err := error(nil); err == nil; {
			_, err = st.Write(bytes.Repeat([]byte{0xff}, 4096))
		}
	})
	if e, err := asker.FindFork(t.Context(), a, b); err == nil || e != nil {
		t.Errorf("an endless answer: %v, %v", e, err)
	}
	if all, err := asker.Evidence(); err != nil || len(all) != 0 {
		t.Errorf("%d convictions, %v", len(all), err)
	}
}

// WIT-16: an honest node proves what its log has signed and nothing else. WIT-17: not
// as often as anybody likes.
func TestTheLogStreamOfAnHonestNode(t *testing.T) {
	w := newWorld(t, 0, 2)
	owner, asker := w.agents[0], w.agents[1]
	owner.record(t, 20, 0)
	head, err := owner.Evidence().Log().Checkpoint(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	asker.connect(t, owner)
	id := owner.Host().ID()
	ask := func(n *anchor.Note, index uint64) ([]byte, error) {
		return asker.Evidence().Ask(t.Context(), id, binary.BigEndian.AppendUint64(append([]byte{4}, owner.digest(t, n)...), index))
	}
	b, err := ask(head, 3)
	if err != nil {
		t.Fatal(err)
	}
	var proof []anchor.Hash
	for rest := b[32:]; len(rest) >= 32; rest = rest[32:] {
		proof = append(proof, anchor.Hash(rest))
	}
	if err := anchor.VerifyInclusion(3, head.Size, anchor.Hash(b), head.Root, proof); err != nil {
		t.Error(err)
	}
	refused := func(what, code string, err error) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), code) {
			t.Errorf("%s: %v, want %s", what, err, code)
		}
	}
	_, err = ask(head, head.Size)
	refused("an index beyond the head", "NOT_FOUND", err)
	_, err = ask(owner.forge(t, head.Size, 1), 3)
	refused("a head of another tree with its key", "EQUIVOCATION", err)
	_, err = ask(owner.forge(t, 1<<40, 1), 3)
	refused("a head beyond the log", "NOT_FOUND", err)
	unsigned := append([]byte{4}, owner.digest(t, head)...)
	unsigned[len(unsigned)-1] ^= 1
	_, err = asker.Evidence().Ask(t.Context(), id, append(unsigned, make([]byte, 8)...))
	refused("a head that it has not signed", "SIGNATURE_INVALID", err)
	others := asker.digest(t, asker.forge(t, 5, 1))
	_, err = asker.Evidence().Ask(t.Context(), id, append(append([]byte{4}, others...), make([]byte, 8)...))
	refused("another's log", "ORIGIN_UNKNOWN", err)
	for _, body := range [][]byte{{9}, {4}, {1}, {2, 1}, {3}, append([]byte{1}, make([]byte, 100)...)} {
		_, err = asker.Evidence().Ask(t.Context(), id, body)
		refused("a malformed question", "MALFORMED", err)
	}
	owner.record(t, 30, 0)
	later, err := owner.Evidence().Log().Checkpoint(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if e, err := asker.Evidence().FindFork(t.Context(), later, head); e != nil || err != nil || later.Size < 50 {
		t.Errorf("two honest heads, of %d and %d: %v, %v", head.Size, later.Size, e, err)
	}
	for range 1000 {
		if _, err = ask(head, 3); err != nil {
			break
		}
	}
	refused("a thousand questions", "RATE_LIMITED", err)
}
