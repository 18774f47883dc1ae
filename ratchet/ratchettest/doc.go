// Package ratchettest holds implementations of ratchet.Store to their promises,
// and the ratchet itself to its invariants.
//
//   - [TestStore] is the conformance suite that each Store runs.
//   - [Memory] is a Store in memory that asserts how it is used and fails on
//     demand: before writing, after writing, or as if somebody else had written.
//   - [Run] lets two parties talk through a world that drops, duplicates,
//     reorders, corrupts, crashes and restores, and checks the six invariants:
//     no key or nonce twice; each message at most once and in order; nothing
//     that was not sent; failed input changes nothing; acknowledged means
//     durable; the disk never holds the key of a message that was sent.
package ratchettest
