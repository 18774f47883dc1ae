package session_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// run is a conversation under crashes. Each message that Send accepted must arrive
// once and in order; one whose Send failed may arrive, once and in order.
type run struct {
	a, b   *member
	rnd    *rand.Rand
	again  bool // crash on and on, not once
	points int  // crashes so far
	sent   map[*member][]message
}

type message struct {
	body     string
	accepted bool
}

// alive restarts a member that has crashed.
func (r *run) alive(t testing.TB, m *member) {
	t.Helper()
	if !m.store.dead.Load() {
		return
	}
	r.points++
	failAt := 0
	if r.again {
		failAt = 1 + r.rnd.IntN(12)
	}
	m.crash()
	m.open(t, failAt, r.rnd.IntN(2) == 0)
}

func (r *run) send(t testing.TB, from, to *member) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		r.alive(t, from)
		r.alive(t, to)
		msg := message{body: fmt.Sprintf("%d from %s", len(r.sent[from]), from.did[len(from.did)-4:])}
		_, err := from.m.Send(t.Context(), to.did, []byte(msg.body))
		msg.accepted = err == nil
		r.sent[from] = append(r.sent[from], msg)
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("sending: %v", err)
		}
		r.a.clock.Add(500)
		time.Sleep(time.Millisecond)
	}
}

// settled waits until all is there, and judges it.
func (r *run) settled(t testing.TB) {
	t.Helper()
	for _, way := range [][2]*member{{r.a, r.b}, {r.b, r.a}} {
		from, to := way[0], way[1]
		var got []string
		last := ""
		for _, m := range r.sent[from] {
			if m.accepted {
				last = m.body
			}
		}
		deadline := time.Now().Add(20 * time.Second)
		for !slices.Contains(got, last) {
			r.alive(t, from)
			r.alive(t, to)
			if time.Now().After(deadline) {
				t.Fatalf("%q did not arrive; there are %q", last, got)
			}
			r.a.clock.Add(20)
			time.Sleep(200 * time.Microsecond)
			got = to.inbox(t)
		}
		i := 0
		for _, m := range r.sent[from] {
			switch {
			case i < len(got) && got[i] == m.body:
				i++
			case m.accepted:
				t.Fatalf("%q was accepted and is not in its place in %q", m.body, got)
			}
		}
		if i != len(got) {
			t.Fatalf("too many messages: %q; sent %v", got, r.sent[from])
		}
	}
	for _, m := range []*member{r.a, r.b} {
		if x := m.disk.reused(); len(x) > 0 {
			t.Fatalf("a key was used twice: %q", x)
		}
	}
}

// script is what the crashes fall into: first messages, answers, a rotation.
func (r *run) script(t testing.TB) {
	t.Helper()
	for range 3 {
		r.send(t, r.a, r.b)
	}
	for range 2 {
		r.send(t, r.b, r.a)
	}
	r.alive(t, r.a)
	r.alive(t, r.b)
	_ = r.a.m.Rotate(t.Context(), r.b.did) // what it leaves undone must do no harm
	r.send(t, r.a, r.b)
	r.send(t, r.b, r.a)
	r.settled(t)
}

func newRun(t testing.TB, a, b *member, seed uint64) *run {
	t.Helper()
	a.fresh(t)
	b.fresh(t)
	return &run{a: a, b: b, rnd: rand.New(rand.NewPCG(seed, 1)), sent: map[*member][]message{}}
}

// Row E1: a crash at every commit of sending, receiving, handshake and rotation, of
// either side, before and after the commit is durable; then crash after crash.
// SES-3, SES-4, SES-5, SES-6, SES-7; row E7 by the frames that disk compares.
func TestE1_CrashAtEveryCommit(t *testing.T) {
	want := 2000
	if testing.Short() {
		want = 200
	}
	points := make(chan int, 4)
	for w := range 4 {
		go func() {
			n := 0
			defer func() { points <- n }()
			t.Run(fmt.Sprint(w), func(t *testing.T) {
				a, b := pair(t)
				n = crashes(t, a, b, w, want/4)
			})
		}()
	}
	total := 0
	for range 4 {
		total += <-points
	}
	t.Logf("%d crashes", total)
	if !t.Failed() && total < want {
		t.Errorf("%d points, want %d", total, want)
	}
}

// crashes gives the number of crashes that a worker has survived: its quarter of the
// systematic ones, and random ones up to want.
func crashes(t *testing.T, a, b *member, worker, want int) (n int) {
	side, persist := []*member{a, b}[worker/2], worker%2 == 0
	for at, fired := 1, true; fired; at++ {
		r := newRun(t, a, b, uint64(at))
		side.crash()
		side.open(t, at, persist)
		r.script(t)
		fired = r.points > 0
		n += r.points
	}
	for seed := uint64(worker) * 1e6; n < want; seed++ {
		r := newRun(t, a, b, seed)
		r.again = true
		for _, m := range []*member{a, b} {
			m.crash()
			m.open(t, 1+r.rnd.IntN(12), r.rnd.IntN(2) == 0)
		}
		r.script(t)
		n += r.points
		if t.Failed() {
			t.Logf("seed %d", seed)
		}
	}
	return n
}
