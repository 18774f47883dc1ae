package handshake

import (
	"crypto/mlkem"
	"crypto/sha256"
	"encoding/binary"
	"time"

	"github.com/talosprotocol/talos/contracts"
)

// Limits of a bundle (spec §7).
const (
	// MaxBundle is the longest bundle in bytes.
	MaxBundle = 4 << 10
	// MaxBundleLife is how long a bundle may be valid.
	MaxBundleLife = 48 * time.Hour
	// ClockSkew is how far in the future a bundle may have been made.
	ClockSkew = 5 * time.Minute
)

// Bundle is what a party publishes so that others can reach it while it is
// away: its card and the public halves of its prekeys, under one signature.
// DecodeBundle makes one; Verify must pass before it is used.
type Bundle struct {
	Card             Card
	Min, Max         byte // versions of the session protocol that the owner speaks
	SignedID         uint32
	Signed           [32]byte // SPK
	KEMID            uint32
	KEM              *mlkem.EncapsulationKey768 // PQSPK
	OneTimeID        uint32                     // 0 if there is none
	OneTime          [32]byte                   // OPK
	OneTimeKEMID     uint32                     // 0 if there is none
	OneTimeKEM       *mlkem.EncapsulationKey768 // OPQ
	Created, Expires time.Time
	Seq              uint64

	signed    []byte // all but the signature
	signature []byte
	digest    [32]byte // of all bytes
}

const (
	bundleVersion  = 1
	bundleOneTime  = 1 << 0
	bundleOneKEM   = 1 << 1
	bundleAllFlags = bundleOneTime | bundleOneKEM
)

// append writes the signed part of a bundle (spec §4).
func (b *Bundle) append(dst []byte) ([]byte, error) {
	be := binary.BigEndian
	dst = append(dst, bundleVersion)
	dst = be.AppendUint16(dst, Suite)
	dst = append(dst, b.Min, b.Max)
	card, err := b.Card.Append(nil)
	if err != nil {
		return nil, err
	}
	dst = be.AppendUint16(dst, uint16(len(card)))
	dst = append(dst, card...)
	dst = appendX25519(dst, b.SignedID, &b.Signed)
	dst = appendMLKEM(dst, b.KEMID, b.KEM)
	var flags byte
	if b.OneTimeID != 0 {
		flags |= bundleOneTime
	}
	if b.OneTimeKEMID != 0 {
		flags |= bundleOneKEM
	}
	dst = append(dst, flags)
	if b.OneTimeID != 0 {
		dst = appendX25519(dst, b.OneTimeID, &b.OneTime)
	}
	if b.OneTimeKEMID != 0 {
		dst = appendMLKEM(dst, b.OneTimeKEMID, b.OneTimeKEM)
	}
	dst = be.AppendUint64(dst, uint64(b.Created.UnixMilli()))
	dst = be.AppendUint64(dst, uint64(b.Expires.UnixMilli()))
	return be.AppendUint64(dst, b.Seq), nil
}

func appendX25519(dst []byte, id uint32, k *[32]byte) []byte {
	dst = binary.BigEndian.AppendUint32(dst, id)
	dst = append(dst, codecX25519[:]...)
	return append(dst, k[:]...)
}

func appendMLKEM(dst []byte, id uint32, k *mlkem.EncapsulationKey768) []byte {
	dst = binary.BigEndian.AppendUint32(dst, id)
	dst = append(dst, codecMLKEM[:]...)
	return append(dst, k.Bytes()...)
}

// DecodeBundle reads a bundle strictly and checks the form of each key. It does
// not verify the signature. Nothing is kept of raw.
func DecodeBundle(raw []byte) (*Bundle, error) {
	if len(raw) > MaxBundle {
		return nil, contracts.Errorf(contracts.TooLarge, "bundle of %d bytes", len(raw))
	}
	raw = append([]byte(nil), raw...)
	r := &reader{b: raw}
	if v := r.u8(); r.err == nil && v != bundleVersion {
		return nil, contracts.Errorf(contracts.UnsupportedVersion, "bundle version %d", v)
	}
	if s := r.u16(); r.err == nil && s != Suite {
		return nil, contracts.Errorf(contracts.UnsupportedVersion, "suite %#04x", s)
	}
	b := &Bundle{Min: r.u8(), Max: r.u8()}
	card := r.take(int(r.u16()))
	if r.err != nil {
		return nil, r.err
	}
	var err error
	if b.Card, err = DecodeCard(card); err != nil {
		return nil, err
	}
	b.SignedID, b.Signed = r.u32(), r.x25519()
	b.KEMID, b.KEM = r.u32(), r.mlkem()
	flags := r.u8()
	if flags&bundleOneTime != 0 {
		b.OneTimeID, b.OneTime = r.u32(), r.x25519()
	}
	if flags&bundleOneKEM != 0 {
		b.OneTimeKEMID, b.OneTimeKEM = r.u32(), r.mlkem()
	}
	b.Created = time.UnixMilli(int64(r.u64())).UTC()
	b.Expires = time.UnixMilli(int64(r.u64())).UTC()
	b.Seq = r.u64()
	b.signed = raw[:len(raw)-len(r.b)]
	b.signature = r.take(64)
	if err := r.end(); err != nil {
		return nil, err
	}
	if b.Min > b.Max || flags&^bundleAllFlags != 0 || b.SignedID == 0 || b.KEMID == 0 ||
		flags&bundleOneTime != 0 && b.OneTimeID == 0 || flags&bundleOneKEM != 0 && b.OneTimeKEMID == 0 {
		return nil, contracts.Errorf(contracts.Malformed, "bundle breaks a rule of its form")
	}
	b.digest = sha256.Sum256(raw)
	return b, nil
}

// Verify checks that the bundle is the newest known of did and valid at now:
// version, owner, times, then check (which compares the card with the resolved
// document), then the signature. minSeq is the highest Seq seen of this DID.
//
// UnsupportedVersion, HandshakeFailed for another owner, NotYetValid, Expired,
// Rollback for a lower Seq, HandshakeSignature; an error of check is returned
// as it is.
func (b *Bundle) Verify(did string, minSeq uint64, now time.Time, check func(Card) error) error {
	switch {
	case b.Min > Version || b.Max < Version:
		return contracts.Errorf(contracts.UnsupportedVersion, "bundle offers versions %d to %d", b.Min, b.Max)
	case b.Card.DID != did:
		return contracts.Errorf(contracts.HandshakeFailed, "bundle is of another DID")
	case b.Created.After(now.Add(ClockSkew)):
		return contracts.Errorf(contracts.NotYetValid, "bundle is from the future")
	case !now.Before(b.Expires):
		return contracts.Errorf(contracts.Expired, "bundle has expired")
	case !b.Expires.After(b.Created) || b.Expires.Sub(b.Created) > MaxBundleLife:
		return contracts.Errorf(contracts.Malformed, "bundle lives longer than %v", MaxBundleLife)
	case b.Seq < minSeq:
		return contracts.Errorf(contracts.Rollback, "bundle %d is older than %d", b.Seq, minSeq)
	}
	if err := check(b.Card); err != nil {
		return err
	}
	if !verify(&b.Card.Signing, contracts.ContextPrekeyBundle, b.signed, b.signature) {
		return contracts.Errorf(contracts.HandshakeSignature, "bundle is not signed by its owner")
	}
	return nil
}

// HasOneTime reports whether the bundle brings a one-time X25519 key: without
// one, the first flight may not cause side effects.
func (b *Bundle) HasOneTime() bool { return b.OneTimeID != 0 }
