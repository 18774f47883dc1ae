package handshake_test

import (
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/mlkem"
	"crypto/rand"
	"testing"
	"time"

	"github.com/talosprotocol/talos/ratchet/handshake"
)

// The ratio metric is the cost over the sum of the primitives that the handshake
// cannot avoid, measured in the same run.

func measure(f func()) float64 {
	best := time.Duration(1 << 62)
	for range 5 {
		start := time.Now()
		for range 100 {
			f()
		}
		best = min(best, time.Since(start))
	}
	return float64(best.Nanoseconds()) / 100
}

type primitives struct{ keygen, dh, sign, verify, parse, encaps, decaps float64 }

func floors(b *testing.B) primitives {
	var seed [32]byte
	k, _ := ecdh.X25519().GenerateKey(rand.Reader)
	pub, priv, _ := ed25519.GenerateKey(rand.Reader)
	msg := make([]byte, 1024)
	sig := ed25519.Sign(priv, msg)
	dk, err := mlkem.GenerateKey768()
	if err != nil {
		b.Fatal(err)
	}
	ek := dk.EncapsulationKey()
	raw := ek.Bytes()
	_, ct := ek.Encapsulate()
	return primitives{
		keygen: measure(func() { _, _ = ecdh.X25519().NewPrivateKey(seed[:]) }),
		dh:     measure(func() { _, _ = k.ECDH(k.PublicKey()) }),
		sign:   measure(func() { ed25519.Sign(priv, msg) }),
		verify: measure(func() { ed25519.Verify(pub, msg, sig) }),
		parse:  measure(func() { _, _ = mlkem.NewEncapsulationKey768(raw) }),
		encaps: measure(func() { ek.Encapsulate() }),
		decaps: measure(func() { _, _ = dk.Decapsulate(ct) }),
	}
}

func report(b *testing.B, floor float64) {
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/floor, "ratio")
	b.ReportMetric(floor, "floor-ns/op")
}

func BenchmarkInitiate(b *testing.B) {
	p := floors(b)
	alice, bob := newParty(b, "Alice", 1), newParty(b, "Bob", 2)
	raw := bob.bundle(b, true)
	in := initiator(alice, bob)
	in.Rand = rand.Reader
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		if _, err := handshake.Initiate(in, raw, hello("hello")); err != nil {
			b.Fatal(err)
		}
	}
	// Both KEM keys of the bundle are parsed: each is checked before it is used.
	report(b, 2*p.keygen+4*p.dh+2*p.parse+p.encaps+p.verify+p.sign)
}

func BenchmarkAccept(b *testing.B) {
	p := floors(b)
	alice, bob := newParty(b, "Alice", 1), newParty(b, "Bob", 2)
	i := initiate(b, initiator(alice, bob), bob.bundle(b, true))
	q := responder(alice, bob)
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		if _, err := handshake.Accept(q, i.Flight); err != nil {
			b.Fatal(err)
		}
	}
	report(b, 4*p.dh+p.decaps+p.verify)
}

func BenchmarkIssue(b *testing.B) {
	bob := newParty(b, "Bob", 2)
	b.ReportAllocs()
	for range b.N {
		if err := bob.prekeys.Mint(1, rand.Reader); err != nil {
			b.Fatal(err)
		}
		x, err := handshake.DecodeBundle(bob.bundle(b, true))
		if err != nil {
			b.Fatal(err)
		}
		bob.prekeys.Consume(handshake.Consumed{OneTime: x.OneTimeID})
	}
}
