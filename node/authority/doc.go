// Package authority is what a node knows of who may do what: the capability tokens that
// it holds and has given, what was taken back, and what others ask for.
//
//	service.go  the parts, and their start
//	decide.go   the answer to the gate: owner, strangers, grants of shown chains
//	wallet.go   tokens held and given: grant, delegate, import, list, revoke
//	stream.go   /talos/<net>/capability/1.0.0: show, offer, ask, revocation logs
//	revoke.go   revocation records and heads: gossip, store, catching up
//
// A chain is shown once on a connection, and verified; from then on each call is decided
// by the grant that it compiled to (identity/capability). Nothing that was shown outlives
// the connection. What is known of revocations is gossiped, kept in the store, and asked
// for from the issuer when it is too old to decide; if nobody answers, the call is
// denied. The normative text is in contracts/spec: capability.md, revocation.md, gate.md.
package authority
