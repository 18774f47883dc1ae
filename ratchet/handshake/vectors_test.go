package handshake_test

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/ratchet"
	"github.com/talosprotocol/talos/ratchet/handshake"
)

var update = flag.Bool("update", false, "write contracts/vectors/handshake anew")

var vectorDir = filepath.Join("..", "..", "contracts", "vectors", "handshake")

// hexBytes is a byte string in lower-case hexadecimal.
type hexBytes []byte

func (h hexBytes) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString(h)), nil }
func (h *hexBytes) UnmarshalText(b []byte) error {
	out, err := hex.DecodeString(string(b))
	*h = out
	return err
}

// vector is one file: an initiator makes a flight from a bundle ("sent"), the
// responder receives "flight". stage says where expect is met: "initiate" or
// "accept".
type vector struct {
	Name         string    `json:"name"`
	Must         []string  `json:"must"`
	Stage        string    `json:"stage"`
	Expect       string    `json:"expect"`
	TimeMS       int64     `json:"time_ms"`
	Initiator    agent     `json:"initiator"`
	Responder    agent     `json:"responder"`
	Prekeys      hexBytes  `json:"responder_prekeys"`
	Bundle       hexBytes  `json:"bundle"`
	MinBundleSeq uint64    `json:"min_bundle_seq"`
	Conversation hexBytes  `json:"conversation"`
	PSK          hexBytes  `json:"psk,omitempty"`
	Rand         hexBytes  `json:"rand"`       // EK, first ratchet key, nonce
	KEMRandom    hexBytes  `json:"kem_random"` // m of ML-KEM.Encaps_internal
	Body         hexBytes  `json:"body"`
	Sent         hexBytes  `json:"sent,omitempty"`
	Flight       hexBytes  `json:"flight,omitempty"`
	Transcript   hexBytes  `json:"transcript,omitempty"`
	Consumed     [2]uint32 `json:"consumed_ids"`
	StateA       hexBytes  `json:"state_initiator,omitempty"`
	StateB       hexBytes  `json:"state_responder,omitempty"`
}

type agent struct {
	DID       string   `json:"did"`
	KeyLog    uint64   `json:"key_log"`
	Seq       uint64   `json:"seq"`
	PeerID    hexBytes `json:"peer_id"`
	Agreement hexBytes `json:"agreement_private"`
	Signing   hexBytes `json:"signing_seed"`
}

func (a *agent) party(t *testing.T) *party {
	t.Helper()
	ik, err := ecdh.X25519().NewPrivateKey(a.Agreement)
	if err != nil {
		t.Fatal(err)
	}
	p := &party{ik: ik, signing: ed25519.NewKeyFromSeed(a.Signing)}
	p.card = handshake.Card{
		DID: a.DID, KeyLog: a.KeyLog, Seq: a.Seq, PeerIDs: []string{string(a.PeerID)},
		Agreement: [32]byte(ik.PublicKey().Bytes()), Signing: [32]byte(p.signing.Public().(ed25519.PublicKey)),
	}
	return p
}

// play runs a vector through the shipping functions; with fill it completes it.
func (v *vector) play(t *testing.T, fill bool) {
	t.Helper()
	a, b := v.Initiator.party(t), v.Responder.party(t)
	var err error
	if b.prekeys, err = handshake.DecodePrekeys(v.Prekeys); err != nil {
		t.Fatal(err)
	}
	p := initiator(a, b).WithKEMRandom([32]byte(v.KEMRandom))
	p.Now, p.Rand, p.MinBundleSeq = time.UnixMilli(v.TimeMS), bytes.NewReader(v.Rand), v.MinBundleSeq
	p.Conversation = [16]byte(v.Conversation)
	q := responder(a, b)
	q.Now = p.Now
	if v.PSK != nil {
		psk := [32]byte(v.PSK)
		p.PSK = &psk
		q.PSK = func([16]byte) ([32]byte, bool) { return psk, true }
	}
	i, err := handshake.Initiate(p, v.Bundle, ratchet.Outgoing{Body: v.Body})
	if v.Stage == "initiate" {
		v.outcome(t, err)
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	if fill {
		v.Sent = i.Flight
		if v.Flight == nil {
			v.Flight = i.Flight
		}
		v.Transcript, v.StateA = i.Transcript[:], i.State.AppendState(nil)
	}
	if !bytes.Equal(v.Sent, i.Flight) || !bytes.Equal(v.Transcript, i.Transcript[:]) || !bytes.Equal(v.StateA, i.State.AppendState(nil)) {
		t.Fatal("flight, transcript or state of the initiator differs")
	}
	acc, err := handshake.Accept(q, v.Flight)
	v.outcome(t, err)
	if err != nil {
		return
	}
	if fill {
		v.StateB = acc.State.AppendState(nil)
		v.Consumed = [2]uint32{acc.Consumed.OneTime, acc.Consumed.OneTimeKEM}
	}
	if acc.Transcript != i.Transcript || !bytes.Equal(acc.First.Body, v.Body) || !bytes.Equal(v.StateB, acc.State.AppendState(nil)) ||
		v.Consumed != [2]uint32{acc.Consumed.OneTime, acc.Consumed.OneTimeKEM} {
		t.Error("transcript, message, state or consumed keys of the responder differ")
	}
}

func (v *vector) outcome(t *testing.T, err error) {
	t.Helper()
	got := "ok"
	if err != nil {
		got = string(contracts.CodeOf(err))
	}
	if got != v.Expect {
		t.Fatalf("%s (%v), want %s", got, err, v.Expect)
	}
}

func TestI1_Vectors(t *testing.T) {
	if *update {
		writeVectors(t)
	}
	files, err := filepath.Glob(filepath.Join(vectorDir, "*.json"))
	if err != nil || len(files) < 10 {
		t.Fatalf("%d vectors, %v", len(files), err)
	}
	for _, name := range files {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".json"), func(t *testing.T) {
			raw, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			d := json.NewDecoder(bytes.NewReader(raw))
			d.DisallowUnknownFields()
			var v vector
			if err := d.Decode(&v); err != nil {
				t.Fatal(err)
			}
			v.play(t, false)
		})
	}
}

// base is a handshake that succeeds.
func base(t *testing.T, name, expect string, oneTime bool, must ...string) *vector {
	t.Helper()
	fix := func(b byte, n int) hexBytes { return bytes.Repeat([]byte{b}, n) }
	v := &vector{
		Name: name, Must: must, Stage: "accept", Expect: expect, TimeMS: t0.UnixMilli(),
		Initiator:    agent{"did:talos:zInitiator", 3, 7, fix(0xa1, 38), fix(0xa2, 32), fix(0xa3, 32)},
		Responder:    agent{"did:talos:zResponder", 1, 4, fix(0xb1, 38), fix(0xb2, 32), fix(0xb3, 32)},
		Conversation: fix(0xc0, 16), KEMRandom: fix(0xd0, 32), Body: hexBytes("hello"),
	}
	for i, n := range []int{32, 32, 12} {
		v.Rand = append(v.Rand, fix(byte(0xe0+i), n)...)
	}
	b := v.Responder.party(t)
	r := &stream{seed: 0x7461}
	var err error
	if b.prekeys, err = handshake.NewPrekeys(r); err != nil {
		t.Fatal(err)
	}
	if err := b.prekeys.Mint(1, r); err != nil {
		t.Fatal(err)
	}
	v.Bundle = b.bundle(t, oneTime)
	v.Prekeys = b.prekeys.Append(nil)
	return v
}

// edited is a flight that was changed on its way.
func edited(t *testing.T, name, expect, must string, edit func(f []byte) []byte) *vector {
	t.Helper()
	v := base(t, "changed on its way: "+name, "ok", true, must)
	v.play(t, true)
	v.Flight = edit(bytes.Clone(v.Sent))
	v.StateB, v.Consumed, v.Expect = nil, [2]uint32{}, expect
	return v
}

// refused is a bundle that no flight answers.
func refused(t *testing.T, name, expect, must string, edit func(v *vector)) *vector {
	t.Helper()
	v := base(t, name, expect, true, must)
	v.Stage = "initiate"
	edit(v)
	return v
}

func writeVectors(t *testing.T) {
	t.Helper()
	flip := func(i int) func([]byte) []byte { return func(f []byte) []byte { f[i] ^= 1; return f } }
	psk := base(t, "rotation: a key of the earlier session is mixed in", "ok", true, "HS-18")
	psk.PSK = bytes.Repeat([]byte{0xf0}, 32)
	build := map[string]*vector{
		"one-time":    base(t, "with one-time keys", "ok", true, "HS-1", "HS-2", "HS-3", "HS-10", "HS-11", "HS-14", "HS-20"),
		"no-one-time": base(t, "without one-time keys", "ok", false, "HS-15"),
		"rotation":    psk,
		"bundle-signature": refused(t, "a bundle with a broken signature", "X3DH_INVALID_SIGNATURE", "HS-5",
			func(v *vector) { v.Bundle[len(v.Bundle)-1] ^= 1 }),
		"bundle-expired": refused(t, "a bundle at the end of its life", "EXPIRED", "HS-6",
			func(v *vector) { v.TimeMS += time.Hour.Milliseconds() }),
		"bundle-future": refused(t, "a bundle made more than 5 minutes ahead", "NOT_YET_VALID", "HS-6",
			func(v *vector) { v.TimeMS -= 5*60*1000 + 1 }),
		"bundle-rollback": refused(t, "a bundle older than one seen before", "ROLLBACK", "HS-6",
			func(v *vector) { v.MinBundleSeq = 2 }),
		"bundle-version": refused(t, "an unknown bundle version", "UNSUPPORTED_VERSION", "HS-2",
			func(v *vector) { v.Bundle[0] = 2 }),
		"bundle-trailing": refused(t, "a byte too many", "MALFORMED", "HS-2",
			func(v *vector) { v.Bundle = append(v.Bundle, 0) }),
		"bundle-card": refused(t, "a card that is not that of the DID document", "PEER_NOT_BOUND", "HS-7",
			func(v *vector) { v.Responder.KeyLog++ }),
		"flight-version":      edited(t, "flight version", "UNSUPPORTED_VERSION", "HS-2", flip(0)),
		"flight-suite":        edited(t, "suite", "UNSUPPORTED_VERSION", "HS-16", flip(2)),
		"flight-offer":        edited(t, "the offered versions", "HANDSHAKE_FAILED", "HS-16", func(f []byte) []byte { f[4] = 9; return f }),
		"flight-conversation": edited(t, "the conversation", "HANDSHAKE_FAILED", "HS-10", flip(7)),
		"flight-bundle":       edited(t, "the digest of the bundle", "X3DH_MISSING_PREKEY", "HS-14", flip(23)),
		"flight-ephemeral-top-bit": edited(t, "the top bit of EK", "RATCHET_INVALID_DH_KEY", "HS-8", func(f []byte) []byte {
			f[73+31] |= 0x80
			return f
		}),
		"flight-ephemeral-small-order": edited(t, "EK of small order", "RATCHET_INVALID_DH_KEY", "HS-8", func(f []byte) []byte {
			clear(f[73:105])
			f[73] = 1
			return f
		}),
		"flight-key-type":   edited(t, "the type of EK", "KEY_INVALID", "HS-3", flip(71)),
		"flight-ciphertext": edited(t, "the ML-KEM ciphertext", "HANDSHAKE_FAILED", "HS-9", flip(139)),
		"flight-card":       edited(t, "the sealed card", "HANDSHAKE_FAILED", "HS-20", flip(1310)),
		"flight-frame":      edited(t, "the first frame", "RATCHET_AUTH_FAILED", "HS-13", func(f []byte) []byte { return flip(len(f) - 1)(f) }),
		"flight-truncated":  edited(t, "cut in the ciphertext", "MALFORMED", "HS-2", func(f []byte) []byte { return f[:500] }),
	}
	if err := os.MkdirAll(vectorDir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, v := range build {
		v.play(t, v.StateA == nil)
		raw, err := json.MarshalIndent(v, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(vectorDir, name+".json"), append(raw, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
