package anchor_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"

	"github.com/talosprotocol/talos/anchor"
	"github.com/talosprotocol/talos/contracts"
)

// cosigVerifier is cosignature/v1 once more, from the text of C2SP, for x/mod's note
// package to call.
type cosigVerifier struct {
	name string
	key  ed25519.PublicKey
}

func (v cosigVerifier) Name() string { return v.name }

func (v cosigVerifier) KeyHash() uint32 {
	h := sha256.Sum256([]byte(v.name + "\n\x04" + string(v.key)))
	return uint32(h[0])<<24 | uint32(h[1])<<16 | uint32(h[2])<<8 | uint32(h[3])
}

func (v cosigVerifier) Verify(msg, sig []byte) bool {
	if len(sig) != 72 {
		return false
	}
	text := fmt.Sprintf("cosignature/v1\ntime %d\n%s", binary.BigEndian.Uint64(sig), msg)
	return ed25519.Verify(v.key, []byte(text), sig[8:])
}

// foreign is a cosignature that transparency-dev/formats v0.1.1 made with the test
// key of bolt over the head of size 7.
const foreign = "— bolt.example/w Cpa6xAAAAABrA+g8vPuc5RhGTi7ikd0VMMxJOt6+KwHUniZMuloQNXMCNYHkss3wsXeuEeVgTjwKJ8ABY9/VWLWCfwFJ1joCne2zCg==\n"

// TestNoteIsOfC2SP opens our note and cosignature with the library of the Go team,
// and a foreign cosignature with ours. CKP-1, CKP-2, WIT-8.
func TestNoteIsOfC2SP(t *testing.T) {
	n := newLog("a").grow(7).note(7)
	both := *n
	both.Signatures = append(both.Signatures, cosign(n, "acme", epoch))
	vkey, err := note.NewEd25519VerifierKey(origin, public("log"))
	if err != nil {
		t.Fatal(err)
	}
	lv, err := note.NewVerifier(vkey)
	if err != nil {
		t.Fatal(err)
	}
	wv := cosigVerifier{"acme.example/w", public("acme")}
	got, err := note.Open(both.Append(nil), note.VerifierList(lv, wv))
	if err != nil || len(got.Sigs) != 2 {
		t.Fatalf("x/mod verifies %d signatures: %v", len(got.Sigs), err)
	}
	s, err := anchor.ParseSignature([]byte(foreign))
	if err != nil {
		t.Fatal(err)
	}
	at, err := s.VerifyCosignature(n.Checkpoint, public("bolt"))
	if err != nil || at.Format(anchor.TimeFormat) != "2026-11-23T07:16:12.000Z" {
		t.Errorf("the foreign cosignature is of %v: %v", at, err)
	}
}

// TestRow30_HostileNotes: nothing but the one form of a note is read. CKP-1, CKP-3,
// CKP-4.
func TestRow30_HostileNotes(t *testing.T) {
	n := newLog("a").grow(7).note(7)
	text := string(n.Append(nil))
	if _, err := anchor.Open([]byte(text), public("log")); err != nil {
		t.Fatal(err)
	}
	sig := text[strings.Index(text, "\n\n")+2:]
	r := func(old, new string) string { return strings.Replace(text, old, new, 1) }
	for name, bad := range map[string]string{
		"leading zero":          r("\n7\n", "\n07\n"),
		"plus":                  r("\n7\n", "\n+7\n"),
		"negative":              r("\n7\n", "\n-7\n"),
		"too large":             r("\n7\n", "\n9007199254740992\n"),
		"no number":             r("\n7\n", "\n\n"),
		"extension line":        r("\n\n", "\nextension\n\n"),
		"plus in origin":        strings.ReplaceAll(text, "/audit/", "/au+it/"),
		"space in origin":       strings.ReplaceAll(text, "/audit/", "/au it/"),
		"not UTF-8":             strings.ReplaceAll(text, "/audit/", "/au\xff/"),
		"control character":     strings.ReplaceAll(text, "/audit/", "/au\x01t/"),
		"spare bits of root":    r("=\n\n", "=\n\n")[:strings.Index(text, "=\n\n")-1] + "B" + text[strings.Index(text, "=\n\n"):],
		"spare bits of sig":     strings.TrimSuffix(text, "=\n")[:len(text)-3] + "/=\n",
		"no padding":            r("=\n\n", "\n\n"),
		"CR in root":            r("=\n\n", "\r\n\n"),
		"no signature":          strings.TrimSuffix(text, sig),
		"signature twice":       text + sig,
		"no last newline":       strings.TrimSuffix(text, "\n"),
		"two spaces":            r(" ", "  "),
		"hyphen":                r("—", "-"),
		"17 signatures":         text + strings.Repeat("— w"+" AAAAAAA=\n", 17),
		"10 MB":                 text + strings.Repeat("x", 10<<20),
		"size 0, another root":  r("\n7\n", "\n0\n"),
		"CRLF":                  strings.ReplaceAll(text, "\n", "\r\n"),
		"empty":                 "",
		"space after signature": strings.TrimSuffix(text, "\n") + " \n",
	} {
		if bad == text {
			t.Errorf("%s: the case changes nothing", name)
		}
		if _, err := anchor.ParseNote([]byte(bad)); err == nil {
			t.Errorf("%s: accepted", name)
		} else if c := contracts.CodeOf(err); c != contracts.CheckpointInvalid && c != contracts.TooLarge {
			t.Errorf("%s: the code is %s", name, c)
		}
	}
}

// TestEveryBitOfANote: a note with any bit flipped does not open, or is not the
// log's. CKP-1.
func TestEveryBitOfANote(t *testing.T) {
	text := newLog("a").grow(7).note(7).Append(nil)
	for i := range len(text) * 8 {
		bad := bytes.Clone(text)
		bad[i/8] ^= 1 << (i % 8)
		if _, err := anchor.Open(bad, public("log")); err == nil {
			t.Errorf("bit %d: accepted %q", i, bad)
		}
	}
}

// TestRow19_ReplayedCosignature and of another size or origin. WIT-8.
func TestRow19_ReplayedCosignature(t *testing.T) {
	l := newLog("a").grow(9)
	s := cosign(l.note(7), "acme", epoch)
	if _, err := s.VerifyCosignature(l.note(7).Checkpoint, public("acme")); err != nil {
		t.Fatal(err)
	}
	other := l.note(7).Checkpoint
	other.Origin = keyDID + "/audit/1"
	for _, c := range []anchor.Checkpoint{l.note(8).Checkpoint, other} {
		_, err := s.VerifyCosignature(c, public("acme"))
		wantCode(t, err, contracts.SignatureInvalid)
	}
	_, err := s.VerifyCosignature(l.note(7).Checkpoint, public("bolt"))
	wantCode(t, err, contracts.SignatureInvalid)
	_, err = s.VerifyCosignature(l.note(7).Checkpoint, nil)
	wantCode(t, err, contracts.KeyInvalid)
}

// TestDigest: 140 bytes that make the note again, for both DID methods. CKP-5.
func TestDigest(t *testing.T) {
	for _, did := range []string{talosDID, keyDID} {
		l := newLog("a").grow(5)
		l.origin = did + "/audit/513"
		n := l.note(5)
		d, err := n.Digest(public("log"))
		if err != nil {
			t.Fatal(err)
		}
		b, err := d.Append(nil)
		if err != nil || len(b) != 140 || b[34] != 2 || b[35] != 1 {
			t.Fatalf("digest %x: %v", b, err)
		}
		back, err := anchor.ParseDigest(b)
		if err != nil {
			t.Fatal(err)
		}
		again, err := back.Note(public("log"))
		if err != nil || !bytes.Equal(again.Append(nil), n.Append(nil)) {
			t.Fatalf("the note of the digest: %v", err)
		}
		for i := range len(b) * 8 {
			bad := bytes.Clone(b)
			bad[i/8] ^= 1 << (i % 8)
			if d, err := anchor.ParseDigest(bad); err == nil {
				if _, err := d.Note(public("log")); err == nil {
					t.Errorf("bit %d: accepted", i)
				}
			}
		}
	}
	for name, b := range map[string][]byte{"short": make([]byte, 139), "long": make([]byte, 141), "no DID": make([]byte, 140)} {
		if _, err := anchor.ParseDigest(b); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// TestOrigin: the one text of an origin. CKP-2.
func TestOrigin(t *testing.T) {
	for _, ok := range []string{origin, keyDID + "/audit/65535"} {
		if o, err := anchor.ParseOrigin(ok); err != nil || o.String() != ok {
			t.Errorf("%s: %v", ok, err)
		}
	}
	for _, bad := range []string{
		"", talosDID, talosDID + "/audit/0", talosDID + "/audit/01", talosDID + "/audit/65536", talosDID + "/audit/+1",
		talosDID + "/audit/1/", "did:web:example.com/audit/1", talosDID[:40] + "/audit/1", talosDID + "2/audit/1",
		strings.Replace(talosDID, "talos", "key", 1) + "/audit/1", strings.Replace(keyDID, "key", "talos", 1) + "/audit/1",
		strings.Replace(talosDID, "W", "0", 1) + "/audit/1", strings.Replace(talosDID, ":z", ":z1", 1) + "/audit/1",
	} {
		if o, err := anchor.ParseOrigin(bad); err == nil {
			t.Errorf("%s: read as %+v", bad, o)
		}
	}
}
