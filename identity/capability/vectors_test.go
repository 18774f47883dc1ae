package capability_test

import (
	"encoding/base64"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
	"github.com/talosprotocol/talos/identity/capability"
)

var update = flag.Bool("update", false, "write the vectors again")

const vectorDir = "../../contracts/vectors/capability"

// vectorWorld is what all vectors share (world.json): the executor, its roots of
// authority, the states of issuers, the time.
type vectorWorld struct {
	Name     string              `json:"name"`
	Must     []string            `json:"must"`
	Time     int64               `json:"time"` // Unix seconds
	Executor identity.DID        `json:"executor"`
	Roots    map[string][]string `json:"roots"`
	States   []string            `json:"states"` // signed state records, base64url
}

// vector is one scenario a file; the tables of scopes have cases.
type vector struct {
	Name   string   `json:"name"`
	Must   []string `json:"must"`
	Kind   string   `json:"kind"`
	Expect string   `json:"expect"` // ok, or the code
	After  int64    `json:"after,omitempty"`

	Input   string       `json:"input,omitempty"` // a chain, a record or a head
	ID      string       `json:"id,omitempty"`    // of the last token or of the record
	Holder  identity.DID `json:"holder,omitempty"`
	Proof   string       `json:"proof,omitempty"`
	Records []string     `json:"records,omitempty"` // what is known of revocations
	Heads   []string     `json:"heads,omitempty"`
	Call    *vectorCall  `json:"call,omitempty"`
	Scope   string       `json:"scope,omitempty"` // that covers the call
	Cases   []vectorCase `json:"cases,omitempty"`
}

type vectorCall struct {
	Kind     string       `json:"kind"`
	Name     string       `json:"name"`
	Method   string       `json:"method,omitempty"`
	Resource []string     `json:"resource,omitempty"`
	Access   string       `json:"access"`
	Args     string       `json:"args,omitempty"`
	Peer     identity.DID `json:"peer,omitempty"`
	Gateway  identity.DID `json:"gateway,omitempty"`
}

type vectorCase struct {
	Parents  []string `json:"parents,omitempty"`
	Children []string `json:"children"`
	Contains bool     `json:"contains"`
	Expect   string   `json:"expect"`
}

// verifier is made of what the file says and nothing else.
func (w *vectorWorld) verifier(t *testing.T) *capability.Verifier {
	t.Helper()
	v := &capability.Verifier{Executor: w.Executor, Revoked: capability.NewSet(w.Executor), Roots: map[identity.DID][]capability.Kind{}}
	for did, kinds := range w.Roots {
		for _, k := range kinds {
			v.Roots[identity.DID(did)] = append(v.Roots[identity.DID(did)], must(capability.ParseKind(k)))
		}
	}
	issuers := map[identity.DID]*capability.Issuer{}
	for _, text := range w.States {
		s, err := identity.VerifyState(must(base64.RawURLEncoding.DecodeString(text)))
		if err != nil {
			t.Fatal(err)
		}
		issuers[s.DID] = must(capability.NewIssuer(s))
	}
	v.Resolve = func(d identity.DID) (*capability.Issuer, error) {
		if i := issuers[d]; i != nil {
			return i, nil
		}
		return nil, contracts.Errorf(contracts.NotFound, "no state of %s", d)
	}
	return v
}

func (v *vector) run(t *testing.T, w *vectorWorld) {
	at := time.Unix(w.Time+v.After, 0)
	verifier := w.verifier(t)
	var err error
	switch v.Kind {
	case "scopes":
		v.runScopes(t)
		return
	case "chain", "decision":
		err = v.runChain(t, verifier, at)
	case "record":
		var r *capability.Record
		if r, err = capability.VerifyRecord([]byte(v.Input), verifier.Resolve, at); err == nil && r.ID.String() != v.ID {
			t.Errorf("id %s", r.ID)
		}
	case "head":
		_, err = capability.VerifyHead([]byte(v.Input), verifier.Resolve, at)
	default:
		t.Fatalf("kind %q", v.Kind)
	}
	if got := codeOrOK(err); got != v.Expect {
		t.Errorf("%s (%v), want %s", got, err, v.Expect)
	}
}

func codeOrOK(err error) string {
	if err == nil {
		return "ok"
	}
	return string(contracts.CodeOf(err))
}

func (v *vector) runScopes(t *testing.T) {
	for _, c := range v.Cases {
		parse := func(texts []string) (out []capability.Scope, err error) {
			for _, text := range texts {
				s, err := capability.ParseScope(text)
				if err != nil {
					return nil, err
				}
				out = append(out, s)
			}
			return out, nil
		}
		parents, err := parse(c.Parents)
		children, err2 := parse(c.Children)
		if err == nil {
			err = err2
		}
		if got := codeOrOK(err); got != c.Expect {
			t.Errorf("%q: %s, want %s", c.Children, got, c.Expect)
		}
		if err == nil && len(parents) > 0 && capability.ContainsAll(parents, children) != c.Contains {
			t.Errorf("%q contain %q: %v", c.Parents, c.Children, !c.Contains)
		}
	}
}

func (v *vector) runChain(t *testing.T, verifier *capability.Verifier, at time.Time) error {
	for _, text := range v.Records {
		r, err := capability.VerifyRecord([]byte(text), verifier.Resolve, at)
		if err != nil {
			t.Fatal(err)
		}
		_ = verifier.Revoked.Apply(r) // a fork is an error, and what the vector is about
	}
	for _, text := range v.Heads {
		if err := verifier.Revoked.ApplyHead(must(capability.VerifyHead([]byte(text), verifier.Resolve, at))); err != nil {
			t.Fatal(err)
		}
	}
	proofs := map[string]capability.Proof{"channel": capability.Channel, "session": capability.SessionMAC, "signed": capability.Signed}
	h, _ := capability.NewHolder(v.Holder, proofs[v.Proof])
	g, err := verifier.Verify([]byte(v.Input), h, at)
	if err != nil {
		return err
	}
	if tokens := g.Tokens(); tokens[len(tokens)-1].String() != v.ID {
		t.Errorf("id %s, want %s", tokens[len(tokens)-1], v.ID)
	}
	if v.Call == nil {
		return nil
	}
	c, err := v.Call.call()
	if err != nil {
		return err
	}
	d := g.Decide(&h, c, at)
	if d.Allowed() && g.Scope(d.Index) != v.Scope {
		t.Errorf("scope %s, want %s", g.Scope(d.Index), v.Scope)
	}
	if x := verifier.Explain([]byte(v.Input), h, c, at); x.Code != d.Code {
		t.Errorf("the explanation says %s, the decision %s", x.Code, d.Code)
	}
	return d.Err()
}

func (k *vectorCall) call() (*capability.Call, error) {
	c, err := capability.NewCall(must(capability.ParseKind(k.Kind)), k.Name, k.Method, k.Resource, must(capability.ParseAccess(k.Access)))
	if err != nil {
		return nil, err
	}
	if k.Args != "" {
		if c.Args, err = capability.ParseArgs([]byte(k.Args)); err != nil {
			return nil, err
		}
	}
	if k.Peer != "" {
		c.Peer = must(capability.NewPrincipal(k.Peer))
	}
	if k.Gateway != "" {
		c.Gateway = must(capability.NewPrincipal(k.Gateway))
	}
	return &c, nil
}

// TestVectors runs contracts/vectors/capability; with -update it writes them first.
func TestVectors(t *testing.T) {
	if *update {
		writeVectors(t)
	}
	read := func(file string, into any) {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		d := json.NewDecoder(strings.NewReader(string(text)))
		d.DisallowUnknownFields()
		if err := d.Decode(into); err != nil {
			t.Fatal(file, err)
		}
	}
	var w vectorWorld
	read(filepath.Join(vectorDir, "world.json"), &w)
	files, _ := filepath.Glob(filepath.Join(vectorDir, "*.json"))
	if len(files) < 100 {
		t.Fatalf("%d vectors", len(files))
	}
	for _, f := range files {
		if filepath.Base(f) == "world.json" {
			continue
		}
		t.Run(strings.TrimSuffix(filepath.Base(f), ".json"), func(t *testing.T) {
			var v vector
			read(f, &v)
			if len(v.Must) == 0 {
				t.Error("the vector shows no MUST")
			}
			v.run(t, &w)
		})
	}
}

func writeVectors(t *testing.T) {
	w, vectors := makeVectors()
	write := func(name string, v any) {
		text, err := json.MarshalIndent(v, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(vectorDir, strings.NewReplacer(" ", "-", ",", "", "'", "").Replace(name)+".json"), append(text, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	old, _ := filepath.Glob(filepath.Join(vectorDir, "*.json"))
	for _, f := range old {
		if err := os.Remove(f); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(vectorDir, 0o755); err != nil {
		t.Fatal(err)
	}
	write("world", w)
	for _, v := range vectors {
		write(v.Name, v)
	}
}
