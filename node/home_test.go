package node_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/talosprotocol/talos/identity"
	"github.com/talosprotocol/talos/node"
)

// A crash in the middle of a rotation leaves some files new and some old, in the
// order in which they are written: recovery keystore, keystore, identity. From each
// such state the home still signs, and can still be rotated.
func TestCrashInARotation(t *testing.T) {
	order := []string{"recovery.sealed", "keys.sealed", "identity.json"}
	for _, compromised := range []bool{false, true} {
		for written := range len(order) + 1 {
			h := initHome(t, node.InitOptions{})
			did := h.DID()
			before := map[string][]byte{}
			for _, f := range order {
				b, err := os.ReadFile(filepath.Join(h.Dir, f))
				if err != nil {
					t.Fatal(err)
				}
				before[f] = b
			}
			if err := h.Rotate("", compromised, time.Now()); err != nil {
				t.Fatal(err)
			}
			for _, f := range order[written:] {
				if err := os.WriteFile(filepath.Join(h.Dir, f), before[f], 0o600); err != nil {
					t.Fatal(err)
				}
			}
			again, err := node.OpenHome(h.Dir)
			if err != nil {
				t.Fatal(err)
			}
			if err := again.Resign(nil, time.Now()); err != nil {
				t.Errorf("%d of 3 files written: signing: %v", written, err)
			}
			if err := again.Rotate("", false, time.Now()); err != nil {
				t.Errorf("%d of 3 files written: rotating: %v", written, err)
			}
			if again.DID() != did {
				t.Error("the DID changed")
			}
			if _, err := identity.VerifyState(again.State.Raw); err != nil {
				t.Error(err)
			}
		}
	}
}
