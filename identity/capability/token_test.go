package capability_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
	"github.com/talosprotocol/talos/identity/capability"
)

var b64 = base64.RawURLEncoding

// forge signs a header and a payload as they are.
func forge(k ed25519.PrivateKey, header, payload string) string {
	input := b64.EncodeToString([]byte(header)) + "." + b64.EncodeToString([]byte(payload))
	return input + "." + b64.EncodeToString(ed25519.Sign(k, []byte(input)))
}

func parts(token string) (header, payload string) {
	p := strings.Split(token, ".")
	return string(must(b64.DecodeString(p[0]))), string(must(b64.DecodeString(p[1])))
}

// mutation is one way to spoil a token whose issuer helps: everything is signed again.
type mutation struct {
	name string
	edit func(header, payload string) (string, string)
	want contracts.Code
}

func replace(in, old, by string) string {
	if !strings.Contains(in, old) {
		panic("no " + old + " in " + in)
	}
	return strings.Replace(in, old, by, 1)
}

func inHeader(old, by string) func(h, p string) (string, string) {
	return func(h, p string) (string, string) { return replace(h, old, by), p }
}

func inPayload(old, by string) func(h, p string) (string, string) {
	return func(h, p string) (string, string) { return h, replace(p, old, by) }
}

// mutations are those that the issuer has signed.
func mutations(w *world) []mutation {
	m := contracts.Malformed
	return []mutation{
		{"alg none", inHeader("EdDSA", "none"), m},
		{"alg None", inHeader("EdDSA", "None"), m},
		{"alg HS256", inHeader("EdDSA", "HS256"), m},
		{"alg ES256", inHeader("EdDSA", "ES256"), m},
		{"alg Ed25519", inHeader("EdDSA", "Ed25519"), m},
		{"alg twice", inHeader(`{"alg"`, `{"alg":"none","alg"`), m},
		{"alg twice, escaped", inHeader(`{"alg"`, `{"\u0061lg":"none","alg"`), m},
		{"jwk", inHeader(`,"kid"`, `,"jwk":{"kty":"OKP"},"kid"`), m},
		{"jku", inHeader(`,"kid"`, `,"jku":"https://example.org","kid"`), m},
		{"x5u", inHeader(`"}`, `","x5u":"https://example.org"}`), m},
		{"crit", inHeader(`,"kid"`, `,"crit":["b64"],"kid"`), m},
		{"b64", inHeader(`,"kid"`, `,"b64":false,"kid"`), m},
		{"zip", inHeader(`"}`, `","zip":"DEF"}`), m},
		{"header order", func(h, p string) (string, string) {
			return `{"typ":"talos-cap+jws",` + strings.TrimSuffix(h[1:], `,"typ":"talos-cap+jws"}`) + "}", p
		}, m},
		{"header space", inHeader(`":"`, `": "`), m},
		{"another typ", inHeader("talos-cap", "talos-rev"), m},
		{"kid without fragment", inHeader("#k0", ""), m},
		{"kid k00", inHeader("#k0", "#k00"), m},
		{"kid inv", inHeader("#k0", "#inv"), m},
		{"kid of no such key", inHeader("#k0", "#k4"), contracts.SignatureInvalid},
		{"kid of another DID", inHeader(string(w.org.did), string(w.bob.did)), contracts.SignatureInvalid},
		{"version 2", inPayload("talos-cap/1", "talos-cap/2"), contracts.UnsupportedVersion},
		{"no version", inPayload(`,"v":"talos-cap/1"`, ""), m},
		{"name twice", inPayload(`{"aud"`, `{"aud":"x","aud"`), m},
		{"name twice, escaped", inPayload(`{"aud"`, `{"\u0061ud":"x","aud"`), m},
		{"unknown member", inPayload(`"sub"`, `"root":true,"sub"`), m},
		{"space", inPayload(`":`, `": `), m},
		{"order", inPayload(`"dlg":3,`, ""), m},
		{"escaped slash", inPayload("tool:fs", `tool:fs\/method:read`), m},
		{"float", inPayload(`"dlg":3`, `"dlg":3.0`), m},
		{"exponent", inPayload(`"dlg":3`, `"dlg":3e0`), m},
		{"minus zero", inPayload(`"dlg":3`, `"dlg":-0`), m},
		{"null", inPayload(`"dlg":3`, `"dlg":null`), m},
		{"text for a number", inPayload(`"dlg":3`, `"dlg":"3"`), m},
		{"dlg 4", inPayload(`"dlg":3`, `"dlg":4`), m},
		{"above 2^53", inPayload(`"rfs":300`, `"rfs":9007199254740993`), m},
		{"1E400", inPayload(`"rfs":300`, `"rfs":1E400`), m},
		{"negative time", inPayload(fmt.Sprint(`"nbf":`, now.Unix()), `"nbf":-1`), m},
		{"reversed times", inPayload(fmt.Sprint(`"nbf":`, now.Unix()), fmt.Sprint(`"nbf":`, now.Unix()+7200)), m},
		{"31 days", inPayload(fmt.Sprint(`"exp":`, now.Unix()+3600), fmt.Sprint(`"exp":`, now.Unix()+31*86400)), m},
		{"not UTF-8", inPayload("tool:fs", "tool:f\xff"), m},
		{"lone surrogate", inPayload("tool:fs", `tool:f\ud800`), m},
		{"BOM", func(h, p string) (string, string) { return h, "\xef\xbb\xbf" + p }, m},
		{"NUL", inPayload("tool:fs", "tool:f\x00"), m},
		{"no scopes", inPayload(`"scp":["tool:fs"]`, `"scp":[]`), m},
		{"bad scope", inPayload("tool:fs", "tool:fs*"), m},
		{"jti", inPayload("cap_", "CAP_"), m},
		{"subject of another method", inPayload(`"sub":"did:talos:z`, `"sub":"did:web:zzz`), m},
		{"audience is none", inPayload(`"aud":"did:talos:`, `"aud":"did:talos_`), m},
		{"future", func(h, p string) (string, string) {
			return h, replace(replace(p, fmt.Sprint(`"iat":`, now.Unix()), fmt.Sprint(`"iat":`, now.Unix()+61)), fmt.Sprint(`"nbf":`, now.Unix()), fmt.Sprint(`"nbf":`, now.Unix()+61))
		}, contracts.NotYetValid},
		{"key event of the future", inPayload(`"ksn":0`, `"ksn":7`), contracts.IssuerUnresolved},
		{"another issuer", inPayload(`"iss":"`+string(w.org.did), `"iss":"`+string(w.bob.did)), contracts.SignatureInvalid},
		{"root names a parent", inPayload(`"rfs"`, `"prf":"`+strings.Repeat("A", 43)+`","rfs"`), contracts.DelegationInvalid},
		{"parent is no id", inPayload(`"rfs"`, `"prf":"`+strings.Repeat("B", 43)+`","rfs"`), m},
		{"another executor", inPayload(`"aud":"`+string(w.exec.did), `"aud":"`+string(w.bob.did)), contracts.AudienceMismatch},
	}
}

// Rows 1, 2, 3, 5, 6, 8, 9 and 23 of the acceptance table: whatever an issuer itself
// would sign is refused with its code, if it is not exactly a token. CAP-1, CAP-2, CAP-3, CAP-4.
func TestRow1to9_SignedButWrong(t *testing.T) {
	w := newWorld()
	h := holder(w.alice.did)
	good := w.chain(1)[0]
	if _, err := w.v.Verify([]byte(good), h, now); err != nil {
		t.Fatal(err)
	}
	all := mutations(w)
	if len(all) < 30 {
		t.Fatalf("%d mutations", len(all))
	}
	for _, m := range all {
		header, payload := parts(good)
		bad := forge(w.org.control.Ed25519(), func() string { a, _ := m.edit(header, payload); return a }(), func() string { _, b := m.edit(header, payload); return b }())
		_, err := w.v.Verify([]byte(bad), h, now)
		wantCode(t, m.name, err, m.want)
	}
}

// unsigned are ways to spoil a token without its issuer's key.
func unsigned(good string) map[string]string {
	p := strings.Split(good, ".")
	flip := func(s string, at int, by string) string { return s[:at] + by + s[at+1:] }
	last := good[len(good)-1]
	spare := string("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"[strings.IndexByte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_", last)|1])
	return map[string]string{
		"padding": good + "==", "trailing dot": good + ".", "four parts": good + ".AA", "two parts": p[0] + "." + p[1], "one part": p[0], "no signature": p[0] + "." + p[1] + ".",
		"line end in the signature": p[0] + "." + p[1] + "." + p[2][:40] + "\n" + p[2][40:], "line end in the payload": p[0] + "." + p[1][:40] + "\r\n" + p[1][40:] + "." + p[2],
		"spare bits": good[:len(good)-1] + spare, "standard alphabet": p[0] + "." + p[1] + "." + strings.NewReplacer("-", "+", "_", "/").Replace(p[2]) + "+/",
		"line end after the payload": p[0] + "." + p[1] + "\n." + p[2], "leading space": " " + good, "trailing line end": good + "\n", "JSON serialisation": `{"protected":"` + p[0] + `","payload":"` + p[1] + `","signature":"` + p[2] + `"}`,
		"63 bytes": p[0] + "." + p[1] + "." + p[2][:84], "65 bytes": good + "AA", "empty header": "." + p[1] + "." + p[2],
		"signature changed": p[0] + "." + p[1] + "." + flip(p[2], 3, string("AB"[b2i(p[2][3] == 'A')])),
		"payload changed":   p[0] + "." + flip(p[1], 100, string("AB"[b2i(p[1][100] == 'A')])) + "." + p[2],
		"s plus the order":  p[0] + "." + p[1] + "." + plusOrder(p[2]),
	}
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// plusOrder adds the group's order to the scalar of a signature: other bytes, which a
// lax verifier accepts (RFC 8032 section 5.1.7 does not).
func plusOrder(sig string) string {
	b := must(b64.DecodeString(sig))
	order := []byte{0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10}
	carry := 0
	for i := range order {
		carry += int(b[32+i]) + int(order[i])
		b[32+i] = byte(carry)
		carry >>= 8
	}
	return b64.EncodeToString(b)
}

// Row 4 of the acceptance table; CAP-1, CAP-5: no other text of a token passes, and an
// id is of what is signed.
func TestRow4_OtherTextsOfAToken(t *testing.T) {
	w := newWorld()
	good := w.chain(1)[0]
	for name, bad := range unsigned(good) {
		_, err := w.v.Verify([]byte(bad), holder(w.alice.did), now)
		if c := contracts.CodeOf(err); c != contracts.Malformed && c != contracts.SignatureInvalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	p := strings.Split(good, ".")
	if want := sha256.Sum256([]byte(p[0] + "." + p[1])); tokenID(good) != capability.TokenID(want) {
		t.Error("the id is not the hash of the signing input")
	}
}

// Row 1 of the acceptance table: a MAC keyed with the public key is no signature.
func TestRow1_KeyConfusion(t *testing.T) {
	w := newWorld()
	h, p := parts(w.chain(1)[0])
	input := b64.EncodeToString([]byte(h)) + "." + b64.EncodeToString([]byte(p))
	mac := hmac.New(sha256.New, w.org.control.Public().Bytes())
	mac.Write([]byte(input))
	for _, sig := range [][]byte{mac.Sum(nil), append(mac.Sum(nil), mac.Sum(nil)...), make([]byte, 64)} {
		_, err := w.v.Verify([]byte(input+"."+b64.EncodeToString(sig)), holder(w.alice.did), now)
		if c := contracts.CodeOf(err); c != contracts.Malformed && c != contracts.SignatureInvalid {
			t.Error(err)
		}
	}
}

// Row 7 of the acceptance table; CAP-6: what is large is refused before it is read.
func TestRow7_LargeAndDeep(t *testing.T) {
	w := newWorld()
	good := w.chain(1)[0]
	h, p := parts(good)
	key := w.org.control.Ed25519()
	deep := strings.Repeat("[", 2000) + strings.Repeat("]", 2000)
	for name, e := range map[string]struct {
		text string
		want []contracts.Code
	}{
		"10 MiB":          {strings.Repeat("A", 10<<20), []contracts.Code{contracts.TooLarge}},
		"10 MiB of dots":  {strings.Repeat(".", 10<<20), []contracts.Code{contracts.TooLarge}},
		"10,000 links":    {strings.Repeat(good+"~", 9_999) + good, []contracts.Code{contracts.TooLarge}},
		"16 KiB of links": {strings.Repeat("~", 16<<10), []contracts.Code{contracts.DelegationInvalid}},
		"8 KiB and one":   {good + strings.Repeat("A", 8<<10-len(good)+1), []contracts.Code{contracts.TooLarge}},
		"deep":            {forge(key, h, replace(p, `"cst":[]`, `"cst":`+deep)), []contracts.Code{contracts.Malformed}},
		"many scopes":     {forge(key, h, replace(p, `["tool:fs"]`, `["`+strings.Join(manyScopes(33), `","`)+`"]`)), []contracts.Code{contracts.Malformed}},
		"nothing":         {"", []contracts.Code{contracts.NoCapability}},
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := w.v.Verify([]byte(e.text), holder(w.alice.did), now)
		runtime.ReadMemStats(&after)
		if !slices.Contains(e.want, contracts.CodeOf(err)) {
			t.Errorf("%s: %v", name, err)
		}
		// The text itself is the caller's; what is made of it is bounded.
		if got := int64(after.TotalAlloc-before.TotalAlloc) - int64(len(e.text)); got > 1<<20 {
			t.Errorf("%s: %d bytes were allocated", name, got)
		}
	}
}

// Row 9 of the acceptance table: a signature of another kind is no signature of a
// token, and records and tokens never pass for each other.
func TestRow9_OtherDomains(t *testing.T) {
	w := newWorld()
	good := w.chain(1)[0]
	input, _, _ := strings.Cut(good, "."+strings.Split(good, ".")[2])
	sig := w.org.control.Sign(contracts.ContextState, []byte(input))
	_, err := w.v.Verify([]byte(input+"."+b64.EncodeToString(sig)), holder(w.alice.did), now)
	wantCode(t, "state signature", err, contracts.SignatureInvalid)

	record := w.revoke(w.org, w.org.signer(), capability.Target{Token: tokenID(good)}, now)
	_, err = w.v.Verify(record.Raw, holder(w.alice.did), now)
	wantCode(t, "record as token", err, contracts.Malformed)
	_, err = capability.VerifyRecord([]byte(good), w.v.Resolve, now)
	wantCode(t, "token as record", err, contracts.Malformed)
	_, err = capability.VerifyHead(record.Raw, w.v.Resolve, now)
	wantCode(t, "record as head", err, contracts.Malformed)
}

// Rows 8 and 45 of the acceptance table; CAP-7: keys sign in their time, and not after
// they were given up, voided or ended.
func TestRow8and45_KeysInTheirTime(t *testing.T) {
	w := newWorld()
	old := w.alice.signer()
	w.v.Roots[w.alice.did] = []capability.Kind{capability.Tool}
	before := w.issue(old, w.terms(w.bob.did, "tool:fs"))
	h := holder(w.bob.did)
	verify := func(token string) error { _, err := w.v.Verify([]byte(token), h, now.Add(time.Minute)); return err }
	wantCode(t, "in its time", verify(before), "")

	w.alice.rotate(false, now.Add(500*time.Millisecond))
	w.issuers[w.alice.did] = w.alice.issuer()
	wantCode(t, "made before the rotation", verify(before), "")
	late := must(capability.Issue(old, w.terms(w.bob.did, "tool:fs"), w.rnd, now.Add(time.Second)))
	wantCode(t, "made after the rotation with the old key", verify(late), contracts.KeyStateVoid)
	fresh := must(capability.Issue(w.alice.signer(), w.terms(w.bob.did, "tool:fs"), w.rnd, now.Add(time.Second)))
	wantCode(t, "made with the new key", verify(fresh), "")
	mixed := old
	mixed.KSN = 1
	_, err := capability.Issue(mixed, w.terms(w.bob.did, "tool:fs"), w.rnd, now.Add(time.Second))
	wantCode(t, "issuing needs no resolver", err, "")
	wantCode(t, "old key under the new number", verify(must(capability.Issue(mixed, w.terms(w.bob.did, "tool:fs"), w.rnd, now.Add(time.Second)))), contracts.SignatureInvalid)

	w.alice.rotate(true, now.Add(2*time.Second))
	w.issuers[w.alice.did] = w.alice.issuer()
	wantCode(t, "voided", verify(before), contracts.KeyStateVoid)
	wantCode(t, "voided too", verify(fresh), contracts.KeyStateVoid)

	last := must(capability.Issue(w.alice.signer(), w.terms(w.bob.did, "tool:fs"), w.rnd, now.Add(3*time.Second)))
	wantCode(t, "after recovery", verify(last), "")
	i := *w.issuers[w.alice.did]
	i.Duplicitous = true
	w.issuers[w.alice.did] = &i
	wantCode(t, "duplicitous", verify(last), contracts.IssuerDuplicitous)
	w.alice.end(now.Add(4 * time.Second))
	w.issuers[w.alice.did] = w.alice.issuer()
	w.v.Revoked = capability.NewSet(w.exec.did)
	wantCode(t, "ended", verify(last), contracts.Deactivated)
}

// Row 10 of the acceptance table, in short: keys of small order and keys that are not
// canonical cannot be named by a did:key (identity has the vectors).
func TestRow10_WeakKeys(t *testing.T) {
	w := newWorld()
	for _, key := range []string{
		"0100000000000000000000000000000000000000000000000000000000000000",
		"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	} {
		raw := make([]byte, 32)
		if _, err := fmt.Sscanf(key, "%x", &raw); err != nil {
			t.Fatal(err)
		}
		_, err := identity.NewPublic[identity.Control](raw)
		wantCode(t, key, err, contracts.KeyInvalid)
		if _, err := identity.DIDFromMultihash(append([]byte{0xed, 1}, raw...)); err == nil {
			t.Errorf("%s is a did:key", key)
		}
	}
	_ = w
}

// Tokens of a did:key verify like those of a did:talos; CAP-7.
func TestKeyIssuer(t *testing.T) {
	w := newWorld()
	s := keySigner("sub-agent")
	root := w.terms(s.DID, "tool:fs")
	first := w.issue(w.org.signer(), root)
	terms := w.terms(w.bob.did, "tool:fs/method:read")
	terms.Delegations = 0
	second := must(capability.Delegate(s, must(capability.ParseToken([]byte(first))), terms, w.rnd, now))
	g, err := w.v.Verify(join(first, second), holder(w.bob.did), now)
	if err != nil {
		t.Fatal(err)
	}
	if g.Subject() != w.bob.did || !slices.Equal(g.Scopes(), []string{"tool:fs/method:read"}) || len(g.Tokens()) != 2 || g.ID() != "cap:"+tokenID(second).String() || !g.Until().Equal(now.Add(time.Hour)) {
		t.Errorf("%s %v %v", g.ID(), g.Scopes(), g.Until())
	}
	if !bytes.Equal([]byte(capability.JoinChain(first, second)), join(first, second)) {
		t.Error("JoinChain")
	}
	_, err = w.v.Verify([]byte(w.issue(s, w.terms(w.bob.did, "tool:fs"))), holder(w.bob.did), now)
	wantCode(t, "a did:key is no root", err, contracts.IssuerUnresolved)
}

func FuzzToken(f *testing.F) {
	w := newWorld()
	f.Add([]byte(w.chain(1)[0]))
	f.Add(join(w.chain(3)...))
	f.Add(w.revoke(w.org, w.org.signer(), capability.Target{JTI: "cap_" + strings.Repeat("0", 32)}, now).Raw)
	for _, bad := range unsigned(w.chain(1)[0]) {
		f.Add([]byte(bad))
	}
	h := holder(w.alice.did)
	f.Fuzz(func(t *testing.T, b []byte) {
		if tok, err := capability.ParseToken(b); err == nil {
			head, payload := parts(string(b))
			again := b64.EncodeToString([]byte(head)) + "." + b64.EncodeToString(tok.AppendCanonical(nil))
			if !strings.HasPrefix(string(b), again+".") || payload != string(tok.AppendCanonical(nil)) {
				t.Errorf("%q is read, and written as %q", b, again)
			}
		} else if contracts.CodeOf(err) == contracts.Internal {
			t.Errorf("no code: %v", err)
		}
		if _, err := w.v.Verify(b, h, now); contracts.CodeOf(err) == contracts.Internal {
			t.Errorf("no code: %v", err)
		}
	})
}
