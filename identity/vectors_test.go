package identity_test

import (
	"encoding/json"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
)

var update = flag.Bool("update", false, "write contracts/vectors/identity anew")

var vectorDir = filepath.Join("..", "contracts", "vectors", "identity")

// vector is one scenario. Input is a DID, or the canonical text of a state record; Log
// is a key log.
type vector struct {
	Name   string                     `json:"name"`
	Must   []string                   `json:"must"`
	Kind   string                     `json:"kind"`             // did, key-log, state
	Expect contracts.Code             `json:"expect,omitempty"` // empty: valid
	DID    string                     `json:"did,omitempty"`
	Input  string                     `json:"input,omitempty"`
	Log    []contracts.SignedKeyEvent `json:"log,omitempty"`
	// What a valid one says.
	SN        int64  `json:"sn,omitempty"`
	ValidFrom int64  `json:"valid_from,omitempty"`
	Ended     bool   `json:"ended,omitempty"`
	Version   string `json:"version,omitempty"`
	Now       string `json:"now,omitempty"` // the time at which a state must be in force
}

// run gives what our code says of a vector.
func (v *vector) run(t *testing.T) (code contracts.Code) {
	t.Helper()
	switch v.Kind {
	case "did":
		_, err := identity.ParseDID(v.Input)
		return contracts.CodeOf(err)
	case "key-log":
		ks, err := identity.VerifyKeyLog(identity.DID(v.DID), v.Log)
		if err == nil && v.Expect == "" && (ks.SN != v.SN || ks.ValidFrom != v.ValidFrom || ks.Ended != v.Ended) {
			t.Errorf("number %d, from %d, ended %v", ks.SN, ks.ValidFrom, ks.Ended)
		}
		return contracts.CodeOf(err)
	case "state":
		s, err := identity.VerifyState([]byte(v.Input))
		if err == nil && v.Now != "" {
			at, e := time.Parse(time.RFC3339, v.Now)
			if e != nil {
				t.Fatal(e)
			}
			err = s.ValidAt(at)
		}
		if err == nil && v.Expect == "" && s.Version() != v.Version {
			t.Errorf("version %s", s.Version())
		}
		return contracts.CodeOf(err)
	}
	t.Fatalf("a vector of unknown kind %q", v.Kind)
	return ""
}

func makeVectors(t *testing.T) (out []vector) {
	add := func(v vector) { out = append(out, v) }
	p := newPerson(t, 1)
	add(vector{Name: "did talos", Must: []string{"ID-4"}, Kind: "did", Input: string(p.did)})
	add(vector{Name: "did key", Must: []string{"ID-4"}, Kind: "did", Input: string(identity.KeyDID(p.control.Public()))})
	bad := badDIDs(p)
	for _, name := range slices.Sorted(maps.Keys(bad)) {
		if name != "long" {
			add(vector{Name: "did " + name, Must: []string{"ID-4"}, Kind: "did", Input: bad[name]})
		}
	}
	rules := []string{"ID-5", "ID-6", "ID-7", "ID-8"}
	for name, change := range map[string]func(*person){
		"inception": func(*person) {},
		"rotation":  func(p *person) { p.rotate(t, false) },
		"void":      func(p *person) { p.rotate(t, false); p.rotate(t, true) },
		"end": func(p *person) {
			e, err := identity.End(p.keys(t), p.next, now)
			if err != nil {
				t.Fatal(err)
			}
			p.log = append(p.log, e)
		},
	} {
		p := newPerson(t, 5)
		change(p)
		ks := p.keys(t)
		add(vector{Name: "log " + name, Must: rules, Kind: "key-log", DID: string(p.did), Log: p.log, SN: ks.SN, ValidFrom: ks.ValidFrom, Ended: ks.Ended})
	}
	logs := badLogs(t)
	for _, name := range slices.Sorted(maps.Keys(logs)) {
		add(vector{Name: "log " + name, Must: rules, Kind: "key-log", DID: string(logs[name].did), Log: logs[name].log})
	}
	p = newPerson(t, 14)
	good := p.state(t)
	must := []string{"ID-1", "ID-10", "ID-11", "ID-13"}
	add(vector{Name: "state", Must: must, Kind: "state", Input: string(good.Raw), Version: good.Version(), Now: now.Format(time.RFC3339)})
	add(vector{Name: "state too early", Must: must, Kind: "state", Input: string(good.Raw), Now: now.Add(-2 * time.Minute).Format(time.RFC3339)})
	add(vector{Name: "state expired", Must: must, Kind: "state", Input: string(good.Raw), Now: good.Until.Format(time.RFC3339)})
	states := badStates(t, p, good)
	for _, name := range slices.Sorted(maps.Keys(states)) {
		if len(states[name]) < 1<<13 {
			add(vector{Name: "state " + name, Must: must, Kind: "state", Input: string(states[name])})
		}
	}
	return out
}

// TestVectors runs contracts/vectors/identity; with -update it writes them first, and
// what is to be expected is what is written down for review then.
func TestVectors(t *testing.T) {
	if *update {
		for _, v := range makeVectors(t) {
			v.Expect = v.run(t)
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
	valid := 0
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
			if v.Expect == "" {
				valid++
			}
			if got := v.run(t); got != v.Expect {
				t.Errorf("%q, want %q", got, v.Expect)
			}
		})
	}
	if len(files) < 50 || valid != 7 {
		t.Errorf("%d vectors, %d of them valid", len(files), valid)
	}
}
