package anchor_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/talosprotocol/talos/anchor"
	"github.com/talosprotocol/talos/contracts"
)

// anchorOrigin names the log of an anchor.
func anchorOrigin(name string) string {
	id := sha256.Sum256([]byte(name))
	b := append([]byte{0x12, 0x20}, id[:]...)
	b = append(b, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1)
	d, err := anchor.ParseDigest(append(b, make([]byte, 96)...))
	if err != nil {
		panic(err)
	}
	return d.Origin
}

// anchored makes the anchoring of a head by an anchor, with signatures of organisations
// and the receipt of a chain that only exists in these tests.
func anchored(name string, c anchor.Checkpoint, by ...string) anchor.Anchoring {
	leaves := []anchor.EpochLeaf{anchor.NewEpochLeaf(c)}
	for i := range 20 {
		leaves = append(leaves, anchor.NewEpochLeaf(anchor.Checkpoint{Origin: fmt.Sprint(name, i), Size: 1}))
	}
	tree, err := anchor.NewEpochTree(leaves)
	if err != nil {
		panic(err)
	}
	l := &log{origin: anchorOrigin(name), key: seed(name), history: name, at: make([]anchor.Frontier, 1)}
	l.grow(9)
	ev := anchor.NewEvent("epoch", keyDID, epoch.Add(time.Minute), [10]byte{1})
	number, count := int64(3), int64(len(leaves))
	ev.Index, ev.Count, ev.HeadRoot = &number, &count, anchor.EncodeHash(tree.Root())
	l.add(ev, anchor.Salt{7})
	l.grow(6)
	index, _ := tree.Find(anchor.LogID(c.Origin))
	proof, err := tree.Proof(index)
	if err != nil {
		panic(err)
	}
	h := l.head(14, epoch.Add(2*time.Minute), by...)
	n := &anchor.Note{Checkpoint: h.Note.Checkpoint, Signatures: append(slices.Clone(h.Note.Signatures), h.Cosignatures...)}
	other := l.note(16).Checkpoint
	body := other.Commitment()
	return anchor.Anchoring{
		Anchor: l.origin, Leaf: anchor.NewEpochLeaf(c), Index: uint64(index), Proof: proof, Event: ev, Salt: l.salts[9], Entry: l.leaves[9],
		Receipts: []anchor.Receipt{
			{Driver: "quorum", Chain: "quorum", Head: n.Checkpoint, Inclusion: l.inclusion(9, 14), Body: n.Append(nil)},
			{Driver: "test", Chain: "test:1", Head: other, Inclusion: l.inclusion(9, 16), Body: body[:]},
		},
	}
}

// testChain judges the receipts of that chain.
var testChain = map[string]anchor.ReceiptVerifier{"test": anchor.ReceiptVerifierFunc(func(r *anchor.Receipt) anchor.Finding {
	if c := r.Head.Commitment(); !bytes.Equal(c[:], r.Body) || r.Chain != "test:1" {
		return anchor.Findingf(anchor.NotValid, "it is of another head or chain")
	}
	f := anchor.Findingf(anchor.Valid, "it is there")
	f.Existed = epoch.Add(3 * time.Minute)
	return f
})}

// anchoredWorld is a bundle whose head two anchors have anchored, one of them later.
func anchoredWorld() (keys, anchor.Policy, anchor.Parts) {
	k, p := world()
	for _, name := range []string{"acme", "bolt"} {
		k.log[anchorOrigin(name)] = public(name)
	}
	l := newLog("anchored").grow(60)
	parts := l.parts(20, l.head(40, epoch, orgs...))
	proof, err := anchor.Nodes(l.read).Consistency(context.Background(), 40, 55)
	if err != nil {
		panic(err)
	}
	parts.Anchorings = []anchor.HeadAnchoring{
		{Anchoring: anchored("acme", l.note(40).Checkpoint, orgs...)},
		{Anchoring: anchored("bolt", l.note(55).Checkpoint, orgs[:2]...), Consistency: proof},
	}
	slices.SortFunc(parts.Anchorings, func(a, b anchor.HeadAnchoring) int { return strings.Compare(a.Anchor, b.Anchor) })
	return k, p, parts
}

// The whole way, and what an auditor can say of it with more and less trust. CHAIN-10,
// CHAIN-11, CHAIN-12.
func TestAnchoredBundle(t *testing.T) {
	k, p, parts := anchoredWorld()
	text := bundle(t, parts)
	trust := anchor.Trust{Keys: k, Policy: p, Now: later}
	v := anchor.VerifyWith(text, trust)
	if v.Level != anchor.AnchoredByQuorum || !v.QuorumMet() || v.Outcome() != anchor.Valid || len(v.Anchorings) != 4 {
		t.Errorf("without a chain: %s", v)
	}
	if !strings.Contains(v.String(), "cannot tell because this verifier does not know the driver test") || !strings.Contains(v.String(), "2 of the policy's 5 organisations") {
		t.Errorf("what it says: %s", v)
	}
	trust.Chains = testChain
	v = anchor.VerifyWith(text, trust)
	if v.Level != anchor.Chained || v.Outcome() != anchor.Valid || !v.QuorumMet() {
		t.Errorf("with the chain: %s", v)
	}
	// A chain's time bounds the event's as a witness's does, if it is earlier.
	if want := epoch.Add(time.Second); !v.NotAfter.Equal(want) {
		t.Errorf("not after %v, want %v", v.NotAfter, want)
	}
	// Without the anchor's key the signatures cannot be told of, with another they are not
	// its own; the chain does not need them.
	k.log[anchorOrigin("acme")] = public("thief")
	delete(k.log, anchorOrigin("bolt"))
	v = anchor.VerifyWith(text, trust)
	if v.Level != anchor.Chained || !strings.Contains(v.String(), "invalid because the anchor did not sign") || !strings.Contains(v.String(), "cannot tell because the key") {
		t.Errorf("without keys: %s", v)
	}
	// A forked log stays one, unless the bundle is under the fork.
	l := newLog("anchored").grow(60)
	e := anchor.ForkOfSize(l.note(60), l.fork(10, "x").grow(50).note(60)).AppendCanonical(nil)
	trust.Known = [][]byte{e}
	if v = anchor.VerifyWith(text, trust); v.Level != anchor.Chained { // 40 is at most what both share
		t.Errorf("below the fork: %s", v)
	}
	trust.Known = [][]byte{l.fork(10, "x").grow(50).note(40).Append(nil)}
	if v = anchor.VerifyWith(text, trust); v.Level != anchor.Forked || v.Outcome() != anchor.NotValid {
		t.Errorf("above the fork: %s", v)
	}
}

// Row 31 with anchorings: no bit of them is free. CHAIN-9.
func TestRow31_EveryBitFlipOfAnAnchoredBundle(t *testing.T) {
	k, p, parts := anchoredWorld()
	parts.Anchorings = parts.Anchorings[:1]
	parts.Head.Cosignatures = parts.Head.Cosignatures[:4]
	whole := bundle(t, parts)
	trust := anchor.Trust{Keys: k, Policy: p, Now: later, Chains: testChain}
	wantLevel(t, anchor.VerifyWith(whole, trust), anchor.Chained)
	const workers = 2
	var all sync.WaitGroup
	for w := range workers {
		all.Go(func() {
			text := bytes.Clone(whole)
			for i := w; i < len(text)*8; i += workers {
				text[i/8] ^= 1 << (i % 8)
				if v := anchor.VerifyWith(text, trust); v.Level != anchor.Invalid || len(v.Problems) == 0 {
					t.Errorf("bit %d of byte %q: %s", i%8, text[i/8], v)
				}
				text[i/8] ^= 1 << (i % 8)
			}
		})
	}
	all.Wait()
	t.Logf("%d bits of a bundle of %d bytes", len(whole)*8, len(whole))
}

// CHAIN-16: a version that this program does not know may be as good as any.
func TestUnknownVersionCannotBeTold(t *testing.T) {
	k, p, parts := anchoredWorld()
	text := string(bundle(t, parts))
	v := anchor.Verify([]byte(strings.Replace(text, "talos-bundle/2", "talos-bundle/3", 1)), k, p, later)
	if v.Outcome() != anchor.CannotTell || v.Code != contracts.UnsupportedVersion || !strings.Contains(v.String(), "version 3") {
		t.Errorf("%s, %s", v.Outcome(), v)
	}
	v = anchor.Verify([]byte(strings.Replace(text, "talos-bundle/2", "talos-bundle/1", 1)), k, p, later)
	if v.Outcome() != anchor.NotValid {
		t.Errorf("anchorings in version 1: %s", v)
	}
	if v := anchor.Verify([]byte(text), keys{}, p, later); v.Outcome() != anchor.CannotTell {
		t.Errorf("without the log's key: %s", v)
	}
}

// CHAIN-10, and row 19: anchorings that are cut, in another order, of another log, signed
// again, or whose parts belong to others.
func TestRow19_ForgedAnchorings(t *testing.T) {
	k, p, good := anchoredWorld()
	other := anchored("acme", newLog("other").grow(50).note(40).Checkpoint, orgs...)
	for name, change := range map[string]func(p *anchor.Parts){
		"reordered":              func(p *anchor.Parts) { slices.Reverse(p.Anchorings) },
		"twice":                  func(p *anchor.Parts) { p.Anchorings[1] = p.Anchorings[0] },
		"of another log":         func(p *anchor.Parts) { p.Anchorings = []anchor.HeadAnchoring{{Anchoring: other}} },
		"no consistency":         func(p *anchor.Parts) { p.Anchorings[0].Consistency, p.Anchorings[1].Consistency = nil, nil },
		"no receipt":             func(p *anchor.Parts) { p.Anchorings[0].Receipts = nil },
		"receipts reordered":     func(p *anchor.Parts) { slices.Reverse(p.Anchorings[0].Receipts) },
		"a receipt twice":        func(p *anchor.Parts) { p.Anchorings[0].Receipts[1] = p.Anchorings[0].Receipts[0] },
		"another place":          func(p *anchor.Parts) { p.Anchorings[0].Index ^= 1 },
		"a cut proof":            func(p *anchor.Parts) { p.Anchorings[0].Proof = p.Anchorings[0].Proof[1:] },
		"another leaf":           func(p *anchor.Parts) { p.Anchorings[0].Leaf.Size++ },
		"another salt":           func(p *anchor.Parts) { p.Anchorings[0].Salt[0] ^= 1 },
		"another epoch's number": func(p *anchor.Parts) { n := int64(4); p.Anchorings[0].Event.Index = &n },
		"another event":          func(p *anchor.Parts) { p.Anchorings[0].Event.Type = "noop" },
		"another anchor":         func(p *anchor.Parts) { p.Anchorings[0].Anchor = "x" },
	} {
		_, _, parts := anchoredWorld()
		change(&parts)
		if _, err := anchor.NewBundle(parts); err == nil {
			t.Errorf("%s: a bundle is made of it", name)
		}
	}
	// What only a judge of receipts sees: they change no level.
	for name, change := range map[string]func(r []anchor.Receipt){
		"signed again by somebody": func(r []anchor.Receipt) {
			n, _ := anchor.Sign(r[0].Head, anchor.Key(seed("thief")))
			r[0].Body = n.Append(nil)
		},
		"the note of another head": func(r []anchor.Receipt) {
			c := r[0].Head
			c.Root[0] ^= 1
			n, _ := anchor.Sign(c, anchor.Key(seed("acme")))
			r[0].Body = n.Append(nil)
		},
		"of another size":  func(r []anchor.Receipt) { r[0].Head.Size, r[1].Head.Size = 15, 15 }, // the proofs fit
		"of another chain": func(r []anchor.Receipt) { r[1].Chain = "test:2" },
		"cut":              func(r []anchor.Receipt) { r[1].Body = r[1].Body[:75] },
		"no note":          func(r []anchor.Receipt) { r[0].Body = []byte("x") },
	} {
		_, _, parts := anchoredWorld()
		for i := range parts.Anchorings {
			change(parts.Anchorings[i].Receipts)
		}
		v := anchor.VerifyWith(bundle(t, parts), anchor.Trust{Keys: k, Policy: p, Now: later, Chains: testChain})
		if !strings.Contains(v.String(), "invalid because") || v.Level == anchor.Invalid {
			t.Errorf("%s: %s", name, v)
		}
	}
	wantLevel(t, anchor.VerifyWith(bundle(t, good), anchor.Trust{Keys: k, Policy: p, Now: later, Chains: testChain}), anchor.Chained)
}

// CHAIN-12: the anchor's own signature counts for its organisation, once.
func TestQuorumOfAnAnchor(t *testing.T) {
	k, p, parts := anchoredWorld()
	name := anchorOrigin("acme")
	did, _, _ := strings.Cut(name, "/")
	k.wit[did] = public("acme")
	p.Witnesses = append(p.Witnesses, anchor.PolicyWitness{Name: did, Organisation: "acme"})
	a := anchored("acme", parts.Head.Note.Checkpoint, "bolt", "core", "dawn")
	if f := anchor.VerifyQuorum(&a.Receipts[0], k, p, later); f.Outcome != anchor.Valid || f.Existed.After(later) {
		t.Errorf("three and its own: %+v", f)
	}
	a = anchored("acme", parts.Head.Note.Checkpoint, "bolt", "core", "acme")
	if f := anchor.VerifyQuorum(&a.Receipts[0], k, p, later); f.Outcome != anchor.CannotTell {
		t.Errorf("two and its own, twice: %+v", f)
	}
	p.Quorum = 2
	if f := anchor.VerifyQuorum(&a.Receipts[0], k, p, later); f.Outcome != anchor.CannotTell {
		t.Errorf("a policy that does not protect: %+v", f)
	}
}

// CHAIN-1: order, one head a log, and the way of every leaf; the tree is that of the log.
func TestEpochTree(t *testing.T) {
	for _, n := range []int{1, 2, 3, 7, 8, 9, 100} {
		leaves := make([]anchor.EpochLeaf, n)
		for i := range leaves {
			leaves[i] = anchor.NewEpochLeaf(anchor.Checkpoint{Origin: fmt.Sprint(i), Size: uint64(i)})
		}
		tree, err := anchor.NewEpochTree(leaves)
		if err != nil {
			t.Fatal(err)
		}
		for i, l := range tree.Leaves() {
			if i > 0 && bytes.Compare(tree.Leaves()[i-1].Log[:], l.Log[:]) >= 0 {
				t.Errorf("leaf %d of %d is out of order", i, n)
			}
			p, err := tree.Proof(i)
			if err != nil {
				t.Fatal(err)
			}
			if err := anchor.VerifyInclusion(uint64(i), uint64(n), l.Hash(), tree.Root(), p); err != nil {
				t.Error(err)
			}
			if at, ok := tree.Find(l.Log); !ok || at != i {
				t.Errorf("leaf %d is found at %d", i, at)
			}
			if back, err := anchor.ParseEpochLeaf(l.Append(nil)); err != nil || back != l {
				t.Errorf("leaf %d reads as %+v: %v", i, back, err)
			}
		}
		if _, err := anchor.NewEpochTree(append(leaves, leaves[0])); contracts.CodeOf(err) != contracts.Malformed {
			t.Errorf("two heads of a log: %v", err)
		}
	}
	if _, err := anchor.NewEpochTree(nil); contracts.CodeOf(err) != contracts.Malformed {
		t.Errorf("no leaves: %v", err)
	}
}

// FuzzAnchoring hunts for an anchoring that is read and, made again, differs.
func FuzzAnchoring(f *testing.F) {
	_, _, parts := anchoredWorld()
	for i := range parts.Anchorings {
		c, err := parts.Anchorings[i].Contract()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(c.AppendCanonical(nil))
	}
	k, p, _ := anchoredWorld()
	f.Fuzz(func(t *testing.T, text []byte) {
		a, err := anchor.ReadAnchoring(text, origin)
		if err != nil {
			return
		}
		c, err := a.Contract()
		if err != nil || !bytes.Equal(c.AppendCanonical(nil), text) {
			t.Errorf("%s is read, and written as another: %v", text, err)
		}
		for i := range a.Receipts {
			if f := anchor.VerifyQuorum(&a.Receipts[i], k, p, later); f.Why == "" {
				t.Error("a finding without a reason")
			}
		}
	})
}

// BenchmarkEpoch is an epoch of 100,000 logs; the floor is one SHA-256 of 73 bytes for
// each leaf and one of 65 for each node.
func BenchmarkEpoch(b *testing.B) {
	leaves := make([]anchor.EpochLeaf, 100_000)
	for i := range leaves {
		leaves[i] = anchor.NewEpochLeaf(anchor.Checkpoint{Origin: fmt.Sprint(i), Size: uint64(i)})
	}
	start := time.Now()
	var buf [73]byte
	for range 2 * len(leaves) {
		h := sha256.Sum256(buf[:])
		buf[1] = h[0]
	}
	floor := float64(time.Since(start).Nanoseconds())
	b.ReportAllocs()
	for b.Loop() {
		if _, err := anchor.NewEpochTree(leaves); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/floor, "of-bare")
}

// BenchmarkVerifyAnchoredBundle is a verdict over two anchorings with 5 and 2
// cosignatures, beside those of the head.
func BenchmarkVerifyAnchoredBundle(b *testing.B) {
	k, p, parts := anchoredWorld()
	text, err := anchor.NewBundle(parts)
	if err != nil {
		b.Fatal(err)
	}
	trust := anchor.Trust{Keys: k, Policy: p, Now: later, Chains: testChain}
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		if v := anchor.VerifyWith(text, trust); v.Level != anchor.Chained {
			b.Fatal(v)
		}
	}
}
