package handshake_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/ratchet"
	"github.com/talosprotocol/talos/ratchet/handshake"
)

// Shows HS-12: a session is unconfirmed until the reply, and a reply without the
// tag of this transcript is none.
func TestConfirmation(t *testing.T) {
	a, b := newParty(t, "Alice", 1), newParty(t, "Bob", 2)
	i := initiate(t, initiator(a, b), b.bundle(t, true))
	if i.State.Confirmed() {
		t.Error("confirmed before any reply")
	}
	acc, err := handshake.Accept(responder(a, b), i.Flight)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 { // each reply carries it until it is answered: the first may be lost
		f, _, err := acc.State.AppendSeal(nil, hello("reply"), t0, b.rand)
		if err != nil {
			t.Fatal(err)
		}
		fresh, _ := ratchet.DecodeState(i.State.AppendState(nil))
		if _, err := fresh.Open(nil, f, t0); err != nil {
			t.Fatal(err)
		}
		if fresh.Commit(); !fresh.Confirmed() {
			t.Error("a reply does not confirm")
		}
	}
}

// Shows HS-20: the initiator's name is not in the flight.
func TestInitiatorIsHidden(t *testing.T) {
	a, b := newParty(t, "Alice", 1), newParty(t, "Bob", 2)
	i := initiate(t, initiator(a, b), b.bundle(t, true))
	for _, s := range [][]byte{[]byte(a.card.DID), a.card.Agreement[:], a.card.Signing[:], []byte(b.card.DID), []byte("hello")} {
		if bytes.Contains(i.Flight, s) {
			t.Errorf("the flight shows %q", s)
		}
	}
}

// Shows HS-22, HS-24.
func TestPrekeyLife(t *testing.T) {
	a, b := newParty(t, "Alice", 1), newParty(t, "Bob", 2)
	old := initiate(t, initiator(a, b), b.bundle(t, false))
	one := initiate(t, initiator(a, b), b.bundle(t, true))
	if err := b.prekeys.Rotate(b.rand); err != nil {
		t.Fatal(err)
	}
	q := responder(a, b)
	q.Now = t0.Add(time.Hour + handshake.SignedGrace - time.Millisecond)
	b.prekeys.Expire(q.Now)
	if _, err := handshake.Accept(q, old.Flight); err != nil {
		t.Errorf("a flight on a rotated prekey: %v", err)
	}
	refuseFlight(t, q, one.Flight, contracts.HandshakePrekey) // its one-time key is gone
	q.Now = q.Now.Add(time.Millisecond)
	refuseFlight(t, q, old.Flight, contracts.HandshakePrekey)
	if !b.prekeys.Expire(q.Now) || b.prekeys.Expire(q.Now) {
		t.Error("Expire does not erase once")
	}
	refuseFlight(t, q, old.Flight, contracts.HandshakePrekey)
	for range 20 {
		if err := b.prekeys.Rotate(b.rand); err != nil {
			wantCode(t, err, contracts.RateLimited)
			b.prekeys.Expire(q.Now)
		}
	}
	enc := b.prekeys.Append(nil)
	for n := range enc {
		if _, err := handshake.DecodePrekeys(enc[:n]); err == nil {
			t.Fatalf("decoded %d of %d bytes", n, len(enc))
		}
	}
	enc[0] = 2
	if _, err := handshake.DecodePrekeys(enc); contracts.CodeOf(err) != contracts.UnsupportedVersion {
		t.Errorf("version 2: %v", err)
	}
}

// Shows RAT-32, HS-24.
func TestH1_SecretsNeverPrint(t *testing.T) {
	a, b := newParty(t, "Alice", 1), newParty(t, "Bob", 2)
	i := initiate(t, initiator(a, b), b.bundle(t, true))
	acc, err := handshake.Accept(responder(a, b), i.Flight)
	if err != nil {
		t.Fatal(err)
	}
	p := initiator(a, b)
	p.PSK = &[32]byte{0xde, 0xad, 0xbe, 0xef, 0xde, 0xad, 0xbe, 0xef}
	for _, v := range []any{p, &p, responder(a, b), i, *i, acc, *acc, b.prekeys, *b.prekeys, []any{p}} {
		var out bytes.Buffer
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d"} {
			fmt.Fprintf(&out, verb, v)
		}
		j, _ := json.Marshal(v)
		out.Write(j)
		slog.New(slog.NewTextHandler(&out, nil)).Info("x", "v", v)
		text := out.String()
		for _, leak := range []string{"deadbeef", "222 173", "hello", "did:talos"} {
			if strings.Contains(text, leak) {
				t.Errorf("%T prints %q: %s", v, leak, text)
			}
		}
	}
}
