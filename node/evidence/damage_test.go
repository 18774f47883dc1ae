package evidence_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	mrand "math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/talosprotocol/talos/anchor"
	"github.com/talosprotocol/talos/anchor/auditlog"
	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
	"github.com/talosprotocol/talos/identity/keystore"
	"github.com/talosprotocol/talos/node/store"
)

// logHome is a store with an audit log and its head file, without a node.
type logHome struct {
	dir  string
	key  anchor.Signer
	free func() (uint64, error) // nil: not watched by the log, measured by the store
}

func (h logHome) Load(context.Context) ([]byte, error) {
	b, err := os.ReadFile(filepath.Join(h.dir, "head"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	return b, err
}

func (h logHome) Store(_ context.Context, b []byte) error {
	return keystore.WriteFile(filepath.Join(h.dir, "head"), b)
}

type clock struct{}

func (clock) Now() time.Time                         { return time.Now() }
func (clock) After(d time.Duration) <-chan time.Time { return time.After(d) }

// open opens store and log; the returned function signs a head over n more events.
func (h logHome) open(t testing.TB, did identity.DID) (l *auditlog.Log, more func(n int) (*anchor.Note, error), closeAll func(), err error) {
	o := store.Options{Key: make([]byte, 32)}
	if h.free != nil {
		o.FreeBytes = func(string) (uint64, error) { return h.free() }
	}
	st, err := store.Open(filepath.Join(h.dir, "store"), o)
	if err != nil {
		return nil, nil, nil, err
	}
	closeAll = func() { _ = st.Close() }
	l, err = auditlog.Open(t.Context(), auditlog.Options{
		Origin: anchor.Origin{DID: string(did), Incarnation: 1}, Signer: h.key, Backend: st.Audit(1), HeadFile: h, Clock: clock{}, Rand: rand.Reader, MaxBatch: 64,
		Free: h.free,
	})
	if err != nil {
		return l, nil, closeAll, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	more = func(n int) (*anchor.Note, error) {
		for i := range n {
			var r [10]byte
			_, _ = rand.Read(r[:])
			ev := anchor.NewEvent("message_out", string(did), time.Now(), r)
			if _, err := l.Append(context.Background(), ev); err != nil {
				return nil, fmt.Errorf("event %d: %w", i, err)
			}
		}
		return l.Checkpoint(context.Background())
	}
	return l, more, func() { cancel(); <-done; _ = st.Close() }, nil
}

// damage spoils one file of a store: a byte, a cut, or all of it.
func damage(t testing.TB, dir string, rnd *mrand.Rand) string {
	t.Helper()
	var files []string
	_ = filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			if in, err := d.Info(); err == nil && in.Size() > 0 && in.Size() < 1<<20 {
				files = append(files, p)
			}
		}
		return err
	})
	f := files[rnd.IntN(len(files))]
	b, err := os.ReadFile(f)
	if err != nil {
		t.Fatal(err)
	}
	at := rnd.IntN(len(b))
	what := "flip"
	switch rnd.IntN(8) {
	case 0:
		what, b = "cut", b[:at]
	case 1:
		what = "delete"
		if err := os.Remove(f); err != nil {
			t.Fatal(err)
		}
		return what + " " + filepath.Base(f)
	default:
		b[at] ^= byte(1 + rnd.IntN(255))
	}
	if err := os.WriteFile(f, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%s %s at %d of %d", what, filepath.Base(f), at, len(b))
}

// Row 6: whatever is damaged in the files of a store, the log goes on from where it
// was, or stops; it never signs a shorter or another history.
func TestRow6_DamagedStoreNeverForks(t *testing.T) {
	rounds := 300
	if testing.Short() {
		rounds = 20
	}
	seed := make([]byte, ed25519.SeedSize)
	_, _ = rand.Read(seed)
	key := anchor.Key(ed25519.NewKeyFromSeed(seed))
	did := newDID(t)
	good := logHome{dir: t.TempDir(), key: key}
	_, more, done, err := good.open(t, did)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := more(40); err != nil {
		t.Fatal(err)
	}
	last, err := more(20)
	if err != nil {
		t.Fatal(err)
	}
	done()
	rnd := mrand.New(mrand.NewPCG(1, 2))
	bad := logHome{dir: filepath.Join(t.TempDir(), "bad"), key: key}
	counts := map[string]int{}
	for range rounds {
		copyDir(t, good.dir, bad.dir)
		what := damage(t, filepath.Join(bad.dir, "store"), rnd)
		counts[bad.judge(t, did, seed, last, what)]++
	}
	t.Logf("%d damages: %v", rounds, counts)
}

// judge opens a damaged store in a process of its own, since a panic of the database
// would come in a goroutine of its own, and checks what was signed there.
func (h logHome) judge(t *testing.T, did identity.DID, seed []byte, last *anchor.Note, what string) string {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestDamagedChild$")
	cmd.Env = append(os.Environ(), "TALOS_DAMAGED="+h.dir, "TALOS_DAMAGED_DID="+string(did), "TALOS_DAMAGED_KEY="+hex.EncodeToString(seed))
	out, err := cmd.CombinedOutput()
	text, _ := h.Load(t.Context())
	head, bad := anchor.Open(text, h.key.Public())
	if bad != nil {
		t.Fatalf("%s: the head file: %v", what, bad)
	}
	if head.Size < last.Size || head.Size == last.Size && head.Root != last.Root {
		t.Errorf("%s: signed size %d after %d", what, head.Size, last.Size)
	}
	if err != nil {
		t.Errorf("%s: the process died: %v\n%.2000s", what, err, out)
		return "died"
	}
	_, verdict, _ := strings.Cut(string(out), "verdict: ")
	verdict, _, _ = strings.Cut(verdict, "\n")
	if strings.HasPrefix(verdict, "went on") != (head.Size > last.Size) {
		t.Errorf("%s: %s, but the head is of size %d after %d", what, verdict, head.Size, last.Size)
	}
	if root := "went on " + last.Root.String(); strings.HasPrefix(verdict, "went on") {
		if verdict != root {
			t.Errorf("%s: the new head does not extend the old one", what)
		}
		return "went on"
	}
	return verdict
}

// TestDamagedChild is the process that opens a damaged store.
func TestDamagedChild(t *testing.T) {
	dir := os.Getenv("TALOS_DAMAGED")
	if dir == "" {
		t.Skip("a part of TestRow6_DamagedStoreNeverForks")
	}
	seed, err := hex.DecodeString(os.Getenv("TALOS_DAMAGED_KEY"))
	if err != nil {
		t.Fatal(err)
	}
	h := logHome{dir: dir, key: anchor.Key(ed25519.NewKeyFromSeed(seed))}
	fmt.Println("verdict: " + h.use(t, identity.DID(os.Getenv("TALOS_DAMAGED_DID"))))
}

// use opens the store, adds an event and a head, and says how far it came; with the
// root that the new history has at the size of the old head.
func (h logHome) use(t *testing.T, did identity.DID) string {
	text, _ := h.Load(t.Context())
	last, err := anchor.Open(text, h.key.Public())
	if err != nil {
		t.Fatal(err)
	}
	l, more, done, err := h.open(t, did)
	if done != nil {
		defer done()
	}
	var q *auditlog.Quarantine
	switch {
	case errors.As(err, &q):
		return "quarantine " + q.Reason
	case err != nil:
		return "refused " + string(contracts.CodeOf(err))
	}
	if _, err := more(1); err != nil {
		return "stopped " + string(contracts.CodeOf(err))
	}
	var f anchor.Frontier // from the leaves, not from what the store says of them
	for i := range last.Size {
		e, err := l.Entry(t.Context(), i)
		if err != nil {
			return "went on without an entry"
		}
		f.Add(e.Leaf.Hash())
	}
	return "went on " + f.Root().String()
}

func newDID(t testing.TB) identity.DID {
	t.Helper()
	control, err := identity.Generate[identity.Control](rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	next, err := identity.Generate[identity.Control](rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	did, _ := identity.Incept(control, next.Public(), time.Now())
	return did
}
