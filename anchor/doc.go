// Package anchor is the evidence that agents leave: the audit event, the Merkle
// tree over events, the signed checkpoint of a tree, the cosignature of a
// witness, the proof that somebody signed two histories, and the bundle that an
// auditor checks alone.
//
// The story of one event. [EncodeEvent] gives its canonical bytes, and [Commit]
// binds them, with a random salt, into 42 bytes of leaf data; whoever forgets the
// salt has erased the event and no proof changes. The leaf's hash goes into a
// [Frontier], the compact form of a growing RFC 6962 tree. Now and then the log
// signs a [Checkpoint] (three lines: origin, size, root), which makes a [Note].
// Gossip carries the same signature in 140 bytes, a [Digest]. Witnesses check that
// each head extends the one before and add a cosignature ([Cosign]). [NewBundle]
// puts event, proof and signatures into one file and [Verify] judges it without a
// network: INVALID, FORKED, SIGNED or WITNESSED by k of n organisations, between
// two times. A log that shows two histories convicts itself: [Evidence].
//
// Formats are those of C2SP (tlog-checkpoint, signed-note, tlog-cosignature,
// RFC 6962), narrowed so that one meaning has one encoding: what parses here
// encodes to the same bytes. The norm is contracts/spec/{audit-log,checkpoint,
// witness,bundle}.md; its MUSTs are named in the comments as AUD-n, CKP-n, WIT-n
// and BND-n.
//
// Everything here is a pure function of its arguments. There is no clock, disk,
// network, logger or source of randomness; public keys are the caller's, who has
// parsed them strictly. All functions may be called concurrently; a *Frontier has
// one owner.
package anchor
