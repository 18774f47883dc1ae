package ratchet_test

import (
	"crypto/ecdh"
	"crypto/rand"
	"testing"
	"time"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/talosprotocol/talos/ratchet"
)

// The ratio metric of each benchmark is its cost over the sum of the primitives
// that nothing can avoid, measured in the same run so that the machine's mood
// cancels out.

var body1K = make([]byte, 1024)

// ratio runs op and the primitives in turn. floor and op are measured with the
// same clock reads.
func ratio(b *testing.B, op func(i int), primitives func()) {
	var spent, floor time.Duration
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		start := time.Now()
		op(i)
		mid := time.Now()
		primitives()
		spent += mid.Sub(start)
		floor += time.Since(mid)
	}
	b.StopTimer()
	b.ReportMetric(float64(spent)/float64(floor), "ratio")
	b.ReportMetric(float64(spent.Nanoseconds())/float64(b.N), "own-ns/op")
	b.ReportMetric(float64(floor.Nanoseconds())/float64(b.N), "floor-ns/op")
}

// symmetric gives what one message of n bytes must cost: two HMACs of the chain
// and one of the commitment, a nonce when sealing, a short and a long AEAD.
func symmetric(n int, sealing bool) func() {
	k := fill(1)
	var nonce [12]byte
	hk, _ := chacha20poly1305.New(k[:])
	head, aad := make([]byte, 58), make([]byte, 37)
	body := make([]byte, n)
	sealedHead := hk.Seal(nil, nonce[:], head, aad)
	mk, _, _ := ratchet.KDFCK(k)
	body0, _ := chacha20poly1305.New(mk[:])
	sealedBody := body0.Seal(nil, nonce[:], body, aad)
	buf := make([]byte, 0, 2*n)
	return func() {
		mk, next, _ := ratchet.KDFCK(k)
		a, _ := chacha20poly1305.New(mk[:])
		if sealing {
			k = next
			_, _ = rand.Read(nonce[:])
			buf = hk.Seal(buf[:0], nonce[:], head, aad)
			buf = a.Seal(buf[:0], nonce[:], body, aad)
			return
		}
		buf, _ = hk.Open(buf[:0], nonce[:], sealedHead, aad)
		buf, _ = a.Open(buf[:0], nonce[:], sealedBody, aad)
	}
}

// dhStep is a DH step on both sides: a new key, and X25519 twice, each with its
// root KDF.
func dhStep() func() {
	seed, rk := fill(7), fill(9)
	peer, _ := ecdh.X25519().NewPrivateKey(seed[:])
	return func() {
		seed[1]++
		k, _ := ecdh.X25519().NewPrivateKey(seed[:])
		x, _ := k.ECDH(peer.PublicKey())
		rk, _, _ = ratchet.KDFRK(rk, [32]byte(x))
		x, _ = peer.ECDH(k.PublicKey())
		rk, _, _ = ratchet.KDFRK(rk, [32]byte(x))
	}
}

// BenchmarkSeal1K: the allocations reported are of the message and of the
// primitives, one each.
func BenchmarkSeal1K(b *testing.B) {
	a, p := newPair(b, &stream{})
	turn(b, a, p, rand.Reader)
	seal(b, a, "step", rand.Reader)
	enc := a.AppendState(nil)
	buf := make([]byte, 0, 2048)
	ratio(b, func(i int) {
		if i&0x7fff == 0x7fff { // a chain ends after 2^16 messages
			a, _ = ratchet.DecodeState(enc)
		}
		var err error
		if buf, _, err = a.AppendSeal(buf[:0], ratchet.Outgoing{Body: body1K}, t0, rand.Reader); err != nil {
			b.Fatal(err)
		}
	}, symmetric(1024, true))
}

func BenchmarkOpen1K(b *testing.B) {
	a, p := newPair(b, &stream{})
	turn(b, a, p, rand.Reader)
	open(b, p, seal(b, a, "step", rand.Reader), "step")
	start := p.AppendState(nil)
	frames := make([][]byte, 4096)
	for i := range frames {
		frames[i], _, _ = a.AppendSeal(nil, ratchet.Outgoing{Body: body1K}, t0, rand.Reader)
	}
	buf := make([]byte, 0, 2048)
	ratio(b, func(i int) {
		if i%len(frames) == 0 {
			p, _ = ratchet.DecodeState(start)
		}
		if _, err := p.Open(buf[:0], frames[i%len(frames)], t0); err != nil {
			b.Fatal(err)
		}
		p.Commit()
	}, symmetric(1024, false))
}

func BenchmarkPingPong1K(b *testing.B) {
	x, y := newPair(b, &stream{})
	turn(b, x, y, rand.Reader)
	buf, plain := make([]byte, 0, 2048), make([]byte, 0, 2048)
	sealing, opening, step := symmetric(1024, true), symmetric(1024, false), dhStep()
	ratio(b, func(int) {
		var err error
		if buf, _, err = x.AppendSeal(buf[:0], ratchet.Outgoing{Body: body1K}, t0, rand.Reader); err != nil {
			b.Fatal(err)
		}
		if _, err = y.Open(plain[:0], buf, t0); err != nil {
			b.Fatal(err)
		}
		y.Commit()
		x, y = y, x
	}, func() { sealing(); opening(); step() })
}

// The budget of allocations, apart from the primitives'.
func TestAllocations(t *testing.T) {
	r := &stream{}
	a, p := newPair(t, r)
	turn(t, a, p, r)
	open(t, p, seal(t, a, "step", r), "step")
	buf, plain := make([]byte, 0, 2048), make([]byte, 0, 2048)
	if n := testing.AllocsPerRun(100, func() {
		buf, _, _ = a.AppendSeal(buf[:0], ratchet.Outgoing{Body: body1K}, t0, rand.Reader)
		if _, err := p.Open(plain[:0], buf, t0); err != nil {
			t.Fatal(err)
		}
		p.Commit()
	}); n > 4 {
		t.Errorf("a message costs %v allocations, want 2 for each side at most", n)
	}
}

func BenchmarkForged(b *testing.B) {
	a, p := newPair(b, &stream{})
	turn(b, a, p, rand.Reader)
	forged := seal(b, a, string(body1K), rand.Reader)
	forged[20] ^= 1
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		if _, err := p.Open(nil, forged, t0); err == nil {
			b.Fatal("opened")
		}
	}
}

func BenchmarkForgedFiveOldChains(b *testing.B) {
	p, forged := fiveOldChains(b)
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		if _, err := p.Open(nil, forged, t0); err == nil {
			b.Fatal("opened")
		}
	}
}

// fiveOldChains gives a state that holds a skipped key in each of five old
// chains, and a frame that none of its header keys opens.
func fiveOldChains(t testing.TB) (*ratchet.State, []byte) {
	t.Helper()
	r := &stream{}
	a, p := newPair(t, r)
	var forged []byte
	for range ratchet.MaxOldChains + 1 {
		seal(t, a, "lost", r)
		turn(t, a, p, r)
	}
	forged = seal(t, a, "x", r)
	forged[30] ^= 1
	if n := p.Info().OldChains; n != ratchet.MaxOldChains {
		t.Fatalf("%d old chains", n)
	}
	return p, forged
}
