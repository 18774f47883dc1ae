package contracts_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/jsonschema-go/jsonschema"

	"github.com/talosprotocol/talos/contracts"
)

// The generated code is what the generator makes of the schemas today.
func TestGeneratedCodeIsFresh(t *testing.T) {
	dir := t.TempDir()
	cmd := exec.Command("go", "run", "./internal/gen", "-schemas", "schemas", "-out", dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("gen: %v\n%s", err, out)
	}
	want, err := os.ReadFile(filepath.Join(dir, "types_gen.go"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile("types_gen.go")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("types_gen.go is stale; run: go generate ./contracts")
	}
	// A test that runs another program is cached unless it reads what that depends on.
	files, _ := filepath.Glob("schemas/*.json")
	for _, f := range files {
		if _, err := os.ReadFile(f); err != nil {
			t.Error(err)
		}
	}
}

func TestGeneratorRefusesWhatItCannotCheck(t *testing.T) {
	for name, schema := range map[string]string{
		"unknown keyword":  `{"title":"T","type":"object","additionalProperties":false,"patternProperties":{}}`,
		"open object":      `{"title":"T","type":"object","properties":{}}`,
		"float":            `{"title":"T","type":"object","additionalProperties":false,"properties":{"a":{"type":"number"}}}`,
		"bad pattern":      `{"title":"T","type":"object","additionalProperties":false,"properties":{"a":{"type":"string","pattern":"("}}}`,
		"dangling ref":     `{"title":"T","type":"object","additionalProperties":false,"properties":{"a":{"$ref":"#/$defs/x"}}}`,
		"no such property": `{"title":"T","type":"object","additionalProperties":false,"properties":{},"required":["a"]}`,
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "t.json"), []byte(schema), 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("go", "run", "./internal/gen", "-schemas", dir, "-out", dir).CombinedOutput(); err == nil {
			t.Errorf("%s: accepted\n%s", name, out)
		}
	}
}

// ERR-1: the table of the specification is the list of the code, in order.
func TestErrorPageIsTheList(t *testing.T) {
	src, err := os.ReadFile("codes.go")
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("spec/errors.md")
	if err != nil {
		t.Fatal(err)
	}
	codes := regexp.MustCompile(`Code = "([A-Z0-9_]+)"`).FindAllSubmatch(src, -1)
	rows := regexp.MustCompile(`(?m)^\| ([A-Z][A-Z0-9_]+) \| (.+) \| (yes|no) \|$`).FindAllSubmatch(page, -1)
	if len(codes) != len(rows) || len(codes) == 0 {
		t.Fatalf("%d codes, %d rows", len(codes), len(rows))
	}
	for i, c := range codes {
		if string(c[1]) != string(rows[i][1]) {
			t.Errorf("code %d is %s, the page says %s", i, c[1], rows[i][1])
		}
		if got := contracts.Code(c[1]).Retryable(); got != (string(rows[i][3]) == "yes") {
			t.Errorf("%s: retryable %v, the page says %s", c[1], got, rows[i][3])
		}
	}
	if contracts.Code("SOMETHING_NEW").Retryable() {
		t.Error("an unknown code is retryable")
	}
}

func TestErrors(t *testing.T) {
	cause := errors.New("cause")
	err := error(contracts.Errorf(contracts.NotFound, "no %s: %w", "thing", cause))
	wrapped := fmt.Errorf("outer: %w", err)
	if contracts.CodeOf(wrapped) != contracts.NotFound || !errors.Is(wrapped, cause) || contracts.CodeOf(cause) != contracts.Internal || contracts.CodeOf(nil) != "" {
		t.Errorf("codes of %v", wrapped)
	}
	if err.Error() != "NOT_FOUND: no thing: cause" {
		t.Errorf("text %q", err)
	}
	if !errors.Is(wrapped, &contracts.Error{Code: contracts.NotFound}) || errors.Is(wrapped, &contracts.Error{Code: contracts.Busy}) {
		t.Error("errors.Is by code")
	}
}

// A second opinion: for these texts the generated validators and an independent JSON
// Schema engine agree.
func TestAgainstJSONSchemaEngine(t *testing.T) {
	cases := map[string][]string{
		"send-request": {
			`{"to":"did:talos:zQmZL8Vbds1oVbbACXowp7ecaVACWo8rseX5xXziyAasFAZ","text":"x"}`, `{"to":"x"}`, `{}`, `{"to":1}`, `{"to":"did:talos:zQmZL8Vbds1oVbbACXowp7ecaVACWo8rseX5xXziyAasFAZ","more":1}`,
		},
		"node-config": {
			`{"v":"talos-config/1","network":"n","kind":"local","roles":["agent"]}`, `{"v":"talos-config/1","network":"N","kind":"local","roles":["agent"]}`,
			`{"v":"talos-config/1","network":"n","kind":"local","roles":[]}`, `{"v":"talos-config/2","network":"n","kind":"local","roles":["agent"]}`,
			`{"v":"talos-config/1","network":"n","kind":"local","roles":["agent"],"checkpoint_seconds":0}`, `{"v":"talos-config/1","network":"n","kind":"local","roles":["agent"],"api":"0.0.0.0:80"}`,
		},
	}
	parsers := map[string]func([]byte) error{
		"send-request": func(b []byte) error { _, err := contracts.ParseSendRequest(b); return err },
		"node-config":  func(b []byte) error { _, err := contracts.ParseNodeConfig(b); return err },
	}
	for name, texts := range cases {
		raw, err := os.ReadFile("schemas/" + name + ".json")
		if err != nil {
			t.Fatal(err)
		}
		var s jsonschema.Schema
		if err := json.Unmarshal(raw, &s); err != nil {
			t.Fatal(err)
		}
		s.ID = "" // relative: a base is for those who publish it
		engine, err := s.Resolve(nil)
		if err != nil {
			t.Fatal(err)
		}
		valid := 0
		for _, text := range texts {
			var v any
			if err := json.Unmarshal([]byte(text), &v); err != nil {
				t.Fatal(err)
			}
			ours, theirs := parsers[name]([]byte(text)), engine.Validate(v)
			if (ours == nil) != (theirs == nil) {
				t.Errorf("%s %s: ours %v, the engine's %v", name, text, ours, theirs)
			}
			if ours == nil {
				valid++
			}
		}
		if valid == 0 {
			t.Errorf("%s: no valid case", name)
		}
	}
}

// ID-1: what is signed is read from its canonical bytes and nothing else; an unknown
// version is refused by name.
func TestDecodeRefusesOtherSpellings(t *testing.T) {
	e := contracts.KeyEvent{V: "talos-kel/1", T: "end", Iat: "2026-11-23T12:00:00.000Z"}
	good := string(e.AppendCanonical(nil))
	if _, err := contracts.DecodeKeyEvent([]byte(good)); err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string]string{
		"space": good + " ", "order": `{"v":"talos-kel/1","t":"end","sn":0,"iat":"2026-11-23T12:00:00.000Z"}`, "escape": strings.Replace(good, "end", `\u0065nd`, 1),
		"unknown": strings.Replace(good, `"t"`, `"s":1,"t"`, 1), "duplicate": strings.Replace(good, `"t"`, `"sn":0,"t"`, 1), "missing": `{"iat":"2026-11-23T12:00:00.000Z","t":"end","v":"talos-kel/1"}`,
		"null": strings.Replace(good, `"sn":0`, `"sn":null`, 1), "float": strings.Replace(good, `"sn":0`, `"sn":0.0`, 1), "minus zero": strings.Replace(good, `"sn":0`, `"sn":-0`, 1),
		"case": strings.Replace(good, `"sn"`, `"SN"`, 1), "version": strings.Replace(good, "kel/1", "kel/2", 1), "utf8": strings.Replace(good, "end", "en\xff", 1), "large": good + strings.Repeat(" ", 5000),
	} {
		_, err := contracts.DecodeKeyEvent([]byte(bad))
		if c := contracts.CodeOf(err); c != contracts.Malformed && c != contracts.TooLarge {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// NET-1.
func TestNames(t *testing.T) {
	if got := contracts.Protocol("demo", "hello", "1.0.0"); got != "/talos/demo/hello/1.0.0" {
		t.Error(got)
	}
	if got := contracts.Topic("demo", "digest", "1"); got != "/talos/demo/digest/1" {
		t.Error(got)
	}
}

// GATE-1: the registry of surfaces reads, and says one thing of each.
func TestSurfaces(t *testing.T) {
	ids := map[string]bool{}
	for _, s := range contracts.Surfaces() {
		if ids[s.ID] {
			t.Errorf("surface %s is there twice", s.ID)
		}
		ids[s.ID] = true
		if len(s.HTTP)+len(s.Mesh) == 0 && (s.Call == nil || !*s.Call) {
			t.Errorf("surface %s has no route", s.ID)
		}
	}
}
