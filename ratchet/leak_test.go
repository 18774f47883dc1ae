package ratchet_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"go/parser"
	"go/token"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/ratchet"
)

// Shows RAT-32.
func TestH1_SecretsNeverPrint(t *testing.T) {
	r := &stream{}
	a, b := newPair(t, r)
	f := seal(t, a, "top secret content", r)
	m, err := b.Open(nil, f, t0)
	if err != nil {
		t.Fatal(err)
	}
	sec := secrets(0)
	enc := b.AppendState(nil)
	holder := struct{ S any }{a}
	for _, v := range []any{a, *a, b, *b, sec, &sec, m, &m, holder, []any{a, sec}} {
		var out bytes.Buffer
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d"} {
			fmt.Fprintf(&out, verb, v)
		}
		j, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		out.Write(j)
		slog.New(slog.NewTextHandler(&out, nil)).Info("x", "v", v)
		slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "v", v)
		func() {
			defer func() { fmt.Fprint(&out, recover()) }()
			panic(v)
		}()
		text := out.String()
		if strings.Contains(text, "secret content") || strings.Contains(text, hex.EncodeToString([]byte("secret content"))) {
			t.Errorf("%T prints its plaintext", v)
		}
		for i := 0; i+4 <= len(enc); i++ {
			w := enc[i : i+4]
			if bytes.Equal(w, make([]byte, 4)) || i >= 52 && i < 84 { // the binding is public
				continue
			}
			if strings.Contains(text, hex.EncodeToString(w)) || strings.Contains(text, fmt.Sprintf("%d, %d, %d, %d", w[0], w[1], w[2], w[3])) {
				t.Fatalf("%T prints bytes of the state: %x in %s", v, w, text)
			}
		}
	}
	if i := fmt.Sprintf("%+v", a.Info()); strings.Contains(i, "Root") {
		t.Error("Info holds a secret")
	}
}

// Shows RAT-33: what refuses a header is one error, whatever the bytes were.
func TestH3_OneErrorForForgedHeaders(t *testing.T) {
	r := &stream{}
	a, b := newPair(t, r)
	turn(t, a, b, r)
	f := seal(t, a, "x", r)
	var first error
	for i := 4; i < 90; i++ {
		bad := bytes.Clone(f)
		bad[i] ^= 0x55
		_, err := b.Open(nil, bad, t0)
		if first == nil {
			first = err
		}
		if err != first {
			t.Fatalf("byte %d: %v is told apart from %v", i, err, first)
		}
	}
	bad := bytes.Clone(f)
	bad[len(bad)-1] ^= 1
	if _, err := b.Open(nil, bad, t0); err != first || contracts.CodeOf(err) != contracts.RatchetAuthFailed {
		t.Errorf("a forged payload is told apart: %v", err)
	}
}

// Shows RAT-35: no build tag, environment or unlisted import stands near a
// verification.
func TestH4_NothingSwitchesVerificationOff(t *testing.T) {
	allowed := map[string]bool{
		"golang.org/x/crypto/chacha20poly1305":         true,
		"github.com/talosprotocol/talos/contracts":     true,
		"github.com/talosprotocol/talos/ratchet":       true,
		"github.com/talosprotocol/talos/contracts/jcs": true,
	}
	forbidden := map[string]bool{"os": true, "net": true, "unsafe": true, "math/rand": true, "crypto/rand": true, "log": true}
	for _, dir := range []string{".", "handshake"} {
		files, err := filepath.Glob(filepath.Join(dir, "*.go"))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: no sources, %v", dir, err)
		}
		for _, name := range files {
			if strings.HasSuffix(name, "_test.go") {
				continue
			}
			src, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			if bytes.Contains(src, []byte("//go:build")) || bytes.Contains(src, []byte("Getenv")) || bytes.Contains(src, []byte("time.Now")) {
				t.Errorf("%s: a build tag, an environment variable or a clock", name)
			}
			f, err := parser.ParseFile(token.NewFileSet(), name, src, parser.ImportsOnly)
			if err != nil {
				t.Fatal(err)
			}
			for _, i := range f.Imports {
				p := strings.Trim(i.Path.Value, `"`)
				if forbidden[p] || strings.Contains(p, ".") && !allowed[p] {
					t.Errorf("%s imports %s", name, p)
				}
			}
		}
	}
}

// Shows RAT-34.
func TestExport(t *testing.T) {
	r := &stream{}
	a, b := newPair(t, r)
	x, err := a.Export(ratchet.ExportRotation)
	if err != nil {
		t.Fatal(err)
	}
	turn(t, a, b, r)
	y, _ := b.Export(ratchet.ExportRotation)
	z, _ := b.Export("other")
	if x != y || x == z || x == secrets(0).Exporter {
		t.Error("exported secrets do not agree, or are not their own")
	}
	for _, label := range []string{"", strings.Repeat("x", 65)} {
		if _, err := a.Export(label); contracts.CodeOf(err) != contracts.Malformed {
			t.Errorf("label of %d bytes: %v", len(label), err)
		}
	}
	if a.Transcript() != fill(8) {
		t.Error("transcript")
	}
}
