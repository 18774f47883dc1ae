package execution_test

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
	"github.com/talosprotocol/talos/node/execution"
)

// table is rows in memory.
type table struct {
	mu   sync.Mutex
	rows map[string][]byte
}

func newTable() *table { return &table{rows: map[string][]byte{}} }

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

// commit makes rows durable, as the audit log does.
func (t *table) commit(tb testing.TB, rows []execution.Row, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
	var keys, values [][]byte
	for _, r := range rows {
		keys, values = append(keys, r.Key), append(values, r.Value)
	}
	_ = t.Write(context.Background(), keys, values)
}

const (
	alice   = identity.DID("did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK")
	bob     = identity.DID("did:key:z6MkiTBz1ymuepAQ4HEHYSF1H8quG5GLVVQR3djdX3mDooWp")
	gateway = identity.DID("did:talos:zQmdfTbBqBPQ7VNxZEYEj14VmRuZBkqFbiwReogJgS1zR1n")
	intent  = "019a0000-0000-7000-8000-0000000000ff"
)

func ask(n byte, who identity.DID, key, body string) *execution.Ask {
	salt := bytes.Repeat([]byte{n}, 32)
	return &execution.Ask{
		ID: "019a0000-0000-7000-8000-0000000000" + string([]byte{'0' + n/10, '0' + n%10}), Caller: who, Executor: gateway, Surface: "tool.write", Access: "write",
		Service: "notes", Method: "tools/call", Key: key, Request: execution.Commit(salt, []byte(body)), Salt: salt, Body: []byte(body),
	}
}

func begin(t testing.TB, l *execution.Log, a *execution.Ask) *execution.Execution {
	t.Helper()
	e, prior, err := l.Begin(t.Context(), a)
	if err != nil || prior != nil {
		t.Fatalf("%+v, %v", prior, err)
	}
	t.Cleanup(e.Close)
	return e
}

// EXE-1, EXE-2: the same key is done once, whoever asks meanwhile waits, and each way that
// it may have ended is told as it is, also after a restart.
func TestOnce(t *testing.T) {
	for _, c := range []struct {
		name   string
		failed error
		begun  bool
		state  string
		code   contracts.Code // of a second try, without a kept answer
	}{
		{"done", nil, true, execution.Completed, contracts.AlreadyDone},
		{"failed without an effect", contracts.Errorf(contracts.Unavailable, "x"), false, "", ""},
		{"failed, perhaps with one", contracts.Errorf(contracts.Unavailable, "x"), true, execution.Unknown, contracts.OutcomeUnknown},
		{"cancelled", context.Canceled, true, execution.Unknown, contracts.OutcomeUnknown},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				rows := newTable()
				l := execution.Open(rows, time.Now)
				e := begin(t, l, ask(1, alice, "k", "body"))
				start, err := e.Start(intent)
				rows.commit(t, start, err)
				type got struct {
					e     *execution.Execution
					prior *execution.Prior
					err   error
				}
				second := make(chan got, 1)
				go func() {
					var g got
					g.e, g.prior, g.err = l.Begin(t.Context(), ask(2, alice, "k", "body"))
					if g.e != nil {
						g.e.Close()
					}
					second <- g
				}()
				synctest.Wait()
				if len(second) != 0 {
					t.Fatal("the second try does not wait")
				}
				end, err := e.End(c.failed, c.begun, execution.Commit(nil, []byte("answer")))
				rows.commit(t, end, err)
				e.Keep("kept", 4)
				e.Close()
				check := func(g got, kept bool) {
					t.Helper()
					switch {
					case g.err != nil || (g.prior == nil) != (c.state == ""):
						t.Fatalf("%+v", g)
					case g.prior == nil:
					case g.prior.State != c.state || g.prior.ID != ask(1, alice, "", "").ID || contracts.CodeOf(g.prior.Err()) != c.code:
						t.Errorf("%+v, %v", g.prior, g.prior.Err())
					case (g.prior.Answer == "kept") != (kept && c.state == execution.Completed):
						t.Errorf("the answer is %v", g.prior.Answer)
					}
				}
				check(<-second, true)
				var g got
				g.e, g.prior, g.err = execution.Open(rows, time.Now).Begin(t.Context(), ask(3, alice, "k", "body"))
				check(g, false)
				if g.e != nil {
					g.e.Close()
				}
				time.Sleep(11 * time.Minute) // of the fake clock
				if _, p, err := l.Begin(t.Context(), ask(4, alice, "k", "body")); c.state == execution.Completed && (err != nil || p.Answer != nil) {
					t.Errorf("an answer is kept for too long: %+v, %v", p, err)
				}
			})
		})
	}
}

// EXE-1: a key stands for one request of one caller.
func TestKeys(t *testing.T) {
	rows := newTable()
	l := execution.Open(rows, time.Now)
	e := begin(t, l, ask(1, alice, "k", "body"))
	other := func(change func(*execution.Ask)) *execution.Ask {
		a := ask(2, alice, "k", "body")
		change(a)
		return a
	}
	others := map[string]*execution.Ask{
		"body": other(func(a *execution.Ask) { a.Body = []byte("Body") }), "method": other(func(a *execution.Ask) { a.Method = "x" }),
		"service": other(func(a *execution.Ask) { a.Service = "notesx" }), "surface": other(func(a *execution.Ask) { a.Surface = "agent.use" }),
		"a border moved": other(func(a *execution.Ask) { a.Service, a.Method = "notest", "ools/call" }),
	}
	conflict := func(when string) {
		for what, a := range others {
			if _, p, err := l.Begin(t.Context(), a); p != nil || contracts.CodeOf(err) != contracts.IdempotencyConflict {
				t.Errorf("%s, another %s: %+v, %v", when, what, p, err)
			}
		}
	}
	conflict("while it runs")
	begin(t, l, ask(3, bob, "k", "body"))   // another caller's key
	begin(t, l, ask(4, alice, "K", "body")) // another key
	begin(t, l, ask(5, alice, "", "body"))  // none
	start, err := e.Start(intent)
	rows.commit(t, start, err)
	end, err := e.End(nil, true, execution.Commit(nil, nil))
	rows.commit(t, end, err)
	e.Close()
	conflict("when it is done")
}

// A try that waits for another is given up with its context.
func TestWaitIsGivenUp(t *testing.T) {
	l := execution.Open(newTable(), time.Now)
	begin(t, l, ask(1, alice, "k", "body"))
	ctx, cancel := context.WithCancelCause(t.Context())
	gone := errors.New("gone")
	cancel(gone)
	if _, _, err := l.Begin(ctx, ask(2, alice, "k", "body")); !errors.Is(err, gone) {
		t.Error(err)
	}
}

// EXE-3: what ran when the program ended is unknown, whoever asks again learns it, and
// nobody but the owner settles it.
func TestCrash(t *testing.T) {
	rows := newTable()
	l := execution.Open(rows, time.Now)
	e := begin(t, l, ask(1, alice, "k", "body"))
	start, err := e.Start(intent)
	rows.commit(t, start, err)
	l = execution.Open(rows, time.Now) // the program ended here
	left, err := l.Left()
	if err != nil || len(left) != 1 || left[0].Intent != intent || execution.State(left[0].Execution) != execution.Unknown {
		t.Fatalf("%+v, %v", left, err)
	}
	rows.commit(t, left[0].Rows, nil)
	if left, err := l.Left(); err != nil || len(left) != 0 {
		t.Errorf("again: %+v, %v", left, err)
	}
	_, p, err := l.Begin(t.Context(), ask(2, alice, "k", "body"))
	if err != nil || contracts.CodeOf(p.Err()) != contracts.OutcomeUnknown {
		t.Fatalf("%+v, %v", p, err)
	}
	rec, err := l.Settle(t.Context(), p.ID, true)
	if err != nil || execution.State(rec) != execution.Completed || execution.Verify(rec) != nil {
		t.Fatalf("%+v, %v", rec, err)
	}
	if _, err := l.Settle(t.Context(), p.ID, false); contracts.CodeOf(err) != contracts.Conflict {
		t.Errorf("settled twice: %v", err)
	}
	if _, p, err = l.Begin(t.Context(), ask(3, alice, "k", "body")); err != nil || contracts.CodeOf(p.Err()) != contracts.AlreadyDone {
		t.Errorf("%+v, %v", p, err)
	}
	if _, err := l.Settle(t.Context(), "019a0000-0000-7000-8000-000000000099", true); contracts.CodeOf(err) != contracts.NotFound {
		t.Error(err)
	}
}

// record makes one that is done.
func record(t testing.TB) *contracts.Execution {
	t.Helper()
	rows := newTable()
	l := execution.Open(rows, time.Now)
	e := begin(t, l, ask(1, alice, "k", "body"))
	a, _, _ := e.Action()
	e.Approved(a, &contracts.ActionDecision{
		V: "talos-decision/1", Action: execution.ActionDigest(a), Verdict: "approve", By: string(gateway), At: a.At, Until: "2099-01-01T00:00:00.000Z",
	})
	start, err := e.Start(intent)
	rows.commit(t, start, err)
	end, err := e.End(nil, true, execution.Commit(nil, nil))
	rows.commit(t, end, err)
	rec, err := l.Get(e.ID())
	if err != nil {
		t.Fatal(err)
	}
	return rec
}

// EXE-4: a record that was changed in any way does not verify, and neither does one whose
// states do not follow each other.
func TestVerify(t *testing.T) {
	rec := record(t)
	if err := execution.Verify(rec); err != nil || len(rec.Steps) != 4 {
		t.Fatalf("%+v, %v", rec, err)
	}
	raw := rec.AppendCanonical(nil)
	last := bytes.LastIndex(raw, []byte(`"at"`)) // nothing names the last step: its own time may be any
	end := bytes.Index(raw[last:], []byte(`Z"`)) + last
	changed := 0
	for i := range raw {
		if i >= last && i < end {
			continue
		}
		for _, flip := range []byte{1, 2, 4, 8, 16, 32, 64, 128} {
			b := bytes.Clone(raw)
			b[i] ^= flip
			got, err := contracts.ParseExecution(b)
			if err != nil || execution.Verify(got) != nil {
				changed++
				continue
			}
			if response := bytes.LastIndex(raw, []byte(`"response"`)); i < response { // the answer's commitment is checked against the answer
				t.Errorf("byte %d (%q…): a changed record verifies", i, raw[max(0, i-20):min(len(raw), i+10)])
			}
		}
	}
	if changed < 5000 {
		t.Errorf("only %d changes were looked at", changed)
	}
	states := []string{"authorized", "completed", "executing", "failed", "pending", "unknown"}
	allowed := map[string]bool{
		" pending": true, "pending authorized": true, "authorized executing": true, "executing completed": true, "executing failed": true,
		"executing unknown": true, "unknown completed": true, "unknown failed": true,
	}
	for n := range rec.Steps { // every state behind every prefix
		for _, s := range states {
			short := &contracts.Execution{V: rec.V, ID: rec.ID, Steps: slices.Clone(rec.Steps[:n])}
			step := contracts.ExecutionStep{State: s, At: rec.Steps[0].At, Prev: execution.Digest([]byte(rec.ID))}
			from := ""
			if n > 0 {
				from, step.Prev = short.Steps[n-1].State, execution.Digest(short.Steps[n-1].AppendCanonical(nil))
			}
			if s == execution.Pending {
				step.Action = rec.Steps[0].Action
			}
			short.Steps = append(short.Steps, step)
			if err := execution.Verify(short); (err == nil) != allowed[from+" "+s] {
				t.Errorf("%q behind %q: %v", s, from, err)
			}
		}
	}
}

// What is older than the retention is forgotten, with its key, unless the key was used
// again.
func TestPrune(t *testing.T) {
	rows := newTable()
	now := time.UnixMilli(0x019a00000000) // when the ids of the test are of
	l := execution.Open(rows, func() time.Time { return now })
	for n, failed := range []error{contracts.Errorf(contracts.Unavailable, "x"), nil} { // the first frees the key
		e := begin(t, l, ask(byte(n+1), alice, "k", "body"))
		start, err := e.Start(intent)
		rows.commit(t, start, err)
		end, err := e.End(failed, failed == nil, "")
		rows.commit(t, end, err)
		e.Close()
	}
	now = now.Add(execution.Retention)
	if n, err := l.Prune(t.Context()); n != 0 || err != nil {
		t.Errorf("too early: %d, %v", n, err)
	}
	now = now.Add(time.Millisecond)
	if n, err := l.Prune(t.Context()); n != 2 || err != nil || len(rows.rows) != 0 {
		t.Errorf("%d, %v; %d rows are left", n, err, len(rows.rows))
	}
	begin(t, l, ask(3, alice, "k", "body"))
}

// Lists give the newest first, a page at a time.
func TestList(t *testing.T) {
	rows := newTable()
	l := execution.Open(rows, time.Now)
	for n := range byte(5) {
		e := begin(t, l, ask(n+1, alice, "", "body"))
		start, err := e.Start(intent)
		rows.commit(t, start, err)
		if n%2 == 0 {
			end, err := e.End(nil, true, "")
			rows.commit(t, end, err)
		}
	}
	ids := func(state, before string, limit int) (out string) {
		all, err := l.List(state, before, limit)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range all {
			out += e.ID[34:] + " "
		}
		return out
	}
	for got, want := range map[string]string{
		ids("", "", 2): "05 04 ", ids("", ask(4, alice, "", "").ID, 10): "03 02 01 ", ids(execution.Completed, "", 2): "05 03 ", ids(execution.Unknown, "", 9): "",
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func FuzzVerify(f *testing.F) {
	f.Add(record(f).AppendCanonical(nil))
	f.Add([]byte(`{"id":"019a0000-0000-7000-8000-000000000001","steps":[{"at":"2026-11-23T10:00:00.000Z","state":"pending"}],"v":"talos-execution/1"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := contracts.ParseExecution(b)
		if err != nil || execution.Verify(e) != nil {
			return
		}
		again, err := contracts.ParseExecution(e.AppendCanonical(nil))
		if err != nil || execution.Verify(again) != nil || execution.State(again) != execution.State(e) {
			t.Errorf("what verifies does not when it is written again: %v", err)
		}
	})
}
