// Package approval asks whether a call may be done, where a rule of the owner says that
// somebody has to be asked: the owner, or a governance peer.
//
//	desk.go     what waits for a decision; the gate's side
//	peer.go     the side of a governance peer, which decides for others
//	decision.go signed decisions
//
// A decision is a signature over the digest of the action, which commits to every byte of
// the request: it is good for that request, once, until it expires. What nobody has
// decided is not done. Requests wait in memory only, since they have content; whoever asks
// again with the same content finds the decision that was made meanwhile. The normative
// text is contracts/spec/execution.md.
package approval
