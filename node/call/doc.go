// Package call carries calls between nodes: one libp2p stream a call, both bodies
// streamed, over whatever connection hello has bound to the DIDs of both ends.
//
//	calls.go    the node's calls: limits, start, drain, close
//	do.go       the caller: one try, and when another is allowed
//	response.go what the caller gets: header, body, trailer
//	serve.go    the executor: bind, bound, read the header, run the handler, answer
//	inlet.go    the request body as the handler reads it, and the watch for a cancel
//	writer.go   frames out: one write each, keepalives, the body of either direction
//	reader.go   frames in, one direction: limits and order
//	header.go   the three headers, as fields (field.go)
//	link.go     a stream whose waits are bounded and can be cut short
//
// A call is cancelled by resetting its stream. Nobody waits for more than a bounded
// time: for the next frame (idle, which keepalives renew), for the other side to take
// what is written (stall), for the end (the deadline, which travels as what remains of
// it). Nothing is queued here: a reader that does not read stops its writer by the flow
// control of the transport.
//
// The package knows no policy. Capability, trace and meta are bytes to it; who may call
// what is asked by the handler, which is node/gateway behind node/gate. The normative
// text is contracts/spec/call.md.
package call
