package node_test

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/node"
	"github.com/talosprotocol/talos/node/api"
	"github.com/talosprotocol/talos/node/authority"
	"github.com/talosprotocol/talos/testnet/fake"
)

// Row 4 of the failure list, across the mesh: clients that go away before the first byte,
// in the middle of a stream, and of an answer that is not streamed, leave nothing behind:
// no request upstream, no goroutine, no descriptor, nothing held of a budget.
// TALOS_ABORTS says how many; CI takes 10,000.
func TestRow04_Aborts(t *testing.T) {
	n, err := strconv.Atoi(os.Getenv("TALOS_ABORTS"))
	if err != nil {
		n = 150
	}
	boot, anchors, _ := mesh(t, 1, 0)
	o := node.InitOptions{Bootstrap: addrs(boot), Anchors: []string{string(anchors[0].DID())}, Interval: 1, Strangers: "ask"}
	paced, held := &fake.Model{Pace: 2 * time.Millisecond}, &fake.Model{}
	held.Hold() // for ever
	slow := httptest.NewServer(held)
	t.Cleanup(slow.Close)
	gh, ah := gatewayHome(t, o, paced, ""), initHome(t, o)
	cfg, err := gh.Gateway()
	if err != nil {
		t.Fatal(err)
	}
	yes := true
	cfg.Models = append(cfg.Models, contracts.ModelExposure{Name: "held-1", API: "openai", URL: slow.URL + "/v1", Key: "upstream", Private: &yes})
	if err := gh.SetGateway(cfg); err != nil {
		t.Fatal(err)
	}
	g, a := start(t, gh), start(t, ah)
	for _, r := range []*running{g, a} {
		wait(t, "readiness", func() bool { return r.Status().Ready })
	}
	setTrust(t, a, ah, g)
	if _, _, err := g.Powers().Grant(t.Context(), authority.Terms{To: a.DID(), Scopes: []string{"model:*"}, Life: time.Hour}); err != nil {
		t.Fatal(err)
	}
	p := programOf(t, ah)
	web := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 16}}
	// abort makes a call and goes away: before the first byte, in the middle of a stream,
	// or before an answer that is not streamed. It gives when it went.
	var alone sync.Mutex
	abort := func(phase int) time.Time {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		name, upstream := "held-1", held
		if phase == 1 {
			name, upstream = "echo-1", paced
		}
		body := fmt.Sprintf(`{"model":%q,"stream":%v,"messages":[{"role":"user","content":"count 2000"}]}`, name, phase != 2)
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.url+"/v1/chat/completions", strings.NewReader(body))
		if err != nil {
			t.Error(err)
			return time.Now()
		}
		req.Header.Set("Authorization", "Bearer "+p.token)
		if phase != 1 { // one at a time: it goes when its own request has come upstream
			alone.Lock()
			defer alone.Unlock()
			before := upstream.Answers.Load()
			go func() {
				for upstream.Answers.Load() == before && ctx.Err() == nil {
					runtime.Gosched()
				}
				cancel()
			}()
		}
		resp, err := web.Do(req)
		if err != nil {
			return time.Now()
		}
		if resp.StatusCode != http.StatusOK {
			t.Errorf("phase %d: %s", phase, resp.Status)
		}
		lines := bufio.NewScanner(resp.Body)
		for range 1 + rand.IntN(20) {
			lines.Scan()
		}
		_ = resp.Body.Close()
		return time.Now()
	}
	nobody := func() bool { return paced.Running.Load()+held.Running.Load() == 0 }
	for phase := range 3 {
		abort(phase)
	}
	web.CloseIdleConnections()
	wait(t, "rest", nobody)
	goroutines, files := runtime.NumGoroutine(), descriptors(t)
	var all sync.WaitGroup
	var gone []time.Duration
	slots := make(chan struct{}, 8)
	for i := range n {
		if i%20 == 0 { // alone, to see how long it takes
			all.Wait()
			wait(t, "rest", nobody)
			left := abort(i / 20 % 3)
			for !nobody() {
				runtime.Gosched()
			}
			gone = append(gone, time.Since(left))
		}
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			abort(i % 3)
		})
	}
	all.Wait()
	web.CloseIdleConnections()
	wait(t, "the end of all requests upstream", nobody)
	slices.Sort(gone)
	t.Logf("%d aborts, of which %d requests came upstream; the end upstream came %s after the client had gone (median of %d), %s at most",
		n+len(gone), paced.Answers.Load()+held.Answers.Load(), gone[len(gone)/2].Round(time.Microsecond), len(gone), gone[len(gone)-1].Round(time.Microsecond))
	if came := paced.Answers.Load() + held.Answers.Load(); came < int64(n)*9/10 {
		t.Errorf("only %d of %d requests came upstream", came, n)
	}
	wait(t, "as many goroutines and descriptors as before", func() bool {
		return runtime.NumGoroutine() <= goroutines+20 && descriptors(t) <= files+10
	})
	wait(t, "a budget of which nothing is held", func() bool {
		b, err := apiOf(g).Budgets(t.Context())
		return err == nil && !slices.ContainsFunc(b, func(row api.Budget) bool { return row.Held != 0 })
	})
}

func descriptors(t *testing.T) int {
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip("no /proc")
	}
	return len(all)
}
