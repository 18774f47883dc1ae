package ethereum_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/talosprotocol/talos/anchor"
	"github.com/talosprotocol/talos/anchor/chain"
	"github.com/talosprotocol/talos/anchor/chain/ethereum"
	"github.com/talosprotocol/talos/anchor/chain/evm"
	fake "github.com/talosprotocol/talos/testnet/fake/chain"
)

const anchorLog = "did:talos:zQmbWqxBEKC3P8tqsKc98xmWNzrzDtRLMiMPL8wBuTGsMnR/audit/1"

// headOf signs a head of the anchor's log.
func headOf(size uint64) *anchor.Note {
	seed := sha256.Sum256([]byte("the anchor's log"))
	n, err := anchor.Sign(anchor.Checkpoint{Origin: anchorLog, Size: size, Root: sha256.Sum256(binary.BigEndian.AppendUint64(nil, size))}, anchor.Key(ed25519.NewKeyFromSeed(seed[:])))
	if err != nil {
		panic(err)
	}
	return n
}

func account(name byte) evm.Key {
	k, err := evm.NewKey(bytes.Repeat([]byte{name}, 32))
	if err != nil {
		panic(err)
	}
	return k
}

// rows is a table in memory.
type rows struct {
	mu sync.Mutex
	m  map[string][]byte
}

func (t *rows) Get(key []byte) ([]byte, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return bytes.Clone(t.m[string(key)]), nil
}

func (t *rows) Put(ctx context.Context, k, v []byte) error {
	return t.Write(ctx, [][]byte{k}, [][]byte{v})
}

func (t *rows) Delete(ctx context.Context, k []byte) error {
	return t.Write(ctx, [][]byte{k}, [][]byte{nil})
}

func (t *rows) Write(_ context.Context, keys, values [][]byte) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.m == nil {
		t.m = map[string][]byte{}
	}
	for i, k := range keys {
		if values[i] == nil {
			delete(t.m, string(k))
		} else {
			t.m[string(k)] = bytes.Clone(values[i])
		}
	}
	return nil
}

func (t *rows) Scan(prefix []byte, f func(k, v []byte) bool) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	var keys []string
	for k := range t.m {
		if bytes.HasPrefix([]byte(k), prefix) {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	for _, k := range keys {
		if !f([]byte(k), bytes.Clone(t.m[k])) {
			break
		}
	}
	return nil
}

// world is an anchor that writes to a chain, in virtual time.
type world struct {
	t     *testing.T
	chain *fake.Chain
	d     *ethereum.Driver
	rows  *rows
	sub   *chain.Submitter
	crash func()

	mu   sync.Mutex
	head *anchor.Note
}

func inBubble(t *testing.T, f func(t *testing.T, w *world)) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, chain: fake.New(1337), rows: &rows{}}
		w.d = w.driver(ethereum.Config{})
		w.start()
		defer func() { w.crash() }()
		f(t, w)
	})
}

func (w *world) driver(c ethereum.Config) *ethereum.Driver {
	w.t.Helper()
	c.URLs, c.ChainID, c.Key, c.HTTP = []string{"http://chain.example"}, 1337, account(1), &http.Client{Transport: w.chain}
	d, err := ethereum.New(c)
	if err != nil {
		w.t.Fatal(err)
	}
	return d
}

func (w *world) start() {
	w.t.Helper()
	var err error
	if w.sub, err = chain.NewSubmitter(w.d, w.rows, w.newest, slog.New(slog.DiscardHandler)); err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = w.sub.Run(ctx) }()
	w.crash = sync.OnceFunc(func() { cancel(); <-done })
}

func (w *world) newest() *anchor.Note {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.head
}

func (w *world) grow(size uint64) {
	w.mu.Lock()
	w.head = headOf(size)
	w.mu.Unlock()
	w.sub.Wake()
}

// pass lets time pass.
func (w *world) pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// receipts gives what was received, each followed to its header.
func (w *world) receipts(n int) []anchor.Receipt {
	w.t.Helper()
	out, err := chain.Receipts(w.rows, 100)
	if err != nil {
		w.t.Fatal(err)
	}
	if len(out) != n {
		w.t.Fatalf("%d receipts, want %d; it says %+v", len(out), n, w.sub.Info())
	}
	for i := range out {
		if _, err := ethereum.Open(&out[i]); err != nil {
			w.t.Error(err)
		}
	}
	return out
}

// onChain counts the transactions that carry a head.
func (w *world) onChain(size uint64) (n int) {
	c := headOf(size).Commitment()
	for _, d := range w.chain.Data() {
		if bytes.Equal(d, c[:]) {
			n++
		}
	}
	return n
}

// settle makes a block and lets it become final.
func (w *world) settle() {
	w.chain.Mine()
	w.chain.Finalize()
	w.pass(time.Minute)
}

// verifier asks the chain.
func (w *world) verifier() *ethereum.Verifier {
	return &ethereum.Verifier{Endpoints: map[string][]*ethereum.Client{"eip155:1337": {ethereum.NewClient([]string{"http://chain.example"}, &http.Client{Transport: w.chain})}}}
}
