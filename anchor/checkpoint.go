package anchor

import (
	"bytes"
	"encoding/base64"
	"strconv"

	"github.com/talosprotocol/talos/contracts"
)

// Checkpoint says that a log has size leaves under a root: C2SP tlog-checkpoint,
// narrowed to three lines without extensions.
type Checkpoint struct {
	Origin string // the name of the log and of its key; [Origin] for an agent's log
	Size   uint64
	Root   Hash
}

// maxSize bounds a tree: tlog counts leaves in an int64 and nodes at twice that,
// and a JSON integer is exact up to here.
const maxSize = 1<<53 - 1

// b64 is the base64 of notes: padded, and no spare bits that could differ.
var b64 = base64.StdEncoding.Strict()

// Append appends the signed text: origin, size in decimal, root in base64, each
// with a newline.
func (c Checkpoint) Append(dst []byte) []byte {
	dst = append(dst, c.Origin...)
	dst = append(dst, '\n')
	dst = strconv.AppendUint(dst, c.Size, 10)
	dst = append(dst, '\n')
	dst = b64.AppendEncode(dst, c.Root[:])
	return append(dst, '\n')
}

// ParseCheckpoint reads a signed text. It accepts exactly what Append writes: a
// fourth line, a leading zero, spare base64 bits, and an empty tree with a root
// other than [EmptyRoot] are refused. The code is CHECKPOINT_INVALID.
func ParseCheckpoint(text []byte) (Checkpoint, error) {
	var c Checkpoint
	origin, rest, ok1 := bytes.Cut(text, []byte("\n"))
	size, rest, ok2 := bytes.Cut(rest, []byte("\n"))
	root, rest, ok3 := bytes.Cut(rest, []byte("\n"))
	if !ok1 || !ok2 || !ok3 || len(rest) != 0 {
		return c, contracts.Errorf(contracts.CheckpointInvalid, "checkpoint: want exactly three lines")
	}
	c.Origin = string(origin)
	if err := checkName(c.Origin); err != nil {
		return c, err
	}
	var err error
	if c.Size, err = parseSize(size); err != nil {
		return c, err
	}
	if !decodeRoot(&c.Root, root) {
		return c, contracts.Errorf(contracts.CheckpointInvalid, "checkpoint: root is not the canonical base64 of 32 bytes")
	}
	if c.Size == 0 && c.Root != EmptyRoot {
		return c, contracts.Errorf(contracts.CheckpointInvalid, "checkpoint: size 0 with another root than that of the empty tree")
	}
	return c, nil
}

// parseSize reads a tree size: decimal, no sign, no leading zero.
func parseSize(b []byte) (uint64, error) {
	n, err := strconv.ParseUint(string(b), 10, 64)
	if err != nil || n > maxSize || len(b) > 1 && b[0] == '0' || b[0] == '+' {
		return 0, contracts.Errorf(contracts.CheckpointInvalid, "size %.24q: want a decimal without leading zero, at most %d", b, uint64(maxSize))
	}
	return n, nil
}

// decodeRoot reads 44 characters of base64. Decoders skip line breaks, which the
// length alone would let in, and write a 33rd byte where the padding is missing.
func decodeRoot(h *Hash, b []byte) bool {
	var buf [33]byte
	if len(b) != 44 || bytes.ContainsAny(b, "\r\n") {
		return false
	}
	n, err := b64.Decode(buf[:], b)
	copy(h[:], buf[:])
	return err == nil && n == len(h)
}

// DecodeBase64 reads a hash as notes and proofs of C2SP write it: 44 characters of
// padded base64, without spare bits. The code is MALFORMED.
func DecodeBase64(text []byte) (h Hash, err error) {
	if !decodeRoot(&h, text) {
		return Hash{}, contracts.Errorf(contracts.Malformed, "hash: not the canonical base64 of 32 bytes")
	}
	return h, nil
}
