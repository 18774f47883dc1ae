package call_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	crand "crypto/rand"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"slices"
	"strings"
	"testing"
	"time"

	record "github.com/libp2p/go-libp2p-record"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
	"github.com/talosprotocol/talos/node/call"
	"github.com/talosprotocol/talos/node/directory"
	"github.com/talosprotocol/talos/node/p2p"
	"github.com/talosprotocol/talos/node/store"
)

// patience is how long a test waits for what must happen at once.
const patience = 20 * time.Second

const callProtocol = protocol.ID("/talos/test/call/1.0.0")

// node is a DID on a real host.
type node struct {
	h   *p2p.Host
	dir *directory.Directory
	did identity.DID
	c   *call.Calls
}

// world is what the nodes of a test share.
type world struct {
	t      testing.TB
	st     *store.Store
	listen string
	kind   p2p.Kind
}

func newWorld(t testing.TB, transport string) *world {
	t.Helper()
	st, err := store.Open("", store.Options{Key: make([]byte, 32), InMemory: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() })
	listen := "/ip4/127.0.0.1/tcp/0"
	if transport == "quic" {
		listen = "/ip4/127.0.0.1/udp/0/quic-v1"
	}
	return &world{t: t, st: st, listen: listen, kind: p2p.Local}
}

func gen[P identity.Purpose](t testing.TB) identity.Private[P] {
	t.Helper()
	k, err := identity.Generate[P](crand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func logger(t testing.TB) *slog.Logger {
	if os.Getenv("TALOS_TEST_LOG") == "" {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func (w *world) host(key ed25519.PrivateKey) (*p2p.Host, *directory.Directory) {
	w.t.Helper()
	v := directory.NewValidator(time.Now)
	h, err := p2p.New(p2p.Config{Network: "test", Kind: w.kind, Key: key, Listen: []string{w.listen}, PerIP: 2048, HighConns: 2400, LowConns: 2000, MemoryMiB: 8192},
		w.st.Datastore(), record.NamespacedValidator{directory.Namespace: v})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = h.Close() })
	return h, directory.New(h, w.st.Directory(), v, slog.New(slog.DiscardHandler))
}

func (w *world) node(lim call.Limits) *node {
	t := w.t
	t.Helper()
	n := &node{}
	control, next, pk := gen[identity.Control](t), gen[identity.Control](t), gen[identity.Peer](t)
	ka, err := identity.GenerateAgreement(crand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	did, icp := identity.Incept(control, next.Public(), time.Now())
	n.did = did
	n.h, n.dir = w.host(pk.Ed25519())
	hot := identity.Hot{Peer: pk.Public(), Invocation: gen[identity.Invocation](t).Public(), Log: gen[identity.Log](t).Public(), Agreement: ka.Public()}
	s, err := identity.SignState(identity.NewState{
		KeyLog: []contracts.SignedKeyEvent{icp},
		Doc:    identity.NewDocument(did, []identity.ControlPublic{control.Public()}, hot, 0, directory.Addrs(n.h)),
		Seq:    1, Now: time.Now(), Valid: 48 * time.Hour, TTL: time.Hour,
	}, control)
	if err != nil {
		t.Fatal(err)
	}
	n.dir.SetSelf(s)
	n.c = call.New(n.h, n.dir, logger(t), lim)
	t.Cleanup(func() { _ = n.c.Close() })
	return n
}

// join connects n with to, both knowing the other.
func (n *node) join(t testing.TB, to *node) {
	t.Helper()
	if err := n.h.Connect(t.Context(), peer.AddrInfo{ID: to.h.ID(), Addrs: to.h.Addrs()}); err != nil {
		t.Fatal(err)
	}
	if _, err := n.dir.Bind(t.Context(), to.h.ID()); err != nil {
		t.Fatal(err)
	}
	if _, err := to.dir.Bind(t.Context(), n.h.ID()); err != nil {
		t.Fatal(err)
	}
}

// pair gives a caller and an executor that are connected.
func pair(t testing.TB, transport string, lim call.Limits) (a, b *node) {
	t.Helper()
	w := newWorld(t, transport)
	a, b = w.node(lim), w.node(lim)
	a.join(t, b)
	return a, b
}

// both runs a test over each transport.
func both(t *testing.T, f func(t *testing.T, transport string)) {
	for _, transport := range []string{"tcp", "quic"} {
		t.Run(transport, func(t *testing.T) { f(t, transport) })
	}
}

// slowed reports whether the race detector watches: then a test is smaller.
func slowed() bool {
	info, _ := debug.ReadBuildInfo()
	return info != nil && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}

func streams(h host.Host) (n int) {
	for _, c := range h.Network().Conns() {
		for _, s := range c.GetStreams() {
			if s.Protocol() == callProtocol {
				n++
			}
		}
	}
	return n
}

// rest fails the test if, at its end, the nodes do not come back to no stream of a call
// and to no goroutine of the package; two nodes also not to the goroutines that there
// were at its beginning (many nodes have their own to and fro).
func rest(t testing.TB, nodes ...*node) {
	t.Helper()
	base := runtime.NumGoroutine()
	t.Cleanup(func() {
		open := func() (n int) {
			for _, x := range nodes {
				n += streams(x.h.Host)
			}
			return n
		}
		eventually(t, "rest", func() bool {
			return open() == 0 && (len(nodes) > 2 || runtime.NumGoroutine() <= base+6) && ours() == ""
		}, func() string {
			return fmt.Sprintf("%d goroutines, %d before; %d streams\n%s", runtime.NumGoroutine(), base, open(), ours())
		})
	})
}

// ours gives the stacks of the goroutines that run in the package.
func ours() string {
	var b bytes.Buffer
	_ = pprof.Lookup("goroutine").WriteTo(&b, 1)
	var out []string
	for _, s := range strings.Split(b.String(), "\n\n") {
		if strings.Contains(s, "talos/node/call.") {
			out = append(out, s)
		}
	}
	return strings.Join(out, "\n\n")
}

func eventually(t testing.TB, what string, ok func() bool, tell func() string) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); !ok(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("no %s within %v: %s", what, patience, tell())
		}
	}
}

// await receives from c, or fails the test.
func await[T any](t testing.TB, what string, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatalf("no %s within %v\n%s", what, patience, ours())
		panic("unreachable")
	}
}

func echo(_ context.Context, c *call.Call, w *call.ResponseWriter) error {
	if err := w.Header(call.ResponseHeader{ContentType: c.ContentType, Length: c.Length, Meta: c.Meta}); err != nil {
		return err
	}
	n, err := io.Copy(w, c.Body)
	if err != nil {
		return err
	}
	return w.Trailer(fmt.Appendf(nil, `{"bytes":%d}`, n))
}

func request(body io.Reader) call.Request {
	return call.Request{Header: call.Header{Surface: "test.echo"}, Body: body}
}

// pattern is a reader of n bytes that are easy to check and are not all alike. It hides
// its length.
type pattern struct{ at, n int64 }

func (p *pattern) Read(b []byte) (int, error) {
	if p.at == p.n {
		return 0, io.EOF
	}
	k := int(min(int64(len(b)), p.n-p.at))
	for i := range k {
		b[i] = byte(p.at ^ p.at>>8 ^ p.at>>16)
		p.at++
	}
	return k, nil
}

// check is a writer that compares what it gets with a pattern.
type check struct {
	pattern
	scratch [64 << 10]byte
	onMiB   func()
}

func (c *check) Write(b []byte) (int, error) {
	for n := 0; n < len(b); {
		k, err := c.Read(c.scratch[:min(len(b)-n, len(c.scratch))])
		if err != nil {
			return n, fmt.Errorf("more than %d bytes", c.n)
		}
		if !bytes.Equal(b[n:n+k], c.scratch[:k]) {
			return n, fmt.Errorf("other bytes before %d", c.at)
		}
		n += k
		if c.onMiB != nil && (c.at-int64(k))>>20 != c.at>>20 {
			c.onMiB()
		}
	}
	return len(b), nil
}

// raw opens a stream of the call protocol as a peer that writes what it likes.
func (n *node) raw(t testing.TB, to *node) network.Stream {
	t.Helper()
	s, err := n.h.NewStream(t.Context(), to.h.ID(), callProtocol)
	if err != nil {
		t.Fatal(err)
	}
	_ = s.SetDeadline(time.Now().Add(patience))
	t.Cleanup(func() { _ = s.Reset() })
	return s
}
