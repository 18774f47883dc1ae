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

// The ratio metric is the cost over that of the primitives that the handshake
// cannot avoid, run in turn with it so that the machine's mood cancels out.
func ratio(b *testing.B, op, primitives func()) {
	var spent, floor time.Duration
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		start := time.Now()
		op()
		spent += time.Since(start)
		b.StopTimer()
		start = time.Now()
		primitives()
		floor += time.Since(start)
		b.StartTimer()
	}
	b.ReportMetric(float64(spent)/float64(floor), "ratio")
	b.ReportMetric(float64(floor.Nanoseconds())/float64(b.N), "floor-ns/op")
}

// tools are keys for the primitives.
type tools struct {
	k    *ecdh.PrivateKey
	sign ed25519.PrivateKey
	dk   *mlkem.DecapsulationKey768
	ek   []byte
	ct   []byte
	msg  []byte
	sig  []byte
}

func newTools(b *testing.B) *tools {
	b.Helper()
	dk, err := mlkem.GenerateKey768()
	if err != nil {
		b.Fatal(err)
	}
	x := &tools{dk: dk, msg: make([]byte, 1024), ek: dk.EncapsulationKey().Bytes()}
	x.k, _ = ecdh.X25519().GenerateKey(rand.Reader)
	_, x.sign, _ = ed25519.GenerateKey(rand.Reader)
	x.sig = ed25519.Sign(x.sign, x.msg)
	_, x.ct = dk.EncapsulationKey().Encapsulate()
	return x
}

// initiate is two new keys, four DHs, two ML-KEM keys parsed (both of a bundle
// are checked), one encapsulation, one signature verified and one made.
func (x *tools) initiate() {
	var seed [32]byte
	for range 2 {
		_, _ = ecdh.X25519().NewPrivateKey(seed[:])
		_, _ = mlkem.NewEncapsulationKey768(x.ek)
	}
	for range 4 {
		_, _ = x.k.ECDH(x.k.PublicKey())
	}
	x.dk.EncapsulationKey().Encapsulate()
	ed25519.Verify(x.sign.Public().(ed25519.PublicKey), x.msg, x.sig)
	ed25519.Sign(x.sign, x.msg)
}

// accept is four DHs, one decapsulation and one signature verified.
func (x *tools) accept() {
	for range 4 {
		_, _ = x.k.ECDH(x.k.PublicKey())
	}
	_, _ = x.dk.Decapsulate(x.ct)
	ed25519.Verify(x.sign.Public().(ed25519.PublicKey), x.msg, x.sig)
}

func BenchmarkInitiate(b *testing.B) {
	alice, bob := newParty(b, "Alice", 1), newParty(b, "Bob", 2)
	raw := bob.bundle(b, true)
	in := initiator(alice, bob)
	in.Rand = rand.Reader
	ratio(b, func() {
		if _, err := handshake.Initiate(in, raw, hello("hello")); err != nil {
			b.Fatal(err)
		}
	}, newTools(b).initiate)
}

func BenchmarkAccept(b *testing.B) {
	alice, bob := newParty(b, "Alice", 1), newParty(b, "Bob", 2)
	i := initiate(b, initiator(alice, bob), bob.bundle(b, true))
	q := responder(alice, bob)
	ratio(b, func() {
		if _, err := handshake.Accept(q, i.Flight); err != nil {
			b.Fatal(err)
		}
	}, newTools(b).accept)
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
