package evidence_test

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/talosprotocol/talos/anchor"
	"github.com/talosprotocol/talos/anchor/auditlog"
	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/node"
)

// Row 25: anchors are away and come back: events go on, and one proof each catches
// up over all that was signed meanwhile.
func TestRow25_AnchorsAwayAndBack(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	_ = l.Close()
	w := newWorld(t, 0, 0)
	home := initHome(t, node.InitOptions{Roles: []string{"anchor"}, Bootstrap: w.boot.Status().Addresses, Listen: []string{fmt.Sprintf("/ip4/127.0.0.1/tcp/%d", port)}})
	a := start(t, home)
	wait(t, "an anchor", func() bool { return a.Status().Ready })
	agent := start(t, w.agentHome(t, string(a.DID())))
	agent.record(t, 3, 1)
	if err := a.stop(); err != nil {
		t.Fatal(err)
	}
	before, _ := agent.Evidence().Witnessed()
	for range 4 { // each a head of its own
		agent.record(t, 10, 0)
		if _, err := agent.Evidence().Log().Checkpoint(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if now, _ := agent.Evidence().Witnessed(); now != before {
		t.Errorf("witnessed %d without an anchor", now)
	}
	start(t, home)
	begin := time.Now()
	agent.record(t, 1, 1)
	t.Logf("from %d to %d in %s", before, agent.Evidence().Log().Size(), time.Since(begin).Round(time.Millisecond))
	bundle, err := agent.Prove(t.Context(), before+5)
	if err != nil {
		t.Fatal(err)
	}
	parts, err := anchor.ReadBundle(bundle)
	if err != nil {
		t.Fatal(err)
	}
	if got := len(parts.Head.Cosignatures); got != 1 {
		t.Errorf("%d cosignatures on the event of the outage", got)
	}
}

func copyDir(t testing.TB, from, to string) {
	t.Helper()
	if err := os.RemoveAll(to); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	_ = filepath.WalkDir(to, func(p string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			return os.Chmod(p, 0o600) // a key that others may read is refused
		}
		return err
	})
}

func quarantined(m *member) *auditlog.Quarantine {
	var q *auditlog.Quarantine
	errors.As(m.Evidence().Log().Err(), &q)
	return q
}

// Row 4: a store that was restored from a backup is put in quarantine before any
// signature: by the head file, and if that was restored too, by the anchor. AUD-10.
func TestRow4_RestoredBackup(t *testing.T) {
	w := newWorld(t, 1, 1)
	agent := w.agents[0]
	agent.record(t, 3, 1)
	if err := agent.stop(); err != nil {
		t.Fatal(err)
	}
	backup := filepath.Join(t.TempDir(), "backup")
	copyDir(t, agent.home.Dir, backup)
	agent = start(t, agent.home)
	agent.record(t, 5, 1)
	if err := agent.stop(); err != nil {
		t.Fatal(err)
	}
	copyDir(t, filepath.Join(backup, "store"), filepath.Join(agent.home.Dir, "store"))
	agent = start(t, agent.home)
	if q := quarantined(agent); q == nil || q.Reason != "truncated" {
		t.Errorf("the store alone restored: %v", agent.Evidence().Log().Err())
	}
	if err := agent.stop(); err != nil {
		t.Fatal(err)
	}
	copyDir(t, filepath.Join(backup, "store"), filepath.Join(agent.home.Dir, "store"))
	heads, _ := filepath.Glob(filepath.Join(backup, "audit-head*"))
	if len(heads) != 1 {
		t.Fatalf("head files %v", heads)
	}
	old, err := os.ReadFile(heads[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(agent.home.Dir, filepath.Base(heads[0])), old, 0o600); err != nil {
		t.Fatal(err)
	}
	agent = start(t, agent.home)
	wait(t, "quarantine", func() bool { return quarantined(agent) != nil })
	if q := quarantined(agent); q.Reason != "rollback" {
		t.Errorf("store and head file restored: %v", q)
	}
	now, _ := os.ReadFile(filepath.Join(agent.home.Dir, filepath.Base(heads[0])))
	if !bytes.Equal(now, old) {
		t.Error("a head was signed on the restored store")
	}
	if _, err := agent.Evidence().Append(t.Context(), agent.Evidence().NewEvent("message_out")); contracts.CodeOf(err) != contracts.AuditQuarantined {
		t.Errorf("an event in quarantine: %v", err)
	}
	if s := agent.Status(); s.Ready || s.AuditErr == "" {
		t.Errorf("the node says it is well: %+v", s)
	}
}
