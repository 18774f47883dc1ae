// Package identity says who somebody is, without a registry.
//
// A did:talos is the hash of its own inception event: a signed statement of the
// first control keys and of the digests of the next ones. Later events (rotation,
// end) are signed by keys whose digests the event before has named, so whoever
// steals the keys in use can sign with them but never take the DID over; its owner
// rotates to the pre-committed key and goes on. The list of events is the key log
// (KeyLog); together with the newest DID document and a validity it makes a signed
// state record (State), which anybody verifies offline and which peers keep in
// the DHT. A did:key is one Ed25519 key and nothing else.
//
// Each kind of key has a Go type of its own (ControlKey, PeerKey, …), whose zero
// value is invalid and which never prints its secret. The package knows no network,
// disk or clock: bytes, times and randomness are arguments. The normative text is
// contracts/spec/identity.md.
package identity
