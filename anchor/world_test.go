package anchor_test

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/talosprotocol/talos/anchor"
	"github.com/talosprotocol/talos/contracts"
)

const (
	talosDID = "did:talos:zQmbWqxBEKC3P8tqsKc98xmWNzrzDtRLMiMPL8wBuTGsMnR"
	keyDID   = "did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK"
	origin   = talosDID + "/audit/1"
)

var epoch = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// seed makes a fixed key of a name.
func seed(name string) ed25519.PrivateKey {
	s := sha256.Sum256([]byte("anchor test key " + name))
	return ed25519.NewKeyFromSeed(s[:])
}

func public(name string) ed25519.PublicKey { return seed(name).Public().(ed25519.PublicKey) }

// keys knows fixed keys by name; a name in lost has none.
type keys struct {
	log, wit map[string]ed25519.PublicKey
}

func (k keys) LogKey(o string) (ed25519.PublicKey, error) {
	if p := k.log[o]; p != nil {
		return p, nil
	}
	return nil, contracts.Errorf(contracts.OriginUnknown, "no key of %s", o)
}

func (k keys) WitnessKey(n string) (ed25519.PublicKey, error) {
	if p := k.wit[n]; p != nil {
		return p, nil
	}
	return nil, errors.New("no key of " + n)
}

// log is a tree in memory with all that a log keeps.
type log struct {
	origin  string
	key     ed25519.PrivateKey
	front   anchor.Frontier
	nodes   []anchor.Hash
	leaves  []anchor.Leaf
	salts   []anchor.Salt
	events  []*contracts.AuditEvent
	at      []anchor.Frontier // by size
	history string            // what makes its events differ from another's
}

func newLog(history string) *log {
	return &log{origin: origin, key: seed("log"), history: history, at: make([]anchor.Frontier, 1)}
}

func (l *log) grow(n int) *log {
	for range n {
		i := uint64(len(l.leaves))
		r := sha256.Sum256(fmt.Appendf(nil, "%s %d", l.history, i))
		ev := anchor.NewEvent("result", keyDID, epoch.Add(time.Duration(i)*time.Second), [10]byte(r[:]))
		ev.Surface, ev.Outcome = "llm:chat", "ok"
		l.add(ev, anchor.Salt(r))
	}
	return l
}

func (l *log) add(ev *contracts.AuditEvent, salt anchor.Salt) {
	canon, err := anchor.EncodeEvent(ev)
	if err != nil {
		panic(err)
	}
	typ, _ := anchor.EventType(ev.Type)
	leaf := anchor.Commit(typ, l.front.Size(), &salt, canon)
	l.nodes = l.front.Append(l.nodes, leaf.Hash())
	l.leaves, l.salts, l.events = append(l.leaves, leaf), append(l.salts, salt), append(l.events, ev)
	l.at = append(l.at, l.front)
}

// fork gives a copy of the first n entries that goes on differently.
func (l *log) fork(n int, history string) *log {
	f := &log{origin: l.origin, key: l.key, history: history, at: make([]anchor.Frontier, 1)}
	for i := range n {
		f.add(l.events[i], l.salts[i])
	}
	return f
}

func (l *log) read(_ context.Context, numbers []uint64) ([]anchor.Hash, error) {
	out := make([]anchor.Hash, len(numbers))
	for i, n := range numbers {
		out[i] = l.nodes[n]
	}
	return out, nil
}

func (l *log) note(size int) *anchor.Note {
	n, err := anchor.Sign(anchor.Checkpoint{Origin: l.origin, Size: uint64(size), Root: l.at[size].Root()}, anchor.Key(l.key))
	if err != nil {
		panic(err)
	}
	return n
}

func (l *log) inclusion(index, size int) []anchor.Hash {
	p, err := anchor.Nodes(l.read).Inclusion(context.Background(), uint64(index), uint64(size))
	if err != nil {
		panic(err)
	}
	return p
}

func (l *log) branch(index, size int) anchor.Branch {
	return anchor.Branch{Note: l.note(size), Leaf: l.leaves[index].Hash(), Proof: l.inclusion(index, size)}
}

// orgs is five organisations with a witness each.
var orgs = []string{"acme", "bolt", "core", "dawn", "east"}

func world() (keys, anchor.Policy) {
	k := keys{log: map[string]ed25519.PublicKey{origin: public("log")}, wit: map[string]ed25519.PublicKey{}}
	p := anchor.Policy{Quorum: 4, Faults: 1}
	for _, o := range orgs {
		k.wit[o+".example/w"] = public(o)
		p.Witnesses = append(p.Witnesses, anchor.PolicyWitness{Name: o + ".example/w", Organisation: o})
	}
	return k, p
}

func cosign(n *anchor.Note, org string, at time.Time) anchor.Signature {
	s, err := anchor.Cosign(n.Checkpoint, org+".example/w", at, anchor.Key(seed(org)))
	if err != nil {
		panic(err)
	}
	return s
}

// head is a note cosigned by organisations, a second apart.
func (l *log) head(size int, at time.Time, by ...string) anchor.Head {
	h := anchor.Head{Note: l.note(size)}
	for i, o := range by {
		h.Cosignatures = append(h.Cosignatures, cosign(h.Note, o, at.Add(time.Duration(i)*time.Second)))
	}
	return h
}

func (l *log) parts(index int, h anchor.Head) anchor.Parts {
	return anchor.Parts{
		Leaf: l.leaves[index], Event: l.events[index], Salt: &l.salts[index],
		Proof: l.inclusion(index, int(h.Note.Size)), Head: h,
	}
}

func bundle(t testing.TB, p anchor.Parts) []byte {
	t.Helper()
	b, err := anchor.NewBundle(p)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func wantCode(t testing.TB, err error, code contracts.Code) {
	t.Helper()
	if contracts.CodeOf(err) != code {
		t.Errorf("error %v has the code %q, want %q", err, contracts.CodeOf(err), code)
	}
}

func wantLevel(t testing.TB, v *anchor.Verdict, level anchor.Level) {
	t.Helper()
	if v.Level != level {
		t.Errorf("verdict %s, want %s", v, level)
	}
}

func be64(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }
