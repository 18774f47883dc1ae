package anchortest_test

import (
	"testing"

	"github.com/talosprotocol/talos/anchor/anchortest"
	"github.com/talosprotocol/talos/anchor/auditlog"
	"github.com/talosprotocol/talos/anchor/witness"
)

func TestMemoryBackend(t *testing.T) {
	anchortest.TestBackend(t, func(t *testing.T) auditlog.Backend { return anchortest.NewDisk(t).Open() })
	anchortest.TestBackendReopen(t, func(t *testing.T) (auditlog.Backend, func() auditlog.Backend) {
		d := anchortest.NewDisk(t)
		return d.Open(), d.Open
	})
}

func TestMemoryHeadFile(t *testing.T) {
	anchortest.TestHeadFile(t, func(*testing.T) (auditlog.HeadFile, func() auditlog.HeadFile) {
		c := new(anchortest.HeadCell)
		return c, func() auditlog.HeadFile { return c }
	})
}

func TestMemoryWitnessStore(t *testing.T) {
	anchortest.TestWitnessStore(t, func(*testing.T) witness.Store { return new(anchortest.WitnessDB) })
}
