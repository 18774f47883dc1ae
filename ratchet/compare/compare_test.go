package compare_test

import (
	"crypto/ecdh"
	"crypto/rand"
	"testing"
	"time"

	"github.com/status-im/doubleratchet"
	"maunium.net/go/mautrix/crypto/goolm/account"
	"maunium.net/go/mautrix/crypto/olm"

	"github.com/talosprotocol/talos/ratchet"
)

// pair is two parties of one implementation: each function carries one 1 KiB message
// from sealing to plaintext.
type pair struct{ aToB, bToA func() }

var body = make([]byte, 1024)

func check(b *testing.B, err error) {
	if err != nil {
		b.Fatal(err)
	}
}

// each runs both conversations with every implementation.
func each(b *testing.B, f func(b *testing.B, p pair)) {
	for _, c := range []struct {
		name string
		make func(*testing.B) pair
	}{{"talos", talosPair}, {"status-im", statusPair}, {"goolm", goolmPair}} {
		b.Run(c.name, func(b *testing.B) { p := c.make(b); b.ReportAllocs(); b.ResetTimer(); f(b, p) })
	}
}

func BenchmarkOneWay1K(b *testing.B) {
	each(b, func(b *testing.B, p pair) {
		for range b.N {
			p.aToB()
		}
	})
}

func BenchmarkPingPong1K(b *testing.B) {
	each(b, func(b *testing.B, p pair) {
		for i := range b.N {
			if i%2 == 0 {
				p.aToB()
			} else {
				p.bToA()
			}
		}
	})
}

func talosPair(b *testing.B) pair {
	first, err := ecdh.X25519().GenerateKey(rand.Reader)
	check(b, err)
	now := time.Now()
	p := ratchet.Params{Local: "did:a", Remote: "did:b", Now: now}
	for i, k := range []*[32]byte{&p.Secrets.Root, &p.Secrets.FirstChain, &p.Secrets.HeaderA, &p.Secrets.NextHeaderA, &p.Secrets.HeaderB, &p.Secrets.Confirm, &p.Secrets.Exporter} {
		k[0] = byte(i + 1)
	}
	a, err := ratchet.NewInitiator(p, first)
	check(b, err)
	p.Local, p.Remote = p.Remote, p.Local
	c, err := ratchet.NewResponder(p, [32]byte(first.PublicKey().Bytes()))
	check(b, err)
	var frame, plain []byte
	carry := func(from, to *ratchet.State) func() {
		return func() {
			// A chain of one direction has an end; a fresh key of the peer begins a new one.
			if from.Info().Sent+1 >= ratchet.MaxChain {
				b.Fatal("the chain is full")
			}
			f, r, err := from.AppendSeal(frame[:0], ratchet.Outgoing{Body: body}, now, rand.Reader)
			check(b, err)
			m, err := to.Open(plain[:0], f, now)
			check(b, err)
			to.Commit()
			frame, plain = f, m.Body
			_ = r
		}
	}
	ab, ba := carry(a, c), carry(c, a)
	n := 0
	return pair{func() {
		if n++; n%30000 == 0 {
			ba()
		}
		ab()
	}, ba}
}

func statusPair(b *testing.B) pair {
	crypto := doubleratchet.DefaultCrypto{}
	kp, err := crypto.GenerateDH()
	check(b, err)
	shared := doubleratchet.Key(make([]byte, 32))
	shared[0] = 1
	bob, err := doubleratchet.New([]byte("b"), shared, kp, nil)
	check(b, err)
	alice, err := doubleratchet.NewWithRemoteKey([]byte("a"), shared, kp.PublicKey(), nil)
	check(b, err)
	carry := func(from, to doubleratchet.Session) func() {
		return func() {
			m, err := from.RatchetEncrypt(body, nil)
			check(b, err)
			_, err = to.RatchetDecrypt(m, nil)
			check(b, err)
		}
	}
	ab := carry(alice, bob)
	ab() // the responder can answer after this
	return pair{ab, carry(bob, alice)}
}

func goolmPair(b *testing.B) pair {
	alice, err := account.NewAccount()
	check(b, err)
	bob, err := account.NewAccount()
	check(b, err)
	check(b, bob.GenOneTimeKeys(1))
	otks, err := bob.OneTimeKeys()
	check(b, err)
	_, bobKey, err := bob.IdentityKeys()
	check(b, err)
	var sa, sb olm.Session
	for _, k := range otks {
		sa, err = alice.NewOutboundSession(bobKey, k)
		check(b, err)
	}
	typ, msg, err := sa.Encrypt(body)
	check(b, err)
	sb, err = bob.NewInboundSession(string(msg))
	check(b, err)
	_, err = sb.Decrypt(string(msg), typ)
	check(b, err)
	carry := func(from, to olm.Session) func() {
		return func() {
			typ, msg, err := from.Encrypt(body)
			check(b, err)
			_, err = to.Decrypt(string(msg), typ)
			check(b, err)
		}
	}
	ab, ba := carry(sa, sb), carry(sb, sa)
	ba() // from here on without the prekey form
	ab()
	return pair{ab, ba}
}
