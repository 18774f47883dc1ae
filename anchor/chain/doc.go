// Package chain puts the heads of many logs onto chains: it closes the epochs of an
// anchor, has drivers submit the anchor's own log, and keeps the receipts.
//
// [Epochs] takes, once a minute, the newest cosigned head of every log that has
// advanced, makes the tree over them (package anchor), keeps its leaves, and appends
// its root to the anchor's audit log as an event of type epoch. That log is all the
// "block chain" there is by default: each epoch is under every later head, and other
// anchors cosign those heads.
//
// A [Driver] writes heads of that log to one chain. A [Submitter] walks a driver through
// prepare, submit and status, with the state durable before each step that the world
// sees, so that a crash at any point sends the same thing again and not a second one. A
// chain that is down costs nothing: when it is back, the newest head goes there, and all
// that was missed is under it.
//
// The drivers are packages of their own: quorum (cosignatures of other anchors),
// ethereum, opentimestamps. The normative text is contracts/spec/anchoring.md, whose
// MUSTs are CHAIN-n.
package chain
