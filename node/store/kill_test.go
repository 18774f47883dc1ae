package store_test

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"github.com/talosprotocol/talos/node/store"
)

// A process that is killed while it writes, flushes and compacts leaves a store that
// opens, with all that was acknowledged: what a crash leaves behind is no damage.
func TestKilledWhileCompacting(t *testing.T) {
	if testing.Short() {
		t.Skip("kills processes")
	}
	rounds, err := strconv.Atoi(os.Getenv("TALOS_KILL_ROUNDS"))
	if err != nil {
		rounds = 3
	}
	dir := t.TempDir()
	last := uint64(0)
	for range rounds {
		child := exec.Command(os.Args[0], "-test.run", "^TestKillChild$")
		child.Env = append(os.Environ(), "TALOS_STORE_CHILD="+dir)
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		kill := time.AfterFunc(time.Duration(300+rand.IntN(1500))*time.Millisecond, func() { _ = child.Process.Kill() })
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if n, err := strconv.ParseUint(lines.Text(), 10, 64); err == nil {
				last = n
			}
		}
		kill.Stop()
		_ = child.Wait()
		s, err := store.Open(dir, store.Options{Key: make([]byte, 32)})
		if err != nil {
			list, _ := exec.Command("ls", "-la", dir+"/badger").CombinedOutput()
			t.Fatalf("after %d transactions: %v\n%s", last, err, list)
		}
		var got uint64
		if err := s.View(func(r *store.Reader) error {
			if b := r.Get([]byte("count")); len(b) == 8 {
				got = binary.BigEndian.Uint64(b)
			}
			return r.Err()
		}); err != nil {
			t.Fatal(err)
		}
		if got < last {
			t.Fatalf("%d transactions were acknowledged and %d are there", last, got)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if last == 0 {
		t.Error("no child has written anything")
	}
	t.Logf("%d transactions of about 1 MiB, %d kills", last, rounds)
}

// TestKillChild is the process that is killed.
func TestKillChild(t *testing.T) {
	dir := os.Getenv("TALOS_STORE_CHILD")
	if dir == "" {
		t.Skip("is run by TestKilledWhileCompacting")
	}
	s, err := store.Open(dir, store.Options{Key: make([]byte, 32)})
	if err != nil {
		t.Fatal(err)
	}
	var n uint64
	_ = s.View(func(r *store.Reader) error {
		if b := r.Get([]byte("count")); len(b) == 8 {
			n = binary.BigEndian.Uint64(b)
		}
		return nil
	})
	value := make([]byte, 8<<10)
	for {
		n++
		err := s.Update(t.Context(), func(tx *store.Tx) error {
			tx.Put([]byte("count"), binary.BigEndian.AppendUint64(nil, n))
			for range 128 { // rows that replace each other, so that compactions drop some
				tx.Put(fmt.Appendf(nil, "row %05d", rand.IntN(4000)), value)
				tx.Delete(fmt.Appendf(nil, "row %05d", rand.IntN(4000)))
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		fmt.Println(n)
	}
}
