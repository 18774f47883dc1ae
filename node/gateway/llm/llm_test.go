package llm_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/node/call"
	"github.com/talosprotocol/talos/node/gate"
	"github.com/talosprotocol/talos/node/gateway/llm"
	"github.com/talosprotocol/talos/testnet/fake"
)

// Answers pass byte for byte, whatever is in them; what was used is settled as the
// upstream says.
func TestOperations(t *testing.T) {
	for _, c := range []struct {
		name, api, op, body, want string
		used                      int64
	}{
		{"chat", "openai", llm.Chat, chat("a b c"), `"x_unknown":{"kept":1.5}`, 3 + 4},
		{"chat, two choices", "openai", llm.Chat, chat("a b c", `"n":2`), `"index":1`, 3 + 8},
		{"chat, streamed", "openai", llm.Chat, chat("a b c", `"stream":true`), "data: [DONE]\n\n", 3 + 4},
		{"chat, its own limit", "openai", llm.Chat, chat("a b c", `"max_tokens":2`), `"finish_reason":"length"`, 3 + 2},
		{"embeddings", "openai", llm.Embeddings, `{"model":"m","input":["a b","c"]}`, `"embedding":[0.25,-0.5]`, 3},
		{"responses", "openai", llm.Responses, `{"model":"m","input":"a b"}`, `"status":"completed"`, 2 + 3},
		{"responses, streamed", "openai", llm.Responses, `{"model":"m","input":"a b","stream":true}`, "event: response.completed\n", 2 + 3},
		{"messages", "anthropic", llm.Messages, `{"model":"m","max_tokens":9,"messages":[{"role":"user","content":"a b"}]}`, `"stop_reason":"end_turn"`, 2 + 3},
		{"messages, streamed", "anthropic", llm.Messages, `{"model":"m","max_tokens":9,"stream":true,"messages":[{"role":"user","content":"a b"}]}`, "event: message_stop\n", 2 + 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := exposure(serve(t, &fake.Model{Key: "the-secret-key"}))
			e.API, e.Key = c.api, "known"
			w := newWorld(t, driver(t, llm.Limits{}, e), tokens(100_000))
			status, text, err := w.call(t.Context(), c.op, c.body)
			if status != http.StatusOK || err != nil || !strings.Contains(text, c.want) {
				t.Fatalf("%d, %v:\n%s", status, err, text)
			}
			if s := w.spent(); s.Used != c.used || s.Held != 0 {
				t.Errorf("spent %+v, want %d", s, c.used)
			}
			if e := w.last(); e.Type != "result" || e.Outcome != "ok" || e.UnitsIn+e.UnitsOut != c.used || e.ResultDigest == "" || e.RequestDigest == "" {
				t.Errorf("recorded %+v", e)
			}
		})
	}
}

// GW-12: what the gateway sets in a request, and that all else stays as it was.
func TestRequestUpstream(t *testing.T) {
	m := &fake.Model{}
	e := exposure(serve(t, m))
	most := int64(77)
	e.UpstreamModel, e.MaxOutput = `other "model"`, &most
	w := newWorld(t, driver(t, llm.Limits{}, e))
	for body, want := range map[string]string{
		"{ \"model\" : \"m\",\"x\":1.50 ,\n\"messages\":[{\"role\":\"user\",\"content\":\"}\\\"{\"}]\t}":                     "{ \"model\" : \"other \\\"model\\\"\",\"x\":1.50 ,\n\"messages\":[{\"role\":\"user\",\"content\":\"}\\\"{\"}]\t,\"max_completion_tokens\":77}",
		`{"model":"m","messages":[],"max_tokens":5}`:                                                                         `{"model":"other \"model\"","messages":[],"max_tokens":5}`,
		`{"model":"m","messages":[],"max_completion_tokens":5,"stream":true}`:                                                `{"model":"other \"model\"","messages":[],"max_completion_tokens":5,"stream":true,"stream_options":{"include_usage":true}}`,
		`{"model":"m","messages":[],"max_completion_tokens":5,"stream":true,"stream_options":{"include_obfuscation":false}}`: `{"model":"other \"model\"","messages":[],"max_completion_tokens":5,"stream":true,"stream_options":{"include_obfuscation":false,"include_usage":true}}`,
		`{"model":"m","messages":[],"max_completion_tokens":null,"stream":true,"stream_options":{"include_usage":true}}`:     `{"model":"other \"model\"","messages":[],"max_completion_tokens":77,"stream":true,"stream_options":{"include_usage":true}}`,
	} {
		if _, _, err := w.call(t.Context(), llm.Chat, body); err != nil {
			t.Errorf("%s: %v", body, err)
		}
		if got := string(m.Last()); got != want {
			t.Errorf("upstream got\n%s\nwant\n%s", got, want)
		}
	}
	if _, _, err := w.call(t.Context(), llm.Responses, `{"model":"m","input":"x"}`); err != nil || !strings.Contains(string(m.Last()), `"store":false`) {
		t.Errorf("responses: %v, %s", err, m.Last())
	}
}

// The chunk with the usage is there if the client asked for it, and only then.
func TestUsageChunk(t *testing.T) {
	w := openAI(t, &fake.Model{}, llm.Limits{}, tokens(1000))
	_, without, err := w.call(t.Context(), llm.Chat, chat("a", `"stream":true`))
	if err != nil || strings.Contains(without, `"usage":{`) || !strings.Contains(without, "[DONE]") {
		t.Errorf("%v\n%s", err, without)
	}
	_, with, err := w.call(t.Context(), llm.Chat, chat("a", `"stream":true`, `"stream_options":{"include_usage":true}`))
	if err != nil || !strings.Contains(with, `"usage":{`) {
		t.Errorf("%v\n%s", err, with)
	}
}

// GW-11: requests that are refused before anything happens.
func TestRefused(t *testing.T) {
	m := &fake.Model{}
	w := openAI(t, m, llm.Limits{}, tokens(1000))
	for name, c := range map[string]struct {
		op, body string
		code     contracts.Code
		says     string
	}{
		"not JSON":            {llm.Chat, `{"model":`, contracts.Malformed, "not JSON"},
		"no object":           {llm.Chat, `[]`, contracts.Malformed, "no JSON object"},
		"nothing":             {llm.Chat, ``, contracts.Malformed, "not JSON"},
		"twice the model":     {llm.Chat, `{"model":"m","model":"other"}`, contracts.Malformed, "twice"},
		"twice, escaped":      {llm.Chat, `{"n":1,"\u006e":1000}`, contracts.Malformed, "twice"},
		"a limit as text":     {llm.Chat, `{"max_tokens":"5"}`, contracts.Malformed, "whole number"},
		"a negative limit":    {llm.Chat, `{"max_tokens":-5}`, contracts.Malformed, "whole number"},
		"two limits":          {llm.Chat, `{"max_tokens":5,"max_completion_tokens":50}`, contracts.Malformed, "more than one limit"},
		"a stream of 1":       {llm.Chat, `{"stream":1}`, contracts.Malformed, "true or false"},
		"another price":       {llm.Chat, `{"service_tier":"priority"}`, contracts.ConstraintViolation, "another price"},
		"state upstream":      {llm.Responses, `{"previous_response_id":"r_1"}`, contracts.ConstraintViolation, "previous_response_id"},
		"kept upstream":       {llm.Responses, `{"store":true}`, contracts.ConstraintViolation, "store"},
		"tools upstream":      {llm.Responses, `{"tools":[{"type":"web_search"}]}`, contracts.ConstraintViolation, "web_search"},
		"another operation":   {llm.Messages, `{}`, contracts.UnknownTool, "it has chat, embeddings, responses"},
		"more than the money": {llm.Chat, chat("a", `"max_tokens":5000`), contracts.BudgetExhausted, "5"},
		"many members":        {llm.Chat, "{" + members(200) + "}", contracts.Malformed, "more than 128"},
		"deep":                {llm.Chat, `{"a":` + strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000) + "}", contracts.Malformed, "not JSON"},
	} {
		_, _, err := w.call(t.Context(), c.op, c.body)
		if contracts.CodeOf(err) != c.code || !strings.Contains(err.Error(), c.says) || call.MayHaveBegun(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := m.Answers.Load(); n != 0 || w.spent() != (gate.Spent{Account: "a", Unit: gate.Tokens}) {
		t.Errorf("%d requests went upstream, spent %+v", n, w.spent())
	}
}

func members(n int) string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprintf(`"m%d":1`, i)
	}
	return strings.Join(out, ",")
}

// A key that is missing is an error and not an answer; one that is wrong is not shown.
func TestKeys(t *testing.T) {
	m := &fake.Model{Key: "another"}
	url := serve(t, m)
	for key, says := range map[string]string{"unknown": "talos secret set unknown", "known": "refuses the gateway"} {
		e := exposure(url)
		e.Key = key
		_, _, err := newWorld(t, driver(t, llm.Limits{}, e)).call(t.Context(), llm.Chat, chat("a"))
		if contracts.CodeOf(err) != contracts.Unavailable || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "the-secret-key") || call.MayHaveBegun(err) {
			t.Errorf("%s: %v", key, err)
		}
	}
}

// Row 9 and 3 of the failure list: a thousand calls at once on a budget for twenty, and
// not one too many, on every operation and streamed or not.
func TestRow09_NoOvershoot(t *testing.T) {
	for _, c := range []struct{ name, op, body string }{
		{"chat", llm.Chat, chat("count 8", `"max_tokens":8`)},
		{"chat, streamed", llm.Chat, chat("count 8", `"max_tokens":8`, `"stream":true`)},
		{"responses", llm.Responses, `{"model":"m","input":"count 8","max_output_tokens":8}`},
		{"embeddings", llm.Embeddings, `{"model":"m","input":"a b c d e f g h i j"}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			const limit = 20 * 10
			w := openAI(t, &fake.Model{}, llm.Limits{}, tokens(limit))
			var passed atomic.Int64
			var wg sync.WaitGroup
			for range 1000 {
				wg.Go(func() {
					_, _, err := w.call(t.Context(), c.op, c.body)
					switch contracts.CodeOf(err) {
					case "":
						passed.Add(1)
					case contracts.BudgetExhausted:
					default:
						t.Error(err)
					}
				})
			}
			wg.Wait()
			if s := w.spent(); s.Used > limit || s.Held != 0 || s.Used != passed.Load()*10 || passed.Load() == 0 {
				t.Errorf("%d passed, spent %+v of %d", passed.Load(), s, limit)
			}
		})
	}
}

// GW-13: a running stream is cut within a slice of its budget, its reader is told, the upstream
// is closed, and what came is settled to the token.
func TestCutAtTheLimit(t *testing.T) {
	for _, c := range []struct{ op, body, says string }{
		{llm.Chat, chat("count 5000", `"stream":true`), `"finish_reason":"length"`},
		{llm.Responses, `{"model":"m","input":"count 5000","stream":true}`, "event: error\n"},
	} {
		t.Run(c.op, func(t *testing.T) {
			m := &fake.Model{}
			w := openAI(t, m, llm.Limits{}, tokens(1000))
			status, text, err := w.call(t.Context(), c.op, c.body)
			if status != http.StatusOK || err != nil || !strings.Contains(text, c.says) || !strings.Contains(text, string(contracts.BudgetExhausted)) || strings.Contains(text, "[DONE]") {
				t.Fatalf("%d, %v: …%s", status, err, text[max(0, len(text)-600):])
			}
			came := int64(strings.Count(text, `"content":"`) - 1)
			if c.op == llm.Responses {
				came = int64(strings.Count(text, `"delta":"`))
			}
			s := w.spent()
			if s.Used > 1000+llm.Slice || came < 1000-2*llm.Slice || came > 1000 || s.Held != 0 {
				t.Errorf("%d tokens came, spent %+v", came, s)
			}
			if e := w.last(); e.Code != contracts.BudgetExhausted || e.UnitsOut < came || e.UnitsOut > came+1 {
				t.Errorf("recorded %+v, %d came", e, came)
			}
			until(t, "the upstream's end", func() bool { return m.Running.Load() == 0 })
		})
	}
}

func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("no %s", what)
		}
	}
}

// Rows 2 and 3: an upstream that says nothing, or stops in the middle, is given up, and
// what came is settled.
func TestRow02_SilentUpstream(t *testing.T) {
	quick := llm.Limits{First: 50 * time.Millisecond, Idle: 50 * time.Millisecond, Whole: 50 * time.Millisecond}
	for name, c := range map[string]struct {
		m    *fake.Model
		body string
		used bool
	}{
		"from the start": {&fake.Model{Pace: time.Hour}, chat("a b", `"stream":true`), false},
		"in the middle":  {&fake.Model{Hang: 3}, chat("count 9", `"stream":true`), true},
		"broken off":     {&fake.Model{Break: 3}, chat("count 9", `"stream":true`), true},
	} {
		t.Run(name, func(t *testing.T) {
			w := openAI(t, c.m, quick, tokens(10_000))
			_, text, err := w.call(t.Context(), llm.Chat, c.body)
			if contracts.CodeOf(err) != contracts.Unavailable || strings.Contains(text, "[DONE]") {
				t.Errorf("%v\n%s", err, text)
			}
			if s := w.spent(); s.Held != 0 || (s.Used > 0) != c.used || s.Used > 100 {
				t.Errorf("spent %+v", s)
			}
			until(t, "the upstream's end", func() bool { return c.m.Running.Load() == 0 })
		})
	}
	silent := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // only then does the server see that the client is gone
		<-r.Context().Done()
	})
	for _, body := range []string{chat("a"), chat("a", `"stream":true`)} {
		w := newWorld(t, driver(t, quick, exposure(serve(t, silent))), tokens(10_000))
		_, _, err := w.call(t.Context(), llm.Chat, body)
		if contracts.CodeOf(err) != contracts.Unavailable || w.spent().Held != 0 {
			t.Errorf("%v, spent %+v", err, w.spent())
		}
	}
}

// Row 4: when the caller is gone the upstream is closed, in every phase, and nothing is
// left.
func TestRow04_CallerGone(t *testing.T) {
	m := &fake.Model{Pace: time.Hour}
	silent := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		m.Running.Add(1)
		defer m.Running.Add(-1)
		<-r.Context().Done()
	})
	before := runtime.NumGoroutine()
	rounds := 100
	if testing.Short() {
		rounds = 10
	}
	for name, c := range map[string]struct {
		h    http.Handler
		body string
	}{
		"before the first byte": {silent, chat("a", `"stream":true`)}, "in the stream": {m, chat("a b c", `"stream":true`)}, "not streamed": {silent, chat("a")},
	} {
		w := newWorld(t, driver(t, llm.Limits{}, exposure(serve(t, c.h))), tokens(1<<40))
		for range rounds {
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() {
				_, _, err := w.call(ctx, llm.Chat, c.body)
				done <- err
			}()
			until(t, name+": a call", func() bool { return m.Running.Load() == 1 })
			cancel()
			if err := <-done; err == nil {
				t.Errorf("%s: no error", name)
			}
			until(t, name+": the upstream's end", func() bool { return m.Running.Load() == 0 })
		}
		until(t, name+": settling", func() bool { return w.spent().Held == 0 })
	}
	http.DefaultClient.CloseIdleConnections()
	until(t, "end of goroutines", func() bool { return runtime.NumGoroutine() < before+60 }) // idle connections of the upstreams stay
}

// Row 6, GW-14: streams that are not as they should be pass as they are, or end in an error.
func TestRow06_OddStreams(t *testing.T) {
	content := `{"choices":[{"delta":{"content":"xyz"}}]}`
	for name, c := range map[string]struct {
		raw  string
		code contracts.Code
		used int64 // out
	}{
		"CRLF":                  {"data: " + content + "\r\n\r\ndata: [DONE]\r\n\r\n", "", 1},
		"no space":              {"data:" + content + "\n\n", "", 1},
		"several data lines":    {"data: {\"choices\":\ndata: [{\"delta\":{\"content\":\"xyz\"}}]}\n\n", "", 1},
		"no blank line at end":  {"data: " + content, "", 1},
		"byte order mark":       {"\ufeffdata: " + content + "\n\n", "", 1},
		"not UTF-8":             {"data: {\"choices\":[{\"delta\":{\"content\":\"\xff\xfe\"}}]}\n\n", "", 2},
		"comments":              {": hello\n\n: again\n\ndata: " + content + "\n\n", "", 1},
		"an error in it":        {"data: {\"error\":{\"message\":\"x\"}}\n\n", "", 0},
		"usage twice":           {"data: " + content + "\n\ndata: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":4}}\n\ndata: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":5}}\n\n", "", 5},
		"a huge event":          {"data: " + strings.Repeat("x", 2<<20) + "\n\n", contracts.TooLarge, 0},
		"a number too large":    {"data: " + content + "\n\ndata: {\"choices\":[],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":99999999999999}}\n\n", "", 1},
		"a number too small":    {"data: {\"choices\":[{\"delta\":{\"content\":\"" + strings.Repeat("long ", 2000) + "\"}}]}\n\ndata: {\"choices\":[],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":0}}\n\n", "", 2500},
		"less than nothing":     {"data: " + content + "\n\ndata: {\"choices\":[],\"usage\":{\"prompt_tokens\":-1,\"completion_tokens\":-5}}\n\n", "", 1},
		"text where JSON ought": {"data: hello\n\n", "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, driver(t, llm.Limits{}, exposure(serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "text/event-stream")
				_, _ = w.Write([]byte(c.raw))
			})))), tokens(1<<40))
			_, text, err := w.call(t.Context(), llm.Chat, chat("a", `"stream":true`, `"stream_options":{"include_usage":true}`))
			if contracts.CodeOf(err) != c.code || c.code == "" && text != c.raw {
				t.Errorf("%v:\n%q\nwant\n%q", err, text[:min(len(text), 300)], c.raw[:min(len(c.raw), 300)])
			}
			if e := w.last(); e.UnitsOut != c.used && c.code == "" {
				t.Errorf("settled %d, want %d", e.UnitsOut, c.used)
			}
			if w.spent().Held != 0 {
				t.Errorf("held %+v", w.spent())
			}
		})
	}
}

// What an upstream refuses: the request is the caller's fault, everything else is not.
func TestUpstreamRefuses(t *testing.T) {
	for status, want := range map[int]contracts.Code{400: "", 404: "", 422: "", 401: contracts.Unavailable, 403: contracts.Unavailable, 402: contracts.Unavailable, 429: contracts.RateLimited, 500: contracts.Unavailable, 503: contracts.Unavailable, 302: contracts.Unavailable} {
		w := openAI(t, &fake.Model{Refuse: status}, llm.Limits{}, tokens(10_000))
		got, text, err := w.call(t.Context(), llm.Chat, chat("a"))
		if contracts.CodeOf(err) != want || want == "" && (got != status || !json.Valid([]byte(text))) {
			t.Errorf("%d: %d %q, %v", status, got, text, err)
		}
		if s := w.spent(); s.Used != 0 || s.Held != 0 {
			t.Errorf("%d: spent %+v", status, s)
		}
	}
}

// Row 17, GW-15: an upstream inside the gateway's network is reached only if it is meant.
func TestRow17_PrivateUpstream(t *testing.T) {
	m := &fake.Model{}
	e := exposure(serve(t, m))
	e.Private = nil
	_, _, err := newWorld(t, driver(t, llm.Limits{}, e)).call(t.Context(), llm.Chat, chat("a"))
	if contracts.CodeOf(err) != contracts.Unavailable || !strings.Contains(err.Error(), "--private") || m.Answers.Load() != 0 || call.MayHaveBegun(err) {
		t.Errorf("%v", err)
	}
}

// Money: whole millionths of a dollar, rounded up, held and settled beside the tokens.
func TestMoney(t *testing.T) {
	e := exposure(serve(t, &fake.Model{}))
	in, out := int64(2_500_000), int64(10_000_001)
	e.PriceIn, e.PriceOut = &in, &out
	w := newWorld(t, driver(t, llm.Limits{}, e), gate.Payer{Account: "a", Unit: gate.Micro, Max: 1_000_000, Mode: gate.Hard}, tokens(1<<40))
	if _, _, err := w.call(t.Context(), llm.Chat, chat("a b c")); err != nil {
		t.Fatal(err)
	}
	// 3 tokens in at 2.5, 4 out at 10.000001.
	if s := w.gate.Ledger().Spent("a", gate.Micro); s.Used != 8+41 || s.Held != 0 {
		t.Errorf("spent %+v", s)
	}
	if e := w.last(); e.CostMicro != 8+41 {
		t.Errorf("recorded %+v", e)
	}
}
