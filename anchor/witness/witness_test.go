package witness_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/talosprotocol/talos/anchor"
	"github.com/talosprotocol/talos/anchor/anchortest"
	"github.com/talosprotocol/talos/anchor/witness"
	"github.com/talosprotocol/talos/contracts"
)

// TestAddCheckpoint walks through the answers of C2SP tlog-witness. WIT-1, WIT-2,
// WIT-3.
func TestAddCheckpoint(t *testing.T) {
	s, tr := newStand(t), newTree(40, "a", 0)
	want(t, s.add(t, tr, 5, 10), 409, contracts.CheckpointStale) // first contact is from 0
	want(t, s.add(t, tr, 0, 10), 200, "")
	want(t, s.add(t, tr, 10, 10), 200, "") // the same again
	want(t, s.add(t, tr, 10, 20), 200, "")
	want(t, s.add(t, tr, 30, 20), 400, contracts.Malformed)
	_, err := s.AddCheckpoint(t.Context(), 20, make([]anchor.Hash, 64), tr.note(30))
	want(t, err, 400, contracts.Malformed)
	_, err = s.AddCheckpoint(t.Context(), 20, nil, []byte("x"))
	want(t, err, 400, contracts.CheckpointInvalid)
	_, err = s.AddCheckpoint(t.Context(), 20, nil, tr.note(30))
	want(t, err, 422, contracts.ProofInvalid)
	_, err = s.AddCheckpoint(t.Context(), 20, tr.proof(20, 31), tr.note(30))
	want(t, err, 422, contracts.ProofInvalid)
	other := newTree(30, "b", 0)
	other.origin = did + "/audit/9"
	want(t, s.add(t, other, 0, 30), 404, contracts.OriginUnknown)
	forged := bytes.Clone(tr.note(30))
	forged = bytes.Replace(forged, []byte("\n30\n"), []byte("\n31\n"), 1)
	_, err = s.AddCheckpoint(t.Context(), 20, nil, forged)
	want(t, err, 403, contracts.SignatureInvalid)
	h, err := s.Head(t.Context(), tr.origin)
	if err != nil || h.Size != 20 || len(s.found) != 0 {
		t.Errorf("head %+v, %v; evidence %d", h, err, len(s.found))
	}
	n, err := s.Note(t.Context(), tr.origin)
	if err != nil || !bytes.Equal(n.Append(nil), tr.note(20)) {
		t.Errorf("note %+v, %v", n, err)
	}
}

// TestRow18_ReplayedOldCheckpoint: size 10 after 20 is answered with 20 and is no
// evidence. WIT-2.
func TestRow18_ReplayedOldCheckpoint(t *testing.T) {
	s, tr := newStand(t), newTree(20, "a", 0)
	want(t, s.add(t, tr, 0, 10), 200, "")
	want(t, s.add(t, tr, 10, 20), 200, "")
	err := s.add(t, tr, 0, 10)
	want(t, err, 409, contracts.CheckpointStale)
	var stale *witness.Stale
	if !errors.As(err, &stale) || stale.Size != 20 || len(s.found) != 0 {
		t.Errorf("%v, evidence %d", err, len(s.found))
	}
	if o, err := s.Observe(t.Context(), tr.digest(10)); o != witness.Known || err != nil {
		t.Errorf("observed %v, %v", o, err)
	}
}

// TestRow1_SameSizeOtherRoot: submitted or heard, it convicts at once and freezes the
// log. WIT-5, WIT-9.
func TestRow1_SameSizeOtherRoot(t *testing.T) {
	for _, how := range []string{"submitted", "stale", "observed", "told"} {
		s := newStand(t)
		a, b := newTree(40, "a", 5), newTree(40, "b", 5)
		want(t, s.add(t, a, 0, 10), 200, "")
		want(t, s.add(t, a, 10, 20), 200, "")
		switch how {
		case "submitted":
			want(t, s.add(t, b, 20, 20), 409, contracts.Equivocation)
		case "stale": // an earlier size that is still kept
			want(t, s.add(t, b, 0, 10), 409, contracts.Equivocation)
		case "observed":
			if o, err := s.Observe(t.Context(), b.digest(10)); o != witness.Convicted || err != nil {
				t.Errorf("observed %v, %v", o, err)
			}
		case "told":
			n1, _ := anchor.ParseNote(a.note(30))
			n2, _ := anchor.ParseNote(b.note(30))
			if err := s.AddEvidence(t.Context(), anchor.ForkOfSize(n1, n2).AppendCanonical(nil)); err != nil {
				t.Error(err)
			}
		}
		if len(s.found) != 1 {
			t.Fatalf("%s: %d evidence", how, len(s.found))
		}
		if _, err := anchor.VerifyEvidence(s.found[0], logs{1}); err != nil {
			t.Errorf("%s: %v", how, err)
		}
		want(t, s.add(t, a, 20, 30), 403, contracts.OriginFrozen)
		stored, err := s.Evidence(t.Context(), a.origin)
		if err != nil || !bytes.Equal(stored, s.found[0]) {
			t.Errorf("%s: stored %s, %v", how, stored, err)
		}
	}
}

// TestRow28_WitnessStorm replays two copies: one evidence is stored, once. WIT-9.
func TestRow28_WitnessStorm(t *testing.T) {
	s := newStand(t)
	a, b := newTree(20, "a", 5), newTree(20, "b", 5)
	want(t, s.add(t, a, 0, 20), 200, "")
	da, db := a.digest(20), b.digest(20)
	_, _ = s.Observe(t.Context(), db)
	size := s.db.Bytes()
	for range 2000 {
		for _, d := range [][]byte{da, db} {
			if o, err := s.Observe(t.Context(), d); o != witness.Convicted || err != nil {
				t.Fatalf("observed %v, %v", o, err)
			}
		}
	}
	if len(s.found) != 1 || s.db.Bytes() != size {
		t.Errorf("%d evidence, %d bytes more", len(s.found), s.db.Bytes()-size)
	}
}

// TestRow29_SpoiledProofAtAWitness: 422, and nobody is accused. WIT-3.
func TestRow29_SpoiledProofAtAWitness(t *testing.T) {
	s, tr := newStand(t), newTree(40, "a", 0)
	want(t, s.add(t, tr, 0, 10), 200, "")
	p := tr.proof(10, 37)
	for i := range p {
		p[i][3] ^= 1
		_, err := s.AddCheckpoint(t.Context(), 10, p, tr.note(37))
		want(t, err, 422, contracts.ProofInvalid)
		p[i][3] ^= 1
	}
	if e, _ := s.Evidence(t.Context(), tr.origin); len(s.found) != 0 || e != nil {
		t.Error("a spoiled proof accuses")
	}
	want(t, s.add(t, tr, 10, 37), 200, "")
}

// TestRow23_LostDatabase: a key that has signed does not start on an empty database.
// WIT-6.
func TestRow23_LostDatabase(t *testing.T) {
	s, tr := newStand(t), newTree(20, "a", 0)
	want(t, s.add(t, tr, 0, 10), 200, "")
	o := s.opt
	o.KeyUsed = true
	if _, err := witness.Open(t.Context(), o); err != nil {
		t.Errorf("a restart: %v", err)
	}
	o.Store = new(anchortest.WitnessDB)
	_, err := witness.Open(t.Context(), o)
	if contracts.CodeOf(err) != contracts.Rollback {
		t.Errorf("a lost database: %v", err)
	}
	o = s.opt
	o.Signer = anchor.Key(key("another"))
	_, err = witness.Open(t.Context(), o)
	if contracts.CodeOf(err) != contracts.ConfigInvalid {
		t.Errorf("another key's database: %v", err)
	}
}

// TestRow24_RolledBackWitness: a restored backup makes a witness cosign a second
// history, which it cannot notice alone. The two cosignatures convict it. WIT-9.
func TestRow24_RolledBackWitness(t *testing.T) {
	s := newStand(t)
	a, b := newTree(20, "a", 10), newTree(20, "b", 10)
	want(t, s.add(t, a, 0, 10), 200, "")
	backup := s.db.Clone()
	first, err := s.AddCheckpoint(t.Context(), 10, a.proof(10, 20), a.note(20))
	if err != nil {
		t.Fatal(err)
	}
	o := s.opt
	o.Store, o.KeyUsed = backup, true
	w, err := witness.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	second, err := w.AddCheckpoint(t.Context(), 10, b.proof(10, 20), b.note(20))
	if err != nil {
		t.Fatal(err)
	}
	branch := func(tr *tree, line []byte) anchor.Branch {
		n, _ := anchor.ParseNote(tr.note(20))
		sig, err := anchor.ParseSignature(line)
		if err != nil {
			t.Fatal(err)
		}
		return anchor.Branch{Note: n, Cosignature: sig}
	}
	text := anchor.ForkByWitness(branch(a, first), branch(b, second)).AppendCanonical(nil)
	if c, err := anchor.VerifyEvidence(text, logs{1}); err != nil || c.Witness != o.Name {
		t.Errorf("%+v, %v", c, err)
	}
	if err := s.AddEvidence(t.Context(), text); err != nil {
		t.Error(err)
	}
	want(t, s.add(t, a, 20, 20), 403, contracts.OriginFrozen)
}

// TestRow27_Spam: one log over its rate is refused before its signature is checked;
// new logs above the bound are refused, none is forgotten. WIT-7.
func TestRow27_Spam(t *testing.T) {
	s := newStand(t, func(o *witness.Options) { o.MaxOrigins, o.Keys = 3, logs{9} })
	tr := newTree(200, "a", 0)
	for i := range 5 {
		want(t, s.add(t, tr, i, i+1), 200, "")
	}
	want(t, s.add(t, tr, 5, 6), 429, contracts.RateLimited)
	s.later(31 * time.Second)
	want(t, s.add(t, tr, 5, 6), 200, "")
	want(t, s.add(t, tr, 6, 7), 429, contracts.RateLimited)
	for i := 2; i <= 5; i++ {
		other := newTree(3, "x", 0)
		other.origin = fmt.Sprintf("%s/audit/%d", did, i)
		err := s.add(t, other, 0, 3)
		if i <= 3 {
			want(t, err, 200, "")
		} else {
			want(t, err, 503, contracts.Unavailable)
		}
	}
	// Strangers cost no memory at all.
	before := s.db.Bytes()
	for i := 10; i < 1000; i++ {
		other := newTree(1, "x", 0)
		other.origin = fmt.Sprintf("%s/audit/%d", did, i)
		want(t, s.add(t, other, 0, 1), 404, contracts.OriginUnknown)
	}
	if s.db.Bytes() != before {
		t.Error("strangers are stored")
	}
	s.later(time.Hour)
	want(t, s.add(t, tr, 6, 200), 200, "") // row 25: one proof catches up
}

// TestRow40_RetiredLog: after a rotation the holder of the old key gets no more
// cosignatures. WIT-10.
func TestRow40_RetiredLog(t *testing.T) {
	s, tr := newStand(t), newTree(20, "a", 0)
	want(t, s.add(t, tr, 0, 10), 200, "")
	if err := s.Retire(t.Context(), tr.origin); err != nil {
		t.Fatal(err)
	}
	want(t, s.add(t, tr, 10, 20), 403, contracts.OriginFrozen)
	if e, err := s.Evidence(t.Context(), tr.origin); e != nil || err != nil {
		t.Errorf("retired is not convicted: %s, %v", e, err)
	}
}

// TestPersistBeforeAnswer: no cosignature leaves that is not stored, whatever the
// store does. WIT-4.
func TestPersistBeforeAnswer(t *testing.T) {
	for _, f := range []anchortest.Fault{anchortest.Error, anchortest.ErrorWritten, anchortest.Full} {
		s, tr := newStand(t), newTree(20, "a", 0)
		want(t, s.add(t, tr, 0, 10), 200, "")
		s.db.Inject(anchortest.Nth(anchortest.OpStore, 1, f))
		want(t, s.add(t, tr, 10, 20), 503, contracts.Unavailable)
		s.db.Inject(nil)
		from := 10
		if f == anchortest.ErrorWritten {
			want(t, s.add(t, tr, 10, 20), 409, contracts.CheckpointStale)
			from = 20
		}
		want(t, s.add(t, tr, from, 20), 200, "")
	}
}

// TestConcurrentSubmissions: of two branches at once, one wins for good. WIT-4.
func TestConcurrentSubmissions(t *testing.T) {
	for round := range 50 {
		s := newStand(t)
		a, b := newTree(20, "a", 10), newTree(21, "b", 10)
		want(t, s.add(t, a, 0, 10), 200, "")
		var wg sync.WaitGroup
		won := make([]error, 2)
		wg.Go(func() { won[0] = s.add(t, a, 10, 20) })
		wg.Go(func() { won[1] = s.add(t, b, 10, 21) })
		wg.Wait()
		if (won[0] == nil) == (won[1] == nil) {
			t.Fatalf("round %d: %v and %v", round, won[0], won[1])
		}
	}
}

// TestObserve: digests larger and smaller than what is known are hints. WIT-1.
func TestObserve(t *testing.T) {
	s, tr := newStand(t), newTree(100, "a", 0)
	see := func(size int) witness.Observation {
		t.Helper()
		o, err := s.Observe(t.Context(), tr.digest(size))
		if err != nil {
			t.Error(err)
		}
		return o
	}
	if see(10) != witness.Ahead {
		t.Error("a log not seen yet is not ahead")
	}
	want(t, s.add(t, tr, 0, 50), 200, "")
	if see(60) != witness.Ahead || see(40) != witness.Behind || see(50) != witness.Known {
		t.Error("observations")
	}
	bad := tr.digest(60)
	bad[100] ^= 1
	_, err := s.Observe(t.Context(), bad)
	want(t, err, 403, contracts.SignatureInvalid)
	_, err = s.Observe(t.Context(), bad[1:])
	want(t, err, 400, contracts.Malformed)
}

// TestRing: a record keeps the last heads and no more.
func TestRing(t *testing.T) {
	s, tr := newStand(t), newTree(101, "a", 0)
	for i := range 100 {
		want(t, s.add(t, tr, i, i+1), 200, "")
		s.later(time.Minute)
	}
	if n := s.db.Bytes(); n > 7000 {
		t.Errorf("a record of %d bytes", n)
	}
	if o, _ := s.Observe(t.Context(), tr.digest(37)); o != witness.Known {
		t.Error("the 64th last head is forgotten")
	}
	if o, _ := s.Observe(t.Context(), tr.digest(36)); o != witness.Behind {
		t.Error("the 65th last head is kept")
	}
}

// TestCodec: bodies are the text of C2SP, and have one form. WIT-11.
func TestCodec(t *testing.T) {
	tr := newTree(40, "a", 0)
	r := witness.Request{OldSize: 7, Proof: tr.proof(7, 40), Note: tr.note(40)}
	body := witness.AppendRequest(nil, r)
	if !strings.HasPrefix(string(body), "old 7\n") || !strings.Contains(string(body), "\n\n"+did) {
		t.Errorf("body %q", body)
	}
	got, err := witness.ParseRequest(body)
	if err != nil || got.OldSize != 7 || len(got.Proof) != len(r.Proof) || !bytes.Equal(got.Note, r.Note) {
		t.Fatalf("%+v, %v", got, err)
	}
	line := strings.Split(string(body), "\n")[1]
	for name, bad := range map[string]string{
		"leading zero": strings.Replace(string(body), "old 7", "old 07", 1),
		"no old":       strings.Replace(string(body), "old ", "new ", 1),
		"no padding":   strings.Replace(string(body), line, line[:43]+"A", 1),
		"spare bits":   strings.Replace(string(body), line, line[:42]+"B=", 1),
		"CR":           strings.Replace(string(body), line, line[:43]+"\r", 1),
		"64 hashes":    "old 7\n" + strings.Repeat(line+"\n", 64) + "\n" + string(r.Note),
		"no note":      "old 7\n" + line + "\n",
		"large":        string(body) + strings.Repeat("x", 10<<20),
	} {
		if _, err := witness.ParseRequest([]byte(bad)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	for _, e := range []error{
		nil, &witness.Stale{Size: 42, Code: contracts.CheckpointStale}, contracts.Errorf(contracts.ProofInvalid, "x"),
		contracts.Errorf(contracts.RateLimited, "x"), errors.New("secret detail"),
	} {
		frame := witness.Answer([]byte("line\n"), e).Append(nil)
		if bytes.Contains(frame, []byte("secret")) {
			t.Error("detail leaves the house")
		}
		line, err := witness.ParseResponse(frame)
		if witness.Status(err) != witness.Status(e) || (e == nil) != (string(line) == "line\n") {
			t.Errorf("%v became %q, %v", e, line, err)
		}
	}
}
