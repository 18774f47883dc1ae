package a2a_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
	"github.com/talosprotocol/talos/node/call"
	"github.com/talosprotocol/talos/node/gate"
	"github.com/talosprotocol/talos/node/gateway/a2a"
	"github.com/talosprotocol/talos/testnet/fake/agent"
)

// Every operation of both versions of A2A at an agent of the official SDK; the scope has
// the name of 1.0. GW-20.
func TestOperations(t *testing.T) {
	echo := agent.New()
	w := newWorld(t, a2a.Limits{}, serve(t, echo))
	id, _ := w.task(alice, "task one")
	older := `{"message":{"kind":"message","messageId":"m","role":"user","parts":[{"kind":"text","text":"hello"}]}}`
	for _, c := range []struct{ method, params, want, decided string }{
		{"SendMessage", message("hello"), `"text":"hello"`, "agent.use SendMessage"},
		{"SendStreamingMessage", message("task two"), `"state":"TASK_STATE_COMPLETED"`, "agent.use SendStreamingMessage"},
		{"GetTask", `{"id":"` + id + `"}`, `"id":"` + id + `"`, "agent.read GetTask"},
		{"ListTasks", `{}`, `"id":"` + id + `"`, "agent.read ListTasks"},
		{"CancelTask", `{"id":"` + id + `"}`, `"code":-32002`, "agent.use CancelTask"},
		{"SubscribeToTask", `{"id":"` + id + `"}`, `"error"`, "agent.use SubscribeToTask"},
		{"GetExtendedAgentCard", `{}`, `"name":"echo, extended"`, "agent.use GetExtendedAgentCard"},
		{"message/send", older, `"kind":"message"`, "agent.use SendMessage"},
		{"message/stream", older, `"kind":"message"`, "agent.use SendStreamingMessage"},
		{"tasks/get", `{"id":"` + id + `"}`, `"kind":"task"`, "agent.read GetTask"},
		{"tasks/cancel", `{"id":"` + id + `"}`, `"code":-32002`, "agent.use CancelTask"},
		{"tasks/resubscribe", `{"id":"` + id + `"}`, `"error"`, "agent.use SubscribeToTask"},
	} {
		out, err := w.do(alice, c.method, c.params)
		if err != nil || !strings.Contains(out, c.want) || !strings.Contains(out, `"an id"`) {
			t.Errorf("%s: %v\n%s", c.method, err, out)
		}
		if got := w.who.asked[len(w.who.asked)-1]; got != c.decided {
			t.Errorf("%s is decided as %s", c.method, got)
		}
	}
	for _, r := range echo.Seen() {
		if r.Method == http.MethodPost && r.URL.Path != "/rpc" && r.URL.Path != "/rpc/0.3" {
			t.Errorf("asked at %s", r.URL)
		}
	}
}

// What a caller sends arrives byte for byte, with the headers of A2A and the key of the
// gateway, and comes back so. GW-3, GW-20.
func TestBytesPass(t *testing.T) {
	const answer = ` {"jsonrpc" : "2.0", "id":"an id","result":{"message":{"messageId":"1","unknown":1.0,"false":false}}}` + "\n"
	var body string
	var header http.Header
	e := scripted(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		body, header = string(b), r.Header
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("A2A-Extensions", "urn:one")
		_, _ = io.WriteString(w, answer)
	})
	e.Key = "known"
	w := newWorld(t, a2a.Limits{}, e)
	sent := "{ \"jsonrpc\":\"2.0\",\t\"id\":1e0,\"method\":\"SendMessage\",\"params\":{\"message\":{\"parts\":[{\"number\":1.00}]},\"x\":null}}\n"
	a, err := w.open(t.Context(), alice, "SendMessage", sent, contracts.CallHeader{Name: "a2a-version", Value: "1.0"}, contracts.CallHeader{Name: "a2a-extensions", Value: "urn:one, urn:two"}, contracts.CallHeader{Name: "cookie", Value: "x"})
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(a.Body)
	if err != nil || string(got) != answer || body != sent {
		t.Errorf("%v\nanswered %q\nsent %q", err, got, body)
	}
	if header.Get("A2A-Version") != "1.0" || header.Get("A2A-Extensions") != "urn:one, urn:two" || header.Get("Cookie") != "" || header.Get("Authorization") != "Bearer the-secret" {
		t.Errorf("headers: %v", header)
	}
	if len(a.Headers) != 1 || a.Headers[0] != (contracts.CallHeader{Name: "a2a-extensions", Value: "urn:one"}) {
		t.Errorf("headers of the answer: %v", a.Headers)
	}
}

// The card passes byte for byte, its skills are what the agent offers. GW-24.
func TestCard(t *testing.T) {
	e := serve(t, agent.New())
	w := newWorld(t, a2a.Limits{}, e)
	got, err := w.raw(t.Context(), alice, a2a.Card, "")
	if err != nil || got != agent.Card(e.URL) {
		t.Errorf("%v\n%s", err, got)
	}
	if s := w.d.Services(); len(s) != 1 || s[0].About != "says it back" || len(s[0].Operations) != 1 || s[0].Operations[0].Name != "say-back" || s[0].Validate() != nil {
		t.Errorf("offers %+v", s)
	}
	w.who.granted[bob] = []string{"agent.read card"}
	if _, err := w.raw(t.Context(), bob, a2a.Card, ""); err != nil {
		t.Error(err)
	}
	if _, err := w.do(bob, "SendMessage", message("x")); contracts.CodeOf(err) != contracts.NoCapability || call.MayHaveBegun(err) {
		t.Errorf("a message that is not granted: %v", err)
	}
	e.URL += "/.well-known/agent-card.json" // the card itself
	if got, err := newWorld(t, a2a.Limits{}, e).raw(t.Context(), alice, a2a.Card, ""); err != nil || !strings.Contains(got, "say-back") {
		t.Errorf("%v\n%s", err, got)
	}
	if failed := w.d.Warm(t.Context()); len(failed) != 0 {
		t.Errorf("warm: %v", failed)
	}
}

// One caller's tasks and contexts are not there for another, and ids that nobody knows are
// the same as those. GW-21.
func TestCallersApart(t *testing.T) {
	w := newWorld(t, a2a.Limits{}, serve(t, agent.New()))
	hers, context := w.task(alice, "task hers")
	his, _ := w.task(bob, "task his")
	for _, id := range []string{hers, "unknown"} {
		for method, params := range map[string]string{
			"GetTask": `{"id":%q}`, "CancelTask": `{"id":%q}`, "SubscribeToTask": `{"id":%q}`, "tasks/get": `{"id":%q}`, "tasks/cancel": `{"id":%q}`, "tasks/resubscribe": `{"id":%q}`,
			"SendMessage": message("x", `"taskId":%q`), "SendStreamingMessage": message("x", `"referenceTaskIds":[`+fmt.Sprintf("%q", his)+`,%q]`),
		} {
			if _, err := w.do(bob, method, fmt.Sprintf(params, id)); contracts.CodeOf(err) != contracts.NotFound || call.MayHaveBegun(err) {
				t.Errorf("%s %s: %v", method, id, err)
			}
		}
	}
	for _, id := range []string{context, "unknown"} {
		if _, err := w.do(bob, "SendMessage", message("x", fmt.Sprintf(`"contextId":%q`, id))); contracts.CodeOf(err) != contracts.NotFound {
			t.Errorf("context %s: %v", id, err)
		}
	}
	if out, err := w.do(alice, "SendMessage", message("x", fmt.Sprintf(`"contextId":%q`, context))); err != nil || !strings.Contains(out, `"text":"x"`) {
		t.Errorf("her own context: %v\n%s", err, out)
	}
	for who, ids := range map[identity.DID][2]string{alice: {hers, his}, bob: {his, hers}, "did:key:z6MkCarol": {`"tasks":[]`, `"task `}} {
		out, err := w.do(who, "ListTasks", `{}`)
		if err != nil || !strings.Contains(out, ids[0]) || strings.Contains(out, ids[1]) || strings.Contains(out, `"totalSize":2`) {
			t.Errorf("%s lists: %v\n%s", who, err, out)
		}
	}
	// An agent that mixes callers up.
	same := `{"jsonrpc":"2.0","id":"an id","result":{"task":{"id":"always-the-same","status":{}}}}`
	for kind, body := range map[string]string{"application/json": same, "text/event-stream": "data: " + same + "\n\n"} {
		w := newWorld(t, a2a.Limits{}, says(t, kind, body))
		method := map[string]string{"application/json": "SendMessage", "text/event-stream": "SendStreamingMessage"}[kind]
		if _, err := w.do(alice, method, message("x")); err != nil {
			t.Error(err)
		}
		if out, err := w.do(bob, method, message("x")); contracts.CodeOf(err) != contracts.Conflict || strings.Contains(out, "always") {
			t.Errorf("%s: %v %s", kind, err, out)
		}
	}
}

// Events pass each when it comes, and when the caller goes the agent's request ends.
func TestStreamAndCancel(t *testing.T) {
	gone := make(chan struct{})
	next := make(chan struct{})
	e := scripted(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for i := range 3 {
			_, _ = fmt.Fprintf(w, ": a comment\n\nid: %d\ndata: {\"jsonrpc\":\"2.0\",\"id\":\"an id\",\r\ndata: \"result\":{\"statusUpdate\":{\"taskId\":\"t\"}}}\n\n", i)
			_ = http.NewResponseController(w).Flush()
			<-next
		}
		<-r.Context().Done()
		close(gone)
	})
	w := newWorld(t, a2a.Limits{}, e)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	a, err := w.open(ctx, alice, "SendStreamingMessage", request("SendStreamingMessage", message("x")))
	if err != nil || a.ContentType != "text/event-stream" {
		t.Fatalf("%+v, %v", a, err)
	}
	in := bufio.NewReader(a.Body)
	for i := range 3 { // the agent writes no more before this was read
		for line := ""; line != fmt.Sprintf("id: %d\n", i); {
			if line, err = in.ReadString('\n'); err != nil {
				t.Fatal(err)
			}
		}
		go func() { next <- struct{}{} }()
	}
	cancel()
	_ = a.Body.Close()
	select {
	case <-gone:
	case <-time.After(10 * time.Second):
		t.Error("the agent's request goes on")
	}
}

// Requests that are refused before an agent sees them. GW-20, GW-22.
func TestBadRequests(t *testing.T) {
	echo := agent.New()
	w := newWorld(t, a2a.Limits{}, serve(t, echo))
	msg := `{"message":{"messageId":"m","parts":[]%s}%s}`
	for name, c := range map[string]struct {
		method, body string
		code         contracts.Code
	}{
		"no JSON": {"SendMessage", `{`, contracts.Malformed}, "nothing": {"SendMessage", ``, contracts.Malformed},
		"a batch":             {"GetTask", `[` + request("GetTask", `{"id":"x"}`) + `]`, contracts.Malformed},
		"another method":      {"GetTask", request("SendMessage", message("x")), contracts.Malformed},
		"its other name":      {"SendMessage", request("message/send", message("x")), contracts.Malformed},
		"an unknown one":      {"SendMesage", request("SendMesage", message("x")), contracts.UnknownTool},
		"a notification":      {"SendMessage", `{"jsonrpc":"2.0","method":"SendMessage"}`, contracts.Malformed},
		"no version":          {"SendMessage", `{"id":1,"method":"SendMessage"}`, contracts.Malformed},
		"the method twice":    {"GetTask", `{"jsonrpc":"2.0","id":1,"method":"GetTask","method":"CancelTask"}`, contracts.Malformed},
		"the method, upper":   {"GetTask", `{"jsonrpc":"2.0","id":1,"method":"GetTask","Method":"CancelTask"}`, contracts.Malformed},
		"a task twice":        {"GetTask", request("GetTask", `{"id":"a","id":"b"}`), contracts.Malformed},
		"a task, upper":       {"GetTask", request("GetTask", `{"id":"a","ID":"b"}`), contracts.Malformed},
		"a task otherwise":    {"GetTask", request("GetTask", `{"id":"a","name":"tasks/b"}`), contracts.Malformed},
		"no task":             {"GetTask", request("GetTask", `{}`), contracts.Malformed},
		"a number as task":    {"GetTask", request("GetTask", `{"id":5}`), contracts.Malformed},
		"a task of Protobuf":  {"SendMessage", request("SendMessage", fmt.Sprintf(msg, `,"task_id":"a"`, "")), contracts.Malformed},
		"a task, Kelvin":      {"SendMessage", request("SendMessage", fmt.Sprintf(msg, `,"tas\u212aId":"a"`, "")), contracts.Malformed},
		"tasks, no list":      {"SendMessage", request("SendMessage", fmt.Sprintf(msg, `,"referenceTaskIds":"a"`, "")), contracts.Malformed},
		"two messages":        {"SendMessage", request("SendMessage", `{"message":{},"Message":{"taskId":"a"}}`), contracts.Malformed},
		"no message":          {"SendMessage", request("SendMessage", `{}`), contracts.Malformed},
		"parameters, a list":  {"ListTasks", request("ListTasks", `[]`), contracts.Malformed},
		"too long":            {"SendMessage", request("SendMessage", message(strings.Repeat("x", 4<<20))), contracts.TooLarge},
		"a card with a body":  {"card", `{}`, contracts.Malformed},
		"push":                {"CreateTaskPushNotificationConfig", request("CreateTaskPushNotificationConfig", `{}`), contracts.Forbidden},
		"push of 0.3":         {"tasks/pushNotificationConfig/set", request("tasks/pushNotificationConfig/set", `{}`), contracts.Forbidden},
		"push with a message": {"SendMessage", request("SendMessage", fmt.Sprintf(msg, "", `,"configuration":{"taskPushNotificationConfig":{"url":"https://example.org"}}`)), contracts.Forbidden},
		"push, 0.3":           {"message/send", request("message/send", fmt.Sprintf(msg, "", `,"configuration":{"pushNotificationConfig":{"url":"https://example.org"}}`)), contracts.Forbidden},
		"push of Protobuf":    {"SendMessage", request("SendMessage", fmt.Sprintf(msg, "", `,"configuration":{"task_push_notification_config":{}}`)), contracts.Malformed},
	} {
		if _, err := w.raw(t.Context(), alice, c.method, c.body); contracts.CodeOf(err) != c.code || call.MayHaveBegun(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, r := range echo.Seen() {
		if r.Method == http.MethodPost {
			t.Errorf("the agent was asked: %v", r)
		}
	}
}

// What agents can do wrong ends each in an error that names neither hosts nor keys.
func TestBadAgents(t *testing.T) {
	big := strings.Repeat("x", 1<<20)
	silent := scripted(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	status := func(n int) contracts.AgentExposure {
		return scripted(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(n) })
	}
	for name, c := range map[string]struct {
		e      contracts.AgentExposure
		method string
		code   contracts.Code
	}{
		"no JSON": {says(t, "application/json", "hello"), "SendMessage", contracts.Unavailable}, "HTML": {says(t, "text/html", "<p>"), "SendMessage", contracts.Unavailable},
		"a stream unasked": {says(t, "text/event-stream", "data: {}\n\n"), "SendMessage", contracts.Unavailable},
		"no JSON, stream":  {says(t, "text/event-stream", "data: hello\n\n"), "SendStreamingMessage", contracts.Unavailable},
		"a large event":    {says(t, "text/event-stream", "data: "+big+"\n\n"), "SendStreamingMessage", contracts.TooLarge},
		"a large answer":   {says(t, "application/json", strings.Repeat(big, 16)+"x"), "SendMessage", contracts.TooLarge},
		"no list of tasks": {says(t, "application/json", `{"result":{"tasks":{}}}`), "ListTasks", contracts.Unavailable},
		"silence":          {silent, "SendStreamingMessage", contracts.Unavailable},
		"500":              {status(500), "SendMessage", contracts.Unavailable}, "302": {status(302), "SendMessage", contracts.Unavailable}, "401": {status(401), "SendMessage", contracts.Unavailable},
		"404": {status(404), "SendMessage", contracts.Unavailable}, "429": {status(429), "SendMessage", contracts.RateLimited},
	} {
		w := newWorld(t, a2a.Limits{First: 100 * time.Millisecond, Idle: 100 * time.Millisecond}, c.e)
		params := message("x")
		if c.method == "ListTasks" {
			params = "{}"
		}
		if _, err := w.do(alice, c.method, params); contracts.CodeOf(err) != c.code || strings.Contains(err.Error(), "127.0.0.1") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, card := range map[string]string{
		"no JSON": "hello", "a member twice": `{"name":"a","name":"b"}`, "a list": "[]", "other forms": `{"skills":5}`, "no JSON-RPC": `{"supportedInterfaces":[{"url":"http://x","protocolBinding":"GRPC"}]}`, "large": `{"name":"` + big + `"}`,
	} {
		w := newWorld(t, a2a.Limits{}, serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, card) })))
		if _, err := w.do(alice, "SendMessage", message("x")); err == nil || call.MayHaveBegun(err) {
			t.Errorf("card, %s: %v", name, err)
		}
	}
}

// Where requests and the key go. GW-3, GW-15, GW-23.
func TestWhereRequestsGo(t *testing.T) {
	other := agent.New()
	elsewhere := serve(t, other)
	lured := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, agent.Card(elsewhere.URL)) }))
	lured.Key = "known"
	moved := serve(t, http.RedirectHandler(elsewhere.URL+"/.well-known/agent-card.json", http.StatusFound))
	keyless := serve(t, other)
	keyless.Key = "missing"
	private := elsewhere
	private.Private = nil
	for name, c := range map[string]struct {
		e    contracts.AgentExposure
		says string
	}{
		"a card that names another host": {lured, "another address"}, "a card that is elsewhere": {moved, "status 302"},
		"no key": {keyless, "talos secret set missing"}, "a private address": {private, "no public address"},
	} {
		w := newWorld(t, a2a.Limits{}, c.e)
		if _, err := w.do(alice, "SendMessage", message("x")); contracts.CodeOf(err) != contracts.Unavailable || !strings.Contains(err.Error(), c.says) || call.MayHaveBegun(err) || strings.Contains(err.Error(), "the-secret") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if seen := other.Seen(); len(seen) != 0 {
		t.Errorf("the other agent was asked: %v", seen[0])
	}
	for name, e := range map[string][]contracts.AgentExposure{"twice": {elsewhere, elsewhere}, "no address": {{Name: "x", URL: "http://"}}, "a password": {{Name: "x", URL: "http://a:b@example.org"}}} {
		if _, err := a2a.New(a2a.Config{Agents: e}); contracts.CodeOf(err) != contracts.ConfigInvalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A message costs what its agent's owner says; what fails before the agent costs nothing,
// nor does asking about tasks.
func TestBudget(t *testing.T) {
	price := int64(40)
	e := serve(t, agent.New())
	e.PriceCall = &price
	w := newWorld(t, a2a.Limits{}, e)
	w.who.payers = []gate.Payer{{Account: "a", Unit: gate.Micro, Max: 100, Mode: gate.Hard}}
	id, _ := w.task(alice, "task x")
	if _, err := w.do(alice, "SendStreamingMessage", message("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := w.do(alice, "SendMessage", message("x")); contracts.CodeOf(err) != contracts.BudgetExhausted || call.MayHaveBegun(err) {
		t.Errorf("over the budget: %v", err)
	}
	if _, err := w.do(alice, "GetTask", `{"id":"`+id+`"}`); err != nil {
		t.Errorf("asking: %v", err)
	}
	if got := w.door.Ledger().Spent("a", gate.Micro); got.Used != 80 || got.Held != 0 {
		t.Errorf("spent %+v", got)
	}
	refusing := scripted(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) })
	refusing.PriceCall = &price
	w = newWorld(t, a2a.Limits{}, refusing)
	w.who.payers = []gate.Payer{{Account: "a", Unit: gate.Micro, Max: 100, Mode: gate.Hard}}
	if _, err := w.do(alice, "SendMessage", message("x")); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("refused: %v", err)
	}
	if got := w.door.Ledger().Spent("a", gate.Micro); got.Used != 0 || got.Held != 0 {
		t.Errorf("spent %+v", got)
	}
}

// Many messages at once spend what the budget has and no more. Row 9 of the failure list.
func TestRow09_NoOvershoot(t *testing.T) {
	price := int64(5)
	for method, e := range map[string]contracts.AgentExposure{
		"SendMessage": says(t, "application/json", `{"jsonrpc":"2.0","id":"an id","result":{}}`), "SendStreamingMessage": says(t, "text/event-stream", "data: {\"result\":{}}\n\n"),
	} {
		e.PriceCall = &price
		w := newWorld(t, a2a.Limits{}, e)
		w.who.payers = []gate.Payer{{Account: "a", Unit: gate.Micro, Max: 100, Mode: gate.Hard}}
		var passed atomic.Int64
		var wg sync.WaitGroup
		for range 200 {
			wg.Go(func() {
				_, err := w.do(alice, method, message("x"))
				if err == nil {
					passed.Add(1)
				} else if contracts.CodeOf(err) != contracts.BudgetExhausted {
					t.Errorf("%s: %v", method, err)
				}
			})
		}
		wg.Wait()
		if got := w.door.Ledger().Spent("a", gate.Micro); passed.Load() != 20 || got.Used != 100 || got.Held != 0 {
			t.Errorf("%s: %d passed, spent %+v", method, passed.Load(), got)
		}
	}
}
