package opentimestamps

import (
	"bytes"
	"crypto/sha256"

	"github.com/talosprotocol/talos/contracts"
)

// magic begins a detached proof file; after it come version 1, the tag of the digest's
// hash, and the digest.
const magic = "\x00OpenTimestamps\x00\x00Proof\x00\xbf\x89\xe2\xe8\x84\xe8\x92\x94"

// Bounds of a file: far above what calendars make.
const (
	MaxFile    = 16 << 10
	maxMessage = 4096
	maxOps     = 256
	maxPayload = 1024
)

// The tags that are read.
const (
	tagSHA256      = 0x08
	tagAppend      = 0xf0
	tagPrepend     = 0xf1
	tagAttestation = 0x00
	tagFork        = 0xff
)

var (
	tagBitcoin = [8]byte{0x05, 0x88, 0x96, 0x0d, 0x73, 0xd7, 0x19, 0x01}
	tagPending = [8]byte{0x83, 0xdf, 0xe3, 0x0d, 0x2e, 0xf9, 0x0c, 0x8e}
)

// op is an operation on a message.
type op struct {
	tag byte
	arg []byte
}

func (o op) run(msg []byte) []byte {
	switch o.tag {
	case tagAppend:
		return append(bytes.Clone(msg), o.arg...)
	case tagPrepend:
		return append(bytes.Clone(o.arg), msg...)
	}
	sum := sha256.Sum256(msg)
	return sum[:]
}

func (o op) append(dst []byte) []byte {
	dst = append(dst, o.tag)
	if o.tag != tagSHA256 {
		dst = appendBytes(dst, o.arg)
	}
	return dst
}

// Way is one way through a proof: from the digest over operations to an attestation.
type Way struct {
	ops []op
	// Message is what the operations make of the digest.
	Message []byte
	Height  uint64 // of the block; with Bitcoin
	Bitcoin bool
	URI     string // of the calendar, where it is pending
}

func bad(format string, args ...any) error {
	return contracts.Errorf(contracts.Malformed, "opentimestamps: "+format, args...)
}

// reader reads a file.
type reader struct {
	b   []byte
	ops int // read so far, on all ways
}

func (r *reader) byte() (byte, error) {
	if len(r.b) == 0 {
		return 0, bad("it ends too soon")
	}
	c := r.b[0]
	r.b = r.b[1:]
	return c, nil
}

// uint reads a number of 7 bits a byte, the lowest first, in its shortest form.
func (r *reader) uint() (n uint64, err error) {
	for shift := 0; shift < 63; shift += 7 {
		c, err := r.byte()
		if err != nil {
			return 0, err
		}
		n |= uint64(c&0x7f) << shift
		if c&0x80 == 0 {
			if c == 0 && shift > 0 {
				return 0, bad("a number with a needless byte")
			}
			return n, nil
		}
	}
	return 0, bad("a number that is too large")
}

func appendUint(dst []byte, n uint64) []byte {
	for ; n > 0x7f; n >>= 7 {
		dst = append(dst, byte(n)|0x80)
	}
	return append(dst, byte(n))
}

func (r *reader) bytes(limit int) ([]byte, error) {
	n, err := r.uint()
	if err != nil {
		return nil, err
	}
	if n > uint64(limit) || n > uint64(len(r.b)) {
		return nil, bad("%d bytes, of %d that are there and %d that are allowed", n, len(r.b), limit)
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out, nil
}

func appendBytes(dst, b []byte) []byte { return append(appendUint(dst, uint64(len(b))), b...) }

// timestamp reads what follows a message: any number of ways, all but the last with a
// fork before them.
func (r *reader) timestamp(msg []byte, ops []op, out []Way) ([]Way, error) {
	for {
		tag, err := r.byte()
		if err != nil {
			return nil, err
		}
		last := tag != tagFork
		if !last {
			if tag, err = r.byte(); err != nil {
				return nil, err
			}
		}
		if tag == tagAttestation {
			w, err := r.attestation()
			if err != nil {
				return nil, err
			}
			w.ops, w.Message = append([]op{}, ops...), msg
			out = append(out, w)
		} else if out, err = r.operation(tag, msg, ops, out); err != nil {
			return nil, err
		}
		if last {
			return out, nil
		}
	}
}

func (r *reader) operation(tag byte, msg []byte, ops []op, out []Way) (_ []Way, err error) {
	o := op{tag: tag}
	switch tag {
	case tagSHA256:
	case tagAppend, tagPrepend:
		if o.arg, err = r.bytes(maxMessage); err != nil {
			return nil, err
		}
		if len(o.arg) == 0 {
			return nil, bad("an operation that does nothing")
		}
	default:
		return nil, contracts.Errorf(contracts.UnsupportedVersion, "opentimestamps: the operation %#x", tag)
	}
	if r.ops++; r.ops > maxOps || len(msg)+len(o.arg) > maxMessage {
		return nil, bad("more than %d operations, or a message above %d bytes", maxOps, maxMessage)
	}
	return r.timestamp(o.run(msg), append(ops[:len(ops):len(ops)], o), out)
}

func (r *reader) attestation() (w Way, err error) {
	if len(r.b) < 8 {
		return w, bad("an attestation that is cut")
	}
	tag := [8]byte(r.b)
	r.b = r.b[8:]
	payload, err := r.bytes(maxPayload)
	if err != nil {
		return w, err
	}
	in := &reader{b: payload}
	switch tag {
	case tagBitcoin:
		w.Bitcoin = true
		w.Height, err = in.uint()
	case tagPending:
		var uri []byte
		uri, err = in.bytes(maxPayload)
		w.URI = string(uri)
	default:
		return w, nil // of another chain: it tells us nothing
	}
	if err == nil && len(in.b) > 0 {
		err = bad("an attestation with more than it needs")
	}
	return w, err
}

// ParseTimestamp reads what a calendar answers for a message: the ways from it.
func ParseTimestamp(msg, b []byte) ([]Way, error) {
	if len(b) > MaxFile {
		return nil, contracts.Errorf(contracts.TooLarge, "opentimestamps: %d bytes, at most %d", len(b), MaxFile)
	}
	r := &reader{b: b}
	ways, err := r.timestamp(msg, nil, nil)
	if err == nil && len(r.b) > 0 {
		err = bad("bytes after the proof")
	}
	return ways, err
}

// ParseFile reads a detached proof file: the digest and the ways from it.
func ParseFile(b []byte) (digest [32]byte, ways []Way, err error) {
	if len(b) > MaxFile {
		return digest, nil, contracts.Errorf(contracts.TooLarge, "opentimestamps: %d bytes, at most %d", len(b), MaxFile)
	}
	rest, ok := bytes.CutPrefix(b, []byte(magic))
	if !ok || len(rest) < 34 || rest[1] != tagSHA256 {
		return digest, nil, bad("no proof file of a SHA-256 digest")
	}
	if rest[0] != 1 {
		return digest, nil, contracts.Errorf(contracts.UnsupportedVersion, "opentimestamps: a file of version %d", rest[0])
	}
	digest = [32]byte(rest[2:34])
	ways, err = ParseTimestamp(digest[:], rest[34:])
	return digest, ways, err
}

// File gives the proof file of one way to a block.
func (w *Way) File(digest [32]byte) []byte {
	b := append([]byte(magic), 1, tagSHA256)
	b = append(b, digest[:]...)
	for _, o := range w.ops {
		b = o.append(b)
	}
	b = append(append(b, tagAttestation), tagBitcoin[:]...)
	return appendBytes(b, appendUint(nil, w.Height))
}

// then joins a way to one from its message.
func (w *Way) then(next Way) Way {
	next.ops = append(append([]op{}, w.ops...), next.ops...)
	return next
}
