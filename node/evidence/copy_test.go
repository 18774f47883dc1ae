package evidence_test

import (
	"path/filepath"
	"testing"

	"github.com/talosprotocol/talos/anchor"
	"github.com/talosprotocol/talos/anchor/witness"
	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/node"
)

// Row 5, one home: a second process on it is refused, and harms nothing.
func TestRow5_OneHomeTwice(t *testing.T) {
	w := newWorld(t, 1, 1)
	agent := w.agents[0]
	agent.record(t, 3, 1)
	h, err := node.OpenHome(agent.home.Dir)
	if err == nil {
		_, err = node.New(t.Context(), h, discard, node.WithoutAPI())
	}
	if contracts.CodeOf(err) != contracts.Busy {
		t.Errorf("a second node on the same home: %v", err)
	}
	agent.record(t, 3, 1)
}

// Row 5, a copy with the same keys, both running: the one that comes second to the
// anchor learns there of a head that it never signed, and stops before it has signed
// anything. A program that signs all the same is refused by the anchor.
func TestRow5_CopiedHomeWithBothRunning(t *testing.T) {
	w := newWorld(t, 1, 1)
	agent := w.agents[0]
	agent.record(t, 3, 1)
	if err := agent.stop(); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "copy")
	copyDir(t, agent.home.Dir, dir)
	agent = start(t, agent.home)
	w.agents[0] = agent
	agent.record(t, 5, 1) // it comes first
	cosigned := agent.Evidence().Log().Size()
	twin := start(t, &node.Home{Dir: dir})
	common := twin.Evidence().Log().Head().Size
	var err error
	for range 20 { // it may be stopped at any of them
		if _, err = twin.Evidence().Append(t.Context(), twin.Evidence().NewEvent("message_out")); err != nil {
			break
		}
	}
	wait(t, "the copy in quarantine", func() bool {
		_, err = twin.Evidence().Log().Checkpoint(t.Context())
		return quarantined(twin) != nil
	})
	if q := quarantined(twin); q.Reason != "rollback" || contracts.CodeOf(err) != contracts.AuditQuarantined {
		t.Errorf("the copy: %v, %v", q, err)
	}
	if h := twin.Evidence().Log().Head(); h.Size != common {
		t.Errorf("the copy signed size %d after %d", h.Size, common)
	}
	w.refuses(t, agent, twin, common)
	// The one history that is cosigned is the first one's.
	text, err := agent.ask(t, w.anchors[0], append([]byte{2}, agent.Evidence().Log().Origin()...))
	if err != nil {
		t.Fatal(err)
	}
	n, err := anchor.ParseNote(text)
	if err != nil {
		t.Fatal(err)
	}
	if root, err := agent.Evidence().Log().Root(t.Context(), n.Size); err != nil || root != n.Root || n.Size < cosigned {
		t.Errorf("cosigned: size %d, %v", n.Size, err)
	}
}

// refuses shows the anchor heads of a copy's tree, signed with the common key, with
// every proof that the copy can make.
func (w *world) refuses(t *testing.T, agent, twin *member, common uint64) {
	t.Helper()
	l := twin.Evidence().Log()
	size := l.Size()
	root, err := l.Root(t.Context(), size)
	if err != nil {
		t.Fatal(err)
	}
	other, err := anchor.Sign(anchor.Checkpoint{Origin: l.Origin(), Size: size, Root: root}, anchor.Key(logKey(t, agent.home).Ed25519()))
	if err != nil {
		t.Fatal(err)
	}
	for old := uint64(0); old <= size; old++ {
		proof, err := l.Consistency(t.Context(), old, size)
		if err != nil {
			t.Fatal(err)
		}
		_, err = twin.ask(t, w.anchors[0], witness.AppendRequest([]byte{1}, witness.Request{OldSize: old, Proof: proof, Note: other.Append(nil)}))
		switch c := contracts.CodeOf(err); c {
		case contracts.ProofInvalid, contracts.CheckpointStale, contracts.Equivocation, contracts.OriginFrozen, contracts.RateLimited:
		default:
			t.Errorf("the copy's head of %d (%d are common) with a proof from %d: %v", size, common, old, err)
		}
	}
}
