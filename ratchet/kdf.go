package ratchet

import (
	"crypto/sha256"
	"crypto/subtle"
)

// key is a 32-byte secret: root key, chain key, message key or header key. It
// never leaves the package except inside an encoded state.
type key [32]byte

// maxMAC is the longest message that hmacSum takes; all inputs of the key
// schedule have fixed, shorter lengths.
const maxMAC = 128

// hmacSum sets out to HMAC-SHA256(k, msg). It is written by hand over Sum256
// because crypto/hmac allocates 480 bytes a call and this runs three times a
// message; TestKDFMatchesStandardLibrary holds it to crypto/hmac. out may alias
// k or msg.
func hmacSum(out *key, k *key, msg []byte) {
	if len(msg) > maxMAC {
		panic("ratchet: hmacSum: message too long")
	}
	var inner [64 + maxMAC]byte
	var outer [64 + 32]byte
	for i := range 32 {
		inner[i] = k[i] ^ 0x36
		outer[i] = k[i] ^ 0x5c
	}
	for i := 32; i < 64; i++ {
		inner[i] = 0x36
		outer[i] = 0x5c
	}
	n := copy(inner[64:], msg)
	sum := sha256.Sum256(inner[:64+n])
	copy(outer[64:], sum[:])
	*out = sha256.Sum256(outer[:])
	clear(inner[:64+n])
	clear(outer[:])
}

// Message constants of the chain key (spec §4).
const (
	ckMessage = 1
	ckChain   = 2
	ckCommit  = 3
)

// kdfCK advances a chain: mk = HMAC(ck, 1), ck' = HMAC(ck, 2).
func kdfCK(ck *key) (mk key) {
	var b [1]byte
	b[0] = ckMessage
	hmacSum(&mk, ck, b[:])
	b[0] = ckChain
	hmacSum(ck, ck, b[:])
	return mk
}

// skipCK advances a chain without making its message key.
func skipCK(ck *key) {
	b := [1]byte{ckChain}
	hmacSum(ck, ck, b[:])
}

// commitment gives HMAC(mk, 3)[:16], which goes into the associated data so
// that one ciphertext opens under one key only (RAT-12).
func commitment(mk *key) (c [16]byte) {
	var sum key
	b := [1]byte{ckCommit}
	hmacSum(&sum, mk, b[:])
	copy(c[:], sum[:16])
	return c
}

const rootInfo = "talos-e2ee/2 root"

// kdfRK makes a DH step: HKDF-SHA256(salt=root, ikm=secret, info, 96) gives the
// next root key, the chain key and the header key of the chain after it.
func kdfRK(root, secret *key) (chain, nextHeader key) {
	var prk key
	hmacSum(&prk, root, secret[:])
	var b [32 + len(rootInfo) + 1]byte
	n := copy(b[:], rootInfo)
	b[n] = 1
	hmacSum(root, &prk, b[:n+1])
	expand := func(prev *key, i byte) (out key) {
		n := copy(b[:], prev[:])
		n += copy(b[n:], rootInfo)
		b[n] = i
		hmacSum(&out, &prk, b[:n+1])
		return out
	}
	chain = expand(root, 2)
	nextHeader = expand(&chain, 3)
	clear(b[:])
	clear(prk[:])
	return chain, nextHeader
}

func zero(k *[32]byte) bool {
	var z [32]byte
	return subtle.ConstantTimeCompare(k[:], z[:]) == 1
}
