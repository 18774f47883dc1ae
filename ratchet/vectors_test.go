package ratchet_test

import (
	"bytes"
	"crypto/ecdh"
	"encoding/hex"
	"encoding/json"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/ratchet"
)

var update = flag.Bool("update", false, "write contracts/vectors/ratchet anew")

var vectorDir = filepath.Join("..", "contracts", "vectors", "ratchet")

// hexBytes is a byte string in lower-case hexadecimal.
type hexBytes []byte

func (h hexBytes) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString(h)), nil }
func (h *hexBytes) UnmarshalText(b []byte) error {
	out, err := hex.DecodeString(string(b))
	*h = out
	return err
}

// vector is one file: a session from known secrets, then steps. expect is the
// outcome of the last step; all before it succeed.
type vector struct {
	Name    string   `json:"name"`
	Must    []string `json:"must"`
	Expect  string   `json:"expect"`
	TimeMS  int64    `json:"time_ms"`
	Session session  `json:"session"`
	Steps   []step   `json:"steps"`
	FinalA  hexBytes `json:"final_state_initiator"`
	FinalB  hexBytes `json:"final_state_responder"`
}

type session struct {
	Conversation hexBytes `json:"conversation"`
	Transcript   hexBytes `json:"transcript"`
	DIDA         string   `json:"did_initiator"`
	DIDB         string   `json:"did_responder"`
	RatchetKey   hexBytes `json:"ratchet_private_initiator"`
	Root         hexBytes `json:"root_key"`
	FirstChain   hexBytes `json:"first_chain_key"`
	HeaderA      hexBytes `json:"header_key_initiator"`
	NextHeaderA  hexBytes `json:"next_header_key_initiator"`
	HeaderB      hexBytes `json:"header_key_responder"`
	Confirm      hexBytes `json:"confirm_key"`
	Exporter     hexBytes `json:"exporter"`
}

// step is one call. op "seal": by seals body with the randomness rand (nonce,
// then the new ratchet key if a DH step is due) and gets frame. op "lose": by
// seals count empty messages with the nonce zero, which nobody receives. op
// "open": by opens frame and gets body. op "restart": by is encoded and decoded.
type step struct {
	Op           string   `json:"op"`
	By           string   `json:"by"`
	Kind         byte     `json:"kind,omitempty"`
	RecipientSeq uint64   `json:"recipient_seq,omitempty"`
	Count        int      `json:"count,omitempty"`
	LaterMS      int64    `json:"later_ms,omitempty"`
	Rand         hexBytes `json:"rand,omitempty"`
	Body         hexBytes `json:"body,omitempty"`
	Frame        hexBytes `json:"frame,omitempty"`
}

// play runs a vector through the shipping functions. With fill it completes
// frames, bodies and states instead of checking them.
func (v *vector) play(t *testing.T, fill bool) {
	t.Helper()
	states := v.open(t)
	now := time.UnixMilli(v.TimeMS)
	for i := range v.Steps {
		s := &v.Steps[i]
		now = now.Add(time.Duration(s.LaterMS) * time.Millisecond)
		st := states[s.By]
		var err error
		switch s.Op {
		case "seal":
			var frame []byte
			frame, _, err = st.AppendSeal(nil, ratchet.Outgoing{
				Kind: ratchet.Kind(s.Kind), Body: s.Body, RecipientSeq: s.RecipientSeq,
			}, now, bytes.NewReader(s.Rand))
			if fill && s.Frame == nil {
				s.Frame = frame
			} else if err == nil && !bytes.Equal(frame, s.Frame) {
				t.Fatalf("step %d: frame differs", i)
			}
		case "lose":
			for range s.Count {
				if _, _, err = st.AppendSeal(nil, ratchet.Outgoing{}, now, zeros{}); err != nil {
					break
				}
			}
		case "open":
			before := st.AppendState(nil)
			var m ratchet.Message
			if m, err = st.Open(nil, s.Frame, now); err == nil {
				st.Commit()
				if !bytes.Equal(m.Body, s.Body) {
					t.Fatalf("step %d: body %q, want %q", i, m.Body, s.Body)
				}
			} else if !bytes.Equal(before, st.AppendState(nil)) {
				t.Fatalf("step %d: a refused frame changed the state", i)
			}
		case "restart":
			states[s.By], err = ratchet.DecodeState(st.AppendState(nil))
		default:
			t.Fatalf("step %d: unknown op %q", i, s.Op)
		}
		v.outcome(t, i, err)
	}
	a, b := states["initiator"].AppendState(nil), states["responder"].AppendState(nil)
	if fill {
		v.FinalA, v.FinalB = a, b
	} else if !bytes.Equal(a, v.FinalA) || !bytes.Equal(b, v.FinalB) {
		t.Error("a final state differs")
	}
}

func (v *vector) outcome(t *testing.T, i int, err error) {
	t.Helper()
	want := "ok"
	if i == len(v.Steps)-1 {
		want = v.Expect
	}
	got := "ok"
	if err != nil {
		got = string(contracts.CodeOf(err))
	}
	if got != want {
		t.Fatalf("step %d: %s (%v), want %s", i, got, err, want)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func (v *vector) open(t *testing.T) map[string]*ratchet.State {
	t.Helper()
	x := &v.Session
	k := func(b hexBytes) [32]byte { return [32]byte(b) }
	p := ratchet.Params{
		Conversation: [16]byte(x.Conversation), Transcript: k(x.Transcript), Local: x.DIDA, Remote: x.DIDB,
		Now: time.UnixMilli(v.TimeMS),
		Secrets: ratchet.Secrets{
			Root: k(x.Root), FirstChain: k(x.FirstChain), HeaderA: k(x.HeaderA), NextHeaderA: k(x.NextHeaderA),
			HeaderB: k(x.HeaderB), Confirm: k(x.Confirm), Exporter: k(x.Exporter),
		},
	}
	first, err := ecdh.X25519().NewPrivateKey(x.RatchetKey)
	if err != nil {
		t.Fatal(err)
	}
	a, err := ratchet.NewInitiator(p, first)
	if err != nil {
		t.Fatal(err)
	}
	p.Local, p.Remote = p.Remote, p.Local
	b, err := ratchet.NewResponder(p, [32]byte(first.PublicKey().Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	return map[string]*ratchet.State{"initiator": a, "responder": b}
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
			// A vector that passes whatever the code does is worth nothing.
			if v.Expect == "ok" {
				for i := range v.Steps {
					if v.Steps[i].Op == "open" {
						v.Steps[i].Frame[len(v.Steps[i].Frame)/2] ^= 1
						x := v.open(t)[v.Steps[i].By]
						if _, err := x.Open(nil, v.Steps[i].Frame, time.UnixMilli(v.TimeMS)); err == nil {
							t.Error("a damaged frame opens")
						}
					}
				}
			}
		})
	}
}

var _ io.Reader = zeros{}
