package evm

import (
	"time"

	"github.com/talosprotocol/talos/contracts"
)

// Header is what a proof needs of a block's header.
type Header struct {
	Hash     Hash
	Parent   Hash
	TxRoot   Hash
	Number   uint64
	Time     time.Time
	Extended bool // it has members beyond those that this program knows
}

// Bounds of a header: 16 members at the beginning of the chain, 21 today.
const (
	minHeader     = 15
	maxHeader     = 32
	MaxHeaderSize = 2048
)

// ParseHeader reads the RLP of a header. Members that later forks have added are not
// looked at; they are under the hash. The code is MALFORMED.
func ParseHeader(raw []byte) (*Header, error) {
	if len(raw) > MaxHeaderSize {
		return nil, contracts.Errorf(contracts.TooLarge, "header: %d bytes, at most %d", len(raw), MaxHeaderSize)
	}
	it, err := Decode(raw)
	if err != nil {
		return nil, err
	}
	m := it.List
	if !it.IsList || len(m) < minHeader || len(m) > maxHeader {
		return nil, contracts.Errorf(contracts.Malformed, "header: %d members", len(m))
	}
	h := &Header{Hash: Keccak(raw), Extended: len(m) > 21}
	for i, to := range map[int]*Hash{0: &h.Parent, 4: &h.TxRoot} {
		if len(m[i].Bytes) != 32 {
			return nil, contracts.Errorf(contracts.Malformed, "header: member %d is no hash", i)
		}
		*to = Hash(m[i].Bytes)
	}
	if h.Number, err = m[8].Uint(); err != nil {
		return nil, err
	}
	at, err := m[11].Uint()
	if err != nil || at > 253402300799 {
		return nil, contracts.Errorf(contracts.Malformed, "header: a time that no clock shows")
	}
	h.Time = time.Unix(int64(at), 0).UTC()
	return h, nil
}
