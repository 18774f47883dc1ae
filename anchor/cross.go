package anchor

import "github.com/talosprotocol/talos/contracts"

// LogEvents is a part of a log: who owns it, and events with their indexes.
type LogEvents struct {
	Owner  string // DID
	Events []IndexedEvent
}

// IndexedEvent is an event at its place.
type IndexedEvent struct {
	Index uint64                `json:"index"`
	Event *contracts.AuditEvent `json:"event"`
}

// Mismatch is an event about a message that the other side's log has no word of.
type Mismatch struct {
	Owner string `json:"owner"` // whose log has the event
	IndexedEvent
	// Denied says that the owner has received what the other log never sent: messages
	// are authenticated, so the other left it out, or one of the two lies. The reverse,
	// a message that was sent and not received, is also one that is still on the way,
	// was lost with its session, or lies outside the part that is compared.
	Denied bool `json:"denied"`
}

// Cross compares what two logs say of the messages between their owners, by the hash
// of the ciphertext, which pins the plaintext. It gives what only one of them has, in
// the order of the logs: those of a, then those of b. It believes the events: whether
// they are in the logs is for bundles to show.
func Cross(a, b LogEvents) []Mismatch {
	return append(cross(a, b), cross(b, a)...)
}

func cross(of, other LogEvents) (out []Mismatch) {
	type message struct{ typ, hash string }
	has := map[message]bool{}
	for _, e := range other.Events {
		if e.Event.Peer == of.Owner && e.Event.CiphertextHash != "" {
			has[message{e.Event.Type, e.Event.CiphertextHash}] = true
		}
	}
	counterpart := map[string]string{"message_in": "message_out", "message_out": "message_in"}
	for _, e := range of.Events {
		want, ok := counterpart[e.Event.Type]
		if !ok || e.Event.Peer != other.Owner || e.Event.CiphertextHash == "" {
			continue
		}
		if !has[message{want, e.Event.CiphertextHash}] {
			out = append(out, Mismatch{Owner: of.Owner, IndexedEvent: e, Denied: e.Event.Type == "message_in"})
		}
	}
	return out
}
