package execution

import (
	"crypto/sha256"
	"hash"
)

const commitPrefix = "talos/commit/1\n"

// Commitment is SHA-256 of the prefix, the salt and the bytes that are written to it
// (GW-7): a digest alone would let a guess of a short prompt be tried.
type Commitment struct{ hash.Hash }

// NewCommitment begins one.
func NewCommitment(salt []byte) *Commitment {
	h := sha256.New()
	h.Write([]byte(commitPrefix))
	h.Write(salt)
	return &Commitment{h}
}

// Text gives it as it stands in receipts and audit events.
func (c *Commitment) Text() string { return b64.EncodeToString(c.Sum(nil)) }

// Commit gives the commitment to a body.
func Commit(salt, body []byte) string {
	c := NewCommitment(salt)
	_, _ = c.Write(body)
	return c.Text()
}
