package evm

import (
	"github.com/decred/dcrd/dcrec/secp256k1/v4"
	"github.com/decred/dcrd/dcrec/secp256k1/v4/ecdsa"

	"github.com/talosprotocol/talos/contracts"
)

// Address of an account.
type Address [20]byte

// Wei is an amount below 2^64: 18 coins, far above what an anchor pays.
type Wei = uint64

// Tx is a transaction of type 2 (EIP-1559) without access list.
type Tx struct {
	ChainID uint64
	Nonce   uint64
	Tip     Wei // for a unit of gas
	FeeCap  Wei // the most for a unit of gas
	Gas     uint64
	To      Address
	Value   Wei
	Data    []byte
}

const txType2 = 0x02

// fields appends the members that are signed.
func (t *Tx) fields(dst []byte) []byte {
	for _, n := range []uint64{t.ChainID, t.Nonce, t.Tip, t.FeeCap, t.Gas} {
		dst = AppendUint(dst, n)
	}
	dst = AppendBytes(dst, t.To[:])
	dst = AppendUint(dst, t.Value)
	dst = AppendBytes(dst, t.Data)
	return append(dst, 0xc0) // no access list
}

// Key is the key of an account: a secret, which does not print.
type Key struct{ k *secp256k1.PrivateKey }

// NewKey reads a key of 32 bytes. The code is KEY_INVALID.
func NewKey(b []byte) (Key, error) {
	var s secp256k1.ModNScalar
	if len(b) != 32 || s.SetByteSlice(b) || s.IsZero() {
		return Key{}, contracts.Errorf(contracts.KeyInvalid, "an account's key has 32 bytes and lies within the group's order")
	}
	return Key{secp256k1.NewPrivateKey(&s)}, nil
}

// String hides the key.
func (Key) String() string { return "[account key]" }

// GoString hides the key.
func (Key) GoString() string { return "[account key]" }

// Address gives the account's address.
func (k Key) Address() Address { return addressOf(k.k.PubKey()) }

func addressOf(p *secp256k1.PublicKey) (a Address) {
	h := Keccak(p.SerializeUncompressed()[1:])
	copy(a[:], h[12:])
	return a
}

// Sign gives the bytes that go onto the chain. The signature is deterministic (RFC 6979),
// so the same transaction has the same bytes.
func (t *Tx) Sign(k Key) []byte {
	fields := t.fields(nil)
	h := Keccak([]byte{txType2}, AppendList(nil, fields))
	sig := ecdsa.SignCompact(k.k, h[:], false) // 27 + parity, r, s; s is in the lower half
	fields = AppendUint(fields, uint64(sig[0]-27))
	fields = AppendBytes(fields, trim(sig[1:33]))
	fields = AppendBytes(fields, trim(sig[33:]))
	return append([]byte{txType2}, AppendList(nil, fields)...)
}

func trim(b []byte) []byte {
	for len(b) > 0 && b[0] == 0 {
		b = b[1:]
	}
	return b
}

// TxHash gives the id of a transaction's bytes.
func TxHash(raw []byte) Hash { return Keccak(raw) }

// ParseTx reads a transaction of type 2 and who signed it. Codes: MALFORMED,
// SIGNATURE_INVALID.
func ParseTx(raw []byte) (*Tx, Address, error) {
	t, sig, err := readTx(raw)
	if err != nil {
		return nil, Address{}, err
	}
	from, err := t.sender(sig)
	return t, from, err
}

// ReadTx reads a transaction of type 2 that stands in a block: whoever signed it, the
// chain has looked at the signature. A transaction with an access list or with amounts of
// 2^64 and more is none of ours. The code is MALFORMED.
func ReadTx(raw []byte) (*Tx, error) {
	t, _, err := readTx(raw)
	return t, err
}

func readTx(raw []byte) (*Tx, []Item, error) {
	bad := func(why string) (*Tx, []Item, error) {
		return nil, nil, contracts.Errorf(contracts.Malformed, "transaction: %s", why)
	}
	if len(raw) == 0 || raw[0] != txType2 {
		return bad("it is not of type 2")
	}
	it, err := Decode(raw[1:])
	if err != nil {
		return nil, nil, err
	}
	m := it.List
	if !it.IsList || len(m) != 12 || !m[8].IsList || len(m[8].List) != 0 || len(m[5].Bytes) != 20 || m[7].IsList {
		return bad("it has not the members of one of ours")
	}
	t := &Tx{To: Address(m[5].Bytes), Data: m[7].Bytes}
	for i, to := range map[int]*uint64{0: &t.ChainID, 1: &t.Nonce, 2: &t.Tip, 3: &t.FeeCap, 4: &t.Gas, 6: &t.Value} {
		if *to, err = m[i].Uint(); err != nil {
			return nil, nil, err
		}
	}
	return t, m[9:], nil
}

// sender recovers the account from the signature.
func (t *Tx) sender(sig []Item) (Address, error) {
	parity, err := sig[0].Uint()
	if err != nil || parity > 1 || len(sig[1].Bytes) > 32 || len(sig[2].Bytes) > 32 {
		return Address{}, contracts.Errorf(contracts.Malformed, "transaction: no signature")
	}
	compact := make([]byte, 65)
	compact[0] = 27 + byte(parity)
	copy(compact[33-len(sig[1].Bytes):], sig[1].Bytes)
	copy(compact[65-len(sig[2].Bytes):], sig[2].Bytes)
	h := Keccak([]byte{txType2}, AppendList(nil, t.fields(nil)))
	p, _, err := ecdsa.RecoverCompact(compact, h[:])
	if err != nil {
		return Address{}, contracts.Errorf(contracts.SignatureInvalid, "transaction: %w", err)
	}
	return addressOf(p), nil
}
