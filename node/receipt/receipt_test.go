package receipt_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
	"github.com/talosprotocol/talos/node/execution"
	"github.com/talosprotocol/talos/node/receipt"
)

type table struct {
	mu   sync.Mutex
	rows map[string][]byte
}

func (t *table) Get(key []byte) ([]byte, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.rows[string(key)], nil
}

func (t *table) Write(_ context.Context, keys, values [][]byte) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i, k := range keys {
		if values[i] == nil {
			delete(t.rows, string(k))
		} else {
			t.rows[string(k)] = bytes.Clone(values[i])
		}
	}
	return nil
}

func (t *table) Scan(prefix []byte, f func(key, value []byte) bool) error {
	t.mu.Lock()
	var keys []string
	for k := range t.rows {
		if strings.HasPrefix(k, string(prefix)) {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	t.mu.Unlock()
	for _, k := range keys {
		if v, _ := t.Get([]byte(k)); v != nil && !f([]byte(k), v) {
			break
		}
	}
	return nil
}

func gen[P identity.Purpose](t testing.TB) identity.Private[P] {
	t.Helper()
	k, err := identity.Generate[P](rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// side is a node as far as receipts go.
type side struct {
	*receipt.Keeper
	state  *identity.State
	key    identity.InvocationKey
	rows   *table
	mu     sync.Mutex
	events []receipt.Event
	other  *side
	fail   error // of handing over
}

func newSide(t testing.TB) *side {
	t.Helper()
	control, next := gen[identity.Control](t), gen[identity.Control](t)
	s := &side{key: gen[identity.Invocation](t), rows: &table{rows: map[string][]byte{}}}
	ka, err := identity.GenerateAgreement(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	did, icp := identity.Incept(control, next.Public(), time.Now())
	hot := identity.Hot{Peer: gen[identity.Peer](t).Public(), Invocation: s.key.Public(), Log: gen[identity.Log](t).Public(), Agreement: ka.Public()}
	s.state, err = identity.SignState(identity.NewState{
		KeyLog: []contracts.SignedKeyEvent{icp}, Doc: identity.NewDocument(did, []identity.ControlPublic{control.Public()}, hot, 0, []string{"/ip4/127.0.0.1/tcp/1"}),
		Seq: 1, Now: time.Now(), Valid: 48 * time.Hour, TTL: time.Hour,
	}, control)
	if err != nil {
		t.Fatal(err)
	}
	s.Keeper = receipt.New(receipt.Config{
		DID: did, Key: func() (identity.InvocationKey, error) { return s.key, nil }, Self: func() *identity.State { return s.state }, Rows: s.rows,
		Store: func(ctx context.Context, rows []execution.Row, events []receipt.Event) error {
			var keys, values [][]byte
			for _, r := range rows {
				keys, values = append(keys, r.Key), append(values, r.Value)
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			s.events = append(s.events, events...)
			return s.rows.Write(ctx, keys, values)
		},
		Hand: func(ctx context.Context, to identity.DID, c *contracts.Countersignatures) error {
			if to != s.other.state.DID {
				t.Errorf("handed to %s", to)
			}
			s.mu.Lock()
			fail := s.fail
			s.mu.Unlock()
			if fail != nil {
				return fail
			}
			again, err := contracts.ParseCountersignatures(c.AppendCanonical(nil))
			if err != nil {
				t.Error(err)
			}
			return s.other.Countersigned(ctx, did, s.key.Public(), again)
		},
		Log: slog.New(slog.DiscardHandler), Now: time.Now,
	})
	return s
}

func call(n int) string { return fmt.Sprintf("00d00000-0000-7000-8000-%012x", n) }

func made(n int, caller, executor *side) *contracts.CallReceipt {
	in := int64(n)
	r := &contracts.CallReceipt{
		Call: call(n), Caller: string(caller.state.DID), Executor: string(executor.state.DID), Surface: "model.use", Service: "m",
		Request: execution.Commit(nil, []byte("q")), Response: execution.Commit(nil, []byte("a")), Outcome: "ok", UnitsIn: &in, At: "2026-11-23T10:00:00.000Z",
	}
	receipt.Sign(r, executor.key)
	return r
}

// run runs both until the returned function is called.
func run(t *testing.T, sides ...*side) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for _, s := range sides {
		wg.Go(func() {
			if err := s.Run(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	return func() { cancel(); wg.Wait() }
}

// GW-25, GW-26: both sides keep what was signed, the caller signs it too, the executor gets
// that signature, also when it is away for a while; and a file of it verifies alone.
func TestBothSides(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, e := newSide(t), newSide(t)
		c.other, e.other = e, c
		c.fail = contracts.Errorf(contracts.Unavailable, "away")
		stop := run(t, c, e)
		const n = 300 // more than travel at once
		for i := range n {
			r := made(i, c, e)
			c.Take(receipt.Caller, r, e.state)
			e.Take(receipt.Executor, r, c.state)
		}
		bad := made(n, c, e)
		c.Dispute(bad.Call, bad, e.state, "it costs too much")
		time.Sleep(time.Second)
		synctest.Wait()
		for _, k := range list(t, e.Keeper, receipt.Executor) {
			if k.Countersignature != "" {
				t.Fatal("countersigned by somebody who is away")
			}
		}
		c.mu.Lock()
		c.fail = nil
		c.mu.Unlock()
		time.Sleep(time.Minute)
		synctest.Wait()
		mine, theirs := list(t, c.Keeper, receipt.Caller), list(t, e.Keeper, receipt.Executor)
		if len(mine) != n+1 || len(theirs) != n || mine[0].Disputed == "" || mine[0].Countersignature != "" {
			t.Fatalf("%d and %d; %+v", len(mine), len(theirs), mine[0])
		}
		for i, k := range theirs {
			if k.Receipt.Call != call(n-1-i) || k.Countersignature != mine[i+1].Countersignature {
				t.Fatalf("%d: %+v", i, k)
			}
		}
		if len(c.events) != n+1 || len(e.events) != n || !c.events[n].Disputed || c.events[0].Digest != e.events[0].Digest || c.events[0].Digest == "" {
			t.Errorf("events: %d, %d", len(c.events), len(e.events))
		}
		for _, s := range []*side{c, e} {
			all := list(t, s.Keeper, "")
			f, err := s.File(all)
			if err != nil {
				t.Fatal(err)
			}
			again, err := contracts.ParseReceiptFile(f.AppendCanonical(nil))
			if err != nil {
				t.Fatal(err)
			}
			if both, err := receipt.VerifyFile(again); err != nil || both != n || len(f.States) != 2 {
				t.Errorf("%d, %v; %d states", both, err, len(f.States))
			}
		}
		// What is too old is forgotten: the ids of the test are of 1998, its clock begins in 2000.
		time.Sleep(time.Hour)
		synctest.Wait()
		if left := len(list(t, c.Keeper, "")) + len(list(t, e.Keeper, "")); left != 0 {
			t.Errorf("%d are kept for ever", left)
		}
		// What was taken before the end is kept.
		late := made(n+1, c, e)
		e.Take(receipt.Executor, late, c.state)
		stop()
		if got := list(t, e.Keeper, ""); len(got) != 1 {
			t.Errorf("%d at the end", len(got))
		}
	})
}

func list(t *testing.T, k *receipt.Keeper, side string) []contracts.KeptReceipt {
	t.Helper()
	all, err := k.List(side, "", 100_000)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// GW-26: nobody signs for another caller, or with another key.
func TestForeignCountersignatures(t *testing.T) {
	c, e, x := newSide(t), newSide(t), newSide(t)
	r := made(1, c, e)
	ctx, cancel := context.WithCancel(t.Context())
	e.Take(receipt.Executor, r, c.state)
	cancel()
	if err := e.Run(ctx); err != nil {
		t.Fatal(err)
	}
	sigs := func(call string, key identity.InvocationKey) *contracts.Countersignatures {
		return &contracts.Countersignatures{V: "talos-countersignatures/1", Signatures: []contracts.Countersignature{{Call: call, Sig: receipt.Countersign(r, key)}}}
	}
	for name, s := range map[string]struct {
		from *side
		key  identity.InvocationKey
		call string
		code contracts.Code
	}{
		"another caller": {x, x.key, r.Call, contracts.Forbidden}, "another key": {c, x.key, r.Call, contracts.SignatureInvalid}, "no such call": {c, c.key, call(9), contracts.Unavailable},
	} {
		if err := e.Countersigned(t.Context(), s.from.state.DID, c.key.Public(), sigs(s.call, s.key)); contracts.CodeOf(err) != s.code {
			t.Errorf("%s: %v", name, err)
		}
	}
	if k, err := e.Get(receipt.Executor, r.Call); err != nil || k.Countersignature != "" {
		t.Errorf("%+v, %v", k, err)
	}
}

// A caller that uses the id of a call twice does not take the place of what was kept.
func TestNoReceiptIsReplaced(t *testing.T) {
	c, e := newSide(t), newSide(t)
	first, second, third := made(1, c, e), made(1, c, e), made(1, c, e)
	n := int64(99)
	second.UnitsIn, third.UnitsOut = &n, &n
	receipt.Sign(second, e.key)
	receipt.Sign(third, e.key)
	for _, batch := range [][]*contracts.CallReceipt{{first, second}, {third}} {
		ctx, cancel := context.WithCancel(t.Context())
		for _, r := range batch {
			e.Take(receipt.Executor, r, c.state)
		}
		cancel()
		if err := e.Run(ctx); err != nil {
			t.Fatal(err)
		}
	}
	all := list(t, e.Keeper, "")
	if k, err := e.Get(receipt.Executor, first.Call); err != nil || receipt.Digest(&k.Receipt) != receipt.Digest(first) || len(all) != 3 {
		t.Errorf("%+v, %v; %d are kept", k, err, len(all))
	}
}

// GW-27: whatever is changed in a file of receipts, dropped from it, put in or replaced is
// found out, except that receipts are left out as a whole.
func TestVerifyFile(t *testing.T) {
	c, e, x := newSide(t), newSide(t), newSide(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for i := range 2 {
		c.Take(receipt.Caller, made(i, c, e), e.state)
	}
	c.other, c.fail = e, contracts.Errorf(contracts.Forbidden, "no")
	if err := c.Run(ctx); err != nil {
		t.Fatal(err)
	}
	file := func() *contracts.ReceiptFile {
		f, err := c.File(list(t, c.Keeper, ""))
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	raw := file().AppendCanonical(nil)
	if both, err := receipt.VerifyFile(file()); err != nil || both != 2 {
		t.Fatal(both, err)
	}
	said := bytes.Index(raw, []byte(`"receipts"`))
	for i := range raw { // every byte, one bit each; of the state records, which have tests of their own, some
		if i < said && i%16 != 0 {
			continue
		}
		b := bytes.Clone(raw)
		b[i] ^= 1 << (i % 8)
		f, err := contracts.ParseReceiptFile(b)
		if err != nil {
			continue
		}
		if _, err := receipt.VerifyFile(f); err == nil && !bytes.Contains(raw[said:][max(0, i-said-12):min(len(raw)-said, max(0, i-said)+12)], []byte("side")) && !bytes.Equal(f.AppendCanonical(nil), raw) {
			t.Fatalf("byte %d: %q… changed verifies", i, raw[max(0, i-20):min(len(raw), i+10)])
		}
	}
	for name, change := range map[string]func(*contracts.ReceiptFile){
		"forged": func(f *contracts.ReceiptFile) { receipt.Sign(&f.Receipts[0].Receipt, x.key) },
		"countersigned by x": func(f *contracts.ReceiptFile) {
			f.Receipts[0].Countersignature = receipt.Countersign(&f.Receipts[0].Receipt, x.key)
		},
		"another's state":      func(f *contracts.ReceiptFile) { f.Receipts[0].ExecutorState = f.Receipts[0].CallerState },
		"a state that is gone": func(f *contracts.ReceiptFile) { f.States = f.States[:1] },
		"twice":                func(f *contracts.ReceiptFile) { f.Receipts = append(f.Receipts, f.Receipts[0]) },
		"signatures exchanged": func(f *contracts.ReceiptFile) {
			f.Receipts[0].Countersignature, f.Receipts[1].Countersignature = f.Receipts[1].Countersignature, f.Receipts[0].Countersignature
		},
	} {
		f := file()
		change(f)
		if _, err := receipt.VerifyFile(f); err == nil {
			t.Errorf("%s: verifies", name)
		}
	}
}

func FuzzVerifyFile(f *testing.F) {
	f.Add([]byte(`{"receipts":[],"states":[],"v":"talos-receipts/1"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		file, err := contracts.ParseReceiptFile(b)
		if err != nil {
			return
		}
		if both, err := receipt.VerifyFile(file); err == nil && both > len(file.Receipts) {
			t.Error(both)
		}
	})
}

// BenchmarkVerifyFile is receipts with both signatures, and the signatures alone.
func BenchmarkVerifyFile(b *testing.B) {
	c, e := newSide(b), newSide(b)
	const n = 1000
	c.other, c.fail = e, contracts.Errorf(contracts.Forbidden, "no")
	ctx, cancel := context.WithCancel(b.Context())
	cancel()
	for i := range n {
		c.Take(receipt.Caller, made(i, c, e), e.state)
	}
	if err := c.Run(ctx); err != nil {
		b.Fatal(err)
	}
	all, err := c.List("", "", n)
	if err != nil || len(all) != n {
		b.Fatal(len(all), err)
	}
	f, err := c.File(all)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("file", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := receipt.VerifyFile(f); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/receipt")
	})
	msg := f.Receipts[0].Receipt.AppendCanonical(nil)
	sig := c.key.Sign("x", msg)
	b.Run("two signatures", func(b *testing.B) {
		for b.Loop() {
			for range 2 {
				if !c.key.Public().Verify("x", msg, sig) {
					b.Fatal("no")
				}
			}
		}
	})
}
