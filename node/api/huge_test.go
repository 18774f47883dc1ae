package api_test

import (
	"io"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
)

// endless is a body without an end.
type endless struct{ n atomic.Int64 }

func (e *endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'x'
	}
	e.n.Add(int64(len(p)))
	return len(p), nil
}

// Row 7 of the failure list: bodies that are too long, or too deep, are refused early, in
// bounded memory.
func TestRow07_HugeBodies(t *testing.T) {
	v := serve(t)
	deep := strings.Repeat("[", 1_000_000)
	routes := []string{"/v1/chat/completions", "/v1/messages", "/mcp", "/mcp/did:x/s", "/a2a/agents/did:x/a", "/a2a/messages", "/v1/capabilities", "/v1/mcp/tools/did:x/s/t/call"}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for _, path := range routes {
		body := &endless{}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, v.url+path, io.LimitReader(body, 1<<30)) // chunked
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+v.token)
		req.Header.Set("Content-Type", "application/json")
		resp, err := http.DefaultClient.Do(req)
		if err == nil { // it may also be broken off before the answer is read
			text, _ := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			if resp.StatusCode != http.StatusRequestEntityTooLarge || !strings.Contains(string(text), "TOO_LARGE") && !strings.Contains(string(text), "more than") {
				t.Errorf("%s: %d %s", path, resp.StatusCode, text)
			}
		}
		if n := body.n.Load(); n > 64<<20 {
			t.Errorf("%s: %d MiB were taken", path, n>>20)
		}
		status, text, _ := v.do(t, http.MethodPost, path, `{"model":"m","jsonrpc":"2.0","id":1,"method":"tools/call","params":{"arguments":`+deep, func(r *http.Request) { r.Header.Set("Content-Type", "application/json") })
		if status != http.StatusBadRequest && status != http.StatusRequestEntityTooLarge {
			t.Errorf("%s, deep: %d %.200s", path, status, text)
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 64<<20 {
		t.Errorf("the heap grew by %d MiB", grown>>20)
	}
}
