package anchor_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"strings"
	"testing"

	"github.com/gowebpki/jcs"
	"pgregory.net/rapid"

	"github.com/talosprotocol/talos/anchor"
	"github.com/talosprotocol/talos/contracts"
)

func drawEvent(t *rapid.T) *contracts.AuditEvent {
	ev := anchor.NewEvent(rapid.SampledFrom([]string{"intent", "result", "gap", "message_in"}).Draw(t, "type"), keyDID, epoch, [10]byte(rapid.SliceOfN(rapid.Byte(), 10, 10).Draw(t, "id")))
	ev.Surface = rapid.SampledFrom([]string{"", "llm:chat", "http:/v1/{id}"}).Draw(t, "surface")
	ev.Outcome = rapid.SampledFrom([]string{"", "ok", "error"}).Draw(t, "outcome")
	if rapid.Bool().Draw(t, "has seq") {
		n := rapid.Int64Range(0, 1<<53-1).Draw(t, "seq")
		ev.SenderSeq = &n
	}
	if rapid.Bool().Draw(t, "has risk") {
		b := rapid.Bool().Draw(t, "risk")
		ev.HighRisk = &b
	}
	if rapid.Bool().Draw(t, "has peer") {
		ev.Peer, ev.CiphertextHash = talosDID, anchor.EncodeHash(anchor.Hash(rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "hash")))
	}
	return ev
}

// TestEventIsCanonical compares our encoder with an independent RFC 8785, and reads
// back what it wrote. AUD-1.
func TestEventIsCanonical(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ev := drawEvent(t)
		got, err := anchor.EncodeEvent(ev)
		if err != nil {
			t.Fatal(err)
		}
		want, err := jcs.Transform(got)
		if err != nil || string(want) != string(got) {
			t.Fatalf("%s is not canonical: %v", got, err)
		}
		back, err := anchor.DecodeEvent(got)
		if err != nil {
			t.Fatal(err)
		}
		again, _ := anchor.EncodeEvent(back)
		if string(again) != string(got) {
			t.Fatalf("read back as %s", again)
		}
	})
}

// TestEventRefusals: what is not of the schema has no encoding. AUD-1.
func TestEventRefusals(t *testing.T) {
	ok := anchor.NewEvent("noop", keyDID, epoch, [10]byte{})
	text, err := anchor.EncodeEvent(ok)
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(string) string{
		"content":         func(s string) string { return strings.Replace(s, `"v":`, `"prompt":"hello","v":`, 1) },
		"unknown type":    func(s string) string { return strings.Replace(s, "noop", "noup", 1) },
		"space":           func(s string) string { return strings.Replace(s, `":"`, `": "`, 1) },
		"31 June":         func(s string) string { return strings.Replace(s, "2026-11-23", "2026-06-31", 1) },
		"twice":           func(s string) string { return strings.Replace(s, `{`, `{"v":"talos-audit/1",`, 1) },
		"another version": func(s string) string { return strings.Replace(s, "talos-audit/1", "talos-audit/2", 1) },
		"null":            func(s string) string { return strings.Replace(s, `"v":`, `"peer":null,"v":`, 1) },
	} {
		bad := change(string(text))
		if _, err := anchor.DecodeEvent([]byte(bad)); err == nil || bad == string(text) {
			t.Errorf("%s: accepted %s", name, bad)
		}
	}
}

// TestEveryTypeHasAByte: the types of the schema and those of leaf data are the
// same, and no byte stands twice. AUD-4.
func TestEveryTypeHasAByte(t *testing.T) {
	seen := map[byte]string{}
	for _, typ := range strings.Fields(`intent result denied message_out message_in session_open session_accept
		session_rotate session_close group_change cap_grant cap_revoke peer_head key_rotate recovered gap erase noop
		approval receipt node_start node_stop config_change equivocation`) {
		b, ok := anchor.EventType(typ)
		if !ok || b == 0 || seen[b] != "" || int(b) != len(seen)+1 {
			t.Errorf("type %s has the byte %d, which is %q", typ, b, seen[b])
		}
		seen[b] = typ
		if err := anchor.NewEvent(typ, keyDID, epoch, [10]byte{}).Validate(); err != nil {
			t.Errorf("the schema does not know %s: %v", typ, err)
		}
	}
}

// TestLeafLayout compares the 42 bytes with crypto/hmac. AUD-2.
func TestLeafLayout(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		event := rapid.SliceOfN(rapid.Byte(), 0, 3000).Draw(t, "event")
		salt := anchor.Salt(rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "salt"))
		index := rapid.Uint64().Draw(t, "index")
		leaf := anchor.Commit(7, index, &salt, event)
		m := hmac.New(sha256.New, salt[:])
		m.Write(event)
		want := append(append([]byte{1, 7}, be64(index)...), m.Sum(nil)...)
		if string(want) != string(leaf[:]) || leaf.Index() != index || leaf.Type() != 7 {
			t.Fatalf("leaf %x, want %x", leaf, want)
		}
		if leaf.Hash() != anchor.Hash(sha256.Sum256(append([]byte{0}, want...))) {
			t.Fatal("the leaf's hash is not of RFC 6962")
		}
		if err := leaf.Opens(&salt, event); err != nil {
			t.Fatal(err)
		}
		leaf[0] = 2
		wantCodeR(t, leaf.Opens(&salt, event), contracts.UnsupportedVersion)
	})
}

func wantCodeR(t *rapid.T, err error, code contracts.Code) {
	if contracts.CodeOf(err) != code {
		t.Fatalf("error %v, want %s", err, code)
	}
}

// TestRow38_DictionaryAttack guesses a million events of low entropy: without the
// salt none can be told from the leaf. AUD-3.
func TestRow38_DictionaryAttack(t *testing.T) {
	event := []byte("approve:no")
	var salt anchor.Salt
	copy(salt[:], seed("salt"))
	leaf := anchor.Commit(1, 0, &salt, event)
	var guess anchor.Salt
	hits := 0
	guesses := 1_000_000
	if testing.Short() {
		guesses = 50_000
	}
	for i := range guesses {
		copy(guess[:], be64(uint64(i/2)))
		candidate := event
		if i%2 == 1 {
			candidate = []byte("approve:yes")
		}
		if leaf == anchor.Commit(1, 0, &guess, candidate) {
			hits++
		}
	}
	if hits != 0 {
		t.Errorf("%d hits", hits)
	}
	// The same event twice in one log has leaves that show nothing of it.
	salt2 := salt
	salt2[0]++
	if a, b := anchor.Commit(1, 0, &salt, event), anchor.Commit(1, 0, &salt2, event); a == b {
		t.Error("two salts, one leaf")
	}
}
