// Package gateway lets models, MCP servers and A2A agents of one node be used by others,
// and those of others by the local programs of this one.
//
//	driver.go   what a kind of service must do: say what a call is, and do it
//	serve.go    the executor: read, plan, pass the gate, do, sign the receipt
//	once.go     calls that change something: once for an idempotency key
//	local.go    the same for a program of this machine, without the mesh
//	receipt.go  commitments and receipts
//	list.go     what a node offers, signed; asking for it; the DHT
//	find.go     which gateways there are for a call
//	route.go    the caller: whom to ask, when to ask another, checking the receipt
//	health.go   what is known of gateways: breakers, how long they take
//
// Bodies are the ecosystem's own bytes and pass as they are. The drivers (llm, mcp, a2a)
// are leaves: they read of a body what policy needs and speak upstream. Prompts, arguments
// and results are in no log, no audit event and not in the store; what is kept of them is
// salted commitments. The normative text is contracts/spec/gateway.md.
package gateway
