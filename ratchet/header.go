package ratchet

import (
	"crypto/cipher"
	"encoding/binary"

	"golang.org/x/crypto/chacha20poly1305"
)

// header is what the header key hides (spec §3.2):
//
//	dh 32 | pn u32 | n u32 | sender_seq u64 | recipient_seq u64 | ext_len u16 | ext | zeros
type header struct {
	dh           [32]byte
	pn, n        uint32
	seq          uint64
	recipientSeq uint64
	ext          []byte // aliases the scratch buffer of the state
}

const (
	headerFixed = 32 + 4 + 4 + 8 + 8 + 2
	tagSize     = chacha20poly1305.Overhead
	nonceSize   = chacha20poly1305.NonceSize
)

// extArea is the length of the extension area by header class, the two low bits
// of flags. Three sizes, not a length: an observer learns only whether a header
// is plain, carries a small extension or a post-quantum key.
var extArea = [3]int{0, 64, 1280}

const maxHeader = headerFixed + 1280

// headerClass gives the smallest class whose area holds n bytes of extensions.
func headerClass(n int) byte {
	for c, area := range extArea {
		if n <= area {
			return byte(c)
		}
	}
	panic("ratchet: extensions do not fit a header")
}

// append writes h with the area of its class.
func (h *header) append(b []byte) []byte {
	b = append(b, h.dh[:]...)
	b = binary.BigEndian.AppendUint32(b, h.pn)
	b = binary.BigEndian.AppendUint32(b, h.n)
	b = binary.BigEndian.AppendUint64(b, h.seq)
	b = binary.BigEndian.AppendUint64(b, h.recipientSeq)
	b = binary.BigEndian.AppendUint16(b, uint16(len(h.ext)))
	b = append(b, h.ext...)
	return appendZeros(b, extArea[headerClass(len(h.ext))]-len(h.ext))
}

// decode reads an opened header of the given class. It checks form and range;
// what the numbers mean to a chain is checked by step.
func (h *header) decode(b []byte, class byte) error {
	copy(h.dh[:], b)
	h.pn = binary.BigEndian.Uint32(b[32:])
	h.n = binary.BigEndian.Uint32(b[36:])
	h.seq = binary.BigEndian.Uint64(b[40:])
	h.recipientSeq = binary.BigEndian.Uint64(b[48:])
	n := int(binary.BigEndian.Uint16(b[56:]))
	area := b[headerFixed:]
	if n > len(area) || headerClass(n) != class || !allZero(area[n:]) {
		return errHeader
	}
	h.ext = area[:n]
	if h.n >= MaxChain || h.pn > MaxChain || h.seq >= MaxSeq || h.recipientSeq > MaxSeq {
		return errHeader
	}
	if uint64(h.n) > h.seq {
		return errSeq
	}
	return CheckX25519(h.dh[:])
}

// Extension types (spec §3.3). Extensions are type u16 | len u16 | value, in
// strictly rising order of type; a type that is not known is skipped.
const extConfirm = 1

// findExt gives the value of an extension, nil if absent.
func findExt(b []byte, want uint16) ([]byte, error) {
	var found []byte
	last := 0
	for len(b) > 0 {
		if len(b) < 4 {
			return nil, errHeader
		}
		typ, n := int(binary.BigEndian.Uint16(b)), int(binary.BigEndian.Uint16(b[2:]))
		if typ <= last || n > len(b)-4 {
			return nil, errHeader
		}
		if typ == int(want) {
			found = b[4 : 4+n]
		}
		last, b = typ, b[4+n:]
	}
	return found, nil
}

func appendExt(b []byte, typ uint16, value []byte) []byte {
	b = binary.BigEndian.AppendUint16(b, typ)
	b = binary.BigEndian.AppendUint16(b, uint16(len(value)))
	return append(b, value...)
}

func appendZeros(b []byte, n int) []byte {
	for range n {
		b = append(b, 0)
	}
	return b
}

func allZero(b []byte) bool {
	var any byte
	for _, c := range b {
		any |= c
	}
	return any == 0
}

// headerKey is a header key with its cipher, made once so that trying a key
// allocates nothing.
type headerKey struct {
	k    key
	aead cipher.AEAD
}

func newHeaderKey(k key) headerKey { return headerKey{k, newAEAD(&k)} }

func newAEAD(k *key) cipher.AEAD {
	a, err := chacha20poly1305.New(k[:])
	if err != nil {
		panic("ratchet: " + err.Error()) // the length is fixed
	}
	return a
}
