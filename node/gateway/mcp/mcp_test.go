package mcp_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
	"github.com/talosprotocol/talos/node/call"
	"github.com/talosprotocol/talos/node/gateway/mcp"
)

const modernMeta = `"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}`

// Every kind of upstream serves clients of both revisions. GW-16.
func TestUpstreams(t *testing.T) {
	for name, e := range map[string]contracts.ToolExposure{"program": program(t, "serve-notes"), "HTTP, 2026-07-28": remote(t, false), "HTTP with sessions": remote(t, true)} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, e)
			if got, err := w.tool(alice, "echo", `{"text":"hello\n\"you\""}`); err != nil || got != "hello\n\"you\"" {
				t.Fatalf("%q, %v", got, err)
			}
			for _, c := range []struct{ method, params, want string }{
				{"initialize", `{"protocolVersion":"2025-06-18","capabilities":{},"clientInfo":{"name":"x","version":"1"}}`, `"protocolVersion":"2025-06-18"`},
				{"initialize", `{"protocolVersion":"1999-01-01"}`, `"protocolVersion":"2025-11-25"`},
				{"server/discover", `{` + modernMeta + `}`, `"supportedVersions":["2026-07-28"`},
				{"ping", `{}`, `"result":{}`},
				{"tools/list", `{` + modernMeta + `}`, `"resultType":"complete"`},
				{"tools/list", `{}`, `"name":"add_note"`},
				{"tools/call", `{"name":"echo","arguments":{"text":"x"},` + modernMeta + `}`, `"resultType":"complete"`},
				{"tools/call", `{"name":"echo","arguments":{"text":5}}`, `"isError":true`},
				{"resources/list", `{}`, `note://readme`},
				{"resources/read", `{"uri":"note://readme"}`, `read me`},
				{"resources/read", `{"uri":"note://readme",` + modernMeta + `}`, `"resultType":"complete"`},
				{"resources/read", `{"uri":"note://nothing"}`, `"error":{`},
				{"prompts/list", `{}`, `"id":"an id"`},
				{"subscriptions/listen", `{}`, `-32601`},
				{"sampling/createMessage", `{}`, `-32601`},
			} {
				out, err := w.do(alice, c.method, c.params)
				if err != nil || !strings.Contains(out, c.want) || !json.Valid([]byte(out)) {
					t.Errorf("%s %s: %v\n%s", c.method, c.params, err, out)
				}
			}
		})
	}
}

// What a caller may not use it does not see, and does not learn of. GW-17.
func TestWhatCallersSee(t *testing.T) {
	w := newWorld(t, program(t, "serve-notes"))
	out, err := w.do(bob, "tools/list", "{}")
	if err != nil || !strings.Contains(out, `"name":"echo"`) || strings.Contains(out, "add_note") {
		t.Errorf("%v\n%s", err, out)
	}
	if _, err := w.tool(bob, "echo", `{"text":"x"}`); err != nil {
		t.Error(err)
	}
	for name, c := range map[string]struct {
		who, tool string
		code      contracts.Code
		says      string
	}{
		"not granted": {string(bob), "add_note", contracts.NoCapability, ""}, "no such tool": {string(alice), "ad_note", contracts.UnknownTool, "did you mean add_note"},
		"no such tool, for somebody": {string(bob), "ad_note", contracts.UnknownTool, "no tool"}, "for nobody": {"did:key:z6MkNobody", "echo", contracts.NoCapability, ""},
		"no such tool, for nobody": {"did:key:z6MkNobody", "ad_note", contracts.NoCapability, ""},
	} {
		_, err := w.tool(identity.DID(c.who), c.tool, `{"text":"x"}`)
		if contracts.CodeOf(err) != c.code || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "add_note") && c.who == string(bob) && name != "not granted" || call.MayHaveBegun(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := w.do("did:key:z6MkNobody", "tools/list", "{}"); contracts.CodeOf(err) != contracts.NoCapability {
		t.Errorf("nobody lists: %v", err)
	}
	if _, err := w.raw(t.Context(), alice, "note", "tools/list", request("tools/list", "{}")); contracts.CodeOf(err) != contracts.UnknownTool || !strings.Contains(err.Error(), "did you mean notes") {
		t.Errorf("no such server: %v", err)
	}
}

// Row 16: each caller of a program has one of its own; what one keeps no other sees.
func TestRow16_CallersApart(t *testing.T) {
	w := newWorld(t, program(t, "serve-notes"))
	w.granted.all[bob] = []string{"notes/*"}
	for i, c := range []struct{ who, note, want string }{{string(alice), "a", "a"}, {string(bob), "b", "b"}, {string(alice), "c", "a,c"}} {
		if got, err := w.tool(identity.DID(c.who), "add_note", `{"text":"`+c.note+`"}`); err != nil || got != c.want {
			t.Errorf("%d: %q, %v", i, got, err)
		}
	}
	shared := program(t, "serve-notes")
	yes := true
	shared.Shared = &yes
	w = newWorld(t, shared)
	w.granted.all[bob] = []string{"notes/*"}
	for i, c := range []struct{ who, note, want string }{{string(alice), "a", "a"}, {string(bob), "b", "a,b"}} {
		if got, err := w.tool(identity.DID(c.who), "add_note", `{"text":"`+c.note+`"}`); err != nil || got != c.want {
			t.Errorf("shared, %d: %q, %v", i, got, err)
		}
	}
}

// Progress comes as events before the response, with the caller's own token; two callers
// with the same token get each their own.
func TestProgress(t *testing.T) {
	e := program(t, "serve-notes")
	yes := true
	e.Shared = &yes
	w := newWorld(t, e)
	w.granted.all[bob] = []string{"notes/*"}
	var wg sync.WaitGroup
	for i, who := range []string{string(alice), string(bob)} {
		wg.Go(func() {
			n := 3 + i
			out, err := w.do(identity.DID(who), "tools/call", fmt.Sprintf(`{"name":"count","arguments":{"n":%d},"_meta":{"progressToken":"mine"}}`, n))
			if err != nil || strings.Count(out, `"progressToken":"mine"`) != n || strings.Count(out, "data: ") != n+1 || !strings.Contains(out, fmt.Sprintf(`"text":"%d"`, n)) {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
	wg.Wait()
}

// Row 4: when the caller is gone, the tool is told.
func TestRow04_Cancel(t *testing.T) {
	for name, e := range map[string]contracts.ToolExposure{"program": program(t, "serve-notes"), "HTTP": remote(t, true)} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, e)
			file := filepath.Join(w.dir, "cancelled")
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() {
				_, err := w.raw(ctx, alice, "notes", "tools/call", request("tools/call", `{"name":"wait","arguments":{"text":`+strconv.Quote(file)+`}}`))
				done <- err
			}()
			until(t, "start of the tool", func() bool { return exists(file + ".began") })
			cancel()
			if err := <-done; err == nil {
				t.Error("no error")
			}
			until(t, "word to the tool", func() bool { return exists(file) })
		})
	}
}

// Requests that are refused before a server sees them. Row 23: the body decides.
func TestRow23_BodyDecides(t *testing.T) {
	w := newWorld(t, program(t, "serve-notes"))
	for name, c := range map[string]struct {
		method, body string
		code         contracts.Code
	}{
		"not JSON": {"tools/call", `{`, contracts.Malformed}, "a batch": {"tools/list", `[` + request("tools/list", "{}") + `]`, contracts.Malformed},
		"another method":       {"tools/list", request("tools/call", `{"name":"echo"}`), contracts.Malformed},
		"a notification":       {"tools/list", `{"jsonrpc":"2.0","method":"tools/list"}`, contracts.Malformed},
		"an id that is none":   {"tools/list", `{"jsonrpc":"2.0","id":null,"method":"tools/list"}`, contracts.Malformed},
		"an id of many bytes":  {"tools/list", `{"jsonrpc":"2.0","id":"` + strings.Repeat("x", 300) + `","method":"tools/list"}`, contracts.TooLarge},
		"another version":      {"tools/list", `{"jsonrpc":"1.0","id":1,"method":"tools/list"}`, contracts.Malformed},
		"twice the name":       {"tools/call", request("tools/call", `{"name":"echo","name":"add_note"}`), contracts.Malformed},
		"twice an argument":    {"tools/call", request("tools/call", `{"name":"echo","arguments":{"text":"a","text":"b"}}`), contracts.Malformed},
		"arguments as a list":  {"tools/call", request("tools/call", `{"name":"echo","arguments":[1]}`), contracts.Malformed},
		"a name with a line":   {"tools/call", request("tools/call", `{"name":"echo\nadd_note"}`), contracts.Malformed},
		"no name":              {"tools/call", request("tools/call", `{}`), contracts.Malformed},
		"more than it may be":  {"tools/call", request("tools/call", `{"name":"echo","arguments":{"text":"`+strings.Repeat("x", 5<<20)+`"}}`), contracts.TooLarge},
		"parameters as a text": {"tools/list", request("tools/list", `"x"`), contracts.Malformed},
	} {
		_, err := w.raw(t.Context(), alice, "notes", c.method, c.body)
		if contracts.CodeOf(err) != c.code || call.MayHaveBegun(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Row 20: a tool whose description is not the one that was approved is held back, and no
// other; so is what nobody can see. GW-18.
func TestRow20_ChangedTools(t *testing.T) {
	w := newWorld(t, program(t, "serve-notes"))
	tools, err := w.d.Tools(t.Context(), "notes")
	if err != nil || len(tools) != 9 {
		t.Fatalf("%d tools, %v", len(tools), err)
	}
	e := program(t, "serve-notes")
	for _, tool := range tools {
		e.Pins = append(e.Pins, contracts.ToolPin{Tool: tool.Name, Digest: tool.Digest})
	}
	e.Pins[0].Digest = e.Pins[1].Digest
	changed := e.Pins[0].Tool
	w = newWorld(t, e)
	out, err := w.do(alice, "tools/list", "{}")
	if err != nil || strings.Contains(out, `"name":"`+changed+`"`) || strings.Count(out, `"inputSchema"`) != 8 {
		t.Errorf("%v\n%s", err, out)
	}
	if _, err := w.do(alice, "tools/call", `{"name":"`+changed+`","arguments":{}}`); contracts.CodeOf(err) != contracts.ConstraintViolation || !strings.Contains(err.Error(), "has changed") {
		t.Errorf("the changed tool: %v", err)
	}
	if _, err := w.tool(alice, "echo", `{"text":"x"}`); err != nil {
		t.Errorf("another tool: %v", err)
	}
	// A tool that comes while the server runs is there without a restart; one that hides
	// something is not.
	w = newWorld(t, program(t, "serve-notes"))
	for _, c := range []struct {
		description string
		there       bool
	}{{"grown", true}, {"grown \u202e and more", false}, {"tags \U000e0041", false}} {
		description, err := json.Marshal(c.description)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.tool(alice, "grow", `{"text":`+string(description)+`}`); err != nil {
			t.Fatal(err)
		}
		until(t, fmt.Sprintf("the tool, there: %v", c.there), func() bool {
			tools, err := w.d.Tools(t.Context(), "notes") // of the owner's own upstream, which has not grown
			if err != nil {
				t.Fatal(err)
			}
			return len(tools) == 9
		})
	}
}

// Every member that a model or a person acts on changes the digest of a tool, and nothing
// else does.
func TestDigests(t *testing.T) {
	base := `{"name":"a","title":"b","description":"c","inputSchema":{"type":"object","minimum":0.5},"outputSchema":{},"annotations":{"readOnlyHint":true},"icons":[]}`
	want, err := mcp.Digest([]byte(base))
	if err != nil {
		t.Fatal(err)
	}
	for _, same := range []string{
		`{"description":"c","title":"b","name":"a","inputSchema":{"minimum":5e-1,"type":"object"},"outputSchema":{ },"annotations":{"readOnlyHint":true},"icons":[]}`,
		strings.Replace(base, `"icons"`, `"_meta":{"x":1},"icons"`, 1),
	} {
		if got, err := mcp.Digest([]byte(same)); err != nil || got != want {
			t.Errorf("%s: %s, %v", same, got, err)
		}
	}
	for _, change := range [][2]string{{`"a"`, `"A"`}, {`"b"`, `"b "`}, {`"c"`, `"d"`}, {"0.5", "0.25"}, {`"outputSchema":{}`, `"outputSchema":{"type":"object"}`}, {"true", "false"}, {"[]", "[{}]"}} {
		if got, err := mcp.Digest([]byte(strings.Replace(base, change[0], change[1], 1))); err != nil || got == want {
			t.Errorf("%v: %s, %v", change, got, err)
		}
	}
}

// Row 21, GW-3, GW-19: a program is what the configuration says, in its own folder, with what
// is written there as environment, and nothing of the gateway's.
func TestRow21_Environment(t *testing.T) {
	t.Setenv("TALOS_TEST_SECRET", "must not be seen")
	e := program(t, "serve-notes")
	e.Env = []contracts.EnvSecret{{Name: "TOKEN", Secret: "known"}, {Name: "PLAIN", Value: "x y"}}
	w := newWorld(t, e)
	out, err := w.tool(alice, "environment", "{}")
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Env []string
		Dir string
	}
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatal(err)
	}
	var env []string
	for _, v := range got.Env {
		if !strings.HasPrefix(v, "PWD=") { // the shell's; exec adds it for a folder of its own
			env = append(env, v)
		}
	}
	if strings.Join(env, "|") != "TOKEN=the-secret|PLAIN=x y" || got.Dir != filepath.Join(w.dir, "notes") {
		t.Errorf("%q in %s", got.Env, got.Dir)
	}
	for name, c := range map[string]func(*contracts.ToolExposure){
		"a missing secret": func(e *contracts.ToolExposure) { e.Env[0].Secret = "unknown" }, "no such program": func(e *contracts.ToolExposure) { e.Command[0] = "/no/such/program" },
	} {
		bad := program(t, "serve-notes")
		bad.Env = []contracts.EnvSecret{{Name: "TOKEN", Secret: "known"}}
		c(&bad)
		if _, err := newWorld(t, bad).tool(alice, "echo", `{"text":"x"}`); contracts.CodeOf(err) != contracts.Unavailable || call.MayHaveBegun(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, bad := range map[string]contracts.ToolExposure{
		"a relative path": {Name: "x", Command: []string{"sh"}}, "both": {Name: "x", Command: []string{"/bin/sh"}, URL: "http://x"}, "neither": {Name: "x"},
	} {
		if _, err := mcp.New(mcp.Config{Servers: []contracts.ToolExposure{bad}}); contracts.CodeOf(err) != contracts.ConfigInvalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Row 22: whatever a program does, it is bounded, and nothing of it is left.
func TestRow22_BadPrograms(t *testing.T) {
	for how, code := range map[string]contracts.Code{"misbehave-exits": contracts.Unavailable, "misbehave-floods": contracts.TooLarge} {
		_, err := newWorld(t, program(t, how)).tool(alice, "echo", `{"text":"x"}`)
		if contracts.CodeOf(err) != code || call.MayHaveBegun(err) {
			t.Errorf("%s: %v", how, err)
		}
	}
	w := newWorld(t, program(t, "misbehave-babbles"))
	if got, err := w.tool(alice, "echo", `{"text":"x"}`); err != nil || got != "hi" {
		t.Errorf("babbling: %q, %v", got, err)
	}
	// One that ends in the middle of a call is started again for the next.
	w = newWorld(t, program(t, "serve-notes"))
	if _, err := w.tool(alice, "exit", "{}"); contracts.CodeOf(err) != contracts.Unavailable || !call.MayHaveBegun(err) {
		t.Errorf("exit: %v", err)
	}
	if got, err := w.tool(alice, "echo", `{"text":"again"}`); err != nil || got != "again" {
		t.Errorf("after its end: %q, %v", got, err)
	}
	if _, err := w.tool(alice, "big", `{"n":5000000}`); contracts.CodeOf(err) != contracts.TooLarge {
		t.Errorf("a large answer: %v", err)
	}
	// Children of the program go with it, and so does one that does not want to.
	pids := []int{}
	child, err := w.tool(alice, "fork", "{}")
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(child)
	if err != nil {
		t.Fatal(err)
	}
	pids = append(pids, pid)
	stubborn := newWorld(t, program(t, "misbehave-stays"))
	file := filepath.Join(stubborn.dir, "notes", "pid")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		_, _ = stubborn.raw(ctx, alice, "notes", "tools/call", request("tools/call", `{"name":"echo","arguments":{}}`))
		close(done)
	}()
	until(t, "start of the stubborn program", func() bool { b, err := os.ReadFile(file); return err == nil && len(b) > 0 })
	cancel()
	<-done
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if pid, err = strconv.Atoi(string(b)); err != nil {
		t.Fatal(err)
	}
	pids = append(pids, pid)
	for _, d := range []*mcp.Driver{w.d, stubborn.d} {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}
	for _, pid := range pids {
		until(t, fmt.Sprintf("end of process %d", pid), func() bool { return syscall.Kill(pid, 0) != nil })
	}
}
