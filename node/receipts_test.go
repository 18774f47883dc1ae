package node_test

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
	"github.com/talosprotocol/talos/node"
	"github.com/talosprotocol/talos/node/api"
	"github.com/talosprotocol/talos/node/authority"
	"github.com/talosprotocol/talos/node/call"
	"github.com/talosprotocol/talos/node/execution"
	"github.com/talosprotocol/talos/node/receipt"
	"github.com/talosprotocol/talos/testnet/fake"
)

// Both sides of a call keep its receipt with both signatures, a file of it verifies without
// a node, and the logs of both name the receipt. GW-25, GW-27.
func TestReceiptsOfBothSides(t *testing.T) {
	boot, anchors, _ := mesh(t, 1, 0)
	o := node.InitOptions{Bootstrap: addrs(boot), Anchors: []string{string(anchors[0].DID())}, Interval: 1, Strangers: "ask"}
	gh, ah := gatewayHome(t, o, &fake.Model{}, ""), initHome(t, o)
	g, a := start(t, gh), start(t, ah)
	for _, r := range []*running{g, a} {
		wait(t, "readiness", func() bool { return r.Status().Ready })
	}
	setTrust(t, a, ah, g)
	if _, _, err := g.Powers().Grant(t.Context(), authority.Terms{To: a.DID(), Scopes: []string{"model:echo-1"}, Life: time.Hour}); err != nil {
		t.Fatal(err)
	}
	p := programOf(t, ah)
	const n = 3
	for range n {
		if status, text, _, err := p.post(t.Context(), "/v1/chat/completions", fmt.Sprintf(question, "")); err != nil || status != 200 {
			t.Fatalf("%d %s, %v", status, text, err)
		}
	}
	for side, r := range map[string]*running{receipt.Caller: a, receipt.Executor: g} {
		c := api.Dial(filepath.Join(r.home.Dir, "api.sock"))
		wait(t, "receipts with both signatures", func() bool {
			all, err := c.Receipts(t.Context(), side, "", 50)
			if err != nil {
				t.Fatal(err)
			}
			both := 0
			for _, k := range all {
				if k.Countersignature != "" {
					both++
				}
			}
			return both == n
		})
		raw, err := c.ReceiptFile(t.Context(), "", "", 50)
		if err != nil {
			t.Fatal(err)
		}
		f, err := contracts.ParseReceiptFile(raw)
		if err != nil {
			t.Fatal(err)
		}
		if both, err := receipt.VerifyFile(f); err != nil || both != n {
			t.Errorf("%s: %d, %v", side, both, err)
		}
		logged := map[string]bool{}
		for _, e := range events(t, r) {
			if e.Type == "receipt" && e.Outcome == "ok" {
				logged[e.ResultDigest] = true
			}
		}
		for _, k := range f.Receipts {
			if !logged[receipt.Digest(&k.Receipt)] {
				t.Errorf("%s: the log does not have the receipt of %s", side, k.Receipt.Call)
			}
		}
	}
}

// Row 28 of the failure list: a gateway that lies in its receipt, or gives none, is found
// out: the answer does not end as a complete one, what it has signed is kept as evidence,
// and it is not chosen any more. GW-8, GW-28.
func TestRow28_LyingGateway(t *testing.T) {
	boot, anchors, _ := mesh(t, 1, 0)
	o := node.InitOptions{Bootstrap: addrs(boot), Anchors: []string{string(anchors[0].DID())}, Interval: 1, Strangers: "ask"}
	gh, ah := gatewayHome(t, o, &fake.Model{}, ""), initHome(t, o)
	g, a := start(t, gh), start(t, ah)
	for _, r := range []*running{g, a} {
		wait(t, "readiness", func() bool { return r.Status().Ready })
	}
	setTrust(t, a, ah, g)
	if _, _, err := g.Powers().Grant(t.Context(), authority.Terms{To: a.DID(), Scopes: []string{"model:echo-1"}, Life: time.Hour}); err != nil {
		t.Fatal(err)
	}
	p := programOf(t, ah)
	ask := func(model string) (int, string) {
		status, text, _, err := p.post(t.Context(), "/v1/chat/completions", strings.Replace(fmt.Sprintf(question, ""), `"echo-1"`, `"`+model+`"`, 1))
		if err != nil {
			return 0, err.Error()
		}
		return status, text
	}
	if status, text := ask("echo-1"); status != 200 { // the caller knows the price list now
		t.Fatal(status, text)
	}
	const body = `{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}`
	key, err := g.SigningKey()
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var lie func(*contracts.CallReceipt) []byte
	var old []byte
	g.ServeCalls(func(ctx context.Context, c *call.Call, w *call.ResponseWriter, honest call.Handler) error {
		if c.Surface != "model.use" {
			return honest(ctx, c, w)
		}
		req, err := io.ReadAll(c.Body)
		if err != nil {
			return err
		}
		m, err := contracts.ParseCallMeta(c.Meta)
		if err != nil {
			return err
		}
		salt, _ := base64.RawURLEncoding.DecodeString(m.Salt)
		one := int64(1)
		r := &contracts.CallReceipt{
			Call: c.ID, Caller: string(c.Caller.DID), Executor: string(g.DID()), Surface: "model.use", Service: c.Service, Method: c.Method,
			Request: execution.Commit(salt, req), Response: execution.Commit(salt, []byte(body)), Outcome: "ok", UnitsIn: &one, UnitsOut: &one, At: identity.FormatTime(time.Now()),
		}
		if err := w.Header(call.ResponseHeader{ContentType: "application/json", Meta: json.RawMessage(`{"status":200,"v":"talos-meta/1"}`)}); err != nil {
			return err
		}
		if _, err := w.Write([]byte(body)); err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		if raw := lie(r); raw != nil {
			return w.Trailer(raw)
		}
		return nil
	})
	set := func(f func(*contracts.CallReceipt) []byte) {
		mu.Lock()
		defer mu.Unlock()
		lie = f
	}
	named := string(g.DID()) + "/echo-1"
	set(func(r *contracts.CallReceipt) []byte { old = receipt.Sign(r, key); return old })
	if status, text := ask(named); status != 200 {
		t.Fatalf("the truth: %d %s", status, text)
	}
	other, err := identity.Generate[identity.Invocation](rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	evidence := 0
	for name, l := range map[string]struct {
		lie    func(*contracts.CallReceipt) []byte
		signed bool // so that it is evidence
	}{
		"no receipt":       {func(*contracts.CallReceipt) []byte { return nil }, false},
		"another key":      {func(r *contracts.CallReceipt) []byte { return receipt.Sign(r, other) }, false},
		"an old receipt":   {func(*contracts.CallReceipt) []byte { return old }, true},
		"another answer":   {func(r *contracts.CallReceipt) []byte { r.Response = r.Request; return receipt.Sign(r, key) }, true},
		"another question": {func(r *contracts.CallReceipt) []byte { r.Request = r.Response; return receipt.Sign(r, key) }, true},
		"for another":      {func(r *contracts.CallReceipt) []byte { r.Caller = string(g.DID()); return receipt.Sign(r, key) }, true},
	} {
		set(l.lie)
		if status, text := ask(named); status == 200 {
			t.Errorf("%s: %s", name, text)
		}
		if l.signed {
			evidence++
		}
	}
	set(func(r *contracts.CallReceipt) []byte {
		dear := int64(1_000_000)
		r.CostMicro = &dear
		return receipt.Sign(r, key)
	})
	if status, text := ask(named); status != 200 { // the answer is right, its price is not
		t.Errorf("too dear: %d %s", status, text)
	}
	evidence++
	if status, text := ask("echo-1"); status == 200 || !strings.Contains(text, "wrong receipt") {
		t.Errorf("it is chosen again: %d %s", status, text)
	}
	c := api.Dial(filepath.Join(ah.Dir, "api.sock"))
	wait(t, "evidence", func() bool {
		all, err := c.Receipts(t.Context(), receipt.Caller, "", 50)
		if err != nil {
			t.Fatal(err)
		}
		disputed := 0
		for _, k := range all {
			if k.Disputed != "" {
				disputed++
				if k.Countersignature != "" {
					t.Errorf("countersigned: %+v", k)
				}
			}
		}
		return disputed == evidence
	})
}
