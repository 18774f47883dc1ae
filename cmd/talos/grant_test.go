package main

import (
	"testing"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity/capability"
)

// Conditions as people write them become those of the token, each with the one meaning
// that its letters suggest.
func TestArgConditions(t *testing.T) {
	for text, want := range map[string]string{
		"mode=text":              `{"arg":"/mode","op":"eq","strs":["text"]}`,
		"mode=text|json":         `{"arg":"/mode","op":"in","strs":["text","json"]}`,
		"n=5":                    `{"arg":"/n","ints":[5],"op":"eq"}`,
		"n=5|-6":                 `{"arg":"/n","ints":[5,-6],"op":"in"}`,
		`id="5"`:                 `{"arg":"/id","op":"eq","strs":["5"]}`,
		"deep=false":             `{"arg":"/deep","bool":false,"op":"eq"}`,
		"path^=/data/|/tmp/":     `{"arg":"/path","op":"prefix","strs":["/data/","/tmp/"]}`,
		"path~/data/**":          `{"arg":"/path","op":"glob","strs":["/data/**"]}`,
		"limit:1..100":           `{"arg":"/limit","max":100,"min":1,"op":"range"}`,
		"limit:..100":            `{"arg":"/limit","max":100,"op":"range"}`,
		"limit:-5..":             `{"arg":"/limit","min":-5,"op":"range"}`,
		"/options/deep=true":     `{"arg":"/options/deep","bool":true,"op":"eq"}`,
		"/a~1b/c=x":              `{"arg":"/a~1b/c","op":"eq","strs":["x"]}`,
		"q=a=b":                  `{"arg":"/q","op":"eq","strs":["a=b"]}`,
		"url^=https://a.example": `{"arg":"/url","op":"prefix","strs":["https://a.example"]}`,
	} {
		c, err := argCondition(text)
		if err != nil || string(c.AppendCanonical(nil)) != want {
			t.Errorf("%s: %s, %v, want %s", text, c.AppendCanonical(nil), err, want)
			continue
		}
		b := capability.Binding{ID: "x", Subject: "did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK", Scopes: []string{"tool:a"}, Constraints: []contracts.Constraint{c}}
		b.Until = b.From.AddDate(1, 0, 0)
		if _, err := capability.NewGrant(b); err != nil {
			t.Errorf("%s is a condition that no verifier understands: %v", text, err)
		}
	}
	for _, bad := range []string{"", "mode", "=x", "mode=", "n=5|x", "limit:5", "limit:..", "limit:a..b", "limit:1..2..3", "mode!x", `id="5`, "a b=c", "n:1..99999999999999999999"} {
		if c, err := argCondition(bad); contracts.CodeOf(err) != contracts.Malformed {
			t.Errorf("%q is read as %s, %v", bad, c.AppendCanonical(nil), err)
		}
	}
	if _, err := rootsArg([]string{"did:talos:z"}); contracts.CodeOf(err) != contracts.ConfigInvalid {
		t.Error("a root without kinds")
	}
}

// What is split among nodes is together what was said, whatever does not divide.
func TestSplit(t *testing.T) {
	at := []string{"did:a", "did:b", "did:c"}
	for total := int64(3); total < 40; total++ {
		two := int64(60)
		parts, err := split(&contracts.GrantRequest{BudgetMax: &total, BudgetUnit: "tokens", MaxCalls: &total, RateCalls: &total, RateSeconds: &two}, at)
		if err != nil || len(parts) != 3 {
			t.Fatal(err)
		}
		var sum, calls int64
		for i, p := range parts {
			if sum += *p.BudgetMax; p.Executor != at[i] || p.BudgetUnit != "tokens" || *p.RateSeconds != 60 {
				t.Errorf("%+v", p)
			}
			calls += *p.MaxCalls
		}
		if sum != total || calls != total {
			t.Errorf("%d was split into %d and %d", total, sum, calls)
		}
	}
	few := int64(2)
	for name, bad := range map[string]struct {
		r  contracts.GrantRequest
		at []string
	}{
		"too few": {contracts.GrantRequest{BudgetMax: &few, BudgetUnit: "x"}, at}, "twice": {contracts.GrantRequest{}, []string{"did:a", "did:a"}},
		"a limit that would not be split": {contracts.GrantRequest{Constraints: []contracts.Constraint{{Op: "calls", N: &few}}}, at},
	} {
		if _, err := split(&bad.r, bad.at); contracts.CodeOf(err) != contracts.Malformed {
			t.Errorf("%s: %v", name, err)
		}
	}
}
