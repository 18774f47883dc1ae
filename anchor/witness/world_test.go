package witness_test

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/talosprotocol/talos/anchor"
	"github.com/talosprotocol/talos/anchor/anchortest"
	"github.com/talosprotocol/talos/anchor/witness"
	"github.com/talosprotocol/talos/contracts"
)

const did = "did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK"

func key(name string) ed25519.PrivateKey {
	s := sha256.Sum256([]byte("witness test key " + name))
	return ed25519.NewKeyFromSeed(s[:])
}

// logs knows every log of an incarnation up to many; each has its own key.
type logs struct{ many int }

func (k logs) LogKey(origin string) (ed25519.PublicKey, error) {
	o, err := anchor.ParseOrigin(origin)
	if err != nil || int(o.Incarnation) > k.many {
		return nil, errors.New("not followed")
	}
	return key(origin).Public().(ed25519.PublicKey), nil
}

func (logs) WitnessKey(string) (ed25519.PublicKey, error) {
	return key("witness").Public().(ed25519.PublicKey), nil
}

// tree is a log of hashes.
type tree struct {
	origin string
	nodes  []anchor.Hash
	at     []anchor.Frontier
	leaves []anchor.Hash
}

func newTree(n int, history string, common int) *tree {
	t := &tree{origin: did + "/audit/1", at: make([]anchor.Frontier, 1)}
	var f anchor.Frontier
	for i := range n {
		h := history
		if i < common {
			h = "common"
		}
		leaf := anchor.Hash(sha256.Sum256(fmt.Appendf(nil, "%s %d", h, i)))
		t.nodes = f.Append(t.nodes, leaf)
		t.at = append(t.at, f)
		t.leaves = append(t.leaves, leaf)
	}
	return t
}

func (t *tree) note(size int) []byte {
	n, err := anchor.Sign(anchor.Checkpoint{Origin: t.origin, Size: uint64(size), Root: t.at[size].Root()}, anchor.Key(key(t.origin)))
	if err != nil {
		panic(err)
	}
	return n.Append(nil)
}

func (t *tree) proof(from, to int) []anchor.Hash {
	p, err := anchor.Nodes(func(_ context.Context, numbers []uint64) ([]anchor.Hash, error) {
		out := make([]anchor.Hash, len(numbers))
		for i, n := range numbers {
			out[i] = t.nodes[n]
		}
		return out, nil
	}).Consistency(context.Background(), uint64(from), uint64(to))
	if err != nil {
		panic(err)
	}
	return p
}

func (t *tree) digest(size int) []byte {
	n, _ := anchor.ParseNote(t.note(size))
	d, err := n.Digest(key(t.origin).Public().(ed25519.PublicKey))
	if err != nil {
		panic(err)
	}
	b, _ := d.Append(nil)
	return b
}

// stand is a witness with its database and a clock that a test moves.
type stand struct {
	*witness.Witness
	db    *anchortest.WitnessDB
	opt   witness.Options
	mu    sync.Mutex
	now   time.Time
	found [][]byte
}

func newStand(t testing.TB, change ...func(*witness.Options)) *stand {
	s := &stand{db: new(anchortest.WitnessDB), now: time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)}
	s.opt = witness.Options{
		Name: "acme.example/w", Signer: anchor.Key(key("witness")), Keys: logs{1}, Store: s.db,
		Now:       func() time.Time { s.mu.Lock(); defer s.mu.Unlock(); return s.now },
		Convicted: func(e []byte) { s.mu.Lock(); defer s.mu.Unlock(); s.found = append(s.found, e) },
	}
	for _, f := range change {
		f(&s.opt)
	}
	w, err := witness.Open(t.Context(), s.opt)
	if err != nil {
		t.Fatal(err)
	}
	s.Witness = w
	return s
}

func (s *stand) later(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = s.now.Add(d)
}

// add submits and checks the cosignature of a success.
func (s *stand) add(t testing.TB, tr *tree, from, to int) error {
	t.Helper()
	note := tr.note(to)
	line, err := s.AddCheckpoint(t.Context(), uint64(from), tr.proof(min(from, to), to), note)
	if err == nil {
		n, _ := anchor.ParseNote(note)
		sig, perr := anchor.ParseSignature(line)
		if perr != nil {
			t.Fatal(perr)
		}
		if _, verr := sig.VerifyCosignature(n.Checkpoint, key("witness").Public().(ed25519.PublicKey)); verr != nil {
			t.Fatal(verr)
		}
	}
	return err
}

func want(t testing.TB, err error, status int, code contracts.Code) {
	t.Helper()
	if witness.Status(err) != status || contracts.CodeOf(err) != code {
		t.Errorf("error %v: status %d, code %q; want %d, %q", err, witness.Status(err), contracts.CodeOf(err), status, code)
	}
}
