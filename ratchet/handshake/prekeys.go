package handshake

import (
	"crypto/ecdh"
	"crypto/mlkem"
	"io"
	"slices"
	"time"

	"github.com/talosprotocol/talos/contracts"
)

// Limits of what a party keeps (spec §7).
const (
	// SignedLife is how often signed prekeys should be rotated.
	SignedLife = 24 * time.Hour
	// SignedGrace is how long private halves are kept after the last bundle that
	// names them has expired, for flights that wait in a mailbox.
	SignedGrace = 48 * time.Hour
	// MaxOneTime bounds the pool of one-time keys.
	MaxOneTime = 1024
	// maxSigned and maxIssued bound the rest of the holder.
	maxSigned = 8
	maxIssued = 2 * MaxOneTime
)

// pair is an X25519 and an ML-KEM-768 private key made together. The X25519 key
// has the id, the ML-KEM key the id after it.
type pair struct {
	id    uint32
	x     [32]byte
	seed  [mlkem.SeedSize]byte
	until int64 // unix milliseconds when it is erased; 0: not issued yet

	xPriv *ecdh.PrivateKey // made when first needed, like dk
	dk    *mlkem.DecapsulationKey768
}

// issue remembers a bundle that was given out: which keys it named.
type issue struct {
	digest  [32]byte
	signed  uint32
	oneTime uint32 // 0: none
	until   int64
}

// Prekeys are the private halves of a party's prekeys: the signed pairs, current
// first, a pool of one-time pairs, and which bundles name them. It is a value
// with an encoding; the caller stores it after each change. Not safe for
// concurrent use; never prints.
type Prekeys struct {
	quiet
	signed  []pair
	pool    []pair
	issued  []issue
	nextID  uint32
	lastSeq uint64 // of the newest bundle
}

// NewPrekeys makes a holder with one signed pair.
func NewPrekeys(rand io.Reader) (*Prekeys, error) {
	p := &Prekeys{nextID: 1}
	return p, p.Rotate(rand)
}

// Rotate makes a new signed pair the current one. The old ones are kept until
// Expire drops them. Call it every SignedLife.
func (p *Prekeys) Rotate(rand io.Reader) error {
	if len(p.signed) >= maxSigned {
		return contracts.Errorf(contracts.RateLimited, "%d signed prekeys are still in use", len(p.signed))
	}
	k, err := p.mint(rand)
	if err != nil {
		return err
	}
	p.signed = slices.Insert(p.signed, 0, k)
	return nil
}

// Mint adds n one-time pairs to the pool. Ids rise and are never used twice.
func (p *Prekeys) Mint(n int, rand io.Reader) error {
	if n < 0 || len(p.pool)+n > MaxOneTime {
		return contracts.Errorf(contracts.TooLarge, "a pool of more than %d one-time keys", MaxOneTime)
	}
	for range n {
		k, err := p.mint(rand)
		if err != nil {
			return err
		}
		p.pool = append(p.pool, k)
	}
	return nil
}

func (p *Prekeys) mint(rand io.Reader) (pair, error) {
	if p.nextID == 0 || p.nextID > 1<<32-4 {
		return pair{}, contracts.Errorf(contracts.Internal, "prekey ids are exhausted")
	}
	k := pair{id: p.nextID}
	for _, b := range [][]byte{k.x[:], k.seed[:]} {
		if _, err := io.ReadFull(rand, b); err != nil {
			return pair{}, contracts.Errorf(contracts.Internal, "reading randomness: %w", err)
		}
	}
	if err := k.load(); err != nil {
		return pair{}, err
	}
	p.nextID += 2
	return k, nil
}

func (k *pair) load() (err error) {
	if k.xPriv == nil {
		if k.xPriv, err = ecdh.X25519().NewPrivateKey(k.x[:]); err != nil {
			return contracts.Errorf(contracts.Internal, "loading a prekey: %w", err)
		}
	}
	if k.dk == nil {
		if k.dk, err = mlkem.NewDecapsulationKey768(k.seed[:]); err != nil {
			return contracts.Errorf(contracts.Internal, "loading a prekey: %w", err)
		}
	}
	return nil
}

// Available gives how many one-time pairs no bundle names yet.
func (p *Prekeys) Available() int {
	n := 0
	for i := range p.pool {
		if p.pool[i].until == 0 {
			n++
		}
	}
	return n
}

// Issuing says what a bundle shall be.
type Issuing struct {
	Card Card
	// Sign signs with the Ed25519 key of Card.Signing.
	Sign func(message []byte) ([]byte, error)
	Now  time.Time
	Life time.Duration // at most MaxBundleLife
	// OneTime asks for a one-time pair from the pool, if there is one left.
	OneTime bool
}

// Issue makes a signed bundle. oneTime reports whether it names one-time keys:
// each is named by one bundle only, ever. The caller stores p before it gives
// the bundle away. An error leaves p unchanged.
func (p *Prekeys) Issue(q Issuing) (bundle []byte, oneTime bool, err error) {
	if q.Life <= 0 || q.Life > MaxBundleLife {
		return nil, false, contracts.Errorf(contracts.Malformed, "a bundle lives at most %v", MaxBundleLife)
	}
	if len(p.issued) >= maxIssued {
		return nil, false, contracts.Errorf(contracts.RateLimited, "%d bundles are outstanding", len(p.issued))
	}
	signed := &p.signed[0]
	var one *pair
	for i := range p.pool {
		if q.OneTime && p.pool[i].until == 0 {
			one = &p.pool[i]
			break
		}
	}
	b := Bundle{
		Card: q.Card, Min: Version, Max: Version, Seq: p.lastSeq + 1,
		Created: q.Now.Truncate(time.Millisecond), Expires: q.Now.Add(q.Life).Truncate(time.Millisecond),
	}
	if b.SignedID, b.Signed, b.KEMID, b.KEM, err = signed.public(); err != nil {
		return nil, false, err
	}
	if one != nil {
		if b.OneTimeID, b.OneTime, b.OneTimeKEMID, b.OneTimeKEM, err = one.public(); err != nil {
			return nil, false, err
		}
	}
	raw, digest, err := signBundle(&b, q.Sign)
	if err != nil {
		return nil, false, err
	}
	// A one-time key outlives its bundle by the bundle's own life, for flights
	// on their way; a signed one by SignedGrace.
	entry := issue{digest: digest, signed: signed.id, until: b.Expires.Add(SignedGrace).UnixMilli()}
	signed.until = max(signed.until, entry.until)
	if one != nil {
		entry.oneTime = one.id
		entry.until = b.Expires.Add(q.Life).UnixMilli()
		one.until = entry.until
	}
	p.issued = append(p.issued, entry)
	p.lastSeq = b.Seq
	return raw, one != nil, nil
}

func (k *pair) public() (id uint32, x [32]byte, kemID uint32, kem *mlkem.EncapsulationKey768, err error) {
	if err := k.load(); err != nil {
		return 0, x, 0, nil, err
	}
	copy(x[:], k.xPriv.PublicKey().Bytes())
	return k.id, x, k.id + 1, k.dk.EncapsulationKey(), nil
}

// Expire erases what is past its time and reports whether there was anything:
// then the caller stores p. The current signed pair always stays.
func (p *Prekeys) Expire(now time.Time) bool {
	at := now.UnixMilli()
	n := len(p.signed) + len(p.pool) + len(p.issued)
	gone := func(k pair) bool { return k.until != 0 && k.until <= at }
	current := p.signed[0]
	p.signed = append(p.signed[:1:1], slices.DeleteFunc(slices.Clone(p.signed[1:]), func(k pair) bool {
		return k.until <= at // never issued: of no use once it is not current
	})...)
	p.signed[0] = current
	p.pool = slices.DeleteFunc(p.pool, gone)
	p.issued = slices.DeleteFunc(p.issued, func(e issue) bool { return e.until <= at })
	return n != len(p.signed)+len(p.pool)+len(p.issued)
}

// Consumed names the one-time keys that a first flight has used. The zero value
// names none.
type Consumed struct {
	OneTime    uint32 // id of the X25519 key, 0 for none
	OneTimeKEM uint32 // id of the ML-KEM key, 0 for none
}

// Consume erases the one-time keys of an accepted flight, so that it can never
// be accepted again. Call it, and store p, in the transaction that stores the
// session.
func (p *Prekeys) Consume(c Consumed) {
	if c.OneTime == 0 {
		return
	}
	for i := range p.pool {
		if p.pool[i].id == c.OneTime {
			clear(p.pool[i].x[:])
			clear(p.pool[i].seed[:])
		}
	}
	p.pool = slices.DeleteFunc(p.pool, func(k pair) bool { return k.id == c.OneTime })
	p.issued = slices.DeleteFunc(p.issued, func(e issue) bool { return e.oneTime == c.OneTime })
}
