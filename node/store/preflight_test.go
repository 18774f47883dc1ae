package store_test

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/dgraph-io/badger/v4"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/node/store"
)

// The store of the damage tests: transaction i sets the row "seq" to i and writes or
// deletes a few of these rows, so that i says what all rows are.
const damageRows = 211

func damageKey(i int) []byte { return fmt.Appendf(nil, "row %03d", i) }

// changes gives what transaction i does: key to value, nil for a deletion.
func changes(i uint64) map[int][]byte {
	rnd := rand.New(rand.NewPCG(i, 7))
	out := map[int][]byte{}
	for range 1 + rnd.IntN(4) {
		v := make([]byte, rnd.IntN(700))
		for j := range v {
			v[j] = byte(rnd.Uint32())
		}
		if rnd.IntN(8) == 0 {
			v = nil
		}
		out[rnd.IntN(damageRows)] = v
	}
	return out
}

func advance(t testing.TB, s *store.Store, from, to uint64) {
	t.Helper()
	for i := from + 1; i <= to; i++ {
		err := s.Update(t.Context(), func(tx *store.Tx) error {
			tx.Put([]byte("seq"), binary.BigEndian.AppendUint64(nil, i))
			for k, v := range changes(i) {
				if v == nil {
					tx.Delete(damageKey(k))
				} else {
					tx.Put(damageKey(k), v)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// state reads a store and gives how many transactions made it what it is; an error if
// no number did.
func state(s *store.Store) (seq uint64, err error) {
	rows := map[string][]byte{}
	err = s.View(func(r *store.Reader) error {
		if b := r.Get([]byte("seq")); len(b) == 8 {
			seq = binary.BigEndian.Uint64(b)
		}
		return r.Scan([]byte("row "), nil, func(k, v []byte) bool { rows[string(k)] = v; return true })
	})
	want := map[string][]byte{}
	for i := uint64(1); i <= seq; i++ {
		for k, v := range changes(i) {
			if want[string(damageKey(k))] = v; v == nil {
				delete(want, string(damageKey(k)))
			}
		}
	}
	if len(rows) != len(want) {
		err = fmt.Errorf("%d rows after %d transactions, want %d", len(rows), seq, len(want))
	}
	for k, v := range want {
		if !bytes.Equal(rows[k], v) {
			err = fmt.Errorf("%s is not what %d transactions made it", k, seq)
		}
	}
	return seq, err
}

// levelled makes a store with tables on several levels and gives how many
// transactions it has seen: many small tables, which badger then joins in its own
// time, and two more.
func levelled(t testing.TB, dir string) (seq uint64) {
	t.Helper()
	table := func(wait func() bool) {
		s, err := store.Open(dir, store.Options{Key: key})
		if err != nil {
			t.Fatal(err)
		}
		advance(t, s, seq, seq+50)
		seq += 50
		for deadline := time.Now().Add(60 * time.Second); !wait(); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("the tables do not spread over levels")
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for range 8 {
		table(func() bool { return true })
	}
	table(func() bool { return levels(t, dir)[0] < 5 })
	for range 2 {
		table(func() bool { return true })
	}
	t.Logf("tables by level: %v", levels(t, dir))
	return seq
}

// levels counts the tables of each level.
func levels(t testing.TB, dir string) map[uint8]int {
	t.Helper()
	f, err := os.Open(filepath.Join(dir, "badger", "MANIFEST"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() //nolint:errcheck // read only
	m, _, err := badger.ReplayManifestFile(f, 0, badger.Options{})
	if err != nil {
		t.Fatal(err)
	}
	out := map[uint8]int{}
	for _, tb := range m.Tables {
		out[tb.Level]++
	}
	return out
}

// crashed copies a store as a crash would leave it, with 50 transactions in a log
// alone. The zeros at the end of its files are left out, but for a few.
func crashed(t testing.TB, from, to string, seq uint64) uint64 {
	t.Helper()
	s, err := store.Open(from, store.Options{Key: key})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close() //nolint:errcheck // the copy is what counts
	advance(t, s, seq, seq+50)
	// A crash stops the disk at one moment; a copy takes a while. It is of one moment
	// if badger joined no tables meanwhile.
	manifest := func() []byte {
		b, err := os.ReadFile(filepath.Join(from, "badger", "MANIFEST"))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for {
		before := manifest()
		copyStore(t, from, to)
		if bytes.Equal(before, manifest()) {
			return seq + 50
		}
	}
}

func copyStore(t testing.TB, from, to string) {
	t.Helper()
	from, to = filepath.Join(from, "badger"), filepath.Join(to, "badger")
	if err := os.RemoveAll(to); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(to, 0o700); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(from)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(from, e.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue // a table that was joined into another just now
		}
		if err != nil {
			t.Fatal(err)
		}
		if end := len(bytes.TrimRight(b, "\x00")) + 5000; strings.HasSuffix(e.Name(), "mem") || strings.HasSuffix(e.Name(), "vlog") {
			b = b[:min(end, len(b))]
		}
		if err := os.WriteFile(filepath.Join(to, e.Name()), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// spoil damages one file of a store and says how.
func spoil(t testing.TB, dir string, rnd *rand.Rand) (file, what string) {
	t.Helper()
	all, _ := filepath.Glob(filepath.Join(dir, "badger", "*"))
	var files []string
	for _, f := range all {
		if st, err := os.Stat(f); err == nil && st.Size() > 0 {
			files = append(files, f)
		}
	}
	path := files[rnd.IntN(len(files))]
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	at, n := rnd.IntN(len(b)), 1+rnd.IntN(2000)
	switch rnd.IntN(8) {
	case 0:
		what, b = fmt.Sprintf("cut at %d", at), b[:at]
	case 1:
		what = fmt.Sprintf("zeros from %d to %d", at, min(len(b), at+n))
		clear(b[at:min(len(b), at+n)])
	case 2:
		what = "deleted"
	default:
		what = fmt.Sprintf("byte %d flipped", at)
		b[at] ^= byte(1 + rnd.IntN(255))
	}
	if what == "deleted" {
		err = os.Remove(path)
	} else {
		err = os.WriteFile(path, b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Base(path), fmt.Sprintf("%s %s of %d", filepath.Base(path), what, len(b))
}

// Whatever is damaged in whichever file, a store opens with all rows, or with all that
// were written before some transaction of its newest log, or says which file is
// damaged. The process never panics: badger would, in goroutines of its own, so the
// stores are opened by a process that this one watches.
func TestADamagedFileIsNamedAndNeverPanics(t *testing.T) {
	rounds := 400
	if testing.Short() {
		rounds = 40
	}
	clean, open := t.TempDir(), t.TempDir()
	seq := levelled(t, clean)
	crash := crashed(t, clean, open, seq)
	if err := os.RemoveAll(clean); err != nil {
		t.Fatal(err)
	}
	// What the crash left, opened and closed in peace, is the clean store.
	copyStore(t, open, clean)
	s, err := store.Open(clean, store.Options{Key: key})
	if err != nil {
		t.Fatal(err)
	}
	if n, err := state(s); err != nil || n != crash {
		t.Fatalf("after a crash: %d of %d transactions, %v", n, crash, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	counts := map[string]int{}
	for i, image := range []string{clean, open} {
		damageAll(t, image, crash, i*rounds/2, (i+1)*rounds/2, counts)
	}
	t.Logf("%d damages: %v", rounds, counts)
}

// damageAll runs the child over a range of seeds, again after each that kills it.
func damageAll(t *testing.T, image string, seq uint64, from, to int, counts map[string]int) {
	t.Helper()
	for from < to {
		cmd := exec.Command(os.Args[0], "-test.run=^TestDamageChild$", "-test.timeout=300s")
		cmd.Env = append(os.Environ(), "TALOS_DAMAGE="+fmt.Sprint(image, " ", seq, " ", from, " ", to))
		out, err := cmd.CombinedOutput()
		last := ""
		for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); {
			switch verb, rest, _ := strings.Cut(lines.Text(), ": "); verb {
			case "begin":
				last, from = rest, from+1
			case "end":
				counts[rest]++
				last = ""
			case "wrong":
				t.Error(rest)
			}
		}
		if err == nil {
			return
		}
		if last == "" {
			t.Fatalf("the child: %v\n%s", err, out)
		}
		t.Errorf("the process died: %s: %v\n%.3000s", last, err, out)
		counts["died"]++
	}
}

// TestDamageChild is the process that opens damaged stores.
func TestDamageChild(t *testing.T) {
	args := strings.Fields(os.Getenv("TALOS_DAMAGE"))
	if len(args) != 4 {
		t.Skip("a part of TestADamagedFileIsNamedAndNeverPanics")
	}
	want, _ := strconv.ParseUint(args[1], 10, 64)
	from, _ := strconv.Atoi(args[2])
	to, _ := strconv.Atoi(args[3])
	dir := t.TempDir()
	for seed := from; seed < to; seed++ {
		copyStore(t, args[0], dir)
		file, what := spoil(t, dir, rand.New(rand.NewPCG(uint64(seed), 1)))
		fmt.Printf("begin: seed %d: %s\n", seed, what)
		verdict, err := openSpoilt(dir, file, want)
		if err != nil {
			fmt.Printf("wrong: seed %d: %s: %v\n", seed, what, err)
		}
		fmt.Println("end: " + verdict)
	}
}

// openSpoilt opens, reads, writes and closes a damaged store.
func openSpoilt(dir, file string, want uint64) (string, error) {
	s, err := store.Open(dir, store.Options{Key: key})
	if err != nil {
		if contracts.CodeOf(err) != contracts.StorageCorrupt || !strings.Contains(err.Error(), filepath.Join(dir, "badger")) {
			return "an error", err
		}
		if !strings.Contains(err.Error(), file) && file != "MANIFEST" {
			return "an error", fmt.Errorf("%s is not named: %w", file, err)
		}
		return "refused", nil
	}
	defer s.Close() //nolint:errcheck // it may have failed
	n, err := state(s)
	switch {
	case err != nil:
		return "wrong rows", err
	case n == want:
		return "all there", nil
	case n < want && filepath.Ext(file) == ".mem":
		return "shorter", nil
	}
	return "wrong rows", fmt.Errorf("%d of %d transactions", n, want)
}
