// Package e2e plays with real processes of the real binary.
package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/talosprotocol/talos/anchor"
	"github.com/talosprotocol/talos/node/api"
	"github.com/talosprotocol/talos/node/evidence"
	"github.com/talosprotocol/talos/testnet"
)

func rounds(t *testing.T) int {
	n, err := strconv.Atoi(os.Getenv("TALOS_KILL_ROUNDS"))
	if err != nil {
		n = 2
	}
	if testing.Short() {
		t.Skip("starts processes")
	}
	return n
}

func start(t *testing.T, ctx context.Context) *testnet.Processes {
	t.Helper()
	exe := filepath.Join(t.TempDir(), "talos")
	build := exec.CommandContext(ctx, "go", "build", "-o", exe, "github.com/talosprotocol/talos/cmd/talos")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building: %v\n%s", err, out)
	}
	dir, err := os.MkdirTemp("", "talos") // short, for the sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	net, err := testnet.StartProcesses(ctx, exe, dir, testnet.Plan{Bootstraps: 1, Anchors: 1, Agents: 2}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, m := range net.All() {
			if t.Failed() {
				net.Process(m).Dump()
			}
			if log, err := os.ReadFile(filepath.Join(m.Home(), "node.log")); err == nil && t.Failed() {
				t.Logf("log of %s: %s", m.Name(), log[max(0, len(log)-60000):])
			}
		}
		_ = net.Stop()
	})
	return net
}

// agent is one end of the conversation.
type agent struct {
	testnet.Member
	p    *testnet.Process
	did  string
	mu   sync.Mutex
	sent []said // in order
}

type said struct {
	text     string
	accepted bool
}

// chat sends until stop; a failed Send leaves open whether the message was accepted.
func (a *agent) chat(ctx context.Context, to *agent, round int, stop <-chan struct{}) {
	for i := 0; ; i++ {
		select {
		case <-stop:
			return
		default:
		}
		s := said{text: fmt.Sprintf("%s %d.%d", a.Name(), round, i)}
		_, err := a.Send(ctx, to.did, s.text)
		s.accepted = err == nil
		a.mu.Lock()
		a.sent = append(a.sent, s)
		a.mu.Unlock()
		if err != nil { // the node is down: let it come back
			select {
			case <-stop:
				return
			case <-time.After(50 * time.Millisecond):
			}
		}
	}
}

// Row E1 end to end: kill -9 while two agents talk both ways. All that was accepted
// arrives once and in order, and the audit log never forgets. SES-6, SES-7.
func TestE1_Kill(t *testing.T) {
	n := rounds(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Duration(30+20*n)*time.Second)
	defer cancel()
	net := start(t, ctx)
	var agents []*agent
	for _, m := range net.Agents {
		st, err := m.Status(ctx)
		if err != nil {
			t.Fatal(err)
		}
		agents = append(agents, &agent{Member: m, p: net.Process(m), did: st.DID})
	}
	a, b := agents[0], agents[1]
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	var old []byte // a proof from before the first kill
	sizes := map[*agent]uint64{}
	for round := range n {
		stop := make(chan struct{})
		var chats sync.WaitGroup
		chats.Go(func() { a.chat(ctx, b, round, stop) })
		chats.Go(func() { b.chat(ctx, a, round, stop) })
		if round == 0 {
			old = proof(t, ctx, a)
		}
		victims := agents[rnd.IntN(2):][:1]
		if rnd.IntN(3) == 0 {
			victims = agents
		}
		time.Sleep(time.Duration(rnd.IntN(400)) * time.Millisecond) // the point of the kill
		for _, v := range victims {
			if err := v.p.Kill(); err != nil && ctx.Err() != nil {
				t.Fatal(err)
			}
		}
		for _, v := range victims {
			if err := v.p.Start(); err != nil {
				t.Fatal(err)
			}
			if err := v.p.Ready(ctx); err != nil {
				t.Fatal(err)
			}
		}
		close(stop)
		chats.Wait()
		for _, x := range agents {
			sizes[x] = grown(t, ctx, x, sizes[x])
		}
	}
	arrived(t, ctx, a, b)
	arrived(t, ctx, b, a)
	judge(t, ctx, net, old)
}

// arrived waits for all of from's accepted messages at to and judges their order.
func arrived(t *testing.T, ctx context.Context, from, to *agent) {
	t.Helper()
	last, accepted := "", 0
	for _, s := range from.sent {
		if s.accepted {
			last, accepted = s.text, accepted+1
		}
	}
	var got []api.Message
	for len(got) == 0 || got[len(got)-1].Text != last {
		if ctx.Err() != nil {
			t.Fatalf("%s has %d messages of %s, not the last, %q", to.Name(), len(got), from.Name(), last)
		}
		cursor := uint64(0)
		if len(got) > 0 {
			cursor = got[len(got)-1].Index
		}
		msgs, err := to.Inbox(ctx, cursor, time.Second)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, msgs...)
	}
	i := 0
	for _, s := range from.sent {
		switch {
		case i < len(got) && got[i].Text == s.text:
			i++
		case s.accepted:
			t.Fatalf("%q was accepted and is not in its place at %s", s.text, to.Name())
		}
	}
	if i != len(got) {
		t.Errorf("%s has %d messages of %s too many, first %q", to.Name(), len(got)-i, from.Name(), got[i].Text)
	}
	t.Logf("%s → %s: %d accepted, all arrived once and in order", from.Name(), to.Name(), accepted)
}

// grown reads the size of the log, which never shrinks.
func grown(t *testing.T, ctx context.Context, x *agent, before uint64) uint64 {
	t.Helper()
	e, err := x.Events(ctx, 0, 1, true)
	if err != nil {
		t.Fatal(err)
	}
	if e.Size < before {
		t.Errorf("the log of %s went from %d to %d events", x.Name(), before, e.Size)
	}
	return e.Size
}

// proof waits until the first event is witnessed and proves it.
func proof(t *testing.T, ctx context.Context, x *agent) []byte {
	t.Helper()
	for {
		st, err := x.Status(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if st.Cosigners > 0 && st.Witnessed > 1 {
			break
		}
		select {
		case <-ctx.Done():
			t.Fatal("no cosignature")
		case <-time.After(50 * time.Millisecond):
		}
	}
	b, err := x.Prove(ctx, 0, false)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// judge verifies a bundle from before the kills, and the same event proved anew.
func judge(t *testing.T, ctx context.Context, net *testnet.Processes, old []byte) {
	t.Helper()
	p := anchor.Policy{Quorum: 1}
	for _, x := range net.Anchors {
		st, err := x.Status(ctx)
		if err != nil {
			t.Fatal(err)
		}
		p.Witnesses = append(p.Witnesses, anchor.PolicyWitness{Name: st.DID, Organisation: x.Name()})
	}
	fresh, err := net.Agents[0].Prove(ctx, 0, false)
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{"old": old, "new": fresh} {
		if v, _ := evidence.VerifyBundle(b, p, time.Now()); v.Level < anchor.Witnessed {
			t.Errorf("the %s proof: %s %v", name, v, v.Problems)
		}
	}
}
