package api_test

import (
	"encoding/json"
	"regexp"
	"slices"
	"strings"
	"testing"

	"log/slog"

	"github.com/talosprotocol/talos/node/api"
)

// Every route is described, and nothing else: where it is, what stands in its path, what
// its bodies are; each reference leads somewhere, each operation has a name of its own.
func TestOpenAPI(t *testing.T) {
	v := serve(t)
	status, text, _ := v.do(t, "GET", "/openapi.json", "", nil)
	if status != 200 {
		t.Fatal(status, text)
	}
	var doc struct {
		OpenAPI string
		Paths   map[string]map[string]struct {
			OperationID string `json:"operationId"`
			Summary     string
			Surface     string `json:"x-surface"`
			Security    *[]any
			Parameters  []struct{ Name, In string }
			RequestBody *struct{ Content map[string]any }
			Responses   map[string]struct {
				Description string
				Content     map[string]any
			}
		}
		Components struct{ Schemas map[string]any }
	}
	if err := json.Unmarshal([]byte(text), &doc); err != nil || doc.OpenAPI != "3.1.0" {
		t.Fatal(err, doc.OpenAPI)
	}
	s, err := api.New(api.Config{Gate: door(t, owner)}, &scripted{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	seen, names := 0, map[string]bool{}
	for _, pattern := range s.Patterns() {
		method, path, _ := strings.Cut(pattern, " ")
		op, ok := doc.Paths[path][strings.ToLower(method)]
		if !ok || !api.Described(pattern) {
			t.Errorf("%s is not described; add it to descriptions", pattern)
			continue
		}
		seen++
		surface := gateSurface(t, pattern)
		if op.Surface != surface.ID || op.Summary != surface.Why || names[op.OperationID] {
			t.Errorf("%s: %+v", pattern, op)
		}
		names[op.OperationID] = true
		if open := strings.HasPrefix(path, "/health/"); open != (op.Security != nil) {
			t.Errorf("%s: whether it needs a token is not said", pattern)
		}
		for _, m := range regexp.MustCompile(`\{([a-z]+)\}`).FindAllStringSubmatch(path, -1) {
			if !slices.ContainsFunc(op.Parameters, func(p struct{ Name, In string }) bool { return p.Name == m[1] && p.In == "path" }) {
				t.Errorf("%s does not say what %s is", pattern, m[0])
			}
		}
		if r := op.Responses["200"]; r.Description == "" || len(r.Content) == 0 {
			t.Errorf("%s does not say what it answers", pattern)
		}
		if method == "PUT" && op.RequestBody == nil {
			t.Errorf("%s does not say what it takes", pattern)
		}
	}
	n := 0
	for _, p := range doc.Paths {
		n += len(p)
	}
	if seen != n || n < 50 {
		t.Errorf("%d routes, %d are described", seen, n)
	}
	for _, m := range regexp.MustCompile(`"#/components/schemas/([^"]+)"`).FindAllStringSubmatch(text, -1) {
		if doc.Components.Schemas[m[1]] == nil {
			t.Errorf("nothing is at %s", m[0])
		}
	}
}

// What the node answers is as the description says: its members are those of the schema.
func TestAnswersAreAsDescribed(t *testing.T) {
	v := serve(t)
	_, text, _ := v.do(t, "GET", "/openapi.json", "", nil)
	var doc struct {
		Components struct {
			Schemas map[string]struct {
				Properties map[string]any
				Required   []string
			}
		}
	}
	if err := json.Unmarshal([]byte(text), &doc); err != nil {
		t.Fatal(err)
	}
	for path, name := range map[string]string{"/v1/status": "Status", "/1.0/identifiers/did:x": "Resolution"} {
		_, body, _ := v.do(t, "GET", path, "", nil)
		var got map[string]any
		if err := json.Unmarshal([]byte(body), &got); err != nil {
			t.Fatalf("%s: %s", path, body)
		}
		for member := range got {
			if doc.Components.Schemas[name].Properties[member] == nil {
				t.Errorf("%s: %s is not described", path, member)
			}
		}
		for _, r := range doc.Components.Schemas[name].Required {
			if _, ok := got[r]; !ok {
				t.Errorf("%s: %s is said to be always there", path, r)
			}
		}
	}
}
