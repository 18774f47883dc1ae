// Package evm is what an anchor needs of Ethereum's formats, and no more: RLP, the
// Merkle Patricia trie of a block's transactions, block headers, and transactions of
// type 2 (EIP-1559) with their signature.
//
// Everything is a pure function. What is read has one encoding: a reader refuses any
// other. Sources: the yellow paper (appendices B and D), EIP-2718, EIP-1559, EIP-4844,
// EIP-7702.
package evm

import "golang.org/x/crypto/sha3"

// Hash is Keccak-256, as the chain's ids are.
type Hash [32]byte

// Keccak hashes parts.
func Keccak(parts ...[]byte) (h Hash) {
	k := sha3.NewLegacyKeccak256()
	for _, p := range parts {
		_, _ = k.Write(p) // never fails
	}
	k.Sum(h[:0])
	return h
}
