package node_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/node"
	"github.com/talosprotocol/talos/node/authority"
	"github.com/talosprotocol/talos/testnet/fake"
)

// One budget over two gateways that share nothing: the organisation that both have as a
// root gives a part for each. A thousand calls at once, to whichever gateway, spend all of
// it and nothing more. Row 9 of the failure list, over replicas.
func TestRow09_SplitBudget(t *testing.T) {
	boot, anchors, _ := mesh(t, 1, 0)
	o := node.InitOptions{Bootstrap: addrs(boot), Anchors: []string{string(anchors[0].DID())}, Interval: 1, Strangers: "ask"}
	org := start(t, initHome(t, o))
	rooted := o
	rooted.Roots = []contracts.Root{{DID: string(org.DID()), Kinds: []string{"model"}}}
	m := &fake.Model{Key: "sk-some-key"}
	ah := initHome(t, o)
	g1, g2, a := start(t, gatewayHome(t, rooted, m, "")), start(t, gatewayHome(t, rooted, m, "")), start(t, ah)
	for _, r := range []*running{org, g1, g2, a} {
		wait(t, "readiness", func() bool { return r.Status().Ready })
	}
	setTrust(t, a, ah, g1, g2)
	for i, g := range []*running{g1, g2} { // as talos cap grant --at … --at … --budget calls=21 does
		part := int64(11 - i)
		if _, delivered, err := org.Powers().Grant(t.Context(), authority.Terms{
			To: a.DID(), At: g.DID(), Scopes: []string{"model:echo-1"}, Life: time.Hour, Constraints: []contracts.Constraint{{Op: "budget", N: &part, Unit: "calls"}},
		}); err != nil || !delivered {
			t.Fatal(delivered, err)
		}
	}
	p := programOf(t, ah)
	var all sync.WaitGroup
	var ok atomic.Int64
	slots := make(chan struct{}, 64)
	for range 1000 {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			if status, _, _, err := p.post(t.Context(), "/v1/chat/completions", fmt.Sprintf(question, "")); err == nil && status == 200 {
				ok.Add(1)
			}
		})
	}
	all.Wait()
	if ok.Load() != 21 || m.Answers.Load() != 21 {
		t.Errorf("%d calls were answered, %d came upstream, of a budget of 21", ok.Load(), m.Answers.Load())
	}
}
