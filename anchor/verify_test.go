package anchor_test

import (
	"bytes"
	"crypto/ed25519"
	"strings"
	"testing"
	"time"

	"github.com/talosprotocol/talos/anchor"
	"github.com/talosprotocol/talos/contracts"
)

var later = epoch.Add(time.Hour)

// TestRow31_EveryBitFlipOfABundle: the reader encodes again and compares, so no bit
// is free: not of an opaque state, nor of a cosignature that this auditor does not
// count. BND-1, BND-2, BND-3.
func TestRow31_EveryBitFlipOfABundle(t *testing.T) {
	k, p := world()
	p.Witnesses = p.Witnesses[:4] // east is unknown to this auditor
	p.Quorum = 3
	l := newLog("a").grow(100)
	prior := l.head(30, epoch, "acme", "bolt", "core")
	parts := l.parts(40, l.head(90, epoch.Add(time.Minute), orgs...))
	parts.Prior, parts.States = &prior, [][]byte{[]byte("a state"), []byte("another one")}
	text := bundle(t, parts)
	v := anchor.Verify(text, k, p, later)
	if !v.QuorumMet() || len(text) > 8192 {
		t.Fatalf("%d bytes: %s", len(text), v)
	}
	for i := range len(text) * 8 {
		text[i/8] ^= 1 << (i % 8)
		if v := anchor.Verify(text, k, p, later); v.Level != anchor.Invalid {
			t.Errorf("bit %d of byte %q: %s", i%8, text[i/8], v)
		} else if v.Code == "" || len(v.Problems) == 0 {
			t.Errorf("bit %d: refused without a reason", i)
		}
		text[i/8] ^= 1 << (i % 8)
	}
}

// TestVerdicts walks through the levels. BND-4, BND-5, BND-7.
func TestVerdicts(t *testing.T) {
	k, p := world()
	l := newLog("a").grow(50)
	wantLevel(t, anchor.Verify(bundle(t, l.parts(3, l.head(50, epoch))), k, p, later), anchor.Signed)
	for n := 1; n <= 5; n++ {
		v := anchor.Verify(bundle(t, l.parts(3, l.head(50, epoch, orgs[:n]...))), k, p, later)
		wantLevel(t, v, anchor.Witnessed)
		if len(v.Seen) != n || v.QuorumMet() != (n >= 4) {
			t.Errorf("%d cosignatures: %s", n, v)
		}
	}
	// Row 26: a side without quorum says so, and claims no more.
	v := anchor.Verify(bundle(t, l.parts(3, l.head(50, epoch, "acme", "bolt"))), k, p, later)
	if !strings.HasPrefix(v.String(), "WITNESSED 2/5 organisations (quorum 4, f=1, not met)") {
		t.Errorf("verdict %s", v)
	}
	// The log's key is another, or not known. BND-10.
	k2 := keys{log: map[string]ed25519.PublicKey{origin: public("thief")}, wit: k.wit}
	v = anchor.Verify(bundle(t, l.parts(3, l.head(50, epoch, orgs...))), k2, p, later)
	if v.Level != anchor.Invalid || v.Code != contracts.SignatureInvalid {
		t.Errorf("another key: %s", v)
	}
	v = anchor.Verify(bundle(t, l.parts(3, l.head(50, epoch, orgs...))), keys{}, p, later)
	if v.Level != anchor.Invalid || v.Code != contracts.OriginUnknown {
		t.Errorf("no key: %s", v)
	}
	// A policy that does not protect gives nothing better than SIGNED. BND-9.
	weak := p
	weak.Quorum = 3
	wantLevel(t, anchor.Verify(bundle(t, l.parts(3, l.head(50, epoch, orgs...))), k, weak, later), anchor.Signed)
}

// TestRow3_ForkFromAHeldHead: a head that a peer logged contradicts the bundle's.
// BND-7.
func TestRow3_ForkFromAHeldHead(t *testing.T) {
	k, p := world()
	a := newLog("a").grow(50)
	b := a.fork(10, "b").grow(40)
	text := bundle(t, a.parts(3, a.head(50, epoch, orgs...)))
	held := b.note(50).Append(nil)
	v := anchor.Verify(text, k, p, later, held)
	if v.Level != anchor.Forked || v.Code != contracts.Equivocation {
		t.Errorf("verdict %s", v)
	}
	// The same with evidence; below the fork a quorum still counts.
	e := anchor.ForkAtIndex(12, a.branch(12, 50), b.branch(12, 49)).AppendCanonical(nil)
	wantLevel(t, anchor.Verify(text, k, p, later, e), anchor.Forked)
	old := bundle(t, a.parts(3, a.head(10, epoch, orgs...)))
	wantLevel(t, anchor.Verify(old, k, p, later, e), anchor.Witnessed)
	// What does not verify accuses nobody.
	b.key = seed("thief")
	v = anchor.Verify(text, k, p, later, b.note(50).Append(nil), []byte("{}"), []byte("x"))
	wantLevel(t, v, anchor.Witnessed)
	if len(v.Problems) != 3 {
		t.Errorf("problems %q", v.Problems)
	}
}

// TestRow16_Backdated and TestRow17 below: the owner's clock is a claim. BND-6, BND-8.
func TestRow16_Backdated(t *testing.T) {
	k, p := world()
	l := newLog("a").grow(30)
	ev := anchor.NewEvent("result", keyDID, epoch.Add(-24*time.Hour), [10]byte{})
	l.add(ev, anchor.Salt{1})
	l.grow(5)
	prior := l.head(30, epoch.Add(time.Minute), orgs...)
	parts := l.parts(30, l.head(36, epoch.Add(2*time.Minute), orgs...))
	parts.Prior = &prior
	v := anchor.Verify(bundle(t, parts), k, p, later)
	if v.InTime || !v.QuorumMet() || !strings.Contains(v.String(), "backdated") {
		t.Errorf("verdict %s", v)
	}
	// Four of five, cosigned from 12:01:00 to :04: the 4th latest, and the 2nd earliest.
	if want := epoch.Add(61 * time.Second); !v.NotBefore.Equal(want) {
		t.Errorf("not before %v, want %v", v.NotBefore, want)
	}
	if want := epoch.Add(121 * time.Second); !v.NotAfter.Equal(want) {
		t.Errorf("not after %v, want %v", v.NotAfter, want)
	}
	// A prior head without a quorum bounds nothing.
	few := l.head(30, epoch.Add(time.Minute), orgs[:3]...)
	parts.Prior = &few
	if v := anchor.Verify(bundle(t, parts), k, p, later); !v.NotBefore.IsZero() || v.InTime {
		t.Errorf("verdict %s", v)
	}
	// One that covers the event is no prior head.
	covers := l.head(31, epoch, orgs...)
	parts.Prior = &covers
	if v := anchor.Verify(bundle(t, parts), k, p, later); v.Level != anchor.Invalid {
		t.Errorf("verdict %s", v)
	}
}

// TestRow17_FutureDated: a clock an hour ahead is shown. BND-6.
func TestRow17_FutureDated(t *testing.T) {
	k, p := world()
	l := newLog("a")
	l.add(anchor.NewEvent("result", keyDID, epoch.Add(2*time.Hour), [10]byte{}), anchor.Salt{1})
	v := anchor.Verify(bundle(t, l.parts(0, l.head(1, epoch, orgs...))), k, p, later)
	if v.InTime || !strings.Contains(v.String(), "future-dated") {
		t.Errorf("verdict %s", v)
	}
	// A witness whose clock is ahead of ours is not counted.
	v = anchor.Verify(bundle(t, l.parts(0, l.head(1, later.Add(time.Hour), orgs...))), k, p, later)
	wantLevel(t, v, anchor.Signed)
}

// TestRow20_ForgedCosignatures: only organisations count, each once. BND-5.
func TestRow20_ForgedCosignatures(t *testing.T) {
	k, p := world()
	l := newLog("a").grow(9)
	n := l.note(9)
	seen := func(p anchor.Policy, sigs ...anchor.Signature) int {
		t.Helper()
		v := anchor.Verify(bundle(t, l.parts(3, anchor.Head{Note: n, Cosignatures: sigs})), k, p, later)
		return len(v.Seen)
	}
	forged := cosign(n, "acme", epoch)
	forged.Body = bytes.Clone(forged.Body)
	forged.Body[20] ^= 1
	if got := seen(p, forged); got != 0 {
		t.Errorf("a forged signature counts %d", got)
	}
	wrong, _ := anchor.Cosign(n.Checkpoint, "acme.example/w", epoch, anchor.Key(seed("thief")))
	if got := seen(p, wrong); got != 0 {
		t.Errorf("a wrong key counts %d", got)
	}
	// One key under two names of two organisations is one witness.
	k.wit["twin.example/w"] = public("acme")
	two := p
	two.Witnesses = append(two.Witnesses[:4:4], anchor.PolicyWitness{Name: "twin.example/w", Organisation: "twin"})
	twin, _ := anchor.Cosign(n.Checkpoint, "twin.example/w", epoch, anchor.Key(seed("acme")))
	if got := seen(two, cosign(n, "acme", epoch), twin); got != 1 {
		t.Errorf("one key under two names counts %d", got)
	}
	// Two keys of one organisation are one organisation.
	k.wit["acme2.example/w"] = public("acme2")
	more := p
	more.Witnesses = append(more.Witnesses[:5:5], anchor.PolicyWitness{Name: "acme2.example/w", Organisation: "acme"})
	if got := seen(more, cosign(n, "acme", epoch), cosign(n, "acme2", epoch)); got != 1 {
		t.Errorf("two keys of one organisation count %d", got)
	}
	if got := seen(p, cosign(n, "stranger", epoch)); got != 0 {
		t.Errorf("a stranger counts %d", got)
	}
}

// TestRow21_ColludingOrganisations: for every n up to 7 and every f, with the least
// quorum that Check takes, no set of cosigners of two histories makes both reach the
// quorum while only f organisations sign twice; one less, and a schedule does.
// BND-9.
func TestRow21_ColludingOrganisations(t *testing.T) {
	for n := 1; n <= 7; n++ {
		for f := 0; f < n; f++ {
			p := anchor.Policy{Faults: f}
			for i := range n {
				p.Witnesses = append(p.Witnesses, anchor.PolicyWitness{Name: "w" + string(rune('a'+i)), Organisation: string(rune('a' + i))})
			}
			for p.Quorum = 1; p.Quorum <= n; p.Quorum++ {
				if safe, ok := !bothReach(n, f, p.Quorum), p.Check() == nil; safe != ok {
					t.Errorf("n=%d f=%d k=%d: safe %v, Check says %v", n, f, p.Quorum, safe, p.Check())
				}
			}
		}
	}
}

// bothReach tries every assignment of organisations to two histories (neither, one,
// the other, both) in which at most f sign both.
func bothReach(n, f, k int) bool {
	total := 1
	for range n {
		total *= 4
	}
	for s := range total {
		a, b, both := 0, 0, 0
		for x, i := s, 0; i < n; x, i = x/4, i+1 {
			a += x & 1
			b += x >> 1 & 1
			both += x & 1 & (x >> 1 & 1)
		}
		if both <= f && a >= k && b >= k {
			return true
		}
	}
	return false
}

// TestRow37_Erasure: without the salt the event cannot be shown, and every other
// proof stays byte for byte. AUD-14.
func TestRow37_Erasure(t *testing.T) {
	k, p := world()
	l := newLog("a").grow(20)
	before := bundle(t, l.parts(5, l.head(20, epoch, orgs...)))
	parts := l.parts(9, l.head(20, epoch, orgs...))
	parts.Event, parts.Salt = nil, nil // forgotten
	sealed := anchor.Verify(bundle(t, parts), k, p, later)
	if !sealed.QuorumMet() || sealed.Event != nil {
		t.Errorf("the commitment alone: %s", sealed)
	}
	if !bytes.Equal(before, bundle(t, l.parts(5, l.head(20, epoch, orgs...)))) {
		t.Error("another proof has changed")
	}
	wrong := l.parts(9, l.head(20, epoch, orgs...))
	wrong.Salt = &anchor.Salt{}
	_, err := anchor.NewBundle(wrong)
	wantCode(t, err, contracts.ProofInvalid)
}

// TestRow40_KeyRotation: old bundles verify with the key of their incarnation, and
// the thief of the old key cannot make a head of the new one. CKP-2.
func TestRow40_KeyRotation(t *testing.T) {
	k, p := world()
	old := newLog("a").grow(20)
	text := bundle(t, old.parts(5, old.head(20, epoch, orgs...)))
	next := talosDID + "/audit/2"
	k.log[next] = public("log2")
	if v := anchor.Verify(text, k, p, later); !v.QuorumMet() {
		t.Errorf("an old bundle: %s", v)
	}
	l := newLog("b").grow(5)
	l.origin = next // with the old key
	v := anchor.Verify(bundle(t, l.parts(2, l.head(5, epoch))), k, p, later)
	if v.Level != anchor.Invalid || v.Code != contracts.SignatureInvalid {
		t.Errorf("a head under the old key: %s", v)
	}
	l.key = seed("log2")
	wantLevel(t, anchor.Verify(bundle(t, l.parts(2, l.head(5, epoch))), k, p, later), anchor.Signed)
}
