package store

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/talosprotocol/talos/contracts"
)

// crashLog makes a store whose newest log holds n transactions of about 1 KiB and
// gives its directory as a crash would leave it, the log, and where each transaction
// in it ends; ends[0] is where the first begins.
func crashLog(t *testing.T, n int) (dir, path string, b []byte, ends []int) {
	t.Helper()
	home := t.TempDir()
	s, err := Open(home, Options{Key: make([]byte, 32)})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close() //nolint:errcheck // the copy is what counts
	for i := range n {
		err := s.Update(t.Context(), func(tx *Tx) error {
			tx.Put(fmt.Appendf(nil, "row %d", i), []byte{byte(i)})
			tx.Put([]byte("big"), []byte(fmt.Sprintf("%01000d", i+1e6)))
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	dir = t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(filepath.Join(home, "badger"))); err != nil {
		t.Fatal(err)
	}
	logs, _ := filepath.Glob(filepath.Join(dir, "*.mem"))
	if len(logs) != 1 {
		t.Fatalf("logs %v", logs)
	}
	path = logs[0]
	if b, err = os.ReadFile(path); err != nil {
		t.Fatal(err)
	}
	ends = []int{logHeader}
	for at := logHeader; ; {
		r, ok := readRecord(b[at:])
		if !ok {
			return dir, path, b[:at+4096], ends
		}
		if at += r.size; r.flags&endsTxn != 0 {
			ends = append(ends, at)
		}
	}
}

// What a crash leaves at the end of a log is cut off; damage before the end, which
// looks alike to badger, is not.
func TestATornLogIsNoDamagedLog(t *testing.T) {
	dir, path, good, ends := crashLog(t, 20)
	last, before := ends[len(ends)-1], ends[len(ends)-2]
	middle := ends[10]
	sector := (before + sectorSize) / sectorSize * sectorSize // within the last transaction
	for name, c := range map[string]struct {
		spoil func(b []byte) []byte
		end   int // where the log is cut; 0: it is refused
	}{
		"intact":                       {func(b []byte) []byte { return b }, last},
		"cut in the last":              {func(b []byte) []byte { return b[:last-7] }, before},
		"last without its end":         {func(b []byte) []byte { clear(b[last-20:]); return b }, before},
		"a sector of the last is lost": {func(b []byte) []byte { clear(b[sector : sector+sectorSize]); return b }, before},
		"its first bytes are lost":     {func(b []byte) []byte { clear(b[before:sector]); return b }, before},
		"garbage after the last":       {func(b []byte) []byte { b[last+3] = 9; return b }, last},
		"lengths of gigabytes":         {func(b []byte) []byte { copy(b[last:], "\x40\x00\x08\xff\xff\xff\xff\x0f"); return b }, last},
		"a byte of the last":           {func(b []byte) []byte { b[before+300] ^= 1; return b }, 0},
		"a byte in the middle":         {func(b []byte) []byte { b[middle+300] ^= 1; return b }, 0},
		"a length in the middle":       {func(b []byte) []byte { b[middle+3] ^= 0x80; return b }, 0},
		"a sector in the middle":       {func(b []byte) []byte { clear(b[middle+100 : middle+1500]); return b }, 0},
		"the number of a key":          {func(b []byte) []byte { b[3] = 1; return b }, 0},
		"too short":                    {func(b []byte) []byte { return b[:11] }, 0},
	} {
		b := c.spoil(append([]byte{}, good...))
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		err := checkTables(dir)
		left, _ := os.ReadFile(path)
		if c.end == 0 {
			if contracts.CodeOf(err) != contracts.StorageCorrupt || len(left) != len(b) {
				t.Errorf("%s: %v, %d bytes of %d left", name, err, len(left), len(b))
			}
			continue
		}
		l := &logFile{}
		if l.scan(left); err != nil || l.end != int64(c.end) {
			t.Errorf("%s: %v, ends at %d, want %d", name, err, l.end, c.end)
		}
	}
}

// A log that lost its end is found out by the one after it.
func TestLogsFollowEachOther(t *testing.T) {
	dir, path, b, ends := crashLog(t, 20)
	next := filepath.Join(dir, "00099.mem")
	write := func(upTo, from int) {
		t.Helper()
		second := append(append([]byte{}, b[:logHeader]...), b[ends[from]:]...)
		if err := os.WriteFile(path, b[:upTo], 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(next, second, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(ends[10], 10)
	if err := checkTables(dir); err != nil {
		t.Errorf("two logs: %v", err)
	}
	write(ends[9], 10)
	if err := checkTables(dir); contracts.CodeOf(err) != contracts.StorageCorrupt {
		t.Errorf("a transaction is missing between them: %v", err)
	}
	write(ends[10]-9, 10)
	if err := checkTables(dir); contracts.CodeOf(err) != contracts.StorageCorrupt {
		t.Errorf("the first is cut: %v", err)
	}
}

// A table that the manifest does not name is a crash's leftover if all in it is
// elsewhere too; else the manifest was cut. A half-written one is a leftover.
func TestATableOutsideTheManifest(t *testing.T) {
	home := t.TempDir()
	dir := filepath.Join(home, "badger")
	for range 3 {
		s, err := Open(home, Options{Key: make([]byte, 32)})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	tables, _ := filepath.Glob(filepath.Join(dir, "*.sst"))
	if len(tables) != 3 {
		t.Fatalf("tables %v", tables)
	}
	b, err := os.ReadFile(tables[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, half := range [][]byte{b, b[:len(b)/2]} {
		if err := os.WriteFile(filepath.Join(dir, "000999.sst"), half, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := checkTables(dir); err != nil {
			t.Errorf("a leftover of %d bytes: %v", len(half), err)
		}
	}
	if err := os.Remove(filepath.Join(dir, "000999.sst")); err != nil {
		t.Fatal(err)
	}
	manifest := filepath.Join(dir, manifestFile)
	m, err := os.ReadFile(manifest)
	if err != nil {
		t.Fatal(err)
	}
	for _, cut := range []int{1, len(m) / 4, len(m) / 2} {
		if err := os.WriteFile(manifest, m[:len(m)-cut], 0o600); err != nil {
			t.Fatal(err)
		}
		if err := checkTables(dir); contracts.CodeOf(err) != contracts.StorageCorrupt {
			t.Errorf("a manifest without its last %d bytes: %v", cut, err)
		}
	}
	if err := os.Remove(manifest); err != nil {
		t.Fatal(err)
	}
	if err := checkTables(dir); contracts.CodeOf(err) != contracts.StorageCorrupt {
		t.Errorf("no manifest: %v", err)
	}
}

// The store is not read while another process writes it.
func TestPreflightWaitsForNobody(t *testing.T) {
	dir := t.TempDir()
	unlock, err := lockDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := checkTables(dir); contracts.CodeOf(err) != contracts.Busy {
		t.Errorf("a locked directory: %v", err)
	}
	unlock()
	if err := checkTables(dir); err != nil {
		t.Error(err)
	}
}

// BenchmarkPreflight reads a store of some 100 MB, from the page cache.
func BenchmarkPreflight(b *testing.B) {
	home := b.TempDir()
	s, err := Open(home, Options{Key: make([]byte, 32)})
	if err != nil {
		b.Fatal(err)
	}
	value := make([]byte, 4000)
	for i := range 250 {
		err := s.Update(b.Context(), func(tx *Tx) error {
			for j := range 100 {
				tx.Put(fmt.Appendf(nil, "row %d %d", i, j), append([]byte{byte(i), byte(j)}, value...))
			}
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
	var size int64
	dir := filepath.Join(home, "badger")
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if in, err := e.Info(); err == nil {
			size += in.Size()
		}
	}
	b.SetBytes(size)
	for b.Loop() {
		if err := checkTables(dir); err != nil {
			b.Fatal(err)
		}
	}
}
