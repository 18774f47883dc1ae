package identity_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
)

var now = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// person is a DID with all its keys, made from a seed.
type person struct {
	rnd           *rand.ChaCha8
	did           identity.DID
	control, next identity.ControlKey
	hot           identity.Hot
	log           []contracts.SignedKeyEvent
	seq           int64
}

func gen[P identity.Purpose](t testing.TB, r *rand.ChaCha8) identity.Private[P] {
	t.Helper()
	k, err := identity.Generate[P](r)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func newPerson(t testing.TB, seed byte) *person {
	t.Helper()
	r := rand.NewChaCha8([32]byte{seed})
	p := &person{rnd: r, control: gen[identity.Control](t, r), next: gen[identity.Control](t, r)}
	ka, err := identity.GenerateAgreement(r)
	if err != nil {
		t.Fatal(err)
	}
	p.hot = identity.Hot{
		Invocation: gen[identity.Invocation](t, r).Public(), Peer: gen[identity.Peer](t, r).Public(),
		Log: gen[identity.Log](t, r).Public(), Agreement: ka.Public(),
	}
	did, icp := identity.Incept(p.control, p.next.Public(), now)
	p.did, p.log = did, []contracts.SignedKeyEvent{icp}
	return p
}

func (p *person) keys(t testing.TB) *identity.KeyState {
	t.Helper()
	ks, err := identity.VerifyKeyLog(p.did, p.log)
	if err != nil {
		t.Fatal(err)
	}
	return ks
}

func (p *person) rotate(t testing.TB, void bool) {
	t.Helper()
	next := gen[identity.Control](t, p.rnd)
	e, err := identity.Rotate(p.keys(t), p.next, next.Public(), void, now)
	if err != nil {
		t.Fatal(err)
	}
	p.log = append(p.log, e)
	p.control, p.next = p.next, next
}

func (p *person) state(t testing.TB) *identity.State {
	t.Helper()
	p.seq++
	s, err := identity.SignState(identity.NewState{
		KeyLog: p.log, Doc: identity.NewDocument(p.did, []identity.ControlPublic{p.control.Public()}, p.hot, 0, nil),
		Seq: p.seq, Now: now, Valid: 48 * time.Hour, TTL: time.Hour,
	}, p.control)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func wantCode(t *testing.T, err error, codes ...contracts.Code) {
	t.Helper()
	got := contracts.CodeOf(err)
	for _, c := range codes {
		if got == c {
			return
		}
	}
	t.Errorf("error %v, want code %v", err, codes)
}

// Row 11 of the identity acceptance table; ID-4.
func TestRow11_DIDSpellings(t *testing.T) {
	p := newPerson(t, 1)
	for _, good := range []string{
		string(p.did), string(identity.KeyDID(p.control.Public())),
		"did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK",
	} {
		if d, err := identity.ParseDID(good); err != nil || string(d) != good {
			t.Errorf("%s: %v", good, err)
		}
		if back, err := identity.DIDFromMultihash(mh(good)); err != nil || string(back) != good {
			t.Errorf("multihash round trip of %s gives %s, %v", good, back, err)
		}
	}
	for name, bad := range badDIDs(p) {
		_, err := identity.ParseDID(bad)
		if err == nil {
			t.Errorf("%s: %q is accepted", name, bad)
			continue
		}
		wantCode(t, err, contracts.InvalidDID, contracts.MethodUnsupported, contracts.KeyInvalid)
	}
}

// badDIDs are texts that are no DID of ours.
func badDIDs(p *person) map[string]string {
	return map[string]string{
		"empty": "", "no did": "alice", "x25519": "did:key:z6LSbysY2xFMRpGMhb7tFTLMpeuPRaqaWM1yECx2AtzE3KCc",
		"secp256k1": "did:key:zQ3shokFTS3brHcDQrn82RUDfCZESWL1ZdCEJwekUDPQiYBme",
		"p-256":     "did:key:zDnaerDaTF5BXEavCrfRZEk316dpbLsfPDZ3WJ5hRTPFU2169",
		"base64":    "did:key:uAe0B", "trailing": string(p.did) + "1", "truncated": string(p.did)[:len(p.did)-1],
		"upper": strings.ToUpper(string(p.did)), "fragment": string(p.did) + "#k0", "web": "did:web:example.com",
		"long": "did:talos:z" + strings.Repeat("1", 10000), "space": " " + string(p.did), "leading ones": "did:talos:z1" + string(p.did)[11:],
		"non-minimal varint": "did:key:z" + "6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2do",
	}
}

func mh(s string) []byte { b := identity.DID(s).Multihash(); return b[:] }

// Row 10 (key import) of the identity acceptance table and B3: the fourteen
// encodings of small-order or non-canonical points; ID-2.
func TestRow10_WeakKeysAreRefused(t *testing.T) {
	for _, h := range []string{
		"0000000000000000000000000000000000000000000000000000000000000000",
		"0000000000000000000000000000000000000000000000000000000000000080",
		"0100000000000000000000000000000000000000000000000000000000000000",
		"0100000000000000000000000000000000000000000000000000000000000080",
		"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
		"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
		"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
		"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
		"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
		"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
		"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
	} {
		b, _ := hex.DecodeString(h)
		if _, err := identity.NewPublic[identity.Invocation](b); contracts.CodeOf(err) != contracts.KeyInvalid {
			t.Errorf("%s: %v, want KEY_INVALID", h, err)
		}
	}
	// The standard library accepts the identity point for any message; we must not.
	idpoint, _ := hex.DecodeString("0100000000000000000000000000000000000000000000000000000000000000")
	if !ed25519.Verify(idpoint, []byte("anything"), append(idpoint, make([]byte, 32)...)) {
		t.Log("the standard library refuses the identity point by now")
	}
	high := bytes.Repeat([]byte{0xff}, 32)
	if _, err := identity.NewAgreementPublic(high); contracts.CodeOf(err) != contracts.KeyInvalid {
		t.Errorf("non-canonical X25519 key: %v", err)
	}
	for _, n := range []int{0, 31, 33} {
		if _, err := identity.NewPublic[identity.Peer](make([]byte, n)); err == nil {
			t.Errorf("%d bytes are accepted", n)
		}
	}
	// B5: one kind of key where another is expected.
	if _, err := identity.ParseMultikey[identity.Peer](newPerson(t, 3).hot.Agreement.Multikey()); err == nil {
		t.Error("an X25519 Multikey is accepted as Ed25519")
	}
	if _, err := identity.ParseAgreementMultikey(newPerson(t, 3).hot.Peer.Multikey()); err == nil {
		t.Error("an Ed25519 Multikey is accepted as X25519")
	}
}

// Row 9: a signature of one context never passes as another; ID-3.
func TestRow9_ContextsSeparate(t *testing.T) {
	k := gen[identity.Invocation](t, rand.NewChaCha8([32]byte{9}))
	sig := k.Sign(contracts.ContextState, []byte("m"))
	if !k.Public().Verify(contracts.ContextState, []byte("m"), sig) {
		t.Error("own signature refused")
	}
	if k.Public().Verify(contracts.ContextKeyEvent, []byte("m"), sig) {
		t.Error("accepted under another context")
	}
	other := gen[identity.Invocation](t, rand.NewChaCha8([32]byte{10}))
	if other.Public().Verify(contracts.ContextState, []byte("m"), sig) {
		t.Error("accepted under another key")
	}
	if (identity.InvocationPublic{}).Verify(contracts.ContextState, []byte("m"), sig) {
		t.Error("the zero key verifies")
	}
}

// Row 44: whatever breaks the rules of a key log is refused; ID-5, ID-6, ID-7, ID-8.
func TestRow44_KeyLogRules(t *testing.T) {
	for name, p := range badLogs(t) {
		if _, err := identity.VerifyKeyLog(p.did, p.log); err == nil {
			t.Errorf("%s: accepted", name)
		} else {
			wantCode(t, err, contracts.KeyLogInvalid, contracts.SignatureInvalid)
		}
	}
}

// badLogs are people whose key logs break a rule each.
func badLogs(t testing.TB) map[string]*person {
	t.Helper()
	stranger := newPerson(t, 6)
	one, two := int64(1), int64(2)
	yes := true
	out := map[string]*person{}
	for name, mutate := range map[string]func(*person){
		"uncommitted key": func(p *person) {
			ks := p.keys(t)
			ks.Next = []string{digest(stranger.control.Public())}
			e, _ := identity.Rotate(ks, stranger.control, stranger.next.Public(), false, now)
			p.log = append(p.log, e)
		},
		"threshold short":        func(p *person) { p.log[1].Event.Kt = &two },
		"wrong previous":         func(p *person) { p.log[1].Event.P = strings.Repeat("A", 43) },
		"number gap":             func(p *person) { p.log[1].Event.SN = 2 },
		"second inception":       func(p *person) { p.log = append(p.log, p.log[0]) },
		"no inception":           func(p *person) { p.log = p.log[1:] },
		"empty":                  func(p *person) { p.log = nil },
		"inception with void":    func(p *person) { p.log[0].Event.Void = &yes },
		"rotation without void":  func(p *person) { p.log[1].Event.Void = nil },
		"rotation without next":  func(p *person) { p.log[1].Event.N = nil },
		"next threshold":         func(p *person) { p.log[1].Event.Nt = &two },
		"no signature":           func(p *person) { p.log[1].Sigs = nil },
		"signature of another":   func(p *person) { p.log[1].Sigs = p.log[0].Sigs },
		"signature twice":        func(p *person) { p.log[1].Sigs = append(p.log[1].Sigs, p.log[1].Sigs[0]) },
		"signature index":        func(p *person) { p.log[1].Sigs[0].I = 1 },
		"changed time":           func(p *person) { p.log[1].Event.Iat = identity.FormatTime(now.Add(time.Second)) },
		"no date":                func(p *person) { p.log[1].Event.Iat = "2026-13-23T12:00:00.000Z" },
		"other DID":              func(p *person) { p.log[1].Event.DID = string(stranger.did) },
		"inception of another":   func(p *person) { p.log[0] = stranger.log[0] },
		"void changed":           func(p *person) { p.log[1].Event.Void = &yes },
		"threshold of inception": func(p *person) { p.log[0].Event.Nt = nil; p.log[0].Event.Kt = &one },
	} {
		p := newPerson(t, 5)
		p.rotate(t, false)
		p.log[1].Sigs = append([]contracts.KeySignature(nil), p.log[1].Sigs...)
		mutate(p)
		out[name] = p
	}
	return out
}

func digest(k identity.ControlPublic) string {
	e := identity.ControlPublic(k)
	r := rand.NewChaCha8([32]byte{77})
	c, _ := identity.Generate[identity.Control](r)
	_, icp := identity.Incept(c, e, now)
	return icp.Event.N[0]
}

// Row 44: nothing follows an end; the 33rd rotation is refused; ID-8.
func TestRow44_EndAndLength(t *testing.T) {
	p := newPerson(t, 7)
	for range identity.MaxRotations {
		p.rotate(t, false)
	}
	if ks := p.keys(t); ks.SN != identity.MaxRotations {
		t.Fatalf("log ends at %d", ks.SN)
	}
	_, err := identity.Rotate(p.keys(t), p.next, p.control.Public(), false, now)
	wantCode(t, err, contracts.KeyLogInvalid)
	if s := p.state(t); len(s.Raw) > identity.MaxStateBytes {
		t.Errorf("a record with %d rotations has %d bytes", identity.MaxRotations, len(s.Raw))
	}

	p = newPerson(t, 8)
	e, err := identity.End(p.keys(t), p.next, now)
	if err != nil {
		t.Fatal(err)
	}
	p.log = append(p.log, e)
	if ks := p.keys(t); !ks.Ended {
		t.Error("the log does not say that it ended")
	}
	_, err = identity.Rotate(p.keys(t), p.next, p.control.Public(), false, now)
	wantCode(t, err, contracts.Deactivated)
	s, err := identity.SignState(identity.NewState{KeyLog: p.log, Seq: 9, Now: now, Valid: time.Hour, TTL: time.Minute}, p.next)
	if err != nil || !s.Deactivated() || s.Doc != nil {
		t.Errorf("state of an ended DID: %v", err)
	}
}

// Row 45: a thief of the current key can neither rotate nor end, and the owner
// recovers; ID-7.
func TestRow45_ThiefCannotTakeOver(t *testing.T) {
	p := newPerson(t, 11)
	thief := newPerson(t, 12)
	if _, err := identity.Rotate(p.keys(t), p.control, thief.next.Public(), false, now); contracts.CodeOf(err) != contracts.KeyLogInvalid {
		t.Errorf("rotation with the current key: %v", err)
	}
	if _, err := identity.End(p.keys(t), p.control, now); contracts.CodeOf(err) != contracts.KeyLogInvalid {
		t.Errorf("end with the current key: %v", err)
	}
	// The thief forges the event by hand, past our own constructor.
	forged := p.keys(t)
	forged.Next = []string{digest(p.control.Public())}
	e, err := identity.Rotate(forged, p.control, thief.next.Public(), false, now)
	if err != nil {
		t.Fatal(err)
	}
	_, err = identity.VerifyKeyLog(p.did, append(p.log, e))
	wantCode(t, err, contracts.KeyLogInvalid)

	p.rotate(t, true)
	ks := p.keys(t)
	if ks.ValidFrom != 1 || ks.DID != p.did {
		t.Errorf("after a void rotation signatures count from %d, DID %s", ks.ValidFrom, ks.DID)
	}
}

// ID-9: two valid events with one number are duplicity.
func TestDuplicity(t *testing.T) {
	a, b := newPerson(t, 13), newPerson(t, 13)
	a.rotate(t, false)
	b.rnd = rand.NewChaCha8([32]byte{99})
	b.rotate(t, false)
	if n, bad := identity.Duplicitous(a.log, b.log); !bad || n != 1 {
		t.Errorf("fork at 1: %d, %v", n, bad)
	}
	if _, bad := identity.Duplicitous(a.log, a.log[:1]); bad {
		t.Error("a prefix is called a fork")
	}
}

// Row 41: records that must be refused; ID-1, ID-10, ID-11, ID-13.
func TestRow41_StateRules(t *testing.T) {
	p := newPerson(t, 14)
	good := p.state(t)
	if _, err := identity.VerifyState(good.Raw); err != nil {
		t.Fatal(err)
	}
	for name, raw := range badStates(t, p, good) {
		_, err := identity.VerifyState(raw)
		if err == nil {
			t.Errorf("%s: accepted", name)
			continue
		}
		wantCode(t, err, contracts.Malformed, contracts.TooLarge, contracts.SignatureInvalid, contracts.KeyLogInvalid)
	}
	wantCode(t, good.ValidAt(now.Add(-2*time.Minute)), contracts.NotYetValid)
	if err := good.ValidAt(now.Add(-30 * time.Second)); err != nil {
		t.Errorf("within the grace: %v", err)
	}
	wantCode(t, good.ValidAt(good.Until), contracts.Expired)
}

// badStates are records that must be refused, made of a good one of p.
func badStates(t testing.TB, p *person, good *identity.State) map[string][]byte {
	t.Helper()
	resign := func(change func(*contracts.DIDState)) []byte {
		rec, err := contracts.DecodeSignedState(good.Raw)
		if err != nil {
			t.Fatal(err)
		}
		change(&rec.State)
		sig := p.control.Sign(contracts.ContextState, rec.State.AppendCanonical(nil))
		rec.Sigs[0].S = b64(sig)
		return rec.AppendCanonical(nil)
	}
	other := newPerson(t, 15)
	return map[string][]byte{
		"empty":          nil,
		"16 KiB + 1":     bytes.Repeat([]byte{' '}, identity.MaxStateBytes+1),
		"deep":           bytes.Repeat([]byte{'['}, 10000),
		"bad signature":  bytes.Replace(good.Raw, []byte(`"seq":1`), []byte(`"seq":2`), 1),
		"space":          append(bytes.Clone(good.Raw), ' '),
		"unknown member": bytes.Replace(good.Raw, []byte(`{"sigs"`), []byte(`{"a":1,"sigs"`), 1),
		"duplicate":      bytes.Replace(good.Raw, []byte(`"seq":1`), []byte(`"seq":1,"seq":1`), 1),
		"float":          bytes.Replace(good.Raw, []byte(`"seq":1`), []byte(`"seq":1.0`), 1),
		"exponent":       bytes.Replace(good.Raw, []byte(`"seq":1`), []byte(`"seq":1e0`), 1),
		"null":           bytes.Replace(good.Raw, []byte(`"seq":1`), []byte(`"seq":null`), 1),
		"version":        bytes.Replace(good.Raw, []byte(`talos-did-state/1`), []byte(`talos-did-state/2`), 1),
		"other DID":      resign(func(s *contracts.DIDState) { s.DID = string(other.did) }),
		"other log":      resign(func(s *contracts.DIDState) { s.KEL = other.log }),
		"wrong sn":       resign(func(s *contracts.DIDState) { s.SN = 1 }),
		"no document":    resign(func(s *contracts.DIDState) { s.Doc = nil }),
		"too long valid": resign(func(s *contracts.DIDState) { s.Exp = identity.FormatTime(now.Add(8 * 24 * time.Hour)) }),
		"reversed times": resign(func(s *contracts.DIDState) { s.Exp = identity.FormatTime(now.Add(-time.Hour)) }),
		"document of another": resign(func(s *contracts.DIDState) {
			s.Doc = identity.NewDocument(other.did, []identity.ControlPublic{p.control.Public()}, p.hot, 0, nil)
		}),
		"other control key": resign(func(s *contracts.DIDState) {
			s.Doc = identity.NewDocument(p.did, []identity.ControlPublic{other.control.Public()}, p.hot, 0, nil)
		}),
		"method twice": resign(func(s *contracts.DIDState) {
			s.Doc.VerificationMethod = append(s.Doc.VerificationMethod, s.Doc.VerificationMethod[0])
		}),
		"dangling reference": resign(func(s *contracts.DIDState) { s.Doc.Authentication[0] = string(p.did) + "#nobody" }),
		"peer key signs": resign(func(s *contracts.DIDState) {
			s.Doc.AssertionMethod = append(s.Doc.AssertionMethod, string(p.did)+"#peer")
		}),
		"controller": resign(func(s *contracts.DIDState) { s.Doc.VerificationMethod[1].Controller = string(other.did) }),
	}
}

func TestEveryBitFlipOfARecordIsRefused(t *testing.T) {
	p := newPerson(t, 16)
	raw := p.state(t).Raw
	for i := range raw {
		for bit := range 8 {
			b := bytes.Clone(raw)
			b[i] ^= 1 << bit
			if s, err := identity.VerifyState(b); err == nil {
				t.Fatalf("byte %d bit %d: accepted as %s", i, bit, s.Version())
			}
		}
		if testing.Short() && i > 200 {
			break
		}
	}
}

// ID-12: the order is by key event, then sequence, then digest.
func TestOrder(t *testing.T) {
	p := newPerson(t, 17)
	s1 := p.state(t)
	s2 := p.state(t)
	p.rotate(t, false)
	p.seq = 0
	s3 := p.state(t)
	if identity.Compare(s1, s2) >= 0 || identity.Compare(s2, s3) >= 0 || identity.Compare(s1, s1) != 0 {
		t.Error("order is wrong")
	}
	if !strings.HasPrefix(s3.Version(), "1.") {
		t.Errorf("version %s", s3.Version())
	}
}

// H1: no key-bearing type shows its secret, however it is printed.
func TestH1_SecretsNeverPrint(t *testing.T) {
	r := rand.NewChaCha8([32]byte{18})
	k := gen[identity.Control](t, r)
	ka, _ := identity.GenerateAgreement(r)
	secrets := []string{hex.EncodeToString(k.Seed()), hex.EncodeToString(ka.Seed()), fmt.Sprint(k.Seed()), fmt.Sprint(ka.Seed()), string(k.Seed()), string(ka.Seed())}
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("keys", "a", k, "b", ka, "c", &k, "d", []any{k, ka})
	js, err := json.Marshal([]any{k, ka, struct{ K identity.ControlKey }{k}, map[string]any{"k": ka}})
	if err != nil {
		t.Fatal(err)
	}
	out := log.String() + string(js) + fmt.Sprintf("%v %+v %#v %s %x %q %d", k, k, k, k, k, k, k) + fmt.Sprintf("%v %+v %#v %s %x %d", ka, &ka, ka, ka, ka, ka) +
		fmt.Sprint(errors.Join(fmt.Errorf("with %v", k)))
	for _, s := range secrets {
		if strings.Contains(out, s) {
			t.Errorf("a secret was printed: %q", out)
		}
	}
}

func FuzzVerifyState(f *testing.F) {
	p := newPerson(f, 19)
	f.Add(p.state(f).Raw)
	p.rotate(f, true)
	f.Add(p.state(f).Raw)
	f.Fuzz(func(t *testing.T, raw []byte) {
		s, err := identity.VerifyState(raw)
		if err != nil {
			return
		}
		rec, err := contracts.DecodeSignedState(s.Raw)
		if err != nil || !bytes.Equal(rec.AppendCanonical(nil), raw) {
			t.Errorf("accepted, but encodes differently: %v", err)
		}
	})
}

func FuzzParseDID(f *testing.F) {
	f.Add("did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK")
	f.Add(string(newPerson(f, 20).did))
	f.Fuzz(func(t *testing.T, s string) {
		d, err := identity.ParseDID(s)
		if err != nil {
			return
		}
		if back, err := identity.DIDFromMultihash(mh(s)); err != nil || back != d {
			t.Errorf("%q comes back as %q, %v", s, back, err)
		}
	})
}

func BenchmarkVerifyState(b *testing.B) {
	raw := newPerson(b, 21).state(b).Raw
	b.ReportAllocs()
	for b.Loop() {
		if _, err := identity.VerifyState(raw); err != nil {
			b.Fatal(err)
		}
	}
}
