package evidence_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/talosprotocol/talos/anchor"
	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/node/store"
)

// Row 12: a disk that fills up refuses what must be recorded, kills nothing, and once
// there is space the log goes on and says how many events are missing. AUD-13. Here the
// measure of space is the test's; TestRow12_FullFilesystem has a real one.
func TestRow12_DiskFull(t *testing.T) {
	var left atomic.Uint64
	left.Store(1 << 30)
	fillUp(t, t.TempDir(), func() (uint64, error) { return left.Load(), nil },
		func(to uint64) { left.Store(to) })
}

// TestRow12_FullFilesystem does the same on a small file system in memory, mounted in
// a user namespace: no privilege is needed, but the system has to allow such.
func TestRow12_FullFilesystem(t *testing.T) {
	if dir := os.Getenv("TALOS_SMALL_DISK"); dir != "" {
		free := func() (uint64, error) { return store.FreeBytes(dir) }
		fillUp(t, filepath.Join(dir, "home"), free, func(to uint64) { leave(t, dir, to) })
		fmt.Println("it came to the end")
		return
	}
	dir := t.TempDir()
	mount := `mount -t tmpfs -o size=256m tmpfs "$TALOS_SMALL_DISK" && mkdir "$TALOS_SMALL_DISK/home" || exit 77; exec "$0" "$@"`
	cmd := exec.Command("unshare", "-Urm", "sh", "-c", mount, os.Args[0], "-test.run=^TestRow12_FullFilesystem$", "-test.v")
	cmd.Env = append(os.Environ(), "TALOS_SMALL_DISK="+dir)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	switch {
	case errors.Is(err, exec.ErrNotFound), errors.As(err, &exit) && (exit.ExitCode() == 77 || len(out) > 0 && !hasTestOutput(out)):
		t.Skipf("no file system can be mounted here (%v): %.300s", err, out)
	case err != nil, !bytes.Contains(out, []byte("it came to the end")):
		t.Errorf("%v\n%s", err, out)
	}
}

// hasTestOutput tells a test that failed from a system that refused to start one.
func hasTestOutput(out []byte) bool {
	return len(out) > 8 && string(out[:8]) == "=== RUN "
}

// leave fills a file system until no more than so many bytes are free, or empties it.
func leave(t *testing.T, dir string, to uint64) {
	t.Helper()
	path := filepath.Join(dir, "filler")
	_ = os.Remove(path)
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() //nolint:errcheck // a test
	chunk := make([]byte, 64<<10)
	for {
		n, err := store.FreeBytes(dir)
		if err != nil {
			t.Fatal(err)
		}
		if n <= to {
			return
		}
		if _, err := f.Write(chunk[:min(uint64(len(chunk)), n-to)]); errors.Is(err, syscall.ENOSPC) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

// fillUp takes a log through a full disk. set brings the free space down to a number
// of bytes, or up again.
func fillUp(t *testing.T, dir string, free func() (uint64, error), set func(uint64)) {
	seed := make([]byte, ed25519.SeedSize)
	_, _ = rand.Read(seed)
	h := logHome{dir: dir, key: anchor.Key(ed25519.NewKeyFromSeed(seed)), free: free}
	did := newDID(t)
	l, more, done, err := h.open(t, did)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := more(20); err != nil {
		t.Fatal(err)
	}
	full := func(what string, err error) {
		t.Helper()
		if contracts.CodeOf(err) != contracts.StorageFull {
			t.Errorf("%s on a full disk: %v", what, err)
		}
	}
	size, refused := l.Size(), int64(0)
	for _, left := range []uint64{store.Watermark - 1, 1 << 20, 0} {
		set(left)
		for range 5 {
			_, err := l.Append(t.Context(), anchor.NewEvent("intent", string(did), clock{}.Now(), [10]byte{byte(refused)}))
			full(fmt.Sprintf("an event with %d bytes left", left), err)
			refused++
		}
	}
	if l.Size() != size || l.Err() != nil {
		t.Errorf("size %d after %d, %v", l.Size(), size, l.Err())
	}
	set(1 << 29)
	if _, err := more(3); err != nil {
		t.Fatalf("with space again: %v", err)
	}
	gap, err := l.Entry(t.Context(), size)
	if err != nil {
		t.Fatal(err)
	}
	if ev, err := anchor.DecodeEvent(gap.Event); err != nil || ev.Type != "gap" || ev.Count == nil || *ev.Count != refused {
		t.Errorf("the entry after the full disk: %+v, %v; want a gap of %d", ev, err, refused)
	}
	done()
	h.otherTables(t, set, full)
	if _, more, done, err = h.open(t, did); err != nil {
		t.Fatalf("after it was full: %v", err)
	}
	defer done()
	if _, err := more(3); err != nil {
		t.Error(err)
	}
}

// otherTables finds that the other tables of a store refuse as the log does, that a
// full store does not open, and that closing a full one loses nothing.
func (h logHome) otherTables(t *testing.T, set func(uint64), full func(string, error)) {
	t.Helper()
	dir, o := filepath.Join(h.dir, "store"), store.Options{Key: make([]byte, 32), FreeBytes: func(string) (uint64, error) { return h.free() }}
	st, err := store.Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	if err := st.Table().Put(ctx, []byte("before"), []byte("1")); err != nil {
		t.Fatal(err)
	}
	set(store.Watermark / 2)
	full("a row", st.Table().Put(ctx, []byte("row"), []byte("1")))
	full("a witness's record", st.Witness().Swap(ctx, "origin", nil, []byte("1")))
	if b, err := st.Table().Get([]byte("before")); err != nil || string(b) != "1" {
		t.Errorf("reading on a full disk: %q, %v", b, err)
	}
	full("closing", st.Close()) // it cannot say that it ended well
	_, err = store.Open(dir, o)
	full("opening", err)
	set(1 << 29)
	if st, err = store.Open(dir, o); err != nil {
		t.Fatal(err)
	}
	defer st.Close() //nolint:errcheck // a test
	if b, err := st.Table().Get([]byte("before")); err != nil || string(b) != "1" || !st.Unclean() {
		t.Errorf("after it was full: %q, %v, unclean %v", b, err, st.Unclean())
	}
}
