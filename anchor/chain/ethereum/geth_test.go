package ethereum_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/talosprotocol/talos/anchor"
	"github.com/talosprotocol/talos/anchor/chain"
	"github.com/talosprotocol/talos/anchor/chain/ethereum"
	"github.com/talosprotocol/talos/anchor/chain/evm"
)

// geth is a real chain of one node on the loopback.
type geth struct {
	t   testing.TB
	url string
}

var listening = regexp.MustCompile(`HTTP server started\s+endpoint=(127\.0\.0\.1:[0-9]+)`)

// startGeth starts the program that TALOS_GETH names. CI builds it and sets that.
func startGeth(t testing.TB) *geth {
	t.Helper()
	path := os.Getenv("TALOS_GETH")
	if path == "" {
		t.Skip("TALOS_GETH names no geth: .ci/run builds one")
	}
	cmd := exec.CommandContext(t.Context(), path, "--dev", "--dev.period", "0", "--datadir", t.TempDir(), "--ipcdisable", "--nodiscover", "--maxpeers", "0", "--port", "0",
		"--http", "--http.addr", "127.0.0.1", "--http.port", "0", "--http.api", "eth,debug,dev", "--authrpc.port", "0")
	out, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	found := make(chan string, 1)
	go func() {
		for in := bufio.NewScanner(out); in.Scan(); {
			if m := listening.FindSubmatch(in.Bytes()); m != nil {
				found <- string(m[1])
				break
			}
		}
		_, _ = io.Copy(io.Discard, out)
	}()
	select {
	case at := <-found:
		return &geth{t, "http://" + at}
	case <-time.After(time.Minute):
		t.Fatal("geth does not start")
	}
	return nil
}

func (g *geth) call(out any, method string, params ...any) {
	g.t.Helper()
	if why := g.try(out, method, params...); why != "" {
		g.t.Fatalf("%s: %s", method, why)
	}
}

// try gives what geth has against it, as in "transaction indexing is in progress".
func (g *geth) try(out any, method string, params ...any) string {
	g.t.Helper()
	if params == nil {
		params = []any{}
	}
	body, _ := json.Marshal(map[string]any{"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
	resp, err := http.Post(g.url, "application/json", bytes.NewReader(body))
	if err != nil {
		g.t.Fatal(err)
	}
	defer resp.Body.Close() //nolint:errcheck // read only
	var a struct {
		Result json.RawMessage
		Error  json.RawMessage
	}
	if err := json.NewDecoder(resp.Body).Decode(&a); err != nil || a.Error != nil {
		return fmt.Sprintf("%v %s", err, a.Error)
	}
	if out != nil {
		if err := json.Unmarshal(a.Result, out); err != nil {
			g.t.Fatal(err)
		}
	}
	return ""
}

// send has the developer's account send something.
func (g *geth) send(to evm.Address, value string, data []byte) {
	g.t.Helper()
	var accounts []string
	g.call(&accounts, "eth_accounts")
	g.call(nil, "eth_sendTransaction", map[string]any{"from": accounts[0], "to": fmt.Sprintf("0x%x", to), "value": value, "data": fmt.Sprintf("0x%x", data)})
}

// until polls a condition.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); {
		if time.Now().After(end) {
			t.Fatalf("no %s within a minute", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func (g *geth) driver(confirmations uint64) *ethereum.Driver {
	g.t.Helper()
	var id string
	g.call(&id, "eth_chainId")
	var n uint64
	_, _ = fmt.Sscanf(id, "0x%x", &n)
	d, err := ethereum.New(ethereum.Config{URLs: []string{g.url}, ChainID: n, Key: account(1), Confirmations: confirmations})
	if err != nil {
		g.t.Fatal(err)
	}
	polls := 0
	until(g.t, "money", func() bool {
		var b string
		if polls++; polls%200 == 1 { // a chain that has just started may leave one lying until the next
			g.send(d.Account(), "0xde0b6b3a7640000", nil)
		}
		g.call(&b, "eth_getBalance", fmt.Sprintf("0x%x", d.Account()), "latest")
		return b != "0x0"
	})
	return d
}

// drive walks a submission to its receipt, as the submitter does.
func (g *geth) drive(d *ethereum.Driver, head *anchor.Note) *anchor.Receipt {
	g.t.Helper()
	ctx := g.t.Context()
	return g.follow(d, head, g.submit(ctx, d, head))
}

// submit sends a head; what fails is tried again, as the submitter does. A node that has
// just started says now and then that it has not come so far.
func (g *geth) submit(ctx context.Context, d *ethereum.Driver, head *anchor.Note) (state []byte) {
	g.t.Helper()
	try := func(err error) bool {
		if err != nil {
			g.t.Log(err)
		}
		return err == nil
	}
	until(g.t, "transaction", func() (ok bool) {
		var err error
		state, err = d.Prepare(ctx, head)
		return try(err)
	})
	until(g.t, "sending", func() bool { return try(d.Submit(ctx, head, state)) })
	return state
}

// follow walks on from what was sent to the receipt.
func (g *geth) follow(d *ethereum.Driver, head *anchor.Note, state []byte) *anchor.Receipt {
	g.t.Helper()
	body := g.walk(d, head, state, time.Minute)
	if body == nil {
		g.t.Fatal("no receipt within a minute")
	}
	return &anchor.Receipt{Driver: d.Name(), Chain: d.Chain(), Head: head.Checkpoint, Body: body}
}

// walk gives the body of the receipt, nil if none comes in time.
func (g *geth) walk(d *ethereum.Driver, head *anchor.Note, state []byte, limit time.Duration) []byte {
	g.t.Helper()
	ctx, end := g.t.Context(), time.Now().Add(limit)
	for polls := 0; time.Now().Before(end); polls++ {
		st, err := d.Status(ctx, head, state)
		switch {
		case err != nil:
			g.t.Log(err) // a node in the middle of a change
		case st.Phase == chain.Final:
			return st.Body
		case st.Phase == chain.Unsent:
			if err := d.Submit(ctx, head, state); err != nil {
				g.t.Log(err)
			}
		case polls%5 == 0:
			g.send(evm.Address{9}, "0x1", nil) // a block above
		}
		time.Sleep(5 * time.Millisecond)
	}
	return nil
}

// A real chain: the head goes there among others' transactions, the receipt is followed
// offline, and by an auditor who asks the chain. CHAIN-13.
func TestGeth(t *testing.T) {
	g := startGeth(t)
	d := g.driver(1)
	begin := time.Now()
	for size := uint64(10); size < 30; size++ {
		if size%4 == 0 {
			for i := range 8 { // in blocks with ours, if it comes so
				g.send(evm.Address{8}, "0x1", bytes.Repeat([]byte{1}, 10*i))
			}
		}
		r := g.drive(d, headOf(size))
		h, err := ethereum.Open(r)
		if err != nil {
			t.Fatal(err)
		}
		v := &ethereum.Verifier{Confirmations: 1, Endpoints: map[string][]*ethereum.Client{r.Chain: {ethereum.NewClient([]string{g.url}, nil)}}}
		if f := v.VerifyReceipt(r); f.Outcome != anchor.Valid {
			t.Errorf("online: %+v", f)
		}
		v = &ethereum.Verifier{Blocks: map[string]map[uint64]evm.Hash{r.Chain: {h.Number: h.Hash}}}
		if f := v.VerifyReceipt(r); f.Outcome != anchor.Valid {
			t.Errorf("offline: %+v", f)
		}
		if size == 10 {
			t.Logf("a receipt has %d bytes", len(r.Body))
		}
	}
	t.Logf("20 heads in %s", time.Since(begin).Round(time.Millisecond))
}

// Row 33 on a real chain: debug_setHead takes the block back, and the head comes onto the
// chain again. The development chain itself does not always go on after that; then it is
// tried with another one.
func TestRow33_GethReorg(t *testing.T) {
	for range 4 {
		if reorganise(t, startGeth(t)) {
			return
		}
		t.Log("the chain does not go on after debug_setHead")
	}
	t.Fatal("no chain goes on after debug_setHead")
}

// reorganise gives false if the chain makes no blocks any more.
func reorganise(t *testing.T, g *geth) bool {
	d := g.driver(1)
	patient := g.driver(1_000_000) // for which nothing is ever final
	for round := range uint64(3) {
		head, ctx := headOf(100+round), t.Context()
		state := g.submit(ctx, patient, head)
		var block uint64
		until(t, "block", func() bool {
			st, err := patient.Status(ctx, head, state)
			if st.Phase == chain.Final {
				t.Fatalf("%+v", st)
			}
			if err != nil || st.Phase == chain.Unsent {
				t.Log(st.Note, err)
				_ = patient.Submit(ctx, head, state)
			}
			n, _ := fmt.Sscanf(st.Note, "it is in block %d,", &block)
			return n == 1
		})
		g.call(nil, "debug_setHead", fmt.Sprintf("%#x", block-1))
		body := g.walk(d, head, state, 15*time.Second)
		if body == nil {
			return false
		}
		r := &anchor.Receipt{Driver: d.Name(), Chain: d.Chain(), Head: head.Checkpoint, Body: body}
		if h, err := ethereum.Open(r); err != nil || h.Number < block {
			t.Errorf("block %d was taken back, and the receipt is of %+v, %v", block, h, err)
		}
		if f := (&ethereum.Verifier{Confirmations: 1, Endpoints: map[string][]*ethereum.Client{r.Chain: {ethereum.NewClient([]string{g.url}, nil)}}}).VerifyReceipt(r); f.Outcome != anchor.Valid {
			t.Errorf("%+v", f)
		}
	}
	return true
}

// Transactions of other kinds stand in the same blocks as ours: their trees are built
// again too. CHAIN-15.
func TestGethOtherTransactions(t *testing.T) {
	g := startGeth(t)
	var accounts []string
	g.call(&accounts, "eth_accounts")
	to := "0x" + strings.Repeat("08", 20)
	slot := "0x" + strings.Repeat("00", 31) + "01"
	kinds := map[byte]bool{}
	for _, more := range []map[string]any{
		{"gasPrice": "0x77359400"},
		{"accessList": []any{map[string]any{"address": to, "storageKeys": []string{slot, slot}}}},
		{"data": "0x" + strings.Repeat("ab", 300)},
		{"to": nil, "data": "0x00", "gas": "0x30d40"},
	} {
		tx := map[string]any{"from": accounts[0], "to": to, "value": "0x1"}
		for k, v := range more {
			tx[k] = v
		}
		if tx["to"] == nil {
			delete(tx, "to")
			delete(tx, "value")
		}
		var hash string
		g.call(&hash, "eth_sendTransaction", tx)
		until(t, "block", func() bool {
			var at *struct{ BlockNumber string }
			return g.try(&at, "eth_getTransactionReceipt", hash) == "" && at != nil
		})
	}
	var last string
	g.call(&last, "eth_blockNumber")
	var n uint64
	_, _ = fmt.Sscanf(last, "0x%x", &n)
	c := ethereum.NewClient([]string{g.url}, nil)
	for i := range n + 1 {
		txs, err := c.Transactions(t.Context(), i)
		if err != nil {
			t.Error(err)
		}
		for _, raw := range txs {
			kinds[min(raw[0], 3)] = true // above 2: a list, which is of the first kind
		}
	}
	if !kinds[2] || !kinds[3] {
		t.Errorf("kinds %v", kinds)
	}
}

// BenchmarkGeth is one head to a receipt on a real chain of one node.
func BenchmarkGeth(b *testing.B) {
	g := startGeth(b)
	d := g.driver(1)
	size := uint64(1000)
	for b.Loop() {
		size++
		g.drive(d, headOf(size))
	}
}
