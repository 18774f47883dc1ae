package api_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/talosprotocol/talos/node/api"
)

// raw sends a request line as it is, which Go's client would clean, and gives the answer.
func (v *served) raw(t *testing.T, method, target, headers string) (*http.Response, api.Failure) {
	t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(v.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close() //nolint:errcheck // read only
	if _, err := fmt.Fprintf(c, "%s %s HTTP/1.1\r\nHost: 127.0.0.1:1\r\nAuthorization: Bearer %s\r\n%sConnection: close\r\n\r\n", method, target, v.token, headers); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: method})
	if err != nil {
		t.Fatalf("%s %s: %v", method, target, err)
	}
	defer resp.Body.Close() //nolint:errcheck // read only
	var f api.Failure
	if method != http.MethodHead {
		if err := json.NewDecoder(resp.Body).Decode(&f); err != nil {
			t.Errorf("%s %s: %d, no JSON: %v", method, target, resp.StatusCode, err)
		}
	}
	return resp, f
}

// API-3, API-4: other spellings of a route, and other methods, reach nothing and are
// answered as errors of this API.
func TestRow24_UnmappedRoutes(t *testing.T) {
	v := serve(t)
	for _, target := range []string{
		"/", "/v1", "/v1/", "/v1/status/", "//v1/status", "/v1//status", "/v1/./status", "/v1/x/../status", "/../v1/status", "/V1/status",
		"/v1/Status", "/v1%2fstatus", "/v1/status%00", "/v1/status%20", "/v1/status;x", "/v1/%2e%2e/v1/status", "/health/../v1/status", "/v1/status/..",
	} {
		for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"} {
			if resp, f := v.raw(t, method, target, ""); resp.StatusCode != http.StatusNotFound || (method != "HEAD" && f.Code != "NOT_FOUND") {
				t.Errorf("%s %s: %d %+v", method, target, resp.StatusCode, f)
			}
		}
	}
	for _, method := range []string{"POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "get", "PROPFIND"} {
		resp, f := v.raw(t, method, "/v1/status", "X-HTTP-Method-Override: GET\r\n")
		if resp.StatusCode != http.StatusMethodNotAllowed || f.Code == "" || resp.Header.Get("Allow") == "" {
			t.Errorf("%s: %d %+v, allow %q", method, resp.StatusCode, f, resp.Header.Get("Allow"))
		}
	}
}

// API-1: what a page of somebody else can have a browser send is refused with whatever
// path, and before a route is looked for.
func TestRow18_Browsers(t *testing.T) {
	v := serve(t)
	for _, path := range []string{"/v1/status", "/a2a/messages", "/health/live", "/v1/nothing", "/"} {
		for name, change := range map[string]func(*http.Request){
			"rebound name":         func(r *http.Request) { r.Host = "evil.example:80" },
			"name without a port":  func(r *http.Request) { r.Host = "evil.example" },
			"name like loopback":   func(r *http.Request) { r.Host = "127.0.0.1.evil.example:80" },
			"all addresses":        func(r *http.Request) { r.Host = "0.0.0.0:80" },
			"foreign page":         func(r *http.Request) { r.Header.Set("Origin", "https://evil.example") },
			"page without origin":  func(r *http.Request) { r.Header.Set("Origin", "null") },
			"page of this machine": func(r *http.Request) { r.Header.Set("Origin", "http://localhost:3000") },
			"no-cors": func(r *http.Request) {
				r.Header.Set("Origin", "https://evil.example")
				r.Header.Set("Content-Type", "text/plain")
			},
		} {
			for _, method := range []string{"GET", "POST", "OPTIONS"} {
				code, body, h := v.do(t, method, path, `{"text":"x"}`, change)
				if code != http.StatusForbidden || h.Get("Access-Control-Allow-Origin") != "" {
					t.Errorf("%s: %s %s: %d %s", name, method, path, code, body)
				}
			}
		}
	}
	if len(v.node.sent) != 0 {
		t.Errorf("sent %q", v.node.sent)
	}
}
