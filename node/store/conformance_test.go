package store_test

import (
	"testing"

	"github.com/talosprotocol/talos/anchor/anchortest"
	"github.com/talosprotocol/talos/anchor/auditlog"
	"github.com/talosprotocol/talos/anchor/witness"
)

func TestAuditBackend(t *testing.T) {
	anchortest.TestBackendReopen(t, func(t *testing.T) (auditlog.Backend, func() auditlog.Backend) {
		dir := t.TempDir()
		s := open(t, dir)
		return s.Audit(1), func() auditlog.Backend {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s = open(t, dir)
			return s.Audit(1)
		}
	})
}

func TestWitnessStore(t *testing.T) {
	anchortest.TestWitnessStore(t, func(t *testing.T) witness.Store { return open(t, t.TempDir()).Witness() })
}
