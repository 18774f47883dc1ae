package handshake

import (
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"time"

	"github.com/talosprotocol/talos/contracts"
)

// find gives the keys that a flight names: the bundle must have been issued and
// name exactly these, and its keys must still be there.
func (p *Prekeys) find(h *preamble, now time.Time) (signed, one *pair, err error) {
	missing := contracts.Errorf(contracts.HandshakePrekey, "the flight names a bundle or a prekey that is not there")
	i := slices.IndexFunc(p.issued, func(e issue) bool { return e.digest == h.bundle })
	if i < 0 || p.issued[i].until <= now.UnixMilli() {
		return nil, nil, missing
	}
	e := &p.issued[i]
	for i := range p.signed {
		if p.signed[i].id == e.signed {
			signed = &p.signed[i]
		}
	}
	for i := range p.pool {
		if e.oneTime != 0 && p.pool[i].id == e.oneTime {
			one = &p.pool[i]
		}
	}
	if signed == nil || (one == nil) != (e.oneTime == 0) {
		return nil, nil, missing
	}
	want := preamble{signedID: signed.id, kemID: signed.id + 1}
	if one != nil {
		want.oneTimeID, want.oneTimeKEMID = one.id, one.id+1
	}
	if h.signedID != want.signedID || h.kemID != want.kemID ||
		h.oneTimeID != want.oneTimeID || h.oneTimeKEMID != want.oneTimeKEMID {
		return nil, nil, missing
	}
	if err := signed.load(); err != nil {
		return nil, nil, err
	}
	if one != nil {
		if err := one.load(); err != nil {
			return nil, nil, err
		}
	}
	return signed, one, nil
}

// signBundle completes a bundle; it gives its bytes and their digest.
func signBundle(b *Bundle, sign func([]byte) ([]byte, error)) (raw []byte, digest [32]byte, err error) {
	if raw, err = b.append(nil); err != nil {
		return nil, digest, err
	}
	sig, err := sign(contracts.Signed(contracts.ContextPrekeyBundle, raw))
	if err != nil {
		return nil, digest, contracts.Errorf(contracts.Internal, "signing a bundle: %w", err)
	}
	if len(sig) != 64 {
		return nil, digest, contracts.Errorf(contracts.Internal, "signature of %d bytes", len(sig))
	}
	raw = append(raw, sig...)
	return raw, sha256.Sum256(raw), nil
}

// The encoding of a holder (spec §8):
//
//	version u8 | next id u32 | last seq u64
//	| count u16, pairs (signed) | count u16, pairs (pool) | count u16, issues
const (
	prekeysVersion = 1
	pairLen        = 4 + 32 + 64 + 8
	issueLen       = 32 + 4 + 4 + 8
)

// Append appends the one encoding of p. It holds secrets; the store encrypts it.
func (p *Prekeys) Append(dst []byte) []byte {
	be := binary.BigEndian
	dst = append(dst, prekeysVersion)
	dst = be.AppendUint32(dst, p.nextID)
	dst = be.AppendUint64(dst, p.lastSeq)
	for _, list := range [2][]pair{p.signed, p.pool} {
		dst = be.AppendUint16(dst, uint16(len(list)))
		for i := range list {
			dst = be.AppendUint32(dst, list[i].id)
			dst = append(dst, list[i].x[:]...)
			dst = append(dst, list[i].seed[:]...)
			dst = be.AppendUint64(dst, uint64(list[i].until))
		}
	}
	dst = be.AppendUint16(dst, uint16(len(p.issued)))
	for i := range p.issued {
		e := &p.issued[i]
		dst = append(dst, e.digest[:]...)
		dst = be.AppendUint32(dst, e.signed)
		dst = be.AppendUint32(dst, e.oneTime)
		dst = be.AppendUint64(dst, uint64(e.until))
	}
	return dst
}

// DecodePrekeys reads what Append wrote, and nothing else.
func DecodePrekeys(b []byte) (*Prekeys, error) {
	r := &reader{b: b}
	if v := r.u8(); r.err == nil && v != prekeysVersion {
		return nil, contracts.Errorf(contracts.UnsupportedVersion, "prekeys version %d", v)
	}
	p := &Prekeys{nextID: r.u32(), lastSeq: r.u64()}
	p.signed = r.pairs(maxSigned)
	p.pool = r.pairs(MaxOneTime)
	n := int(r.u16())
	if n > maxIssued || n*issueLen != len(r.b) {
		return nil, contracts.Errorf(contracts.Malformed, "not the encoding of a prekey holder")
	}
	for range n {
		p.issued = append(p.issued, issue{r.b32(), r.u32(), r.u32(), int64(r.u64())})
	}
	if err := r.end(); err != nil {
		return nil, err
	}
	if !p.possible() {
		return nil, contracts.Errorf(contracts.Malformed, "not the encoding of a prekey holder")
	}
	return p, nil
}

func (r *reader) pairs(limit int) []pair {
	n := int(r.u16())
	if r.err == nil && (n > limit || n*pairLen > len(r.b)) {
		r.fail(contracts.Errorf(contracts.Malformed, "%d prekeys", n))
	}
	if r.err != nil || n == 0 {
		return nil
	}
	list := make([]pair, n)
	for i := range list {
		list[i].id = r.u32()
		list[i].x = r.b32()
		copy(list[i].seed[:], r.take(64))
		list[i].until = int64(r.u64())
	}
	return list
}

// possible refuses what no sequence of calls can produce: ids are odd, fall
// among the signed pairs, rise in the pool and lie below nextID.
func (p *Prekeys) possible() bool {
	ok := func(k *pair) bool { return k.id != 0 && k.id%2 == 1 && k.id < p.nextID && k.until >= 0 }
	if len(p.signed) == 0 || p.nextID%2 == 0 {
		return false
	}
	for i := range p.signed {
		if !ok(&p.signed[i]) || i > 0 && p.signed[i].id >= p.signed[i-1].id {
			return false
		}
	}
	for i := range p.pool {
		if !ok(&p.pool[i]) || i > 0 && p.pool[i].id <= p.pool[i-1].id {
			return false
		}
	}
	return true
}
