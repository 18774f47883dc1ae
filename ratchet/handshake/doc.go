// Package handshake makes the first shared secret of a session: a PQXDH-shaped
// hybrid of X25519 and ML-KEM-768, signed by both parties' DID keys. It is pure:
// time is an argument, randomness an io.Reader argument, keys and their storage
// the caller's. The normative text is contracts/spec/handshake.md; numbers such
// as HS-7 below point into it.
//
// # The story
//
// Bob mints [Prekeys] and publishes a signed bundle of their public halves
// ([Prekeys.Issue]), together with his [Card]: who he is and which keys speak for
// him. Alice fetches the bundle, and [Initiate] does four things in one message,
// the first flight:
//
//	DH1 = IK_A·SPK_B   DH2 = EK_A·IK_B   DH3 = EK_A·SPK_B   DH4 = EK_A·OPK_B
//	(ct, ss) = Encaps(OPQ_B or PQSPK_B)
//
//	preamble | sealed card of Alice | first ratchet frame
//
// The preamble names the keys in clear. The card is sealed under DH2, DH3, DH4
// and ss, so that an observer does not learn who calls; DH1 needs what is in it.
// All that was said so far is hashed into the transcript T, which salts the
// derivation of the session; the first frame carries Alice's signature over T,
// without which whoever stole Bob's keys could pose to him as anybody.
//
// Bob's [Accept] verifies all of it before it returns a state. A failure leaves
// nothing behind and consumes no one-time key; success names the one-time keys
// that the caller must erase in the transaction that stores the session. Bob's
// frames carry a tag over T until Alice has answered: key confirmation.
//
// Nothing here asks a network who a DID is: the caller's CheckCard compares a
// card with the resolved document of its DID.
package handshake
