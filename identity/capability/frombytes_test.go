package capability_test

import (
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity/capability"
)

func rpcText(i int) []byte {
	return fmt.Appendf(nil, `{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"name":"read","arguments":{"limit":%d,"mode":"text","path":"/data/public/file%d","query":"quarterly report"}}}`, i+100, i+1, i)
}

var filePath = []string{"data", "public", "file"}

// decideRPC goes from the bytes of a call to its decision.
func (p *population) decideRPC(text []byte, k int) error {
	m, err := capability.ParseToolCall(text)
	if err != nil || m.Method != "tools/call" {
		return fmt.Errorf("no call: %w", err)
	}
	c, err := capability.NewCall(capability.Tool, "fs", m.Name, filePath, capability.Read)
	if err != nil {
		return err
	}
	c.Args = m.Args
	return p.cache.Decide(p.sessions[k], &p.holders[k], &c, now).Err()
}

// BenchmarkFromBytes decides on the bytes of JSON-RPC calls at 10,000 sessions: on one
// core, and on all (the time of each then is that of all together).
func BenchmarkFromBytes(b *testing.B) {
	const n = 10_000
	p := populate(b, newWorld(), n)
	var texts [16][]byte
	for i := range texts {
		texts[i] = rpcText(i)
	}
	b.Run("cores=1", func(b *testing.B) {
		b.ReportAllocs()
		b.SetBytes(int64(len(texts[0])))
		k := 0
		for b.Loop() {
			if err := p.decideRPC(texts[k&15], k); err != nil {
				b.Fatal(err)
			}
			if k++; k == n {
				k = 0
			}
		}
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds()/1e3, "k/s")
	})
	b.Run("cores=all", func(b *testing.B) {
		var first atomic.Int64
		b.RunParallel(func(pb *testing.PB) {
			for k := int(first.Add(1)) * 4099; pb.Next(); k++ {
				if err := p.decideRPC(texts[k&15], k%n); err != nil {
					b.Error(err)
					return
				}
			}
		})
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds()/1e3, "k/s")
	})
}

// BenchmarkLatency gives the distribution of single decisions at 10,000 sessions, the
// clock's own 20 to 40 ns included.
func BenchmarkLatency(b *testing.B) {
	const n = 10_000
	p := populate(b, newWorld(), n)
	took := make([]time.Duration, 0, 1<<20)
	k := 0
	for b.Loop() {
		start := time.Now()
		d := p.cache.Decide(p.sessions[k], &p.holders[k], p.calls[k&15], now)
		if len(took) < cap(took) {
			took = append(took, time.Since(start))
		}
		if !d.Allowed() {
			b.Fatal(d.Err())
		}
		if k++; k == n {
			k = 0
		}
	}
	slices.Sort(took)
	for _, q := range []struct {
		name string
		of   float64
	}{{"p50-ns", 0.5}, {"p99-ns", 0.99}, {"p99.9-ns", 0.999}} {
		b.ReportMetric(float64(took[int(float64(len(took)-1)*q.of)]), q.name)
	}
}

// Rows 3 and 7 of the acceptance table, for the bytes of a call: what is strict in
// arguments is strict around them.
func TestToolCall(t *testing.T) {
	m, err := capability.ParseToolCall(rpcText(4))
	if err != nil || m.ID != "104" || m.Method != "tools/call" || m.Name != "read" || m.Args == nil {
		t.Fatalf("%+v, %v", m, err)
	}
	p := populate(t, newWorld(), 20)
	for k := range 16 {
		if err := p.decideRPC(rpcText(k), k); err != nil {
			t.Error(err)
		}
	}
	for text, args := range map[string]bool{
		`{"jsonrpc":"2.0","id":"x","method":"tools/list"}`: false, ` {"jsonrpc":"2.0","method":"m","params":{"_meta":{"a":[1,{"b":null}]},"arguments":{},"name":"n"},"extra":{"name":"z"}} `: true,
	} {
		if m, err := capability.ParseToolCall([]byte(text)); err != nil || (m.Args != nil) != args {
			t.Errorf("%s: %+v, %v", text, m, err)
		}
	}
	for _, bad := range []string{
		``, `{}`, `[]`, `{"jsonrpc":"2.0"}`, `{"jsonrpc":"1.0","method":"m"}`, `{"jsonrpc":"2.0","method":"m"}x`, `{"jsonrpc":"2.0","method":"m","method":"n"}`, `{"jsonrpc":"2.0","method":"m","\u006dethod":"n"}`,
		`{"jsonrpc":"2.0","method":"m","params":[]}`, `{"jsonrpc":"2.0","method":"m","params":{"name":"a","name":"b"}}`, `{"jsonrpc":"2.0","method":"m","params":{"arguments":[1]}}`, `{"jsonrpc":"2.0","method":"m","params":{"arguments":"x"}}`,
		`{"jsonrpc":"2.0","method":"m","params":{"arguments":{"a":1,"a":2}}}`, `{"jsonrpc":"2.0","method":"m","id":{}}`, `{"jsonrpc":"2.0","method":"m","params":{"name":1}}`, `{"jsonrpc":"2.0","method":"m","x":{"a":1,"a":1}}`,
		"{\"jsonrpc\":\"2.0\",\"method\":\"m\xff\"}", `{"jsonrpc":"2.0","method":"m","x":` + strings.Repeat("[", 40) + strings.Repeat("]", 40) + `}`, strings.Repeat(" ", 1<<20+1),
	} {
		_, err := capability.ParseToolCall([]byte(bad))
		wantCode(t, fmt.Sprintf("%.80s", bad), err, contracts.Malformed)
	}
}
