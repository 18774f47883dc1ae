package evm

import (
	"encoding/binary"
	"math/bits"

	"github.com/talosprotocol/talos/contracts"
)

// Item is a value of RLP: a string of bytes, or a list.
type Item struct {
	IsList bool
	Bytes  []byte // of a string
	List   []Item
	Raw    []byte // the encoding that it was read from
}

func errRLP(why string) error { return contracts.Errorf(contracts.Malformed, "RLP: %s", why) }

// maxDepth bounds lists in lists: what we read has three.
const maxDepth = 8

// Decode reads one value and accepts only the one encoding that it has. The slices
// point into b. The code is MALFORMED.
func Decode(b []byte) (Item, error) {
	it, rest, err := decode(b, 0)
	if err == nil && len(rest) > 0 {
		err = errRLP("bytes after the value")
	}
	return it, err
}

func decode(b []byte, depth int) (it Item, rest []byte, err error) {
	if len(b) == 0 || depth > maxDepth {
		return it, nil, errRLP("nothing there, or lists too deep")
	}
	head, first := 1, b[0]
	var n uint64
	switch {
	case first < 0x80:
		return Item{Bytes: b[:1], Raw: b[:1]}, b[1:], nil
	case first < 0xb8:
		n = uint64(first - 0x80)
	case first < 0xc0:
		head, n, err = decodeLong(b, first-0xb7)
	case first < 0xf8:
		it.IsList, n = true, uint64(first-0xc0)
	default:
		it.IsList = true
		head, n, err = decodeLong(b, first-0xf7)
	}
	if err != nil || n > uint64(len(b)-head) {
		return it, nil, errRLP("a length that does not fit")
	}
	body := b[head : head+int(n)]
	it.Raw, rest = b[:head+int(n)], b[head+int(n):]
	if !it.IsList {
		if n == 1 && body[0] < 0x80 {
			return it, nil, errRLP("a single byte with a length")
		}
		it.Bytes = body
		return it, rest, nil
	}
	for len(body) > 0 {
		var sub Item
		if sub, body, err = decode(body, depth+1); err != nil {
			return it, nil, err
		}
		it.List = append(it.List, sub)
	}
	return it, rest, nil
}

// decodeLong reads a length of k bytes, which must need them all and be above 55.
func decodeLong(b []byte, k byte) (head int, n uint64, err error) {
	head = 1 + int(k)
	if len(b) < head || b[1] == 0 {
		return 0, 0, errRLP("a length with a leading zero")
	}
	var buf [8]byte
	copy(buf[8-k:], b[1:head])
	if n = binary.BigEndian.Uint64(buf[:]); n < 56 {
		return 0, 0, errRLP("a short length in the long form")
	}
	return head, n, nil
}

// Uint reads a number: no leading zero, at most 8 bytes.
func (it *Item) Uint() (uint64, error) {
	if it.IsList || len(it.Bytes) > 8 || len(it.Bytes) > 0 && it.Bytes[0] == 0 {
		return 0, errRLP("not a number")
	}
	var buf [8]byte
	copy(buf[8-len(it.Bytes):], it.Bytes)
	return binary.BigEndian.Uint64(buf[:]), nil
}

// AppendBytes appends a string.
func AppendBytes(dst, b []byte) []byte {
	if len(b) == 1 && b[0] < 0x80 {
		return append(dst, b[0])
	}
	return append(appendHead(dst, 0x80, len(b)), b...)
}

// AppendUint appends a number.
func AppendUint(dst []byte, n uint64) []byte {
	var buf [8]byte
	binary.BigEndian.PutUint64(buf[:], n)
	return AppendBytes(dst, buf[bits.LeadingZeros64(n)/8:])
}

// AppendList appends a list of what is encoded in body.
func AppendList(dst, body []byte) []byte {
	return append(appendHead(dst, 0xc0, len(body)), body...)
}

func appendHead(dst []byte, base byte, n int) []byte {
	if n < 56 {
		return append(dst, base+byte(n))
	}
	var buf [8]byte
	binary.BigEndian.PutUint64(buf[:], uint64(n))
	k := 8 - bits.LeadingZeros64(uint64(n))/8
	dst = append(dst, base+55+byte(k))
	return append(dst, buf[8-k:]...)
}
