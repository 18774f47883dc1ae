package evidence

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"

	"github.com/talosprotocol/talos/anchor"
	"github.com/talosprotocol/talos/contracts"
)

// convictionID is the length of the name of a conviction on the wire: the first bytes
// of the SHA-256 of the origin.
const convictionID = 16

func idOf(origin string) (id [convictionID]byte) {
	sum := sha256.Sum256([]byte(origin))
	copy(id[:], sum[:])
	return id
}

// headsMessage is summary (32) ‖ how many (1) ‖ digests of 140 bytes each.
type headsMessage struct {
	summary [32]byte // SHA-256 of the ids of the convictions that the sender holds
	heads   []*anchor.Digest
}

func (m *headsMessage) append(dst []byte) []byte {
	dst = append(dst, m.summary[:]...)
	at := len(dst)
	dst = append(dst, 0)
	for _, d := range m.heads {
		if b, err := d.Append(nil); err == nil && dst[at] < maxHeads {
			dst = append(dst, b...)
			dst[at]++
		}
	}
	return dst
}

func parseHeads(b []byte) (m headsMessage, err error) {
	if len(b) < 33 || b[32] > maxHeads || len(b) != 33+int(b[32])*anchor.DigestSize {
		return m, contracts.Errorf(contracts.Malformed, "heads: %d bytes", len(b))
	}
	copy(m.summary[:], b)
	for rest := b[33:]; len(rest) > 0; rest = rest[anchor.DigestSize:] {
		d, err := anchor.ParseDigest(rest[:anchor.DigestSize])
		if err != nil {
			return m, err
		}
		m.heads = append(m.heads, d)
	}
	return m, nil
}

// parseIDs reads a page of ids, which must ascend and all be above after.
func parseIDs(b []byte, after [convictionID]byte) ([][convictionID]byte, error) {
	if len(b)%convictionID != 0 || len(b) > maxIDs*convictionID {
		return nil, contracts.Errorf(contracts.Malformed, "ids: %d bytes", len(b))
	}
	var out [][convictionID]byte
	for ; len(b) > 0; b = b[convictionID:] {
		id := [convictionID]byte(b)
		if bytes.Compare(id[:], after[:]) <= 0 {
			return nil, contracts.Errorf(contracts.Malformed, "ids that do not ascend")
		}
		out, after = append(out, id), id
	}
	return out, nil
}

// An inclusion question is a digest (140) ‖ index (8, big-endian).
func appendInclusionAsk(dst []byte, d *anchor.Digest, index uint64) ([]byte, error) {
	dst, err := d.Append(dst)
	return binary.BigEndian.AppendUint64(dst, index), err
}

func parseInclusionAsk(b []byte) (*anchor.Digest, uint64, error) {
	if len(b) != anchor.DigestSize+8 {
		return nil, 0, contracts.Errorf(contracts.Malformed, "an inclusion question of %d bytes", len(b))
	}
	d, err := anchor.ParseDigest(b[:anchor.DigestSize])
	if err != nil {
		return nil, 0, err
	}
	index := binary.BigEndian.Uint64(b[anchor.DigestSize:])
	if index >= d.Size {
		return nil, 0, contracts.Errorf(contracts.NotFound, "index %d of a tree of %d", index, d.Size)
	}
	return d, index, nil
}

func appendHashes(dst []byte, hs []anchor.Hash) []byte {
	for i := range hs {
		dst = append(dst, hs[i][:]...)
	}
	return dst
}

// parseInclusion reads a leaf hash and its proof.
func parseInclusion(b []byte) (leaf anchor.Hash, proof []anchor.Hash, err error) {
	if len(b) < 32 || len(b)%32 != 0 || len(b) > maxInclusion-1 {
		return leaf, nil, contracts.Errorf(contracts.Malformed, "a proof of %d bytes", len(b))
	}
	leaf = anchor.Hash(b[:32])
	for b = b[32:]; len(b) > 0; b = b[32:] {
		proof = append(proof, anchor.Hash(b[:32]))
	}
	return leaf, proof, nil
}
