package anchor_test

import (
	"encoding/hex"
	"maps"
	"strings"

	"github.com/talosprotocol/talos/anchor"
)

// makeVectors makes the scenarios from the fixed keys and times of the tests.
func makeVectors() []vector {
	var vs []vector
	pub := map[string]string{origin: hex.EncodeToString(public("log"))}
	wit := map[string]string{origin: pub[origin]}
	for _, o := range orgs {
		wit[o+".example/w"] = hex.EncodeToString(public(o))
	}
	add := func(v vector) { vs = append(vs, v) }
	l := newLog("vectors").grow(30)
	fork := l.fork(12, "fork").grow(20)

	event, _ := anchor.EncodeEvent(l.events[7])
	text := string(event)
	for name, e := range map[string][3]string{
		"event":                 {"ok", text, "AUD-1"},
		"event with content":    {"MALFORMED", strings.Replace(text, `"v":`, `"prompt":"hello","v":`, 1), "AUD-1"},
		"event with a space":    {"MALFORMED", strings.Replace(text, `":"`, `": "`, 1), "AUD-1"},
		"event of version 2":    {"MALFORMED", strings.Replace(text, "talos-audit/1", "talos-audit/2", 1), "AUD-1"},
		"event on 31 June":      {"MALFORMED", strings.Replace(text, "2026-11-23", "2026-06-31", 1), "AUD-1"},
		"event of unknown type": {"MALFORMED", strings.Replace(text, `"result"`, `"rumour"`, 1), "AUD-4"},
	} {
		add(vector{Name: name, Kind: "event", Must: []string{e[2]}, Expect: e[0], Input: e[1]})
	}

	leaf := vector{
		Name: "leaf", Kind: "leaf", Must: []string{"AUD-2", "AUD-5"}, Expect: "ok", Input: hex.EncodeToString(l.leaves[7][:]),
		Event: text, Salt: hex.EncodeToString(l.salts[7][:]), Index: 7, Hash: l.leaves[7].Hash().String(),
	}
	add(leaf)
	leaf.Name, leaf.Expect, leaf.Event = "leaf with another event", "PROOF_INVALID", strings.Replace(text, `"ok"`, `"error"`, 1)
	add(leaf)

	vs = append(vs, noteVectors(l, pub, wit)...)
	vs = append(vs, evidenceVectors(l, fork, wit)...)
	vs = append(vs, anchoredVectors(wit)...)
	return append(vs, bundleVectors(l, wit)...)
}

// anchoredVectors are bundles that two anchors have anchored.
func anchoredVectors(wit map[string]string) []vector {
	keys := maps.Clone(wit)
	for _, name := range []string{"acme", "bolt"} {
		keys[anchorOrigin(name)] = hex.EncodeToString(public(name))
	}
	_, policy, parts := anchoredWorld()
	b, err := anchor.NewBundle(parts)
	if err != nil {
		panic(err)
	}
	text := string(b)
	parts.Anchorings[0].Receipts = parts.Anchorings[0].Receipts[:1]
	parts.Anchorings = parts.Anchorings[:1]
	alone, err := parts.Anchorings[0].Contract()
	if err != nil {
		panic(err)
	}
	v := func(name, level, expect, input string, must ...string) vector {
		return vector{
			Name: name, Kind: "bundle", Must: must, Expect: expect, Level: level, Input: input, Keys: keys, Policy: &policy, Now: later.Format(anchor.TimeFormat),
		}
	}
	return []vector{
		v("bundle anchored", "ANCHORED", "ok", text, "CHAIN-10", "CHAIN-11", "CHAIN-12"),
		v("bundle of version 3", "INVALID", "UNSUPPORTED_VERSION", strings.Replace(text, "talos-bundle/2", "talos-bundle/3", 1), "CHAIN-16"),
		v("bundle anchored as version 1", "INVALID", "BUNDLE_INVALID", strings.Replace(text, "talos-bundle/2", "talos-bundle/1", 1), "CHAIN-9"),
		{Name: "anchoring", Kind: "anchoring", Must: []string{"CHAIN-1", "CHAIN-10"}, Expect: "ok", Input: string(alone.AppendCanonical(nil)), Output: origin},
		{Name: "anchoring of another log", Kind: "anchoring", Must: []string{"CHAIN-17"}, Expect: "PROOF_INVALID", Input: string(alone.AppendCanonical(nil)), Output: anchorOrigin("bolt")},
		{Name: "anchoring with a space", Kind: "anchoring", Must: []string{"CHAIN-9"}, Expect: "MALFORMED", Input: string(alone.AppendCanonical(nil)) + " ", Output: origin},
	}
}

func noteVectors(l *log, pub, wit map[string]string) []vector {
	var vs []vector
	add := func(v vector) { vs = append(vs, v) }
	n := l.note(20)
	note := string(n.Append(nil))
	for name, e := range map[string][3]string{
		"note":                       {"ok", note, "CKP-1"},
		"note with leading zero":     {"CHECKPOINT_INVALID", strings.Replace(note, "\n20\n", "\n020\n", 1), "CKP-1"},
		"note with extension line":   {"CHECKPOINT_INVALID", strings.Replace(note, "\n\n", "\nmore\n\n", 1), "CKP-1"},
		"note with plus in origin":   {"CHECKPOINT_INVALID", strings.ReplaceAll(note, "/audit/", "/au+it/"), "CKP-4"},
		"note of size 0 with a root": {"CHECKPOINT_INVALID", strings.Replace(note, "\n20\n", "\n0\n", 1), "CKP-3"},
		"note of another size":       {"SIGNATURE_INVALID", strings.Replace(note, "\n20\n", "\n21\n", 1), "CKP-1"},
		"note without padding":       {"CHECKPOINT_INVALID", strings.Replace(note, "=\n\n", "\n\n", 1), "CKP-1"},
		"note signed twice":          {"CHECKPOINT_INVALID", note + note[strings.Index(note, "— "):], "CKP-4"},
	} {
		add(vector{Name: name, Kind: "note", Must: []string{e[2]}, Expect: e[0], Input: e[1], Keys: pub})
	}

	d, _ := n.Digest(public("log"))
	raw, _ := d.Append(nil)
	add(vector{Name: "digest", Kind: "digest", Must: []string{"CKP-5"}, Expect: "ok", Input: hex.EncodeToString(raw), Keys: pub, Output: note})
	add(vector{Name: "digest cut", Kind: "digest", Must: []string{"CKP-5"}, Expect: "MALFORMED", Input: hex.EncodeToString(raw[:139]), Keys: pub})
	raw[80] ^= 1
	add(vector{Name: "digest with a bad signature", Kind: "digest", Must: []string{"CKP-5"}, Expect: "SIGNATURE_INVALID", Input: hex.EncodeToString(raw), Keys: pub})
	raw[80], raw[34], raw[35] = raw[80]^1, 0, 0
	add(vector{Name: "digest of incarnation 0", Kind: "digest", Must: []string{"CKP-2"}, Expect: "CHECKPOINT_INVALID", Input: hex.EncodeToString(raw), Keys: pub})

	s := cosign(n, "acme", epoch)
	line := string(s.Append(nil))
	add(vector{Name: "cosignature", Kind: "cosignature", Must: []string{"WIT-8"}, Expect: "ok", Input: note + line, Keys: wit, Time: epoch.Unix()})
	add(vector{Name: "cosignature of another head", Kind: "cosignature", Must: []string{"WIT-8"}, Expect: "SIGNATURE_INVALID", Input: string(l.note(21).Append(nil)) + line, Keys: wit})
	return vs
}

func evidenceVectors(l, fork *log, keys map[string]string) []vector {
	br := func(l *log) anchor.Branch {
		return anchor.Branch{Note: l.note(20), Cosignature: cosign(l.note(20), "acme", epoch)}
	}
	var vs []vector
	for name, e := range map[string][2]string{
		"evidence A":             {"ok", string(anchor.ForkOfSize(l.note(20), fork.note(20)).AppendCanonical(nil))},
		"evidence B":             {"ok", string(anchor.ForkAtIndex(13, l.branch(13, 20), fork.branch(13, 25)).AppendCanonical(nil))},
		"evidence C":             {"ok", string(anchor.ForkByWitness(br(l), br(fork)).AppendCanonical(nil))},
		"evidence B before fork": {"PROOF_INVALID", string(anchor.ForkAtIndex(11, l.branch(11, 20), fork.branch(11, 25)).AppendCanonical(nil))},
		"evidence A of one note": {"MALFORMED", string(anchor.ForkOfSize(l.note(20), l.note(20)).AppendCanonical(nil))},
	} {
		vs = append(vs, vector{Name: name, Kind: "evidence", Must: []string{"WIT-9"}, Expect: e[0], Input: e[1], Keys: keys})
	}
	return vs
}

func bundleVectors(l *log, keys map[string]string) []vector {
	_, policy := world()
	weak := policy
	weak.Quorum = 3
	make := func(p anchor.Parts) string {
		b, err := anchor.NewBundle(p)
		if err != nil {
			panic(err)
		}
		return string(b)
	}
	prior := l.head(5, epoch, orgs...)
	full := l.parts(7, l.head(20, epoch.Add(60e9), orgs...))
	full.Prior, full.States = &prior, [][]byte{[]byte("a signed state")}
	sealed := l.parts(7, l.head(20, epoch, orgs...))
	sealed.Event, sealed.Salt = nil, nil
	text := make(full)
	v := func(name, level, expect, input string, p anchor.Policy, must ...string) vector {
		return vector{
			Name: name, Kind: "bundle", Must: must, Expect: expect, Level: level, Input: input, Keys: keys, Policy: &p,
			Now: later.Format(anchor.TimeFormat),
		}
	}
	return []vector{
		v("bundle", "WITNESSED", "ok", text, policy, "BND-1", "BND-2", "BND-3", "BND-4", "BND-8"),
		v("bundle sealed", "WITNESSED", "ok", make(sealed), policy, "AUD-14", "BND-2"),
		v("bundle signed only", "SIGNED", "ok", make(l.parts(7, l.head(20, epoch))), policy, "BND-5"),
		v("bundle under a weak policy", "SIGNED", "ok", text, weak, "BND-9"),
		v("bundle with a space", "INVALID", "MALFORMED", text+" ", policy, "BND-1"),
		v("bundle with a flipped state", "INVALID", "BUNDLE_INVALID", strings.Replace(text, `"states":["Y`, `"states":["Z`, 1), policy, "BND-1"),
		v("bundle of another index", "INVALID", "BUNDLE_INVALID", strings.Replace(text, `"index":7`, `"index":8`, 1), policy, "BND-1", "BND-2"),
	}
}
