// Package gate is the one door: nothing is done for anybody without passing [Gate.Do].
//
// A call names a surface of the registry (contracts/surfaces.json), who asks, and what
// the surface's template needs. The gate refuses, in this order, what is on no surface,
// what nobody's grant covers, what is too often, what no budget pays for, and what somebody
// who has to be asked has not approved; then it makes the decision to begin durable, lets the work run, and records how it ended,
// whatever happens. A refused call consumes nothing but its turn in the rate limit.
//
// The gate sees names, numbers and digests, never a body; it hands one on to whoever has
// to approve the call. Local HTTP and the mesh are
// two porches of the same door. Which grants somebody has is the business of an
// [Authority]: capability chains and role bindings compile to the same grants
// (identity/capability), so there is one matcher. The normative text is
// contracts/spec/gate.md.
package gate
