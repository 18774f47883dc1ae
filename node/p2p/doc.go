// Package p2p is where a node meets the network: one libp2p host, the DHT of its
// Talos network, and the manager that keeps it connected.
//
// A host listens on QUIC and TCP, with the limits of its role and network kind from
// Config. The DHT has the network's own protocol prefix, so two networks never mix;
// what it may store is decided by the validator given to New, and nothing else. No
// part of libp2p reconnects by itself after a cut, so Peering brings back
// bootstraps, anchors and the peers that last worked, with jittered backoff.
// Streams carry frames of uvarint length and body, written at once (WriteFrame,
// ReadFrame), with deadlines and memory reserved before reading.
package p2p
