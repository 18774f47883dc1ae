package ratchet

import (
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"

	"github.com/talosprotocol/talos/contracts"
)

// Info is what a person may see of a session. It holds no secret.
type Info struct {
	Conversation  [16]byte
	Transcript    [32]byte
	Confirmed     bool   // both sides have proved that they hold the same secrets
	NextSeq       uint64 // sender_seq of the next frame
	PeerAck       uint64 // what the peer expects next
	Sent          uint32 // messages in the current sending chain
	Received      uint32 // keys taken or skipped in the current receiving chain
	Skipped       int    // skipped keys kept
	OldChains     int
	Reserved      int
	StepDue       bool // the next send makes a DH step
	WaitsForFresh bool // asks the peer for a fresh key with each frame
}

// Info gives a snapshot for people.
func (s *State) Info() Info {
	c := &s.cur
	skipped := len(c.recv.skipped)
	for i := range c.old {
		skipped += len(c.old[i].skipped)
	}
	return Info{
		Conversation: s.id.conversation, Transcript: s.id.transcript,
		Confirmed: s.Confirmed(), NextSeq: c.seq, PeerAck: c.peerAck,
		Sent: c.send.n, Received: c.recv.n, Skipped: skipped, OldChains: len(c.old),
		Reserved: s.Reserved(), StepDue: c.step, WaitsForFresh: c.forced,
	}
}

// Confirmed reports key confirmation: for the initiator, that a reply with the
// right tag was committed; for the responder, that the initiator has answered to
// such a reply. A responder whose first flight carried no one-time key must not
// cause side effects before (spec/handshake.md §5).
func (s *State) Confirmed() bool { return s.cur.confirm == confirmDone }

// Transcript gives T of the handshake that made the session.
func (s *State) Transcript() [32]byte { return s.id.transcript }

// Export derives a 32-byte secret for another use, the same on both sides and
// for the life of the session, such as the PSK of the handshake that replaces
// it. Different labels give independent secrets. label is 1 to 64 bytes.
func (s *State) Export(label string) ([32]byte, error) {
	if label == "" || len(label) > 64 {
		return [32]byte{}, contracts.Errorf(contracts.Malformed, "export label of %d bytes", len(label))
	}
	var out key
	var b [96]byte
	n := copy(b[:], "talos-e2ee/2 export\x00")
	n += copy(b[n:], label)
	hmacSum(&out, &s.id.exporter, b[:n])
	return out, nil
}

// ExportRotation is the label of the PSK that joins a session to the one that
// replaces it.
const ExportRotation = "rotation"

// print writes a name and a public fingerprint, whatever the verb.
func print(f fmt.State, name string, id []byte) {
	_, _ = io.WriteString(f, name+"("+hex.EncodeToString(id)+")")
}

func (s State) fingerprint() []byte { return s.id.hash[:4] }

// String gives a fingerprint.
func (s State) String() string { return fmt.Sprint(s) }

// Format writes a fingerprint for every verb.
func (s State) Format(f fmt.State, _ rune) { print(f, "ratchet.State", s.fingerprint()) }

// MarshalJSON writes a fingerprint: a state is stored with AppendState only.
func (s State) MarshalJSON() ([]byte, error) { return []byte(`"` + s.String() + `"`), nil }

// LogValue gives a fingerprint.
func (s State) LogValue() slog.Value { return slog.StringValue(s.String()) }

// String says only what it is.
func (Secrets) String() string { return "ratchet.Secrets(redacted)" }

// Format writes the same for every verb.
func (x Secrets) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, x.String()) }

// MarshalJSON writes the same.
func (x Secrets) MarshalJSON() ([]byte, error) { return []byte(`"` + x.String() + `"`), nil }

// LogValue gives the same.
func (x Secrets) LogValue() slog.Value { return slog.StringValue(x.String()) }

// String gives numbers and the length of the body.
func (m Message) String() string {
	return fmt.Sprintf("ratchet.Message(seq=%d kind=%d len=%d)", m.Seq, m.Kind, len(m.Body))
}

// Format writes String for every verb.
func (m Message) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, m.String()) }

// MarshalJSON writes String.
func (m Message) MarshalJSON() ([]byte, error) { return []byte(`"` + m.String() + `"`), nil }

// LogValue gives String.
func (m Message) LogValue() slog.Value { return slog.StringValue(m.String()) }
