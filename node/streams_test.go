package node_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/talosprotocol/talos/node"
	"github.com/talosprotocol/talos/node/authority"
	"github.com/talosprotocol/talos/testnet/fake"
)

// Two hundred streams at once across the mesh, one after the other for a while: all whole,
// and the memory of both nodes does not grow. TALOS_STREAMS says how long; CI takes a
// minute.
func TestManyStreams(t *testing.T) {
	long, err := time.ParseDuration(os.Getenv("TALOS_STREAMS"))
	if err != nil {
		long = time.Second
	}
	boot, anchors, _ := mesh(t, 1, 0)
	o := node.InitOptions{Bootstrap: addrs(boot), Anchors: []string{string(anchors[0].DID())}, Interval: 1, Strangers: "ask"}
	gh, ah := gatewayHome(t, o, &fake.Model{Pace: 5 * time.Millisecond}, ""), initHome(t, o)
	g, a := start(t, gh), start(t, ah)
	for _, r := range []*running{g, a} {
		wait(t, "readiness", func() bool { return r.Status().Ready })
	}
	setTrust(t, a, ah, g)
	if _, _, err := g.Powers().Grant(t.Context(), authority.Terms{To: a.DID(), Scopes: []string{"model:echo-1"}, Life: time.Hour}); err != nil {
		t.Fatal(err)
	}
	p := programOf(t, ah)
	web := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 256}}
	body := strings.Replace(fmt.Sprintf(question, `,"stream":true`), "a b c", "count 40", 1)
	var whole, broken atomic.Int64
	stream := func(ctx context.Context) {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.url+"/v1/chat/completions", strings.NewReader(body))
		if err != nil {
			t.Error(err)
			return
		}
		req.Header.Set("Authorization", "Bearer "+p.token)
		resp, err := web.Do(req)
		if err != nil {
			broken.Add(1)
			return
		}
		defer resp.Body.Close() //nolint:errcheck // read
		b, err := io.ReadAll(resp.Body)
		if err == nil && resp.StatusCode == http.StatusOK && bytes.HasSuffix(bytes.TrimSpace(b), []byte("data: [DONE]")) {
			whole.Add(1)
		} else if broken.Add(1) == 1 {
			t.Logf("%s %v …%s", resp.Status, err, b[max(0, len(b)-300):])
		}
	}
	run := func(d time.Duration) {
		var all sync.WaitGroup
		end := time.Now().Add(d)
		for range 200 {
			all.Go(func() {
				for stream(t.Context()); time.Now().Before(end); {
					stream(t.Context())
				}
			})
		}
		all.Wait()
	}
	heap := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	run(time.Millisecond) // each once: what stays is there now
	before := heap()
	run(long)
	web.CloseIdleConnections()
	after := heap()
	t.Logf("%d streams in %s, 200 at once; the heap of both nodes and the test was %d MiB before and %d MiB after", whole.Load(), long, before>>20, after>>20)
	if broken.Load() > 0 {
		t.Errorf("%d streams were not whole", broken.Load())
	}
	if after-before > 48<<20 {
		t.Errorf("the heap grew by %d MiB", (after-before)>>20)
	}
}
