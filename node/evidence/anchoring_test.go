package evidence_test

import (
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/talosprotocol/talos/anchor"
	"github.com/talosprotocol/talos/anchor/chain/ethereum"
	"github.com/talosprotocol/talos/anchor/chain/evm"
	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
	"github.com/talosprotocol/talos/node"
	"github.com/talosprotocol/talos/node/evidence"
	fake "github.com/talosprotocol/talos/testnet/fake/chain"
)

// anchoringWorld is a bootstrap, anchors that cosign each other and close an epoch every
// second, of which the first writes to a chain, and agents.
func anchoringWorld(t *testing.T, anchors, agents int) (*world, *fake.Chain) {
	t.Helper()
	c := fake.New(1337)
	server := httptest.NewServer(c)
	t.Cleanup(server.Close)
	w := &world{boot: start(t, initHome(t, node.InitOptions{Roles: []string{"bootstrap"}}))}
	var homes []*node.Home
	for i := range anchors {
		o := node.InitOptions{Roles: []string{"anchor"}, Bootstrap: w.boot.Status().Addresses, Epochs: 1}
		if i == 0 {
			id, every, above := int64(1337), int64(1), int64(1)
			o.Chains = []contracts.AnchorChain{{Driver: "ethereum", Urls: []string{server.URL}, ChainID: &id, EverySeconds: &every, Confirmations: &above}}
		}
		h := initHome(t, o)
		homes, w.anchorDIDs = append(homes, h), append(w.anchorDIDs, string(h.DID()))
	}
	for _, h := range homes {
		h.Config.Anchors = w.anchorDIDs
		if err := os.WriteFile(filepath.Join(h.Dir, "config.json"), h.Config.AppendCanonical(nil), 0o600); err != nil {
			t.Fatal(err)
		}
		w.anchors = append(w.anchors, start(t, h))
	}
	for range agents {
		w.agents = append(w.agents, start(t, initHome(t, node.InitOptions{Bootstrap: w.boot.Status().Addresses, Anchors: w.anchorDIDs, Epochs: 1})))
	}
	w.ready(t)
	return w, c
}

// policy is an auditor who trusts the anchors.
func (w *world) policy() anchor.Policy {
	p := anchor.Policy{Quorum: len(w.anchorDIDs)/2 + 1}
	for _, d := range w.anchorDIDs {
		p.Witnesses = append(p.Witnesses, anchor.PolicyWitness{Name: d, Organisation: d})
	}
	return p
}

// proven waits until the bundle of an entry shows what is wanted of it.
func (m *member) proven(t *testing.T, what string, ok func(*anchor.Parts) bool) []byte {
	t.Helper()
	var b []byte
	wait(t, what, func() bool {
		var err error
		if b, err = m.Evidence().Prove(t.Context(), 0, false); err != nil {
			t.Fatal(err)
		}
		p, err := anchor.ReadBundle(b)
		if err != nil {
			t.Fatal(err)
		}
		return ok(p)
	})
	return b
}

func drivers(p *anchor.Parts) (n map[string]int) {
	n = map[string]int{}
	for i := range p.Anchorings {
		for _, r := range p.Anchorings[i].Receipts {
			n[r.Driver]++
		}
	}
	return n
}

// From an event to a chain and to an auditor, over real nodes: CHAIN-10, CHAIN-11,
// CHAIN-12, CHAIN-17.
func TestAnchoring(t *testing.T) {
	w, c := anchoringWorld(t, 3, 1)
	a := w.agents[0]
	a.record(t, 3, 3)
	b := a.proven(t, "anchorings by all", func(p *anchor.Parts) bool { return drivers(p)["quorum"] == 3 })
	v, _ := evidence.VerifyBundle(b, w.policy(), time.Now())
	if v.Level != anchor.AnchoredByQuorum || v.Outcome() != anchor.Valid || !v.QuorumMet() {
		t.Errorf("verdict %s", v)
	}
	b = a.proven(t, "a receipt of the chain", func(p *anchor.Parts) bool {
		c.Mine()
		return drivers(p)["ethereum"] == 1
	})
	if len(b) > 64<<10 {
		t.Errorf("a bundle of %d bytes", len(b))
	}
	t.Logf("a bundle with 3 epochs and one chain has %d bytes", len(b))

	// Offline, without trust in a block: the chain cannot be told of, the rest stands.
	v, _ = evidence.VerifyBundle(b, w.policy(), time.Now())
	if v.Level != anchor.AnchoredByQuorum || !strings.Contains(v.String(), "cannot tell because") {
		t.Errorf("verdict %s", v)
	}
	p, err := anchor.ReadBundle(b)
	if err != nil {
		t.Fatal(err)
	}
	for i := range p.Anchorings {
		for _, r := range p.Anchorings[i].Receipts {
			if r.Driver != "ethereum" {
				continue
			}
			h, err := ethereum.Open(&r)
			if err != nil {
				t.Fatal(err)
			}
			e := &ethereum.Verifier{Blocks: map[string]map[uint64]evm.Hash{r.Chain: {h.Number: h.Hash}}}
			v, _ := evidence.VerifyBundleWith(b, w.policy(), time.Now(), map[string]anchor.ReceiptVerifier{"ethereum": e})
			if v.Level != anchor.Chained || v.Outcome() != anchor.Valid || v.NotAfter.After(h.Time) {
				t.Errorf("with the block's hash: %s", v)
			}
			e.Blocks[r.Chain][h.Number] = evm.Hash{1}
			v, _ = evidence.VerifyBundleWith(b, w.policy(), time.Now(), map[string]anchor.ReceiptVerifier{"ethereum": e})
			if v.Level != anchor.AnchoredByQuorum || !strings.Contains(v.String(), "invalid because") {
				t.Errorf("with another block's hash: %s", v)
			}
		}
	}
	w.lies(t, a, p)
	// The anchor says where it stands; a node that is none has nothing to say.
	s, err := w.anchors[0].Evidence().Anchoring(10)
	if err != nil || len(s.Epochs) == 0 || len(s.Chains) != 2 || len(s.Receipts) < 2 {
		t.Errorf("the anchor says %+v, %v", s, err)
	}
	if s, err := a.Evidence().Anchoring(10); s != nil || err != nil {
		t.Errorf("an agent says %+v, %v", s, err)
	}
	// Nothing of it is lost over a start of all.
	for _, m := range append([]*member{a}, w.anchors...) {
		if err := m.stop(); err != nil {
			t.Error(err)
		}
	}
	a = start(t, a.home)
	a.proven(t, "the same after a start", func(p *anchor.Parts) bool { return drivers(p)["ethereum"] == 1 })
}

// lies has anchors answer with what is not so. CHAIN-17.
func (w *world) lies(t *testing.T, a *member, p *anchor.Parts) {
	t.Helper()
	for i := range p.Anchorings {
		good := p.Anchorings[i].Anchoring
		did, _, _ := strings.Cut(good.Anchor, "/")
		by := identity.DID(did)
		text := func(change func(a *anchor.Anchoring)) []byte {
			other := good
			other.Receipts = slices.Clone(good.Receipts)
			change(&other)
			c, err := other.Contract()
			if err != nil {
				t.Fatal(err)
			}
			return c.AppendCanonical(nil)
		}
		if err := a.Evidence().CheckAnchoring(t.Context(), by, text(func(*anchor.Anchoring) {})); err != nil {
			t.Error(err)
		}
		if err := a.Evidence().CheckAnchoring(t.Context(), a.DID(), text(func(*anchor.Anchoring) {})); contracts.CodeOf(err) != contracts.Forbidden {
			t.Errorf("another's anchoring: %v", err)
		}
		forged := text(func(a *anchor.Anchoring) {
			for j := range a.Receipts {
				a.Receipts[j].Body = []byte("nothing")
			}
		})
		if err := a.Evidence().CheckAnchoring(t.Context(), by, forged); contracts.CodeOf(err) != contracts.ProofInvalid {
			t.Errorf("receipts that are none: %v", err)
		}
		fewer := good
		fewer.Receipts = good.Receipts[:len(good.Receipts)-1]
		if evidence.ProvesMore(&fewer, &good) || evidence.ProvesMore(&good, &good) || !evidence.ProvesMore(&good, &fewer) {
			t.Error("an anchoring that proves less may replace one that proves more")
		}
	}
}

// Row 26 for anchorings: with one of three anchors, no quorum, and no false claim.
func TestRow26_AnchoringWithoutQuorum(t *testing.T) {
	w, _ := anchoringWorld(t, 1, 1)
	a := w.agents[0]
	a.record(t, 1, 1)
	b := a.proven(t, "an anchoring", func(p *anchor.Parts) bool { return drivers(p)["quorum"] == 1 })
	p := w.policy()
	p.Witnesses = append(p.Witnesses, anchor.PolicyWitness{Name: "two.example/w", Organisation: "two"}, anchor.PolicyWitness{Name: "three.example/w", Organisation: "three"})
	p.Quorum = 2
	v, _ := evidence.VerifyBundle(b, p, time.Now())
	if v.Level != anchor.Witnessed || v.QuorumMet() || !strings.Contains(v.String(), "1 of the policy's 3 organisations") {
		t.Errorf("verdict %s", v)
	}
}
