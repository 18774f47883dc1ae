package anchor_test

import (
	"strings"
	"testing"

	"github.com/talosprotocol/talos/anchor"
	"github.com/talosprotocol/talos/contracts"
)

// TestRow1_TypeA: two notes of one size convict, offline, in either order. WIT-9.
func TestRow1_TypeA(t *testing.T) {
	k, _ := world()
	a := newLog("a").grow(20)
	b := a.fork(12, "b").grow(8)
	e := anchor.ForkOfSize(a.note(20), b.note(20))
	text := e.AppendCanonical(nil)
	if string(anchor.ForkOfSize(b.note(20), a.note(20)).AppendCanonical(nil)) != string(text) {
		t.Error("the order of the notes makes two encodings")
	}
	c, err := anchor.VerifyEvidence(text, k)
	if err != nil || c.Type != "A" || c.Origin != origin || c.Below != 19 {
		t.Fatalf("%+v, %v", c, err)
	}
	if len(text) > 2048 {
		t.Errorf("%d bytes, want at most 2 kB", len(text))
	}
	_, err = anchor.VerifyEvidence(anchor.ForkOfSize(a.note(20), a.note(20)).AppendCanonical(nil), k)
	if err == nil {
		t.Error("one note twice convicts")
	}
}

// TestRow2_TypeB: a fork shown at different sizes is proven by two leaves. WIT-9.
func TestRow2_TypeB(t *testing.T) {
	k, _ := world()
	a := newLog("a").grow(20)
	b := a.fork(12, "b").grow(20)
	for i := range 20 {
		e := anchor.ForkAtIndex(uint64(i), b.branch(i, 30), a.branch(i, 20))
		text := e.AppendCanonical(nil)
		c, err := anchor.VerifyEvidence(text, k)
		if forked := i >= 12; forked != (err == nil) {
			t.Fatalf("index %d: %+v, %v", i, c, err)
		} else if forked && (c.Below != uint64(i) || len(text) > 3000) {
			t.Errorf("index %d: %+v in %d bytes", i, c, len(text))
		} else if !forked {
			wantCode(t, err, contracts.ProofInvalid)
		}
	}
}

// TestRow22_TypeC: a witness that cosigned both branches is convicted. WIT-9.
func TestRow22_TypeC(t *testing.T) {
	k, p := world()
	a := newLog("a").grow(20)
	b := a.fork(12, "b").grow(8)
	br := func(l *log, org string) anchor.Branch {
		return anchor.Branch{Note: l.note(20), Cosignature: cosign(l.note(20), org, epoch)}
	}
	text := anchor.ForkByWitness(br(a, "acme"), br(b, "acme")).AppendCanonical(nil)
	c, err := anchor.VerifyEvidence(text, k)
	if err != nil || c.Witness != "acme.example/w" {
		t.Fatalf("%+v, %v", c, err)
	}
	if _, err := anchor.VerifyEvidence(anchor.ForkByWitness(br(a, "acme"), br(b, "bolt")).AppendCanonical(nil), k); err == nil {
		t.Error("two witnesses, one each, convict one")
	}
	v := anchor.Verify(bundle(t, a.parts(3, a.head(10, epoch, orgs...))), k, p, epoch.Add(3600e9), text)
	if len(v.Seen) != 4 || v.Level != anchor.Witnessed {
		t.Errorf("the liar is counted: %s", v)
	}
}

// TestRow29_SpoiledProof: what a relay can spoil accuses nobody, and evidence with
// any bit flipped convicts nobody. WIT-3, WIT-9.
func TestRow29_SpoiledProof(t *testing.T) {
	k, _ := world()
	a := newLog("a").grow(20)
	b := a.fork(12, "b").grow(20)
	honest := anchor.ForkAtIndex(13, a.branch(13, 20), a.branch(13, 18))
	honest.Proof1[0] = honest.Proof1[1]
	honest.Leaf1 = anchor.EncodeHash(b.leaves[13].Hash())
	_, err := anchor.VerifyEvidence(honest.AppendCanonical(nil), k)
	wantCode(t, err, contracts.ProofInvalid)
	for _, e := range []*contracts.Evidence{
		anchor.ForkOfSize(a.note(20), b.note(20)),
		anchor.ForkAtIndex(13, a.branch(13, 20), b.branch(13, 30)),
		anchor.ForkByWitness(anchor.Branch{Note: a.note(20), Cosignature: cosign(a.note(20), "acme", epoch)}, anchor.Branch{Note: b.note(20), Cosignature: cosign(b.note(20), "acme", epoch)}),
	} {
		text := e.AppendCanonical(nil)
		for i := range len(text) * 8 {
			text[i/8] ^= 1 << (i % 8)
			if _, err := anchor.VerifyEvidence(text, k); err == nil {
				t.Errorf("type %s, bit %d: convicts", e.Type, i)
			}
			text[i/8] ^= 1 << (i % 8)
		}
	}
}

// TestEvidenceHasOneForm: members of another type, notes with more signatures and
// other orders are refused. WIT-9.
func TestEvidenceHasOneForm(t *testing.T) {
	k, _ := world()
	a := newLog("a").grow(20)
	b := a.fork(12, "b").grow(20)
	two := *a.note(20)
	two.Signatures = append(two.Signatures, cosign(&two, "acme", epoch))
	mixed := anchor.ForkOfSize(a.note(20), b.note(20))
	mixed.Leaf1 = anchor.EncodeHash(anchor.Hash{})
	swapped := anchor.ForkOfSize(a.note(20), b.note(20))
	swapped.Note1, swapped.Note2 = swapped.Note2, swapped.Note1
	foreign := newLog("c").grow(20)
	foreign.origin = keyDID + "/audit/1"
	for name, e := range map[string]*contracts.Evidence{
		"two signatures":         anchor.ForkOfSize(&two, b.note(20)),
		"members of B in A":      mixed,
		"descending":             swapped,
		"two origins":            anchor.ForkOfSize(a.note(20), foreign.note(20)),
		"A of two sizes":         anchor.ForkOfSize(a.note(20), b.note(21)),
		"B of one size":          anchor.ForkAtIndex(13, a.branch(13, 20), b.branch(13, 20)),
		"index above both sizes": anchor.ForkAtIndex(31, a.branch(13, 20), b.branch(13, 30)),
	} {
		if _, err := anchor.VerifyEvidence(e.AppendCanonical(nil), k); err == nil {
			t.Errorf("%s: convicts", name)
		}
	}
	long := strings.Repeat(" ", 20<<10)
	_, err := anchor.VerifyEvidence([]byte(long), k)
	wantCode(t, err, contracts.TooLarge)
}
