package identity

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"time"

	"github.com/talosprotocol/talos/contracts"
)

// Limits of state records (spec/identity.md, ID-20 ff.).
const (
	MaxStateBytes    = 16 << 10
	MaxStateValidity = 7 * 24 * time.Hour
	ClockSkew        = 60 * time.Second
	stateVersion     = "talos-did-state/1"
)

// State is a state record whose form, key log, document and signatures were
// verified. Whether it is in time is another question: see ValidAt.
type State struct {
	DID      DID
	SN, Seq  int64
	Digest   [32]byte // SHA-256 of Raw
	Keys     *KeyState
	Doc      *Document // nil once the DID is ended
	KeyLog   []contracts.SignedKeyEvent
	IssuedAt time.Time
	From     time.Time
	Until    time.Time
	TTL      time.Duration
	Raw      []byte // the canonical record
}

// NewState says what SignState signs.
type NewState struct {
	KeyLog []contracts.SignedKeyEvent
	Doc    *contracts.DIDDocument // nil after an end
	Seq    int64
	Now    time.Time
	Valid  time.Duration // at most MaxStateValidity
	TTL    time.Duration
}

// SignState makes the record and verifies it as a reader would.
func SignState(n NewState, control ControlKey) (*State, error) {
	ks, err := VerifyKeyLog("", n.KeyLog)
	if err != nil {
		return nil, err
	}
	body := contracts.DIDState{
		V: stateVersion, DID: string(ks.DID), Seq: n.Seq, SN: ks.SN, KEL: n.KeyLog, Doc: n.Doc,
		Iat: FormatTime(n.Now), Nbf: FormatTime(n.Now), Exp: FormatTime(n.Now.Add(n.Valid)), TTL: int64(n.TTL / time.Second),
	}
	sig := control.Sign(contracts.ContextState, body.AppendCanonical(nil))
	rec := contracts.SignedState{State: body, Sigs: []contracts.KeySignature{{I: 0, S: base64.RawURLEncoding.EncodeToString(sig)}}}
	return VerifyState(rec.AppendCanonical(nil))
}

// VerifyState checks a record completely but for the time. It is pure and bounded:
// size first, then form, then hashes, then signatures.
func VerifyState(raw []byte) (*State, error) {
	rec, err := contracts.DecodeSignedState(raw)
	if err != nil {
		return nil, err
	}
	b := &rec.State
	s := &State{DID: DID(b.DID), SN: b.SN, Seq: b.Seq, KeyLog: b.KEL, Raw: bytes.Clone(raw), Digest: sha256.Sum256(raw), TTL: time.Duration(b.TTL) * time.Second}
	if err := s.times(b); err != nil {
		return nil, err
	}
	// The hash is cheap and the signatures are not: a log of another DID ends here.
	if didOf(b.KEL[0].Event.AppendCanonical(nil)) != s.DID {
		return nil, contracts.Errorf(contracts.KeyLogInvalid, "the DID is not the hash of this inception")
	}
	if s.Keys, err = VerifyKeyLog(s.DID, b.KEL); err != nil {
		return nil, err
	}
	if s.Keys.SN != b.SN {
		return nil, contracts.Errorf(contracts.KeyLogInvalid, "sn is %d, the key log ends at %d", b.SN, s.Keys.SN)
	}
	if err := verifySigs(s.Keys.Keys, s.Keys.Threshold, contracts.ContextState, b.AppendCanonical(nil), rec.Sigs); err != nil {
		return nil, err
	}
	if s.Keys.Ended != (b.Doc == nil) {
		return nil, contracts.Errorf(contracts.Malformed, "a document stands in every state but that of an ended DID")
	}
	if b.Doc != nil {
		if n := len(b.Doc.AppendCanonical(nil)); n > 8<<10 {
			return nil, contracts.Errorf(contracts.TooLarge, "a document of %d bytes, at most 8192", n)
		}
		s.Doc, err = CheckDocument(s.DID, s.Keys.Keys, b.Doc)
	}
	return s, err
}

func (s *State) times(b *contracts.DIDState) (err error) {
	if s.IssuedAt, err = ParseTime(b.Iat); err != nil {
		return err
	}
	if s.From, err = ParseTime(b.Nbf); err != nil {
		return err
	}
	if s.Until, err = ParseTime(b.Exp); err != nil {
		return err
	}
	if !s.Until.After(s.From) || s.Until.Sub(s.IssuedAt) > MaxStateValidity {
		return contracts.Errorf(contracts.Malformed, "valid from %s to %s: at most %s from its making", b.Nbf, b.Exp, MaxStateValidity)
	}
	return nil
}

// ValidAt reports whether the record is in time at now, with ClockSkew of grace at
// its beginning.
func (s *State) ValidAt(now time.Time) error {
	switch {
	case now.Add(ClockSkew).Before(s.From):
		return contracts.Errorf(contracts.NotYetValid, "the state of %s is valid from %s", s.DID.Short(), FormatTime(s.From))
	case !now.Before(s.Until):
		return contracts.Errorf(contracts.Expired, "the state of %s expired at %s", s.DID.Short(), FormatTime(s.Until))
	}
	return nil
}

// Deactivated reports whether the DID was ended.
func (s *State) Deactivated() bool { return s.Keys.Ended }

// Version gives the number of the key event and of the state: "sn.seq".
func (s *State) Version() string { return itoa(s.SN) + "." + itoa(s.Seq) }

// Compare orders two verified states of one DID: by key event, then sequence, then
// digest. It never looks at a clock, so all nodes agree.
func Compare(a, b *State) int {
	return cmp.Or(cmp.Compare(a.SN, b.SN), cmp.Compare(a.Seq, b.Seq), bytes.Compare(a.Digest[:], b.Digest[:]))
}
