package ratchettest

import (
	"crypto/ecdh"
	"encoding/binary"
	"fmt"
	"math/rand"
	"testing"
	"time"

	"github.com/talosprotocol/talos/ratchet"
)

// World says what may happen in a run, in weights; zero means never.
type World struct {
	Drop, Duplicate, Corrupt int // of each frame on the wire, per 100
	Crash                    int // per 1,000 steps: a party reloads from its store
	Fault                    int // per 1,000 commits: it fails, written or not
	Restore                  int // per 1,000 steps: a party goes back to an old snapshot
}

// Harsh is a world in which everything happens, Lossy one without rollbacks.
var (
	Lossy = World{Drop: 30, Duplicate: 30, Corrupt: 10, Crash: 20, Fault: 20}
	Harsh = World{Drop: 20, Duplicate: 20, Corrupt: 10, Crash: 20, Fault: 20, Restore: 3}
)

// world is one run.
type world struct {
	World
	t     testing.TB
	seed  int64
	r     *rand.Rand
	rand  seeded
	now   time.Time
	a, b  *party
	wire  []letter
	nonce map[[12]byte]string        // nonce → frame
	made  map[string]uint64          // each sealed frame → sender_seq
	sent  map[string]map[uint64]bool // released, by party
	old   map[string]*Memory
	taken int // messages and voids that were made durable
	steps int
}

type letter struct {
	from  string
	frame []byte
}

// Run lets two parties talk for a number of steps, decided by seed alone, and
// fails t if an invariant breaks. In a world without Restore, all durable
// messages must have arrived in the end.
func Run(t testing.TB, seed int64, steps int, w World) {
	t.Helper()
	r := rand.New(rand.NewSource(seed))
	run := &world{
		World: w, t: t, seed: seed, r: r, rand: seeded{r}, now: start,
		nonce: map[[12]byte]string{}, made: map[string]uint64{}, sent: map[string]map[uint64]bool{"a": {}, "b": {}},
		old: map[string]*Memory{},
	}
	run.open()
	for run.steps = range steps {
		run.step()
		if t.Failed() {
			return
		}
	}
	run.settle()
}

func (w *world) failf(format string, args ...any) {
	w.t.Helper()
	w.t.Errorf("seed %d, step %d: %s", w.seed, w.steps, fmt.Sprintf(format, args...))
}

func (w *world) open() {
	var key, secret [32]byte
	w.r.Read(key[:])
	first, err := ecdh.X25519().NewPrivateKey(key[:])
	if err != nil {
		w.t.Fatal(err)
	}
	params := ratchet.Params{Local: "did:key:za", Remote: "did:key:zb", Now: start}
	for i, f := range []*[32]byte{
		&params.Secrets.Root, &params.Secrets.FirstChain, &params.Secrets.HeaderA, &params.Secrets.NextHeaderA,
		&params.Secrets.HeaderB, &params.Secrets.Confirm, &params.Secrets.Exporter,
	} {
		w.r.Read(secret[:])
		secret[0] = byte(i)
		*f = secret
	}
	sa, err := ratchet.NewInitiator(params, first)
	if err != nil {
		w.t.Fatal(err)
	}
	params.Local, params.Remote = params.Remote, params.Local
	sb, err := ratchet.NewResponder(params, [32]byte(first.PublicKey().Bytes()))
	if err != nil {
		w.t.Fatal(err)
	}
	w.a, w.b = w.party("a", sa), w.party("b", sb)
}

func (w *world) party(name string, s *ratchet.State) *party {
	p := &party{name: name, world: w, store: &Memory{}, id: ratchet.SessionID{1}, state: s, outbox: map[uint64][]byte{}, chainOf: map[uint64]int{}}
	p.commit(s.AppendState(nil))
	p.store.Fault = func(ratchet.SessionID) Fault {
		if w.r.Intn(1000) < w.Fault {
			return Fault(1 + w.r.Intn(3))
		}
		return None
	}
	return p
}

func (w *world) peer(p *party) *party {
	if p == w.a {
		return w.b
	}
	return w.a
}

func (w *world) anyRolled() bool { return w.a.rolled || w.b.rolled }

// step does one thing to one party.
func (w *world) step() {
	p := w.a
	if w.r.Intn(2) == 0 {
		p = w.b
	}
	w.now = w.now.Add(time.Duration(w.r.Intn(2000)) * time.Millisecond)
	switch n := w.r.Intn(1000); {
	case n < w.Crash:
		p.reload()
	case n < w.Crash+w.Restore:
		w.restore(p)
	case n < 400:
		p.send(w.r.Intn(3) == 0)
	case n < 450:
		p.resend(w.r)
	case n < 460:
		w.closeHoles(p)
	default:
		w.carry()
	}
}

// restore puts a party back to its snapshot, or takes one.
func (w *world) restore(p *party) {
	snap, ok := w.old[p.name]
	if !ok || w.r.Intn(2) == 0 {
		w.old[p.name] = p.store.Snapshot()
		return
	}
	delete(w.old, p.name)
	snap.Fault = p.store.Fault
	p.store, p.rolled = snap, true
	p.reload()
}

// carry takes a letter from the wire and does to it what the world does.
func (w *world) carry() {
	if len(w.wire) == 0 {
		return
	}
	i := w.r.Intn(min(len(w.wire), 40))
	l := w.wire[i]
	switch n := w.r.Intn(100); {
	case n < w.Drop:
		w.wire = append(w.wire[:i], w.wire[i+1:]...)
		return
	case n < w.Drop+w.Corrupt:
		bad := append([]byte(nil), l.frame...)
		bad[w.r.Intn(len(bad))] ^= 1 << w.r.Intn(8)
		l.frame = bad // the genuine frame stays on the wire
	case n < w.Drop+w.Corrupt+w.Duplicate:
	default:
		w.wire = append(w.wire[:i], w.wire[i+1:]...)
	}
	to := w.a
	if l.from == "a" {
		to = w.b
	}
	to.receive(l.frame)
}

// post releases a frame. It checks that no nonce comes twice, and no number but
// after a rollback; a frame itself may come again.
func (w *world) post(p *party, f []byte) {
	seq, n := w.made[string(f)], [12]byte(f[4:16])
	if other, ok := w.nonce[n]; ok && other != string(f) {
		w.failf("%s: a nonce was used twice", p.name)
	} else if !ok {
		if w.sent[p.name][seq] && !p.rolled {
			w.failf("%s: sender_seq %d was used twice", p.name, seq)
		}
		w.nonce[n] = string(f)
		w.sent[p.name][seq] = true
	}
	if len(w.wire) < 2000 {
		w.wire = append(w.wire, letter{p.name, f})
	}
}

// closeHoles tells the peer of p, as an authenticated VOID would, which numbers
// p will never send: below its next and neither durable nor on their way.
func (w *world) closeHoles(p *party) {
	q := w.peer(p)
	if p.rolled || q.rolled || p.frozen || q.frozen {
		return
	}
	a := q.window.Next()
	next := p.state.Info().NextSeq
	b := a
	for ; b < next && b < a+ratchet.WindowSize; b++ {
		if _, ok := p.outbox[b]; ok || q.window.Check(b) != nil {
			break
		}
	}
	if b > a {
		q.void(a, b, next)
	}
}

// opened checks that what was opened was sent.
func (w *world) opened(p *party, m *ratchet.Message) {
	q := w.peer(p)
	if !w.sent[q.name][m.Seq] {
		w.failf("%s: opened %v, which was never sent", p.name, m)
	}
	if m.Kind == ratchet.KindData {
		want := binary.BigEndian.AppendUint64([]byte(q.name+":"), m.Seq)
		if string(m.Body) != string(want) {
			w.failf("%s: message %d has the wrong body", p.name, m.Seq)
		}
	}
}

// deliver checks order: each number is released once, the next one first.
func (w *world) deliver(p *party, seq uint64, there bool) {
	if p.rolled {
		return // a restored application begins again at its own snapshot
	}
	if int(seq) != p.delivered {
		w.failf("%s: delivered %d, want %d", p.name, seq, p.delivered)
	}
	p.delivered++
	if _, durable := w.peer(p).outbox[seq]; durable && !there && !w.peer(p).rolled {
		w.failf("%s: durable message %d was voided", p.name, seq)
	}
}

// settle ends the storm: without a rollback, every durable message arrives.
func (w *world) settle() {
	if w.anyRolled() {
		return
	}
	w.World = World{}
	for before := -1; before != w.taken; {
		before = w.taken
		for _, p := range []*party{w.a, w.b} {
			for _, seq := range p.numbers() {
				if f := p.outbox[seq]; seq >= w.peer(p).window.Next() {
					w.post(p, f)
					w.peer(p).receive(f)
				}
			}
			w.closeHoles(p)
		}
	}
	for _, p := range []*party{w.a, w.b} {
		for _, seq := range p.numbers() {
			if seq >= w.peer(p).window.Next() {
				w.failf("%s: durable message %d never arrived: %v", p.name, seq, w.peer(p).state.Info())
				return
			}
		}
	}
}
