package ratchet

import "encoding/binary"

// A frame (spec §3.1):
//
//	0x02 | suite u16 | flags u8 | nonce 12 | sealed header | sealed payload
const (
	frameFixed = 1 + 2 + 1 + nonceSize
	flagsClass = 0x03 // header class; the other bits are zero
	minPayload = padUnit
	minFrame   = frameFixed + headerFixed + tagSize + minPayload + tagSize
)

// view names the parts of a received frame; it copies nothing.
type view struct {
	class   byte
	prefix  []byte // version, suite, flags
	nonce   []byte
	header  []byte // sealed
	payload []byte // sealed
}

// parse splits b. It looks at lengths and at the four clear bytes only.
func (f *view) parse(b []byte) error {
	if len(b) > MaxFrame {
		return errSize
	}
	if len(b) < minFrame {
		return errShort
	}
	if b[0] != Version {
		return errVersion
	}
	if binary.BigEndian.Uint16(b[1:]) != Suite {
		return errSuite
	}
	if b[3]&^flagsClass != 0 || b[3] == flagsClass {
		return errFlags
	}
	f.class = b[3]
	n := frameFixed + headerFixed + extArea[f.class] + tagSize
	if len(b) < n+minPayload+tagSize {
		return errShort
	}
	f.prefix, f.nonce = b[:4], b[4:frameFixed]
	f.header, f.payload = b[frameFixed:n], b[n:]
	return nil
}

// The payload (spec §3.4), padded:
//
//	kind u8 | len u16 | body | zeros
const (
	payloadFixed = 3
	kindAck      = 0x80 // "ack wanted", beside the kind
	padUnit      = 64
)

// paddedLen gives the length of a payload whose first n bytes mean something:
// a multiple of 64, and from 2.5 KiB on a multiple of the largest power of two
// that is at most 5 % of n.
func paddedLen(n int) int {
	unit := padUnit
	for unit*2*20 <= n {
		unit *= 2
	}
	return (n + unit - 1) / unit * unit
}

// splitPayload checks an opened payload and gives its kind byte and body.
func splitPayload(b []byte) (kind byte, body []byte, err error) {
	n := int(binary.BigEndian.Uint16(b[1:]))
	end := payloadFixed + n
	if n > MaxBody || end > len(b) || paddedLen(end) != len(b) || !allZero(b[end:]) {
		return 0, nil, errPadding
	}
	return b[0], b[payloadFixed:end:end], nil
}
