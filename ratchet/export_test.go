package ratchet

import (
	"io"
	"time"
)

// Doors for the tests of package ratchet_test, nothing more.

// DHCount gives the number of X25519 calls made on received keys.
func (s *State) DHCount() uint64 { return s.dhCount }

// SealExt is AppendSeal with header extensions.
func (s *State) SealExt(m Outgoing, ext []byte, now time.Time, rand io.Reader) ([]byte, error) {
	b, _, err := s.seal(nil, m, ext, now, rand)
	return b, err
}

// AppendExt builds an extension.
func AppendExt(b []byte, typ uint16, value []byte) []byte { return appendExt(b, typ, value) }

// HeaderEdit changes the header of the next frame that SealEdited makes.
type HeaderEdit struct {
	DH           *[32]byte
	PN, N        *uint32
	Seq, Receipt *uint64
	ExtLen       *uint16
}

// SealEdited seals as a malicious peer that holds all keys would: with a valid
// AEAD over a header of its choice. The state does not advance.
func (s *State) SealEdited(body []byte, e HeaderEdit, rand io.Reader) []byte {
	save := s.cur
	defer func() { s.cur = save }()
	if s.cur.step {
		if err := s.stepNow(time.Unix(0, 0), rand); err != nil {
			panic(err)
		}
	}
	c := &s.cur
	_, _ = io.ReadFull(rand, s.nonce[:])
	h := header{dh: c.dhs.public, pn: c.pn, n: c.send.n, seq: c.seq}
	if c.confirm == confirmPresent {
		h.ext = appendExt(nil, extConfirm, c.confirmTag[:])
	}
	if e.DH != nil {
		h.dh = *e.DH
	}
	if e.PN != nil {
		h.pn = *e.PN
	}
	if e.N != nil {
		h.n = *e.N
	}
	if e.Seq != nil {
		h.seq = *e.Seq
	}
	if e.Receipt != nil {
		h.recipientSeq = *e.Receipt
	}
	ck := c.send.ck
	var mk key
	for range int(h.n-c.send.n)%70000 + 1 {
		mk = kdfCK(&ck)
	}
	return s.write(nil, &h, 0, body, &mk)
}

// Own and remote ratchet keys, and the message keys, for tests that look inside.
func (s *State) OwnKey() [32]byte    { return s.cur.dhs.public }
func (s *State) RemoteKey() [32]byte { return s.cur.recv.dh }
func (s *State) SendKey() [32]byte   { ck := s.cur.send.ck; return kdfCK(&ck) }

// JumpChain moves a sending chain to n without making the keys between, in step
// with the peer's receiving chain if it is moved as well.
func (s *State) JumpChain(n uint32) { s.cur.seq += uint64(n - s.cur.send.n); s.cur.send.n = n }
func (s *State) JumpRecv(n uint32)  { s.cur.recv.n = n }

var (
	PaddedLen  = paddedLen
	CheckFrame = func(b []byte) error { var v view; return v.parse(b) }
)

func HMAC(k [32]byte, msg []byte) (out [32]byte) {
	kk := key(k)
	hmacSum((*key)(&out), &kk, msg)
	return out
}

func KDFRK(root, secret [32]byte) (r, c, h [32]byte) {
	rk, s := key(root), key(secret)
	ck, nh := kdfRK(&rk, &s)
	return rk, ck, nh
}

func KDFCK(ck [32]byte) (mk, next, commit [32]byte) {
	k := key(ck)
	m := kdfCK(&k)
	c := commitment(&m)
	copy(commit[:], c[:])
	return m, k, commit
}

// SealNextChain makes a frame under the header key of the sending chain after
// this one, as a peer would that steps out of turn.
func (s *State) SealNextChain(dh [32]byte, rand io.Reader) []byte {
	save := s.cur
	defer func() { s.cur = save }()
	_, _ = io.ReadFull(rand, s.nonce[:])
	c := &s.cur
	h := header{dh: dh, pn: c.send.n, seq: c.seq}
	c.send.hk = newHeaderKey(c.nextSend)
	mk := key{1}
	return s.write(nil, &h, 0, nil, &mk)
}

// SealWithCommitmentOf makes a frame whose payload is sealed under mk, with the
// commitment of another key.
func (s *State) SealWithCommitmentOf(mk, commitKey [32]byte, payload []byte, nonce [12]byte) []byte {
	c := &s.cur
	s.nonce = nonce
	h := header{dh: c.dhs.public, pn: c.pn, n: c.send.n, seq: c.seq}
	dst := append([]byte{Version, Suite >> 8, Suite & 0xff, 0}, nonce[:]...)
	aad := s.aad(dst[:4], s.id.side)
	dst = c.send.hk.aead.Seal(dst, nonce[:], h.append(nil), aad)
	ck := key(commitKey)
	commit := commitment(&ck)
	aad = append(append(aad, dst[frameFixed:]...), commit[:]...)
	k := key(mk)
	return newAEAD(&k).Seal(dst, nonce[:], payload, aad)
}
