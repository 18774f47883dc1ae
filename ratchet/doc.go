// Package ratchet is the Double Ratchet with header encryption, suite 0x0002,
// as a pure state machine: no network, disk, clock, logger or randomness of its
// own. Time is an argument, randomness an io.Reader argument, storage the
// caller's. The normative text is contracts/spec/ratchet.md; numbers such as
// RAT-7 below point into it.
//
// # The story
//
// Two parties leave a handshake (package handshake) with the same root key and
// the same transcript T. Each holds a [State]. Every frame is sealed under a
// message key that is used once and forgotten; every time the direction of the
// conversation turns, fresh X25519 keys are mixed into the root, so that a thief
// of the whole state is locked out after one round trip.
//
//	handshake ──> root ──KDF_RK──> root' ──KDF_RK──> root'' …
//	                       │                 │
//	                   chain, next hk    chain, next hk      one per DH step
//	                       │
//	                     KDF_CK ──> message key n, n+1, n+2 …
//
// A frame begins with a header that is itself encrypted. A receiver tries the
// few header keys that it holds (the current chain, the next chain and at most
// five old ones) before anything else: a forged frame costs some hundred
// nanoseconds and no allocation, and touches no state (RAT-20).
//
// # Sending
//
// [State.AppendSeal] seals one message. What must be durable before the frame is
// released depends on the caller's mode:
//
//   - one at a time: seal, store [State.AppendState], release the frame;
//   - reserve-ahead: [State.Reserve], store [State.AppendState], then up to
//     [ReserveAhead] frames may be sealed and released without storing again.
//     What is stored lies ahead of memory: the disk never holds the key of a
//     message that was sent, and a crash skips at most [ReserveAhead] numbers.
//
// [Receipt.Store] says which case a frame was.
//
// # Receiving
//
// [State.Open] works on a copy. It leaves the verified step pending; the caller
// puts [State.AppendPending], its replay [Window] and the message into one
// transaction, and then calls [State.Commit], or [State.Discard]. Every failure
// leaves the state byte-identical (RAT-21).
//
// # Healing
//
// A DH step needs a fresh key of the peer. A one-way stream gets none, so a
// sender whose chain is long or old ([State.NeedsDHStep]) marks its frames "ack
// wanted", and the peer ([State.OwesAck]) answers with an empty frame.
//
// A State belongs to one goroutine at a time: the caller's session lock spans
// Open to Commit and Reserve to the end of its Commit in the [Store].
package ratchet
