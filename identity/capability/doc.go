// Package capability says what one may do.
//
// A token is a signed text in which an issuer lets a subject do some things at one
// executor: scopes (ParseScope) under conditions (contracts.Constraint), for a time.
// The subject may give part of it on: tokens form a chain of at most four, each
// narrower than the one before it. Verifier.Verify checks a chain in one fixed order
// of steps and compiles it to a Grant; the binding of a role compiles to the same
// Grant (NewGrant), so that there is one evaluator. A token alone is worth nothing:
// whoever uses it proves to be its subject (Holder).
//
// Issuers take back in logs of their own (Revoke, SignHead). Set holds what is taken
// back, exactly, and how old that knowledge is: a token says how old it may be (rfs),
// and when nothing has been heard for longer, it is denied. Cache holds the grants of
// sessions and decides on them without allocating; one number, the set's epoch, tells
// it whether anything could have changed. Meter counts calls and remembers requests,
// last of all, so that a refused call uses nothing up. Explain makes the same decision
// in words.
//
// The package knows no network, disk or clock: bytes, times, randomness and the keys
// of issuers are arguments. The normative text is in contracts/spec: capability.md,
// scope.md, revocation.md. Tokens follow RFC 7515 (compact JWS) with Ed25519 (RFC
// 8032) in one exact form, payloads RFC 8785.
package capability
