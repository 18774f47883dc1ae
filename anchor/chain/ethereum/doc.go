// Package ethereum writes heads to any chain that speaks Ethereum's JSON-RPC: 76 bytes
// of data in a transaction of the anchor's account to itself, whatever the number of
// logs below. The receipt is the block's header and the proof that the transaction is in
// it; an auditor needs no endpoint to follow it, only the hash of that block from
// somewhere that he trusts.
//
// The endpoint is believed in as little as can be: which chain it is of is asked before
// anything is signed, headers are hashed and the trees of transactions built again. What
// remains its word is which blocks are final.
//
// There is one submission at a time. It keeps its nonce until it is on the chain, or
// until another transaction took the nonce; a fee that is too low is raised by sending
// the same with a higher one, so that only one of them can ever be there.
//
// The client is our own and small, since the usual library is under a licence that a
// program must follow as a whole. It is tested against that library's program, geth.
package ethereum
