// Package talos holds the rules of the house as tests: which package stands on
// which floor, who may import what, and that every promise of the contracts is
// shown by a test or a vector.
package talos

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/talosprotocol/talos/"

// floors gives each package its floor: it may import lower ones only. A new package
// is a new line here, and that line is its design review.
var floors = map[string]int{
	"contracts": 0, "contracts/jcs": -1, "contracts/internal/gen": 0,
	"identity": 1, "ratchet": 1, "anchor": 1, "testnet/fake": 1, "testnet/fake/agent": 1, "node/gateway/rawjson": 1,
	"identity/capability": 2, "identity/keystore": 2, "ratchet/handshake": 2, "ratchet/ratchettest": 2,
	"anchor/auditlog": 2, "anchor/witness": 2, "gossip": 2, "node/p2p": 2,
	"anchor/chain": 3, "anchor/chain/evm": 2, "anchor/chain/quorum": 4, "anchor/chain/ethereum": 4, "anchor/chain/opentimestamps": 4, "testnet/fake/chain": 3,
	"node/directory": 3, "anchor/anchortest": 3, "node/execution": 2, "node/gate": 3, "node/authority": 4,
	"node/approval": 4, "node/receipt": 4, "node/session": 4, "node/evidence": 5, "node/api": 4, "node/call": 4,
	"node/store": 5, "node/gateway": 5, "node/gateway/outbound": 4, "node/gateway/sse": 4,
	"node/gateway/llm": 6, "node/gateway/mcp": 6, "node/gateway/a2a": 6,
	"node": 7, "testnet": 8, "cmd/talos": 9,
}

// rooms names the only packages that may import a heavy dependency.
var rooms = map[string]*regexp.Regexp{
	"github.com/dgraph-io/badger": regexp.MustCompile(`^node/store$`),
	"github.com/libp2p/":          regexp.MustCompile(`^(gossip|node|node/(p2p|directory|session|evidence|authority|call|gateway)|testnet)$`),
	"net/http":                    regexp.MustCompile(`^(node/api|node/gateway/(outbound|llm|mcp|a2a)|testnet|anchor/chain/(ethereum|opentimestamps)|testnet/fake(/(agent|chain))?|cmd/talos)$`),
	"github.com/spf13/cobra":      regexp.MustCompile(`^cmd/talos$`),
}

// sources parses every Go file of the repository. It reads the files itself: a test
// that asks another program is cached as passing after a source has changed.
func sources(t *testing.T, visit func(dir, file string, f *ast.File)) {
	t.Helper()
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (strings.HasPrefix(d.Name(), ".") && path != "." || d.Name() == "testdata" || hasOwnModule(path)) {
			return fs.SkipDir
		}
		if !strings.HasSuffix(path, ".go") {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		visit(filepath.ToSlash(filepath.Dir(path)), path, f)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func hasOwnModule(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "go.mod"))
	return dir != "." && err == nil
}

func TestFloors(t *testing.T) {
	commented := map[string]bool{}
	sources(t, func(dir, file string, f *ast.File) {
		if strings.HasSuffix(file, "_test.go") || dir == "." {
			return
		}
		floor, ok := floors[dir]
		if !ok {
			t.Errorf("%s stands on no floor; add it to floors and say why in the review", dir)
			return
		}
		if f.Doc != nil && strings.HasPrefix(f.Doc.Text(), "Package ") || f.Name.Name == "main" && f.Doc != nil {
			commented[dir] = true
		}
		for _, imp := range f.Imports {
			path, _ := strconv.Unquote(imp.Path.Value)
			if ours, ok := strings.CutPrefix(path, module); ok {
				if below, known := floors[ours]; !known || below >= floor {
					t.Errorf("%s (floor %d) imports %s (floor %d)", file, floor, ours, below)
				}
			}
			for dep, room := range rooms {
				if strings.HasPrefix(path, dep) && !room.MatchString(dir) {
					t.Errorf("%s imports %s, which belongs to %s", file, path, room)
				}
			}
		}
	})
	for dir := range floors {
		if _, err := os.Stat(dir); err == nil && !commented[dir] {
			t.Errorf("%s has no package comment", dir)
		}
	}
}

// quiet packages are pure: no network, disk, clock, logger or global randomness.
var quiet = []string{"contracts", "contracts/jcs", "identity", "identity/capability", "ratchet", "ratchet/handshake", "anchor", "anchor/auditlog", "anchor/witness", "anchor/chain/evm"}

func TestCoresAreQuiet(t *testing.T) {
	banned := []string{"net", "net/http", "os", "log", "log/slog", "crypto/rand", "math/rand", "math/rand/v2"}
	allowed := map[string][]string{
		"identity": {"log/slog"}, "ratchet": {"log/slog"}, "ratchet/handshake": {"log/slog"}, // LogValue redacts keys
	}
	sources(t, func(dir, file string, f *ast.File) {
		if !slices.Contains(quiet, dir) || strings.HasSuffix(file, "_test.go") {
			return
		}
		for _, imp := range f.Imports {
			path, _ := strconv.Unquote(imp.Path.Value)
			if slices.Contains(banned, path) && !slices.Contains(allowed[dir], path) {
				t.Errorf("%s imports %s", file, path)
			}
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if s, ok := n.(*ast.SelectorExpr); ok {
				if x, ok := s.X.(*ast.Ident); ok && x.Name == "time" && (s.Sel.Name == "Now" || s.Sel.Name == "After" || s.Sel.Name == "NewTimer" || s.Sel.Name == "NewTicker" || s.Sel.Name == "Sleep" || s.Sel.Name == "AfterFunc") {
					t.Errorf("%s uses time.%s; time is an argument here", file, s.Sel.Name)
				}
			}
			return true
		})
	})
}

func TestNoPackageIsCalledUtil(t *testing.T) {
	for dir := range floors {
		switch filepath.Base(dir) {
		case "util", "utils", "common", "helpers", "types", "misc":
			t.Errorf("%s: name it after what it does", dir)
		}
	}
}

// TestEveryMustIsShown reads the numbered MUSTs of the specification and fails on
// one that neither a test nor a vector names.
func TestEveryMustIsShown(t *testing.T) {
	id := regexp.MustCompile(`\*\*([A-Z]{2,5}-[0-9]+)\*\*`)
	musts := map[string]string{}
	pages, _ := filepath.Glob("contracts/spec/*.md")
	for _, p := range pages {
		b, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range id.FindAllStringSubmatch(string(b), -1) {
			if other := musts[m[1]]; other != "" && other != p {
				t.Errorf("%s stands in %s and in %s", m[1], other, p)
			}
			musts[m[1]] = p
		}
	}
	if len(musts) == 0 {
		t.Fatal("no MUST was found")
	}
	named := regexp.MustCompile(`\b[A-Z]{2,5}-[0-9]+\b`)
	shown := map[string]bool{}
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && strings.HasPrefix(d.Name(), ".") && path != "." {
			return fs.SkipDir
		}
		vector := strings.HasPrefix(filepath.ToSlash(path), "contracts/vectors/") && strings.HasSuffix(path, ".json")
		if !vector && !strings.HasSuffix(path, "_test.go") || path == "floors_test.go" {
			return nil
		}
		b, err := os.ReadFile(path)
		for _, m := range named.FindAllString(string(b), -1) {
			shown[m] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range slices.Sorted(maps.Keys(musts)) {
		if !shown[m] {
			t.Errorf("%s of %s is named by no test and no vector", m, musts[m])
		}
	}
}
