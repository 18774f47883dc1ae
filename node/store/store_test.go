package store_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/node/store"
)

var key = make([]byte, 32)

func open(t testing.TB, dir string) *store.Store {
	t.Helper()
	s, err := store.Open(dir, store.Options{Key: key})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func put(t testing.TB, s *store.Store, k, v string) {
	t.Helper()
	if err := s.Update(t.Context(), func(tx *store.Tx) error { tx.Put([]byte(k), []byte(v)); return nil }); err != nil {
		t.Fatal(err)
	}
}

func read(t testing.TB, s *store.Store, k string) (v []byte) {
	t.Helper()
	if err := s.View(func(r *store.Reader) error { v = r.Get([]byte(k)); return r.Err() }); err != nil {
		t.Fatal(err)
	}
	return v
}

func TestAFailedFunctionLeavesNothing(t *testing.T) {
	s := open(t, t.TempDir())
	boom := errors.New("boom")
	for name, f := range map[string]func(*store.Tx) error{
		"error": func(tx *store.Tx) error { tx.Put([]byte("a"), []byte("1")); return boom },
		"panic": func(tx *store.Tx) error { tx.Put([]byte("a"), []byte("1")); panic("boom") },
	} {
		if err := s.Update(t.Context(), f); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if v := read(t, s, "a"); v != nil {
		t.Errorf("row is %q, want none", v)
	}
	put(t, s, "a", "2") // the store still works
}

func TestConcurrentUpdatesSeeEachOther(t *testing.T) {
	s := open(t, t.TempDir())
	const n = 500
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			err := s.Update(context.Background(), func(tx *store.Tx) error {
				tx.Put([]byte("n"), append([]byte{'x'}, tx.Get([]byte("n"))...))
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := len(read(t, s, "n")); got != n {
		t.Errorf("%d increments, want %d", got, n)
	}
}

func TestAGroupLargerThanATransaction(t *testing.T) {
	s := open(t, t.TempDir())
	var wg sync.WaitGroup
	big := make([]byte, 100<<10)
	for i := range 200 {
		wg.Go(func() {
			if err := s.Update(context.Background(), func(tx *store.Tx) error {
				tx.Put(fmt.Appendf(nil, "b%03d", i), big)
				return nil
			}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	n := 0
	_ = s.View(func(r *store.Reader) error {
		return r.Scan([]byte("b"), nil, func(_, _ []byte) bool { n++; return true })
	})
	if n != 200 {
		t.Errorf("%d rows, want 200", n)
	}
	err := s.Update(t.Context(), func(tx *store.Tx) error { tx.Put([]byte("huge"), make([]byte, 64<<20)); return nil })
	if contracts.CodeOf(err) != contracts.TooLarge {
		t.Errorf("a row of 64 MiB: %v, want TOO_LARGE", err)
	}
}

func TestScanIsInOrderAndExclusive(t *testing.T) {
	s := open(t, t.TempDir())
	for _, k := range []string{"p2", "p1", "p3", "q1"} {
		put(t, s, k, k)
	}
	var got []string
	_ = s.View(func(r *store.Reader) error {
		return r.Scan([]byte("p"), []byte("p1"), func(k, _ []byte) bool { got = append(got, string(k)); return true })
	})
	if fmt.Sprint(got) != "[p2 p3]" {
		t.Errorf("scan after p1: %v", got)
	}
}

func TestSealedRowsCannotBeReadOrSwapped(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	secret := "the secret that must not be on the disk"
	err := s.Update(t.Context(), func(tx *store.Tx) error {
		tx.PutSealed([]byte("a"), []byte(secret))
		tx.PutSealed([]byte("b"), []byte("other"))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	// E5: the value of one row under the key of another.
	if err := s.Update(t.Context(), func(tx *store.Tx) error { tx.Put([]byte("b"), tx.Get([]byte("a"))); return nil }); err != nil {
		t.Fatal(err)
	}
	_ = s.View(func(r *store.Reader) error {
		if v, err := r.GetSealed([]byte("a")); err != nil || string(v) != secret {
			t.Errorf("row a: %q, %v", v, err)
		}
		if _, err := r.GetSealed([]byte("b")); contracts.CodeOf(err) != contracts.StorageCorrupt {
			t.Errorf("swapped row: %v, want STORAGE_CORRUPT", err)
		}
		return nil
	})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	files, _ := filepath.Glob(filepath.Join(dir, "badger", "*"))
	for _, f := range files {
		if b, _ := os.ReadFile(f); len(b) > 0 && contains(b, secret) {
			t.Errorf("%s holds the secret", filepath.Base(f))
		}
	}
}

func contains(b []byte, s string) bool {
	for i := range len(b) - len(s) + 1 {
		if string(b[i:i+len(s)]) == s {
			return true
		}
	}
	return false
}

func TestSecondOpenerIsRefused(t *testing.T) {
	dir := t.TempDir()
	open(t, dir)
	if _, err := store.Open(dir, store.Options{Key: key}); contracts.CodeOf(err) != contracts.Busy {
		t.Errorf("second open: %v, want BUSY", err)
	}
}

func TestCleanAndUncleanStarts(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	if s.Unclean() || s.Generation() != 1 {
		t.Errorf("new store: unclean %v, generation %d", s.Unclean(), s.Generation())
	}
	id := s.ID()
	_ = s.Close()
	s = open(t, dir)
	if s.Unclean() || s.Generation() != 2 || s.ID() != id {
		t.Errorf("after Close: unclean %v, generation %d", s.Unclean(), s.Generation())
	}
	copied := t.TempDir() // a copy of the files of a running store is what kill -9 leaves
	if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	_ = os.Remove(filepath.Join(copied, "badger", "LOCK"))
	if s := open(t, copied); !s.Unclean() {
		t.Error("after a crash the store calls itself clean")
	}
}

func TestFullDiskIsAnErrorAndPasses(t *testing.T) {
	free := uint64(1 << 40)
	var mu sync.Mutex
	s, err := store.Open(t.TempDir(), store.Options{Key: key, FreeBytes: func(string) (uint64, error) {
		mu.Lock()
		defer mu.Unlock()
		return free, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close() //nolint:errcheck // test
	set := func(n uint64) { mu.Lock(); free = n; mu.Unlock() }
	set(1 << 20)
	err = s.Update(t.Context(), func(tx *store.Tx) error { tx.Put([]byte("a"), nil); return nil })
	if contracts.CodeOf(err) != contracts.StorageFull {
		t.Errorf("write on a full disk: %v, want STORAGE_FULL", err)
	}
	set(1 << 40)
	put(t, s, "a", "1")
}

func TestDamagedTablesDoNotPanic(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	for i := range 100 {
		put(t, s, fmt.Sprintf("k%03d", i), "value")
	}
	_ = s.Close()
	tables, _ := filepath.Glob(filepath.Join(dir, "badger", "*.sst"))
	if len(tables) == 0 {
		t.Fatal("no table file to damage")
	}
	for _, f := range tables {
		b, _ := os.ReadFile(f)
		for i := range b {
			b[i] ^= 0x55
		}
		_ = os.WriteFile(f, b, 0o600)
	}
	if _, err := store.Open(dir, store.Options{Key: key}); contracts.CodeOf(err) != contracts.StorageCorrupt {
		t.Errorf("damaged tables: %v, want STORAGE_CORRUPT", err)
	}
}

func BenchmarkUpdate(b *testing.B) {
	for _, callers := range []int{1, 64, 512} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			s := open(b, b.TempDir())
			b.ReportAllocs()
			b.SetParallelism(max(callers/2, 1))
			value := make([]byte, 300)
			b.RunParallel(func(pb *testing.PB) {
				k := fmt.Appendf(nil, "%p", pb)
				for pb.Next() {
					if err := s.Update(context.Background(), func(tx *store.Tx) error { tx.Put(k, value); return nil }); err != nil {
						b.Error(err)
					}
				}
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "writes/s")
		})
	}
}
