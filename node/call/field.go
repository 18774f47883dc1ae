package call

import (
	"encoding/binary"

	"github.com/talosprotocol/talos/contracts"
)

// extension is the first tag, and the first kind of frame, that a reader which does not
// know it ignores.
const extension = 0x80

// appendBytes appends a field: tag, uvarint length, value. A field with its zero value
// is left out, so that a header has one encoding.
func appendBytes[T ~string | ~[]byte](b []byte, tag byte, v T) []byte {
	if len(v) == 0 {
		return b
	}
	b = binary.AppendUvarint(append(b, tag), uint64(len(v)))
	return append(b, v...)
}

// appendNumber appends a field whose value is a uvarint.
func appendNumber(b []byte, tag byte, n uint64) []byte {
	if n == 0 {
		return b
	}
	var v [binary.MaxVarintLen64]byte
	return appendBytes(b, tag, v[:binary.PutUvarint(v[:], n)])
}

// fields visits the fields of b in their order, but those of the extension area. v is
// part of b.
func fields(b []byte, visit func(tag byte, v []byte) error) error {
	last := byte(0)
	for len(b) > 0 {
		tag := b[0]
		if tag <= last {
			return contracts.Errorf(contracts.Malformed, "field %d after field %d; tags ascend from 1", tag, last)
		}
		n, k := uvarint(b[1:])
		if k == 0 || n == 0 || n > uint64(len(b)-1-k) {
			return contracts.Errorf(contracts.Malformed, "field %d is cut short or empty", tag)
		}
		v := b[1+k : 1+k+int(n)]
		b, last = b[1+k+int(n):], tag
		if tag >= extension {
			continue
		}
		if err := visit(tag, v); err != nil {
			return err
		}
	}
	return nil
}

// number reads a field written by appendNumber, of at most limit.
func number(tag byte, v []byte, limit uint64) (uint64, error) {
	n, k := uvarint(v)
	if k != len(v) || n == 0 || n > limit {
		return 0, contracts.Errorf(contracts.Malformed, "field %d is no number from 1 to %d", tag, limit)
	}
	return n, nil
}

// uvarint reads a number in its shortest form; k is 0 for anything else.
func uvarint(b []byte) (n uint64, k int) {
	n, k = binary.Uvarint(b)
	if k <= 0 || k > 1 && b[k-1] == 0 {
		return 0, 0
	}
	return n, k
}
