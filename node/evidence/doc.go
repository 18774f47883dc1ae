// Package evidence is a node's part in proving what happened: it keeps the node's
// audit log, has its heads cosigned by anchors, tells everybody of them, and, on an
// anchor, cosigns the heads of others.
//
// A new head (package auditlog) is submitted to each anchor of the configuration
// over a stream, with a consistency proof from the head that the anchor saw last;
// the cosignatures come back and are kept beside the head. The same head goes out
// as a digest on gossip, where every node compares it with what it has seen: two
// roots of one size are evidence, which travels to every node on a topic of its
// own, together with the states that hold the keys to verify it.
//
// Peers show each other their newest heads when they connect, and those of the peers
// they have met, so that a fork shown to two of them is found without an anchor. Two
// heads of different sizes that nothing joins are compared by asking the log itself;
// what it then proves under both convicts it. Convictions are learned in the same way
// by whoever comes later.
//
// Nothing depends on a digest arriving: submission is what counts, and it goes on
// until it succeeds. The normative text is contracts/spec/witness.md and bundle.md.
package evidence
