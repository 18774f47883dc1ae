// Package session carries messages between two agents: each once, in order,
// whatever crashes in between.
//
// Two DIDs have one conversation. In it, sessions of the ratchet follow each other
// (a handshake makes one, rotation and loss replace it), but the sequence numbers
// of messages run on, and so do the replay window and the outbox. Its rows:
//
//	conversation   peer, sessions, receive window, what the peer has acknowledged
//	session        the ratchet's state, sealed
//	outbox         messages that the peer has not acknowledged, with their frames
//	ahead          messages that arrived before their turn
//	inbox          messages in the order of their release, until the application
//	               acknowledges them
//
// Sending: seal, make {outbox row, audit event, and state where the reserve is used up} durable,
// then the wire. Receiving: open on a copy, make {state, window, rows} durable in one
// transaction, then acknowledge and release. So a crash at any point repeats a frame
// at most, and never a key, a message or a number. Numbers that a crash has burnt are
// closed by a VOID message.
//
// Delivery (deliver.go) is one goroutine a peer with something to send. Frames travel
// on a libp2p stream between connections that hello has bound to both DIDs. The
// normative text is contracts/spec/session.md.
package session
