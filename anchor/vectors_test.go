package anchor_test

import (
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/talosprotocol/talos/anchor"
	"github.com/talosprotocol/talos/contracts"
)

var update = flag.Bool("update", false, "write the vectors again")

const vectorDir = "../contracts/vectors/anchor"

// vector is one scenario a file. Keys are public; bytes that are not text are hex.
type vector struct {
	Name   string            `json:"name"`
	Must   []string          `json:"must"`
	Expect string            `json:"expect"` // ok, or the code
	Kind   string            `json:"kind"`
	Input  string            `json:"input"`
	Keys   map[string]string `json:"keys,omitempty"`
	Policy *anchor.Policy    `json:"policy,omitempty"`
	Now    string            `json:"now,omitempty"`
	Level  string            `json:"level,omitempty"`
	Event  string            `json:"event,omitempty"`
	Salt   string            `json:"salt,omitempty"`
	Index  uint64            `json:"index,omitempty"`
	Output string            `json:"output,omitempty"`
	Hash   string            `json:"hash,omitempty"`
	Time   int64             `json:"time,omitempty"`
}

func (v *vector) LogKey(name string) (ed25519.PublicKey, error)     { return v.key(name) }
func (v *vector) WitnessKey(name string) (ed25519.PublicKey, error) { return v.key(name) }

func (v *vector) key(name string) (ed25519.PublicKey, error) {
	if b, err := hex.DecodeString(v.Keys[name]); err == nil && len(b) == 32 {
		return b, nil
	}
	return nil, contracts.Errorf(contracts.OriginUnknown, "no key of %s", name)
}

// run checks the vector with the shipping functions.
func (v *vector) run(t *testing.T) {
	var err error
	switch v.Kind {
	case "event":
		_, err = anchor.DecodeEvent([]byte(v.Input))
	case "leaf":
		err = v.runLeaf(t)
	case "note":
		var n *anchor.Note
		if n, err = anchor.ParseNote([]byte(v.Input)); err == nil {
			var key ed25519.PublicKey
			if key, err = v.key(n.Origin); err == nil {
				err = n.Verify(key)
			}
		}
	case "digest":
		err = v.runDigest(t)
	case "cosignature":
		var n *anchor.Note
		if n, err = anchor.ParseNote([]byte(v.Input)); err == nil {
			s := &n.Signatures[len(n.Signatures)-1]
			var at time.Time
			if at, err = s.VerifyCosignature(n.Checkpoint, must(t, v, s.Name)); err == nil && at.Unix() != v.Time {
				t.Errorf("cosigned at %d, want %d", at.Unix(), v.Time)
			}
		}
	case "evidence":
		_, err = anchor.VerifyEvidence([]byte(v.Input), v)
	case "anchoring": // Output is the log's origin
		_, err = anchor.ReadAnchoring([]byte(v.Input), v.Output)
	case "bundle":
		err = v.runBundle(t)
	default:
		t.Fatalf("kind %q", v.Kind)
	}
	got := string(contracts.CodeOf(err))
	if err == nil {
		got = "ok"
	}
	if got != v.Expect {
		t.Errorf("%s (%v), want %s", got, err, v.Expect)
	}
}

func must(t *testing.T, v *vector, name string) ed25519.PublicKey {
	t.Helper()
	k, err := v.key(name)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// runLeaf: input is leaf data, which event and salt open.
func (v *vector) runLeaf(t *testing.T) error {
	raw, err := hex.DecodeString(v.Input)
	salt, err2 := hex.DecodeString(v.Salt)
	if err != nil || err2 != nil || len(raw) != anchor.LeafSize || len(salt) != 32 {
		t.Fatal("hex of leaf or salt")
	}
	l := anchor.Leaf(raw)
	if l.Index() != v.Index || l.Hash().String() != v.Hash {
		t.Errorf("index %d, hash %s; want %d, %s", l.Index(), l.Hash(), v.Index, v.Hash)
	}
	return l.Opens((*anchor.Salt)(salt), []byte(v.Event))
}

func (v *vector) runDigest(t *testing.T) error {
	raw, err := hex.DecodeString(v.Input)
	if err != nil {
		t.Fatal(err)
	}
	d, err := anchor.ParseDigest(raw)
	if err != nil {
		return err
	}
	n, err := d.Note(must(t, v, d.Origin))
	if err == nil && string(n.Append(nil)) != v.Output {
		t.Errorf("the note is %q, want %q", n.Append(nil), v.Output)
	}
	return err
}

func (v *vector) runBundle(t *testing.T) error {
	now, err := anchor.ParseTime(v.Now)
	if err != nil {
		t.Fatal(err)
	}
	got := anchor.Verify([]byte(v.Input), v, *v.Policy, now)
	if got.Level.String() != v.Level {
		t.Errorf("verdict %s, want %s", got, v.Level)
	}
	if got.Code == "" {
		return nil
	}
	return contracts.Errorf(got.Code, "%s", got)
}

// TestVectors runs contracts/vectors/anchor; with -update it writes them first.
func TestVectors(t *testing.T) {
	if *update {
		for _, v := range makeVectors() {
			text, err := json.MarshalIndent(v, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			name := strings.ReplaceAll(v.Name, " ", "-") + ".json"
			if err := os.WriteFile(filepath.Join(vectorDir, name), append(text, '\n'), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	files, _ := filepath.Glob(filepath.Join(vectorDir, "*.json"))
	if len(files) < 20 {
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
			if err := d.Decode(&v); err != nil {
				t.Fatal(err)
			}
			if len(v.Must) == 0 {
				t.Error("the vector shows no MUST")
			}
			v.run(t)
		})
	}
}
