package handshake_test

import (
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"testing"
	"time"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/ratchet"
	"github.com/talosprotocol/talos/ratchet/handshake"
)

var t0 = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// stream is a reproducible source of randomness for tests.
type stream struct {
	seed, n uint64
	rest    []byte
}

func (r *stream) Read(p []byte) (int, error) {
	for i := range p {
		if len(r.rest) == 0 {
			var b [16]byte
			binary.BigEndian.PutUint64(b[:], r.seed)
			binary.BigEndian.PutUint64(b[8:], r.n)
			r.n++
			sum := sha256.Sum256(b[:])
			r.rest = sum[:]
		}
		p[i], r.rest = r.rest[0], r.rest[1:]
	}
	return len(p), nil
}

// party is one agent with its keys.
type party struct {
	card    handshake.Card
	ik      *ecdh.PrivateKey
	signing ed25519.PrivateKey
	prekeys *handshake.Prekeys
	rand    *stream
}

func newParty(t testing.TB, name string, seed uint64) *party {
	t.Helper()
	r := &stream{seed: seed}
	var b [32]byte
	_, _ = r.Read(b[:])
	ik, err := ecdh.X25519().NewPrivateKey(b[:])
	if err != nil {
		t.Fatal(err)
	}
	_, _ = r.Read(b[:])
	p := &party{ik: ik, signing: ed25519.NewKeyFromSeed(b[:]), rand: r}
	p.card = handshake.Card{
		DID: "did:talos:z" + name, KeyLog: 3, Seq: 7, PeerIDs: []string{"peer-" + name},
		Agreement: [32]byte(ik.PublicKey().Bytes()), Signing: [32]byte(p.signing.Public().(ed25519.PublicKey)),
	}
	if p.prekeys, err = handshake.NewPrekeys(r); err != nil {
		t.Fatal(err)
	}
	if err := p.prekeys.Mint(4, r); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *party) sign(m []byte) ([]byte, error) { return ed25519.Sign(p.signing, m), nil }

func (p *party) bundle(t testing.TB, oneTime bool) []byte {
	t.Helper()
	b, got, err := p.prekeys.Issue(handshake.Issuing{
		Card: p.card, Sign: p.sign, Now: t0, Life: time.Hour, OneTime: oneTime,
	})
	if err != nil || got != oneTime {
		t.Fatalf("Issue: one-time %v, %v", got, err)
	}
	return b
}

// directory stands for the resolved documents.
func directory(parties ...*party) func(handshake.Card) error {
	return func(c handshake.Card) error {
		for _, p := range parties {
			if c.DID != p.card.DID {
				continue
			}
			want, _ := p.card.Append(nil)
			if got, _ := c.Append(nil); string(got) != string(want) {
				return contracts.Errorf(contracts.PeerNotBound, "card is not that of the document")
			}
			return nil
		}
		return errors.New("unknown DID")
	}
}

func initiator(a, b *party) handshake.Initiator {
	return handshake.Initiator{
		Card: a.card, Agreement: a.ik, Sign: a.sign, Peer: b.card.DID, CheckCard: directory(a, b),
		Conversation: [16]byte{1, 2, 3}, LocalPeer: a.card.PeerIDs[0], RemotePeer: b.card.PeerIDs[0],
		Now: t0, Rand: a.rand,
	}
}

func responder(a, b *party) handshake.Responder {
	return handshake.Responder{
		Card: b.card, Agreement: b.ik, Prekeys: b.prekeys, CheckCard: directory(a, b),
		LocalPeer: b.card.PeerIDs[0], RemotePeer: a.card.PeerIDs[0], Now: t0,
		Seen: func([32]byte) bool { return false },
	}
}

func hello(s string) ratchet.Outgoing { return ratchet.Outgoing{Body: []byte(s)} }

func initiate(t testing.TB, p handshake.Initiator, bundle []byte) *handshake.Initiation {
	t.Helper()
	i, err := handshake.Initiate(p, bundle, hello("hello"))
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func wantCode(t testing.TB, err error, codes ...contracts.Code) {
	t.Helper()
	if err == nil {
		t.Fatalf("accepted, want %v", codes)
	}
	for _, c := range codes {
		if contracts.CodeOf(err) == c {
			return
		}
	}
	if len(codes) > 0 {
		t.Fatalf("error %v, want %v", err, codes)
	}
}

// refuseFlight requires that the responder refuses and keeps its prekeys.
func refuseFlight(t testing.TB, p handshake.Responder, raw []byte, codes ...contracts.Code) {
	t.Helper()
	before := string(p.Prekeys.Append(nil))
	a, err := handshake.Accept(p, raw)
	wantCode(t, err, codes...)
	if a != nil || string(p.Prekeys.Append(nil)) != before {
		t.Fatal("a refused flight left something behind")
	}
}

func exchange(t testing.TB, from, to *ratchet.State, r *stream, body string) {
	t.Helper()
	f, _, err := from.AppendSeal(nil, hello(body), t0, r)
	if err != nil {
		t.Fatal(err)
	}
	m, err := to.Open(nil, f, t0)
	if err != nil {
		t.Fatal(err)
	}
	if string(m.Body) != body {
		t.Fatalf("body %q, want %q", m.Body, body)
	}
	to.Commit()
}
