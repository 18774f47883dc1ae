package identity

import (
	"encoding/base64"
	"slices"
	"time"

	"github.com/talosprotocol/talos/contracts"
)

// MaxRotations bounds a key log, and with it a state record; a DID that needs more
// names a successor.
const MaxRotations = 30

// kelVersion is the version that every event names.
const kelVersion = "talos-kel/1"

// KeyState is what a verified key log says now.
type KeyState struct {
	DID       DID
	SN        int64           // number of the last event
	Keys      []ControlPublic // the control keys
	Threshold int             // how many of Keys sign
	Next      []string        // digests of the pre-rotated keys
	NextNeed  int             // how many of them sign the next event
	ValidFrom int64           // signatures made under an earlier number are void
	Ended     bool            // no further event, no authority
	Last      string          // digest of the last event, base64url
}

// Incept makes the inception event of a new DID with one control key and one
// pre-rotated key, and the DID that is its hash.
func Incept(control ControlKey, next ControlPublic, now time.Time) (DID, contracts.SignedKeyEvent) {
	one := int64(1)
	e := contracts.KeyEvent{
		V: kelVersion, T: "icp", SN: 0,
		K: []string{control.Public().Multikey()}, Kt: &one,
		N: []string{keyDigest(next)}, Nt: &one,
		Iat: FormatTime(now),
	}
	return didOf(e.AppendCanonical(nil)), signEvent(e, control)
}

// Rotate makes the event that follows the log ks: revealed becomes the control
// key, next the pre-rotated one. voidEarlier says that the earlier keys were
// compromised: what they signed no longer counts. The revealed key alone signs;
// a lost or stolen current key can neither help nor hinder.
func Rotate(ks *KeyState, revealed ControlKey, next ControlPublic, voidEarlier bool, now time.Time) (contracts.SignedKeyEvent, error) {
	one := int64(1)
	e, err := follow(ks, revealed, "rot", now)
	if err != nil {
		return contracts.SignedKeyEvent{}, err
	}
	if ks.SN >= MaxRotations {
		return contracts.SignedKeyEvent{}, contracts.Errorf(contracts.KeyLogInvalid, "a key log has at most %d rotations; make a successor DID", MaxRotations)
	}
	e.N, e.Nt, e.Void = []string{keyDigest(next)}, &one, &voidEarlier
	return signEvent(e, revealed), nil
}

// End makes the event that deactivates the DID for ever.
func End(ks *KeyState, revealed ControlKey, now time.Time) (contracts.SignedKeyEvent, error) {
	e, err := follow(ks, revealed, "end", now)
	if err != nil {
		return contracts.SignedKeyEvent{}, err
	}
	return signEvent(e, revealed), nil
}

func follow(ks *KeyState, revealed ControlKey, kind string, now time.Time) (contracts.KeyEvent, error) {
	if ks.Ended {
		return contracts.KeyEvent{}, contracts.Errorf(contracts.Deactivated, "%s was ended", ks.DID)
	}
	if len(ks.Next) != 1 || keyDigest(revealed.Public()) != ks.Next[0] {
		return contracts.KeyEvent{}, contracts.Errorf(contracts.KeyLogInvalid, "this is not the recovery key that event %d committed to", ks.SN)
	}
	one := int64(1)
	return contracts.KeyEvent{
		V: kelVersion, T: kind, DID: string(ks.DID), SN: ks.SN + 1, P: ks.Last,
		K: []string{revealed.Public().Multikey()}, Kt: &one, Iat: FormatTime(now),
	}, nil
}

func keyDigest(k ControlPublic) string { return digest64([]byte(k.Multikey())) }

func signEvent(e contracts.KeyEvent, keys ...ControlKey) contracts.SignedKeyEvent {
	body := e.AppendCanonical(nil)
	s := contracts.SignedKeyEvent{Event: e}
	for i, k := range keys {
		s.Sigs = append(s.Sigs, contracts.KeySignature{
			I: int64(i), S: base64.RawURLEncoding.EncodeToString(k.Sign(contracts.ContextKeyEvent, body)),
		})
	}
	return s
}

// Commits reports whether the log's last event committed to k as a next key.
func (ks *KeyState) Commits(k ControlPublic) bool { return slices.Contains(ks.Next, keyDigest(k)) }

// VerifyKeyLog checks a whole key log from its inception and gives what it says.
// did, if not empty, is the DID that it must be the log of.
func VerifyKeyLog(did DID, events []contracts.SignedKeyEvent) (*KeyState, error) {
	if len(events) == 0 {
		return nil, contracts.Errorf(contracts.KeyLogInvalid, "an empty key log")
	}
	if len(events) > MaxRotations+1 {
		return nil, contracts.Errorf(contracts.TooLarge, "a key log of %d events, at most %d", len(events), MaxRotations+1)
	}
	var ks *KeyState
	for i := range events {
		next, err := ks.apply(&events[i])
		if err != nil {
			return nil, contracts.Errorf(codeOr(err, contracts.KeyLogInvalid), "key log: event %d: %w", i, err)
		}
		ks = next
	}
	if did != "" && ks.DID != did {
		return nil, contracts.Errorf(contracts.KeyLogInvalid, "the key log of %s, not of %s", ks.DID, did)
	}
	return ks, nil
}

// codeOr keeps the code of err, or gives def where it is a plain form error.
func codeOr(err error, def contracts.Code) contracts.Code {
	if c := contracts.CodeOf(err); c != contracts.Internal && c != contracts.Malformed {
		return c
	}
	return def
}

// apply gives the state after e; ks is nil before the inception.
func (ks *KeyState) apply(e *contracts.SignedKeyEvent) (*KeyState, error) {
	if err := e.Validate(); err != nil {
		return nil, err
	}
	if _, err := ParseTime(e.Event.Iat); err != nil {
		return nil, err
	}
	body := e.Event.AppendCanonical(nil)
	next, need, err := ks.shape(&e.Event, body)
	if err != nil {
		return nil, err
	}
	next.Last = digest64(body)
	if err := verifySigs(next.Keys, need, contracts.ContextKeyEvent, body, e.Sigs); err != nil {
		return nil, err
	}
	return next, nil
}

// shape checks all of an event but its signatures and says how many are needed.
func (ks *KeyState) shape(e *contracts.KeyEvent, body []byte) (*KeyState, int, error) {
	bad := func(format string, args ...any) (*KeyState, int, error) {
		return nil, 0, contracts.Errorf(contracts.KeyLogInvalid, format, args...)
	}
	keys, err := controlKeys(e.K)
	if err != nil {
		return nil, 0, err
	}
	if e.Kt == nil || *e.Kt > int64(len(keys)) {
		return bad("threshold kt is missing or more than the %d keys", len(keys))
	}
	next := &KeyState{SN: e.SN, Keys: keys, Threshold: int(*e.Kt)}
	need := next.Threshold
	if ks == nil {
		if e.T != "icp" || e.SN != 0 || e.DID != "" || e.P != "" || e.Void != nil {
			return bad("a log begins with an inception: t icp, sn 0, no did, p or void")
		}
		next.DID = didOf(body)
	} else {
		switch {
		case ks.Ended:
			return nil, 0, contracts.Errorf(contracts.Deactivated, "nothing follows an end")
		case e.T == "icp":
			return bad("a second inception")
		case e.DID != string(ks.DID):
			return bad("names another DID")
		case e.SN != ks.SN+1:
			return bad("number %d follows %d", e.SN, ks.SN)
		case e.P != ks.Last:
			return bad("does not name the event before it")
		}
		if err := ks.revealed(e.K); err != nil {
			return nil, 0, err
		}
		next.DID, next.ValidFrom = ks.DID, ks.ValidFrom
		need = max(need, ks.NextNeed)
	}
	if e.T == "end" {
		if len(e.N) > 0 || e.Nt != nil || e.Void != nil {
			return bad("an end commits to no next key")
		}
		next.Ended = true
		return next, need, nil
	}
	if e.Nt == nil || len(e.N) == 0 || *e.Nt > int64(len(e.N)) || !distinct(e.N) {
		return bad("the next keys n and their threshold nt are missing or do not fit")
	}
	next.Next, next.NextNeed = e.N, int(*e.Nt)
	if e.T == "rot" && e.Void == nil {
		return bad("a rotation says whether it is void")
	}
	if e.Void != nil && *e.Void {
		next.ValidFrom = e.SN
	}
	return next, need, nil
}

// revealed checks that keys are the whole set that the event before committed to.
func (ks *KeyState) revealed(keys []string) error {
	if len(keys) != len(ks.Next) {
		return contracts.Errorf(contracts.KeyLogInvalid, "reveals %d keys where %d were committed", len(keys), len(ks.Next))
	}
	for _, k := range keys {
		if !slices.Contains(ks.Next, digest64([]byte(k))) {
			return contracts.Errorf(contracts.KeyLogInvalid, "reveals a key that the event before did not commit to")
		}
	}
	return nil
}

func controlKeys(texts []string) ([]ControlPublic, error) {
	if len(texts) == 0 || !distinct(texts) {
		return nil, contracts.Errorf(contracts.KeyLogInvalid, "no control keys, or one twice")
	}
	keys := make([]ControlPublic, len(texts))
	for i, t := range texts {
		k, err := ParseMultikey[Control](t)
		if err != nil {
			return nil, err
		}
		keys[i] = k
	}
	return keys, nil
}

func distinct(s []string) bool {
	for i := range s {
		if slices.Contains(s[:i], s[i]) {
			return false
		}
	}
	return true
}

// verifySigs checks that at least need different keys signed body, and that no
// signature among sigs is false.
func verifySigs(keys []ControlPublic, need int, context string, body []byte, sigs []contracts.KeySignature) error {
	if len(sigs) < need {
		return contracts.Errorf(contracts.SignatureInvalid, "%d signatures, %d are needed", len(sigs), need)
	}
	last := int64(-1)
	for _, s := range sigs {
		if s.I <= last || s.I >= int64(len(keys)) {
			return contracts.Errorf(contracts.SignatureInvalid, "signatures are by ascending index of a control key")
		}
		last = s.I
		sig, err := decode64(s.S)
		if err != nil {
			return contracts.Errorf(contracts.SignatureInvalid, "%w", err)
		}
		if !keys[s.I].Verify(context, body, sig) {
			return contracts.Errorf(contracts.SignatureInvalid, "the signature of control key %d does not verify", s.I)
		}
	}
	return nil
}

// Duplicitous reports whether two valid logs of one DID contradict each other: two
// events with the same number and predecessor. It gives the number of the first.
func Duplicitous(a, b []contracts.SignedKeyEvent) (int64, bool) {
	for i := range min(len(a), len(b)) {
		x, y := a[i].Event.AppendCanonical(nil), b[i].Event.AppendCanonical(nil)
		if string(x) != string(y) {
			return int64(i), true
		}
	}
	return 0, false
}
