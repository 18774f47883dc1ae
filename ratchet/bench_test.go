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

// measure gives the time of one call of f in nanoseconds: the best of five runs
// of n calls. testing.Benchmark cannot run inside a benchmark.
func measure(n int, f func(i int)) float64 {
	best := time.Duration(1 << 62)
	for range 5 {
		start := time.Now()
		for i := range n {
			f(i)
		}
		best = min(best, time.Since(start))
	}
	return float64(best.Nanoseconds()) / float64(n)
}

// symmetricFloor is what one message of n bytes must cost: two HMACs of the
// chain and one of the commitment, a nonce when sealing, a short and a long AEAD.
func symmetricFloor(n int, sealing bool) float64 {
	k := fill(1)
	var nonce [12]byte
	hk, _ := chacha20poly1305.New(k[:])
	head, aad := make([]byte, 58), make([]byte, 37)
	body := make([]byte, n)
	sealedHead := hk.Seal(nil, nonce[:], head, aad)
	first, _ := chacha20poly1305.New(k[:])
	sealedBody := first.Seal(nil, nonce[:], body, aad)
	buf := make([]byte, 0, 2*n)
	return measure(50_000, func(int) {
		key, next, _ := ratchet.KDFCK(k)
		mk, _ := chacha20poly1305.New(key[:])
		if sealing {
			k = next
			_, _ = rand.Read(nonce[:])
			buf = hk.Seal(buf[:0], nonce[:], head, aad)
			buf = mk.Seal(buf[:0], nonce[:], body, aad)
		} else {
			nonce = [12]byte{}
			buf, _ = hk.Open(buf[:0], nonce[:], sealedHead, aad)
			buf, _ = first.Open(buf[:0], nonce[:], sealedBody, aad)
		}
	})
}

// dhFloor is a DH step on both sides: a new key, and X25519 twice, each with its
// root KDF; the receiver parses the sender's key.
func dhFloor() float64 {
	seed, rk := fill(7), fill(9)
	peer, _ := ecdh.X25519().NewPrivateKey(seed[:])
	return measure(1_000, func(i int) {
		seed[1] = byte(i)
		k, _ := ecdh.X25519().NewPrivateKey(seed[:])
		x, _ := k.ECDH(peer.PublicKey())
		rk, _, _ = ratchet.KDFRK(rk, [32]byte(x))
		x, _ = peer.ECDH(k.PublicKey())
		rk, _, _ = ratchet.KDFRK(rk, [32]byte(x))
	})
}

func report(b *testing.B, floor float64) {
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/floor, "ratio")
	b.ReportMetric(floor, "floor-ns/op")
}

func BenchmarkSeal1K(b *testing.B) {
	floor := symmetricFloor(1024, true)
	a, p := newPair(b, &stream{})
	turn(b, a, p, rand.Reader)
	seal(b, a, "step", rand.Reader)
	enc := a.AppendState(nil)
	buf := make([]byte, 0, 2048)
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		if i&0x7fff == 0x7fff { // a chain ends after 2^16 messages
			b.StopTimer()
			a, _ = ratchet.DecodeState(enc)
			b.StartTimer()
		}
		var err error
		if buf, _, err = a.AppendSeal(buf[:0], ratchet.Outgoing{Body: body1K}, t0, rand.Reader); err != nil {
			b.Fatal(err)
		}
	}
	report(b, floor)
}

func BenchmarkOpen1K(b *testing.B) {
	floor := symmetricFloor(1024, false)
	a, p := newPair(b, &stream{})
	turn(b, a, p, rand.Reader)
	open(b, p, seal(b, a, "step", rand.Reader), "step")
	start := p.AppendState(nil)
	frames := make([][]byte, 4096)
	for i := range frames {
		frames[i], _, _ = a.AppendSeal(nil, ratchet.Outgoing{Body: body1K}, t0, rand.Reader)
	}
	buf := make([]byte, 0, 2048)
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		if j := i % len(frames); j == 0 && i > 0 {
			b.StopTimer()
			p, _ = ratchet.DecodeState(start)
			b.StartTimer()
		}
		if _, err := p.Open(buf[:0], frames[i%len(frames)], t0); err != nil {
			b.Fatal(err)
		}
		p.Commit()
	}
	report(b, floor)
}

func BenchmarkPingPong1K(b *testing.B) {
	floor := symmetricFloor(1024, true) + symmetricFloor(1024, false) + dhFloor()
	x, y := newPair(b, &stream{})
	turn(b, x, y, rand.Reader)
	buf, plain := make([]byte, 0, 2048), make([]byte, 0, 2048)
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		var err error
		if buf, _, err = x.AppendSeal(buf[:0], ratchet.Outgoing{Body: body1K}, t0, rand.Reader); err != nil {
			b.Fatal(err)
		}
		if _, err = y.Open(plain[:0], buf, t0); err != nil {
			b.Fatal(err)
		}
		y.Commit()
		x, y = y, x
	}
	report(b, floor)
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
