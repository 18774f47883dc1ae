// Package opentimestamps writes heads to Bitcoin through public calendars, which put the
// digests of everybody into one transaction and cost nothing. It proves that a head
// existed before a block, hours later; it proves nothing about other heads.
//
// The reader of proof files knows the three operations that calendars use (append,
// prepend, sha256), is bounded, and refuses the rest. A receipt is one way through the
// file, from the digest to the attestation of one block: what calendars merely promise is
// left out. Format and calendars' requests: the python-opentimestamps library and
// peter todd's description of 2016.
package opentimestamps
