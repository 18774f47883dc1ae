package ratchet_test

import (
	"bytes"
	"crypto/ecdh"
	"crypto/sha256"
	"encoding/binary"
	"io"
	"testing"
	"time"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/ratchet"
)

var t0 = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// stream is a reproducible source of randomness for tests.
type stream struct {
	seed uint64
	n    uint64
	rest []byte
	at   int // bytes given so far
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
	r.at += len(p)
	return len(p), nil
}

func fill(b byte) (k [32]byte) {
	for i := range k {
		k[i] = b
	}
	return k
}

func secrets(tag byte) ratchet.Secrets {
	return ratchet.Secrets{
		Root: fill(tag + 1), FirstChain: fill(tag + 2), HeaderA: fill(tag + 3), NextHeaderA: fill(tag + 4),
		HeaderB: fill(tag + 5), Confirm: fill(tag + 6), Exporter: fill(tag + 7),
	}
}

const didA, didB = "did:key:zAlice", "did:key:zBob"

func params(self, peer string) ratchet.Params {
	return ratchet.Params{
		Conversation: [16]byte{9}, Transcript: fill(8), Local: self, Remote: peer,
		Secrets: secrets(0), Now: t0,
	}
}

func newPair(t testing.TB, r io.Reader) (a, b *ratchet.State) {
	t.Helper()
	return pairOf(t, r, params(didA, didB), params(didB, didA))
}

func pairOf(t testing.TB, r io.Reader, pa, pb ratchet.Params) (a, b *ratchet.State) {
	t.Helper()
	var seed [32]byte
	if _, err := io.ReadFull(r, seed[:]); err != nil {
		t.Fatal(err)
	}
	first, err := ecdh.X25519().NewPrivateKey(seed[:])
	if err != nil {
		t.Fatal(err)
	}
	if a, err = ratchet.NewInitiator(pa, first); err != nil {
		t.Fatal(err)
	}
	if b, err = ratchet.NewResponder(pb, [32]byte(first.PublicKey().Bytes())); err != nil {
		t.Fatal(err)
	}
	return a, b
}

func seal(t testing.TB, s *ratchet.State, body string, r io.Reader) []byte {
	t.Helper()
	b, _, err := s.AppendSeal(nil, ratchet.Outgoing{Body: []byte(body)}, t0, r)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func open(t testing.TB, s *ratchet.State, frame []byte, want string) ratchet.Message {
	t.Helper()
	m, err := s.Open(nil, frame, t0)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	if string(m.Body) != want {
		t.Fatalf("body %q, want %q", m.Body, want)
	}
	pending := s.AppendPending(nil)
	s.Commit()
	if got := s.AppendState(nil); !bytes.Equal(got, pending) {
		t.Fatal("AppendPending differs from the state after Commit")
	}
	return m
}

// refuse requires that s refuses frame with one of the codes, byte-identical.
func refuse(t testing.TB, s *ratchet.State, frame []byte, codes ...contracts.Code) {
	t.Helper()
	before := s.AppendState(nil)
	_, err := s.Open(nil, frame, t0)
	if err == nil {
		t.Fatalf("opened, want %v", codes)
	}
	if !bytes.Equal(before, s.AppendState(nil)) {
		t.Fatalf("refused frame changed the state: %v", err)
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

// turn exchanges one message each way so that both sides are confirmed.
func turn(t testing.TB, a, b *ratchet.State, r io.Reader) {
	t.Helper()
	open(t, b, seal(t, a, "ping", r), "ping")
	open(t, a, seal(t, b, "pong", r), "pong")
}
