package ratchettest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/talosprotocol/talos/ratchet"
)

// TestStore runs the conformance suite. open gives an empty store each time; it
// registers its own cleanup.
func TestStore(t *testing.T, open func() ratchet.Store) {
	t.Run("NotFound", func(t *testing.T) { testNotFound(t, open()) })
	t.Run("Versions", func(t *testing.T) { testVersions(t, open()) })
	t.Run("Rows", func(t *testing.T) { testRows(t, open()) })
	t.Run("StaleWritesNothing", func(t *testing.T) { testStale(t, open()) })
	t.Run("CopiesSlices", func(t *testing.T) { testCopies(t, open()) })
	t.Run("Delete", func(t *testing.T) { testDelete(t, open()) })
	t.Run("OneWriterWins", func(t *testing.T) { testRace(t, open()) })
	t.Run("CancelledWritesNothingOrAll", func(t *testing.T) { testCancelled(t, open()) })
}

var one = ratchet.SessionID{1}

func commit(t *testing.T, s ratchet.Store, version uint64, state string, rows ...ratchet.Row) {
	t.Helper()
	if err := s.Commit(context.Background(), one, version, []byte(state), rows...); err != nil {
		t.Fatalf("Commit at version %d: %v", version, err)
	}
}

func load(t *testing.T, s ratchet.Store, version uint64, state string) {
	t.Helper()
	r, err := s.Load(context.Background(), one)
	if err != nil || r.Version != version || string(r.State) != state {
		t.Fatalf("Load gives %q at version %d, %v; want %q at %d", r.State, r.Version, err, state, version)
	}
}

func row(t *testing.T, s ratchet.Store, key, want string) {
	t.Helper()
	v, err := s.Row(context.Background(), key)
	if err != nil || string(v) != want {
		t.Fatalf("row %q is %q, %v; want %q", key, v, err, want)
	}
}

func noRow(t *testing.T, s ratchet.Store, key string) {
	t.Helper()
	if v, err := s.Row(context.Background(), key); !errors.Is(err, ratchet.ErrNotFound) {
		t.Fatalf("row %q is %q, %v; want ErrNotFound", key, v, err)
	}
}

func testNotFound(t *testing.T, s ratchet.Store) {
	if _, err := s.Load(context.Background(), one); !errors.Is(err, ratchet.ErrNotFound) {
		t.Errorf("Load of nothing: %v", err)
	}
	noRow(t, s, "nothing")
	if err := s.Commit(context.Background(), one, 1, []byte("x")); !errors.Is(err, ratchet.ErrStale) {
		t.Errorf("Commit on a version that is not there: %v", err)
	}
}

func testVersions(t *testing.T, s ratchet.Store) {
	for v := range uint64(5) {
		commit(t, s, v, fmt.Sprint("state ", v))
		load(t, s, v+1, fmt.Sprint("state ", v))
	}
	other := ratchet.SessionID{2}
	if err := s.Commit(context.Background(), other, 0, []byte("other")); err != nil {
		t.Errorf("sessions are not independent: %v", err)
	}
	load(t, s, 5, "state 4")
}

func testRows(t *testing.T, s ratchet.Store) {
	commit(t, s, 0, "a", ratchet.Row{Key: "k1", Value: []byte("v1")}, ratchet.Row{Key: "k2", Value: []byte{}})
	row(t, s, "k1", "v1")
	row(t, s, "k2", "")
	commit(t, s, 1, "b", ratchet.Row{Key: "k1"}, ratchet.Row{Key: "k3", Value: []byte("v3")}, ratchet.Row{Key: "none"})
	noRow(t, s, "k1")
	row(t, s, "k2", "")
	row(t, s, "k3", "v3")
}

func testStale(t *testing.T, s ratchet.Store) {
	commit(t, s, 0, "a", ratchet.Row{Key: "k", Value: []byte("v")})
	commit(t, s, 1, "b")
	for _, v := range []uint64{0, 1, 3, ^uint64(0)} {
		err := s.Commit(context.Background(), one, v, []byte("late"),
			ratchet.Row{Key: "k", Value: []byte("late")}, ratchet.Row{Key: "new", Value: []byte("late")})
		if !errors.Is(err, ratchet.ErrStale) {
			t.Errorf("Commit at version %d: %v", v, err)
		}
	}
	load(t, s, 2, "b")
	row(t, s, "k", "v")
	noRow(t, s, "new")
}

func testCopies(t *testing.T, s ratchet.Store) {
	state, value := []byte("state"), []byte("value")
	if err := s.Commit(context.Background(), one, 0, state, ratchet.Row{Key: "k", Value: value}); err != nil {
		t.Fatal(err)
	}
	clear(state)
	clear(value)
	load(t, s, 1, "state")
	row(t, s, "k", "value")
	r, _ := s.Load(context.Background(), one)
	clear(r.State)
	v, _ := s.Row(context.Background(), "k")
	clear(v)
	load(t, s, 1, "state")
	row(t, s, "k", "value")
	big := bytes.Repeat([]byte("large"), 20_000) // a state with all its skipped keys
	commit(t, s, 1, string(big))
	load(t, s, 2, string(big))
}

func testDelete(t *testing.T, s ratchet.Store) {
	commit(t, s, 0, "a")
	if err := s.Commit(context.Background(), one, 1, nil, ratchet.Row{Key: "k", Value: []byte("v")}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Load(context.Background(), one); !errors.Is(err, ratchet.ErrNotFound) {
		t.Errorf("Load of a deleted session: %v", err)
	}
	row(t, s, "k", "v")
}

// testRace lets many writers commit on the same version again and again: one of
// each round must win, and state and row must be of the same winner.
func testRace(t *testing.T, s ratchet.Store) {
	const writers, rounds = 8, 20
	for version := range uint64(rounds) {
		var wins atomic.Int32
		var wg sync.WaitGroup
		for w := range writers {
			wg.Go(func() {
				who := []byte(fmt.Sprint(version, " by ", w))
				err := s.Commit(context.Background(), one, version, who, ratchet.Row{Key: "winner", Value: who})
				switch {
				case err == nil:
					wins.Add(1)
				case !errors.Is(err, ratchet.ErrStale):
					t.Errorf("writer %d: %v", w, err)
				}
			})
		}
		wg.Wait()
		if n := wins.Load(); n != 1 {
			t.Fatalf("version %d: %d writers won", version, n)
		}
		r, err := s.Load(context.Background(), one)
		if err != nil || r.Version != version+1 {
			t.Fatalf("version %d: loaded %d, %v", version, r.Version, err)
		}
		row(t, s, "winner", string(r.State))
	}
}

// testCancelled: a cancelled Commit has written nothing or everything.
func testCancelled(t *testing.T, s ratchet.Store) {
	commit(t, s, 0, "a", ratchet.Row{Key: "k", Value: []byte("a")})
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = s.Commit(ctx, one, 1, []byte("b"), ratchet.Row{Key: "k", Value: []byte("b")})
	r, err := s.Load(context.Background(), one)
	if err != nil {
		t.Fatal(err)
	}
	row(t, s, "k", string(r.State))
}
