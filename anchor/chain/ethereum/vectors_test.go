package ethereum_test

import (
	"encoding/hex"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/talosprotocol/talos/anchor"
	"github.com/talosprotocol/talos/anchor/chain/ethereum"
	"github.com/talosprotocol/talos/contracts"
)

var update = flag.Bool("update", false, "write the vectors again, from the chain of TALOS_GETH")

const vectorDir = "../../../contracts/vectors/chain"

// vector is a receipt of a real chain (geth 1.17.5), or what was made of one. Bytes are
// hex.
type vector struct {
	Name   string   `json:"name"`
	Must   []string `json:"must"`
	Expect string   `json:"expect"` // ok, or the code
	Driver string   `json:"driver"`
	Chain  string   `json:"chain"`
	Origin string   `json:"origin"` // of the anchor's log
	Size   uint64   `json:"size"`
	Root   string   `json:"root"`
	Body   string   `json:"body"`
	Height uint64   `json:"height,omitempty"` // of the block that it leads to
	Block  string   `json:"block,omitempty"`  // its hash
}

func (v *vector) run(t *testing.T) {
	root, err := hex.DecodeString(v.Root)
	body, err2 := hex.DecodeString(v.Body)
	if err != nil || err2 != nil || len(root) != 32 {
		t.Fatal("hex")
	}
	r := &anchor.Receipt{Driver: v.Driver, Chain: v.Chain, Head: anchor.Checkpoint{Origin: v.Origin, Size: v.Size, Root: anchor.Hash(root)}, Body: body}
	h, err := ethereum.Open(r)
	got := string(contracts.CodeOf(err))
	if err == nil {
		got = "ok"
	}
	if got != v.Expect {
		t.Fatalf("%s (%v), want %s", got, err, v.Expect)
	}
	if err == nil && (h.Number != v.Height || hex.EncodeToString(h.Hash[:]) != v.Block) {
		t.Errorf("it leads to block %d, %x", h.Number, h.Hash)
	}
}

// TestVectors runs contracts/vectors/chain; with -update it writes them first.
func TestVectors(t *testing.T) {
	if *update {
		writeVectors(t)
	}
	files, _ := filepath.Glob(filepath.Join(vectorDir, "*.json"))
	if len(files) < 5 {
		t.Fatalf("%d vectors", len(files))
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".json"), func(t *testing.T) {
			text, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			d := json.NewDecoder(strings.NewReader(string(text)))
			d.DisallowUnknownFields()
			var v vector
			if err := d.Decode(&v); err != nil || len(v.Must) == 0 {
				t.Fatal(err, v.Must)
			}
			v.run(t)
		})
	}
}

func writeVectors(t *testing.T) {
	t.Helper()
	g := startGeth(t)
	r := g.drive(g.driver(1), headOf(10))
	h, err := ethereum.Open(r)
	if err != nil {
		t.Fatal(err)
	}
	good := vector{
		Name: "ethereum", Must: []string{"CHAIN-13"}, Expect: "ok", Driver: r.Driver, Chain: r.Chain, Origin: r.Head.Origin, Size: r.Head.Size, Root: r.Head.Root.String(),
		Body: hex.EncodeToString(r.Body), Height: h.Number, Block: hex.EncodeToString(h.Hash[:]),
	}
	all := []vector{good}
	add := func(name, expect string, change func(v *vector)) {
		v := good
		v.Name, v.Expect, v.Must, v.Height, v.Block = name, expect, []string{"CHAIN-9", "CHAIN-13"}, 0, ""
		change(&v)
		all = append(all, v)
	}
	add("ethereum on another chain", "PROOF_INVALID", func(v *vector) { v.Chain = "eip155:1" })
	add("ethereum of another size", "PROOF_INVALID", func(v *vector) { v.Size++ })
	add("ethereum of another root", "PROOF_INVALID", func(v *vector) { v.Root = strings.Repeat("00", 32) })
	add("ethereum cut", "MALFORMED", func(v *vector) { v.Body = v.Body[:len(v.Body)-2] })
	add("ethereum with a byte more", "MALFORMED", func(v *vector) { v.Body += "80" })
	add("ethereum with another header", "PROOF_INVALID", func(v *vector) {
		b := []byte(v.Body) // the first digit of the root of the transactions
		at := strings.Index(v.Body, hex.EncodeToString(h.TxRoot[:]))
		b[at] = "0123456789abcdef"[(strings.IndexByte("0123456789abcdef", b[at])+1)%16]
		v.Body = string(b)
	})
	for _, v := range all {
		text, err := json.MarshalIndent(v, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(vectorDir, strings.ReplaceAll(v.Name, " ", "-")+".json"), append(text, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
