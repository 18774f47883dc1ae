package witness

import (
	"encoding/binary"

	"github.com/talosprotocol/talos/anchor"
	"github.com/talosprotocol/talos/contracts"
)

// A record of one log:
//
//	0  1  version, 1
//	1  1  flags: 1 frozen by evidence, 2 retired
//	2  1  n, the number of heads kept
//	3  n × 104  heads, oldest first: size 8, root 32, the log's signature 64
//	   …  evidence, canonical JSON, if frozen
//
// The last head is the last cosigned one. The signature is kept because a size and
// a root convict nobody: the note must be rebuilt.
const (
	recordVersion = 1
	headSize      = 8 + 32 + 64
	flagFrozen    = 1
	flagRetired   = 2
	maxRing       = 255
)

// record is a decoded record; its slices point into the bytes it was made of.
type record struct {
	flags    byte
	ring     []byte
	evidence []byte
}

// parseRecord reads a record; nil bytes are a log never seen.
func parseRecord(b []byte) (record, error) {
	if b == nil {
		return record{}, nil
	}
	if len(b) < 3 || b[0] != recordVersion || b[1]&^(flagFrozen|flagRetired) != 0 || len(b) < 3+int(b[2])*headSize {
		return record{}, contracts.Errorf(contracts.StorageCorrupt, "witness: a record of %d bytes does not read", len(b))
	}
	end := 3 + int(b[2])*headSize
	r := record{flags: b[1], ring: b[3:end], evidence: b[end:]}
	if (len(r.evidence) > 0) != (r.flags&flagFrozen != 0) {
		return record{}, contracts.Errorf(contracts.StorageCorrupt, "witness: a record is frozen without evidence, or the reverse")
	}
	return r, nil
}

func (r *record) append(dst []byte) []byte {
	dst = append(dst, recordVersion, r.flags, byte(len(r.ring)/headSize))
	dst = append(dst, r.ring...)
	return append(dst, r.evidence...)
}

// head is one kept head.
type head struct {
	size uint64
	root anchor.Hash
	sig  [64]byte
}

func (r *record) len() int { return len(r.ring) / headSize }

func (r *record) at(i int) head {
	b := r.ring[i*headSize:]
	return head{size: binary.BigEndian.Uint64(b), root: anchor.Hash(b[8:40]), sig: [64]byte(b[40:104])}
}

// last gives the last cosigned size and root: the empty tree before the first.
func (r *record) last() (uint64, anchor.Hash) {
	if n := r.len(); n > 0 {
		h := r.at(n - 1)
		return h.size, h.root
	}
	return 0, anchor.EmptyRoot
}

// ofSize finds the kept head of a size.
func (r *record) ofSize(size uint64) (head, bool) {
	for i := r.len() - 1; i >= 0; i-- {
		if binary.BigEndian.Uint64(r.ring[i*headSize:]) == size {
			return r.at(i), true
		}
	}
	return head{}, false
}

// with gives the bytes of the record with one more head, the oldest left out when
// there are more than limit.
func (r *record) with(h head, limit int) []byte {
	ring := r.ring
	if n := len(ring)/headSize + 1 - limit; n > 0 {
		ring = ring[n*headSize:]
	}
	dst := make([]byte, 0, 3+len(ring)+headSize+len(r.evidence))
	dst = append(dst, recordVersion, r.flags, byte(len(ring)/headSize+1))
	dst = append(dst, ring...)
	dst = binary.BigEndian.AppendUint64(dst, h.size)
	dst = append(dst, h.root[:]...)
	dst = append(dst, h.sig[:]...)
	return append(dst, r.evidence...)
}
