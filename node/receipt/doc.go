// Package receipt is the evidence that the two sides of a call have of it: what the
// executor says was asked, answered and used, signed by it and countersigned by the
// caller, who has checked it.
//
//	receipt.go signatures of a receipt
//	keeper.go  each side keeps its copy, and logs that it has one
//	file.go    receipts for a stranger, who needs nothing else to check them
//
// A receipt has salted commitments to the bodies, not the bodies. Signing, keeping and
// handing over happen beside the calls, many at once. The normative text is
// contracts/spec/gateway.md §3.
package receipt
