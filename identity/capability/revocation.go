package capability

import (
	"context"
	"crypto/ed25519"
	"time"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
)

// Versions of the revocation formats.
const (
	RecordVersion = "talos-rev/1"
	HeadVersion   = "talos-revhead/1"
)

// Record is a revocation whose signature was verified.
type Record struct {
	contracts.Revocation
	ID  TokenID
	Raw []byte
	tid TokenID
}

// Head is a head of a revocation log whose signature was verified.
type Head struct {
	contracts.RevocationHead
	Last TokenID // of the last record; zero of an empty log
	Raw  []byte
}

// Issuer names whose log it is.
func (r *Record) Issuer() identity.DID { return identity.DID(r.Iss) }

// Issuer names whose log it is.
func (h *Head) Issuer() identity.DID { return identity.DID(h.Iss) }

// LogOf gives whose log a record or head claims to be of, before anything is verified:
// to decide whether to look at it at all.
func LogOf(raw []byte) (identity.DID, error) {
	j, err := splitJWS(raw)
	if err != nil {
		return "", err
	}
	if j.readHeader(typRecord) != nil {
		err = j.readHeader(typHead)
	}
	return j.did, err
}

// VerifyRecord reads a record strictly and verifies it, in the order of the checks of a
// token.
func VerifyRecord(raw []byte, resolve Resolve, now time.Time) (*Record, error) {
	j, err := open(raw, typRecord, RecordVersion)
	if err != nil {
		return nil, err
	}
	r, err := readRecord(raw, j)
	if err != nil {
		return nil, err
	}
	return r, j.verifyLog(r.Iss, r.Ksn, r.Iat, resolve, now)
}

// readRecord checks all of a record but its time and signature.
func readRecord(raw []byte, j *jws) (*Record, error) {
	p, err := contracts.DecodeRevocation(j.payload)
	if err != nil {
		return nil, err
	}
	r := &Record{Revocation: *p, ID: j.id(), Raw: raw}
	targets := 0
	for _, there := range []bool{p.Tid != "", p.Jti != "", p.Below != nil, p.Sub != ""} {
		if there {
			targets++
		}
	}
	if targets != 1 || (p.Seq == 1) != (p.Prev == "") {
		return nil, contracts.Errorf(contracts.Malformed, "a record names one of tid, jti, below, sub, and the record before it unless it is the first")
	}
	if p.Until < p.Iat {
		return nil, contracts.Errorf(contracts.Malformed, "the record is forgotten before it was made")
	}
	if p.Tid != "" {
		if r.tid, err = ParseTokenID(p.Tid); err != nil {
			return nil, err
		}
	}
	if p.Prev != "" {
		if _, err := ParseTokenID(p.Prev); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// VerifyHead reads a head strictly and verifies it.
func VerifyHead(raw []byte, resolve Resolve, now time.Time) (*Head, error) {
	j, err := open(raw, typHead, HeadVersion)
	if err != nil {
		return nil, err
	}
	p, err := contracts.DecodeRevocationHead(j.payload)
	if err != nil {
		return nil, err
	}
	h := &Head{RevocationHead: *p, Raw: raw}
	if (p.Seq == 0) != (p.Head == "") {
		return nil, contracts.Errorf(contracts.Malformed, "a head names its last record unless the log is empty")
	}
	if p.Head != "" {
		if h.Last, err = ParseTokenID(p.Head); err != nil {
			return nil, err
		}
	}
	return h, j.verifyLog(p.Iss, p.Ksn, p.Iat, resolve, now)
}

func open(raw []byte, typ, version string) (*jws, error) {
	j, err := splitJWS(raw)
	if err != nil {
		return nil, err
	}
	if err := checkVersion(j.payload, version); err != nil {
		return nil, err
	}
	return j, j.readHeader(typ)
}

// verifyLog is what records and heads have in common: time, issuer, signature.
func (j *jws) verifyLog(iss string, ksn, iat int64, resolve Resolve, now time.Time) error {
	if iat > now.Add(ClockSkew).Unix() {
		return contracts.Errorf(contracts.NotYetValid, "made at %s, which is not yet", clock(iat))
	}
	if j.did != identity.DID(iss) {
		return contracts.Errorf(contracts.SignatureInvalid, "the key in its header is of %s, its issuer is %s", j.did.Short(), identity.DID(iss).Short())
	}
	issuer, err := resolve.find(j.did)
	if err != nil {
		return err
	}
	if err := issuer.speaksAt(ksn, iat); err != nil {
		return err
	}
	return j.verify(issuer, ksn)
}

// Target says what a record takes back: exactly one member is set.
type Target struct {
	Token   TokenID      // one token, and all below it
	JTI     string       // one token of the issuer
	Below   int64        // tokens of the issuer that were signed before this key event
	Subject identity.DID // tokens of the issuer for this subject, made until now
}

// Tip is where a log ends: what its next record follows. The zero value is an empty log.
type Tip struct {
	Seq  int64
	Last TokenID
}

// Revoke makes the record that follows tip, and the tip after it. until is when the
// effect may be forgotten: not before what it revokes has expired. The issuer must
// have made it durable before it publishes a head that names it, and must never sign
// two records with one number: others would see it as two histories.
func Revoke(s Signer, tip Tip, t Target, why string, until, now time.Time) (string, Tip, error) {
	p := contracts.Revocation{
		V: RecordVersion, Iss: string(s.DID), Ksn: s.KSN, Seq: tip.Seq + 1, Iat: now.Unix(), Until: until.Unix(),
		Reason: why, Jti: t.JTI, Sub: string(t.Subject),
	}
	if tip.Seq > 0 {
		p.Prev = tip.Last.String()
	}
	if t.Token != (TokenID{}) {
		p.Tid = t.Token.String()
	}
	if t.Below > 0 {
		p.Below = &t.Below
	}
	text, err := s.sign(typRecord, p.AppendCanonical(nil))
	if err != nil {
		return "", tip, err
	}
	r, err := VerifyRecord([]byte(text), s.self(), now)
	if err != nil {
		return "", tip, err
	}
	return text, Tip{Seq: r.Seq, Last: r.ID}, nil
}

// SignHead makes the head of a log at tip. It is the heartbeat: verifiers that hold
// everything until it know, for as long as their tokens' rfs, that nothing else was
// taken back.
func SignHead(s Signer, tip Tip, now time.Time) (string, error) {
	p := contracts.RevocationHead{V: HeadVersion, Iss: string(s.DID), Ksn: s.KSN, Seq: tip.Seq, Iat: now.Unix()}
	if tip.Seq > 0 {
		p.Head = tip.Last.String()
	}
	text, err := s.sign(typHead, p.AppendCanonical(nil))
	if err != nil {
		return "", err
	}
	_, err = VerifyHead([]byte(text), s.self(), now)
	return text, err
}

// self resolves the signer's own key, so that it checks what it made as others will.
func (s Signer) self() Resolve {
	return func(did identity.DID) (*Issuer, error) {
		pub, ok := s.Key.Public().(ed25519.PublicKey)
		if !ok || did != s.DID || s.KSN < 0 || s.KSN > identity.MaxRotations || s.Index < 0 || s.Index > 4 {
			return nil, contracts.Errorf(contracts.KeyInvalid, "the signer is no Ed25519 key of %s", s.DID.Short())
		}
		i := &Issuer{DID: did, SN: s.KSN, events: make([]issuerEvent, s.KSN+1)}
		i.events[s.KSN] = issuerEvent{keys: make([][]byte, s.Index+1), threshold: 1}
		i.events[s.KSN].keys[s.Index] = pub
		return i, nil
	}
}

// RecordStore keeps revocation logs. Implementations promise:
//   - Append is atomic and durable when it returns: all records and the head, or
//     nothing. records follow the stored ones without a gap, else CONFLICT. head may be
//     nil; a head replaces the stored one.
//   - Records gives at most max records from number from on, in order, exactly as they
//     were appended; fewer where the log ends.
//   - Logs gives whose logs there are.
//   - All may be called concurrently. An error of Append leaves the Set ahead of the
//     store, which is safe: what was revoked stays so until the next start, and then
//     the log is asked for again.
type RecordStore interface {
	Append(ctx context.Context, log identity.DID, from int64, records [][]byte, head []byte) error
	Records(ctx context.Context, log identity.DID, from int64, max int) ([][]byte, error)
	Head(ctx context.Context, log identity.DID) ([]byte, error)
	Logs(ctx context.Context) ([]identity.DID, error)
}
