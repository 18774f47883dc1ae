package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/talosprotocol/talos/anchor"
	"github.com/talosprotocol/talos/node/api"
)

// Row 42: talos audit cross lists a message that one side has logged and the other has
// not, from what audit list --json prints, pages and indentation included.
func TestRow42_AuditCross(t *testing.T) {
	const a, b = "did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK", "did:key:z6MkpTHR8VNsBxYAAWHut2Geadd9jSwuBV8xRoAnwWsdvktH"
	write := func(owner, peer, typ string, numbers ...int64) string {
		var pages []byte
		for i, n := range numbers {
			ev := anchor.NewEvent(typ, owner, time.Now(), [10]byte{byte(n)})
			ev.Peer, ev.SenderSeq, ev.CiphertextHash = peer, &n, anchor.EncodeHash(anchor.Hash{byte(n)})
			raw, err := anchor.EncodeEvent(ev)
			if err != nil {
				t.Fatal(err)
			}
			page, _ := json.MarshalIndent(api.Events{Origin: owner + "/audit/1", Events: []api.Event{{Index: uint64(i), Event: raw}, {Index: 99}}}, "", "  ")
			pages = append(pages, page...)
		}
		path := filepath.Join(t.TempDir(), "log.json")
		if err := os.WriteFile(path, pages, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	sent := write(a, b, "message_out", 1, 2, 3)
	if out := ok(t, "audit", "cross", sent, write(b, a, "message_in", 3, 2, 1)); out != "" {
		t.Errorf("two logs that agree: %s", out)
	}
	r := talos(t, "audit", "cross", sent, write(b, a, "message_in", 1, 2, 3, 4))
	if r.code == 0 || !strings.Contains(r.out, b) || !strings.Contains(r.out, "#4") || strings.Count(r.out, "\n") != 1 {
		t.Errorf("exit %d: %s%s", r.code, r.out, r.err)
	}
	if r := talos(t, "audit", "cross", sent, filepath.Join(t.TempDir(), "none")); r.code == 0 {
		t.Error("a missing file")
	}
	bad := filepath.Join(t.TempDir(), "bad")
	if err := os.WriteFile(bad, []byte("garbage"), 0o600); err != nil {
		t.Fatal(err)
	}
	if r := talos(t, "audit", "cross", sent, bad); r.code == 0 {
		t.Error("a file of something else")
	}
}
