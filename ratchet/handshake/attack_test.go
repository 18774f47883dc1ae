package handshake_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/ratchet/handshake"
)

// Shows HS-5, HS-6, HS-7.
func TestC1_BadBundles(t *testing.T) {
	a, b, c := newParty(t, "Alice", 1), newParty(t, "Bob", 2), newParty(t, "Carol", 3)
	raw := b.bundle(t, true)
	try := func(name string, raw []byte, edit func(p *handshake.Initiator), codes ...contracts.Code) {
		t.Helper()
		p := initiator(a, b)
		if edit != nil {
			edit(&p)
		}
		if _, err := handshake.Initiate(p, raw, hello("x")); err == nil || contracts.CodeOf(err) != codes[0] {
			t.Errorf("%s: %v, want %v", name, err, codes)
		}
	}
	flip := func(i int) []byte { x := bytes.Clone(raw); x[i] ^= 1; return x }
	try("signature", flip(len(raw)-1), nil, contracts.HandshakeSignature)
	try("created", flip(len(raw)-64-24+6), nil, contracts.HandshakeSignature)
	try("expired", raw, func(p *handshake.Initiator) { p.Now = t0.Add(time.Hour) }, contracts.Expired)
	try("future", raw, func(p *handshake.Initiator) { p.Now = t0.Add(-handshake.ClockSkew - time.Millisecond) }, contracts.NotYetValid)
	try("replayed", raw, func(p *handshake.Initiator) { p.MinBundleSeq = 2 }, contracts.Rollback)
	try("wrong DID", raw, func(p *handshake.Initiator) { p.Peer = c.card.DID }, contracts.HandshakeFailed)
	try("card not of the document", raw, func(p *handshake.Initiator) {
		old := *b
		old.card.KeyLog++
		p.CheckCard = directory(a, &old)
	}, contracts.PeerNotBound)
	own, _ := handshake.DecodeBundle(raw)
	other, _ := handshake.DecodeBundle(c.bundle(t, true))
	own.Signed, own.SignedID = other.Signed, other.SignedID
	try("mixed, signed by another", handshake.Resign(own, c.sign), nil, contracts.HandshakeSignature)
	own.Expires = own.Created.Add(handshake.MaxBundleLife + time.Millisecond)
	try("lives too long", handshake.Resign(own, b.sign), nil, contracts.Malformed)
	own.Min, own.Max = 3, 4
	try("other versions", handshake.Resign(own, b.sign), nil, contracts.UnsupportedVersion)
	for _, n := range []int{0, 1, 100, 2000} {
		try("cut", raw[:n], nil, contracts.Malformed)
	}
	try("trailing byte", append(bytes.Clone(raw), 0), nil, contracts.Malformed)
	try("too large", make([]byte, handshake.MaxBundle+1), nil, contracts.TooLarge)
}

// Shows HS-2, HS-13: each bit of a flight counts.
func TestC2_EveryBitOfAFlight(t *testing.T) {
	a, b := newParty(t, "Alice", 1), newParty(t, "Bob", 2)
	i := initiate(t, initiator(a, b), b.bundle(t, true))
	step := 1
	if testing.Short() {
		step = 17
	}
	bad := bytes.Clone(i.Flight)
	p := responder(a, b)
	p.LocalPeer, p.RemotePeer = "", ""
	for bit := 0; bit < 8*len(bad); bit += step {
		bad[bit/8] ^= 1 << (bit % 8)
		if _, err := handshake.Accept(p, bad); err == nil {
			t.Fatalf("bit %d does not count", bit)
		}
		bad[bit/8] ^= 1 << (bit % 8)
		if bit == 8*handshake.PreambleLen(i.Flight) { // the rest is AEAD: coarser
			step = max(step, 13)
		}
	}
	for n := 0; n < len(bad); n += 7 {
		refuseFlight(t, p, bad[:n])
	}
	if _, err := handshake.Accept(p, i.Flight); err != nil {
		t.Fatalf("the genuine flight: %v", err)
	}
}

// Shows HS-7, HS-11: an initiator that says it is somebody else.
func TestC2_InitiatorIdentitySwapped(t *testing.T) {
	a, b, m := newParty(t, "Alice", 1), newParty(t, "Bob", 2), newParty(t, "Mallory", 3)
	raw := b.bundle(t, true)
	// Mallory shows Alice's name with his own keys: the document says otherwise.
	p := initiator(m, b)
	p.Card.DID = a.card.DID
	p.LocalPeer = ""
	q := responder(a, b)
	q.RemotePeer = ""
	refuseFlight(t, q, initiate(t, p, raw).Flight, contracts.PeerNotBound)
	// Alice's card with Mallory's signature.
	p = initiator(a, b)
	p.Sign = m.sign
	refuseFlight(t, responder(a, b), initiate(t, p, raw).Flight, contracts.HandshakeSignature)
	// No signature at all.
	p.Sign = func([]byte) ([]byte, error) { return make([]byte, 64), nil }
	refuseFlight(t, responder(a, b), initiate(t, p, raw).Flight, contracts.HandshakeSignature)
	// A signature over the same bytes in another context.
	p.Sign = func(m []byte) ([]byte, error) {
		return a.sign(contracts.Signed(contracts.ContextHello, m[len(contracts.ContextHandshake)+1:]))
	}
	refuseFlight(t, responder(a, b), initiate(t, p, raw).Flight, contracts.HandshakeSignature)
}

// Shows HS-10: unknown key share, both ways.
func TestC3_UnknownKeyShare(t *testing.T) {
	a, b, m := newParty(t, "Alice", 1), newParty(t, "Bob", 2), newParty(t, "Mallory", 3)
	raw := b.bundle(t, true)
	i := initiate(t, initiator(a, b), raw)
	// Mallory relays Alice's flight for Bob to herself: she has no such prekeys.
	q := responder(a, m)
	q.LocalPeer = ""
	refuseFlight(t, q, i.Flight, contracts.HandshakePrekey)
	// Mallory publishes Bob's keys under her own DID and relays what comes.
	bundle, _ := handshake.DecodeBundle(raw)
	fake := *m
	fake.card.Agreement = b.card.Agreement
	bundle.Card = fake.card
	i = initiate(t, initiator(a, &fake), handshake.Resign(bundle, m.sign))
	q = responder(a, b)
	q.LocalPeer = ""
	refuseFlight(t, q, i.Flight, contracts.HandshakePrekey)
}

// Shows HS-4, HS-17.
func TestC4_PeerIDs(t *testing.T) {
	a, b := newParty(t, "Alice", 1), newParty(t, "Bob", 2)
	raw := b.bundle(t, true)
	i := initiate(t, initiator(a, b), raw)
	q := responder(a, b)
	q.RemotePeer = "peer-Mallory"
	refuseFlight(t, q, i.Flight, contracts.PeerNotBound)
	q = responder(a, b)
	q.LocalPeer = "peer-Other"
	refuseFlight(t, q, i.Flight, contracts.PeerNotBound)
	p := initiator(a, b)
	p.RemotePeer = "peer-Mallory"
	_, err := handshake.Initiate(p, raw, hello("x"))
	wantCode(t, err, contracts.PeerNotBound)
	p = initiator(a, b)
	p.LocalPeer = "peer-Mallory"
	_, err = handshake.Initiate(p, raw, hello("x"))
	wantCode(t, err, contracts.PeerNotBound)
	// A flight for a mailbox names no peer, and the card still must fit a stream.
	p = initiator(a, b)
	p.LocalPeer, p.RemotePeer = "", ""
	i = initiate(t, p, raw)
	q = responder(a, b)
	q.RemotePeer = "peer-Mallory"
	refuseFlight(t, q, i.Flight, contracts.PeerNotBound)
	for _, ids := range [][]string{nil, {""}, {"b", "a"}, {"a", "a"}, {strings.Repeat("x", 65)}, {"1", "2", "3", "4", "5", "6", "7", "8", "9"}} {
		c := a.card
		c.PeerIDs = ids
		if _, err := c.Append(nil); contracts.CodeOf(err) != contracts.Malformed {
			t.Errorf("peer ids %q: %v", ids, err)
		}
	}
}

// Shows HS-11: whoever holds all of Bob's secrets still is not Alice to Bob.
func TestC5_KeyCompromiseImpersonation(t *testing.T) {
	a, b := newParty(t, "Alice", 1), newParty(t, "Bob", 2)
	raw := b.bundle(t, true)
	i := initiate(t, initiator(a, b), raw)
	if _, err := handshake.Accept(responder(a, b), i.Flight); err != nil {
		t.Fatal(err)
	}
	// The thief knows Bob's keys, so he can compute DH1 = SPK_B·IK_A without
	// IK_A; here he may even have IK_A itself. He lacks Alice's signing key, and
	// an old signature of hers is over another T.
	var old []byte
	p := initiator(a, b)
	p.Sign = func(m []byte) ([]byte, error) { s, err := a.sign(m); old = s; return s, err }
	initiate(t, p, raw)
	p.Sign = func([]byte) ([]byte, error) { return old, nil }
	refuseFlight(t, responder(a, b), initiate(t, p, raw).Flight, contracts.HandshakeSignature)
	p.Sign = b.sign
	refuseFlight(t, responder(a, b), initiate(t, p, raw).Flight, contracts.HandshakeSignature)
}

// Shows HS-14, HS-15: one session and one delivery for each flight.
func TestC6_ReplayOfTheFirstFlight(t *testing.T) {
	a, b := newParty(t, "Alice", 1), newParty(t, "Bob", 2)
	i := initiate(t, initiator(a, b), b.bundle(t, true))
	acc, err := handshake.Accept(responder(a, b), i.Flight)
	if err != nil {
		t.Fatal(err)
	}
	b.prekeys.Consume(acc.Consumed)
	refuseFlight(t, responder(a, b), i.Flight, contracts.HandshakePrekey)
	restarted, err := handshake.DecodePrekeys(b.prekeys.Append(nil))
	if err != nil {
		t.Fatal(err)
	}
	b.prekeys = restarted
	refuseFlight(t, responder(a, b), i.Flight, contracts.HandshakePrekey)

	// Without a one-time key the caller's memory decides.
	i = initiate(t, initiator(a, b), b.bundle(t, false))
	seen := map[[32]byte]bool{}
	q := responder(a, b)
	q.Seen = func(id [32]byte) bool { return seen[id] }
	if acc, err = handshake.Accept(q, i.Flight); err != nil {
		t.Fatal(err)
	}
	info, err := handshake.Inspect(i.Flight)
	if err != nil || info.ReplayID != acc.ReplayID || info.OneTime || info.Conversation != acc.Conversation {
		t.Errorf("Inspect: %+v, %v", info, err)
	}
	seen[acc.ReplayID] = true
	refuseFlight(t, q, i.Flight, contracts.FrameReplay)
	q.Seen = nil
	refuseFlight(t, q, i.Flight, contracts.FrameReplay)
}

// Shows HS-13, HS-14.
func TestC7_FailureConsumesNothing(t *testing.T) {
	a, b := newParty(t, "Alice", 1), newParty(t, "Bob", 2)
	i := initiate(t, initiator(a, b), b.bundle(t, true))
	for _, at := range []int{75, 300, len(i.Flight) - 1} {
		bad := bytes.Clone(i.Flight)
		bad[at] ^= 1
		refuseFlight(t, responder(a, b), bad)
	}
	acc, err := handshake.Accept(responder(a, b), i.Flight)
	if err != nil || acc.Consumed.OneTime == 0 || acc.Consumed.OneTimeKEM == 0 {
		t.Fatalf("after failures: %v", err)
	}
	before := b.prekeys.Append(nil)
	b.prekeys.Consume(handshake.Consumed{})
	if !bytes.Equal(before, b.prekeys.Append(nil)) {
		t.Error("consuming nothing changes the holder")
	}
	b.prekeys.Consume(acc.Consumed)
	if bytes.Equal(before, b.prekeys.Append(nil)) {
		t.Error("success consumes nothing")
	}
}

// Shows HS-21: each one-time key is named once; a dry pool says so.
func TestC8_OneTimeKeysAreNamedOnce(t *testing.T) {
	b := newParty(t, "Bob", 2)
	seen := map[uint32]bool{}
	for range 50 {
		if err := b.prekeys.Mint(3, b.rand); err != nil {
			t.Fatal(err)
		}
		for b.prekeys.Available() > 0 {
			x, err := handshake.DecodeBundle(b.bundle(t, true))
			if err != nil || !x.HasOneTime() || seen[x.OneTimeID] {
				t.Fatalf("one-time key %d, %v", x.OneTimeID, err)
			}
			seen[x.OneTimeID] = true
			back, err := handshake.DecodePrekeys(b.prekeys.Append(nil)) // a restart
			if err != nil {
				t.Fatal(err)
			}
			b.prekeys = back
		}
	}
	raw, one, err := b.prekeys.Issue(handshake.Issuing{Card: b.card, Sign: b.sign, Now: t0, Life: time.Hour, OneTime: true})
	if err != nil || one {
		t.Fatalf("a dry pool gives one-time %v, %v", one, err)
	}
	if x, _ := handshake.DecodeBundle(raw); x.HasOneTime() || x.Seq != uint64(len(seen))+1 {
		t.Error("the bundle of a dry pool")
	}
	if err := b.prekeys.Mint(handshake.MaxOneTime, b.rand); contracts.CodeOf(err) != contracts.TooLarge {
		t.Errorf("a pool over its limit: %v", err)
	}
}

// Shows HS-16: a man in the middle strips what he can.
func TestC9_Downgrade(t *testing.T) {
	a, b := newParty(t, "Alice", 1), newParty(t, "Bob", 2)
	raw := b.bundle(t, true)
	i := initiate(t, initiator(a, b), raw)
	for name, c := range map[string]struct {
		edit  func(f []byte)
		codes []contracts.Code
	}{
		"version":     {func(f []byte) { f[0] = 0 }, []contracts.Code{contracts.UnsupportedVersion}},
		"suite":       {func(f []byte) { f[2] = 1 }, []contracts.Code{contracts.UnsupportedVersion}},
		"min":         {func(f []byte) { f[3] = 1 }, []contracts.Code{contracts.HandshakeFailed}},
		"max":         {func(f []byte) { f[4] = 9 }, []contracts.Code{contracts.HandshakeFailed}},
		"chosen":      {func(f []byte) { f[5] = 1 }, []contracts.Code{contracts.UnsupportedVersion}},
		"OPK flag":    {func(f []byte) { f[6] &^= 1 }, []contracts.Code{contracts.Malformed}},
		"OPK, OPQ":    {func(f []byte) { f[6] &^= 3; clear(f[63:71]) }, []contracts.Code{contracts.HandshakePrekey}},
		"OPQ only":    {func(f []byte) { f[6] &^= 2; clear(f[67:71]) }, []contracts.Code{contracts.HandshakePrekey}},
		"PSK flag":    {func(f []byte) { f[6] |= 4 }, []contracts.Code{contracts.HandshakeFailed}},
		"no KEM":      {func(f []byte) { clear(f[139 : 139+1088]) }, []contracts.Code{contracts.HandshakeFailed}},
		"other flags": {func(f []byte) { f[6] |= 8 }, []contracts.Code{contracts.Malformed}},
	} {
		f := bytes.Clone(i.Flight)
		c.edit(f)
		t.Run(name, func(t *testing.T) { refuseFlight(t, responder(a, b), f, c.codes...) })
	}
	// Stripping the one-time keys from the bundle breaks its signature.
	x, _ := handshake.DecodeBundle(raw)
	x.OneTimeID, x.OneTimeKEMID = 0, 0
	m := newParty(t, "Mallory", 3)
	_, err := handshake.Initiate(initiator(a, b), handshake.Resign(x, m.sign), hello("x"))
	wantCode(t, err, contracts.HandshakeSignature)
}

// Shows HS-15: what the caller needs to refuse a side effect.
func TestC10_FirstFlightWithoutOneTimeKey(t *testing.T) {
	a, b := newParty(t, "Alice", 1), newParty(t, "Bob", 2)
	i := initiate(t, initiator(a, b), b.bundle(t, false))
	acc, err := handshake.Accept(responder(a, b), i.Flight)
	if err != nil {
		t.Fatal(err)
	}
	allowed := func() bool { return acc.OneTime || acc.State.Confirmed() }
	if allowed() || i.OneTime || (acc.Consumed != handshake.Consumed{}) {
		t.Fatal("side effects are allowed at once")
	}
	exchange(t, acc.State, i.State, b.rand, "reply")
	if allowed() {
		t.Fatal("side effects are allowed before the reply is acknowledged")
	}
	exchange(t, i.State, acc.State, a.rand, "answer")
	if !allowed() {
		t.Fatal("side effects stay refused")
	}
}

// Shows HS-10: the same KEM secret re-encapsulated to another prekey, or under
// another ciphertext, gives another session.
func TestC11_ReEncapsulation(t *testing.T) {
	card := []byte("card")
	ss := bytes.Repeat([]byte{7}, 32)
	t1, s1 := handshake.Derive([]byte("preamble, ct 1"), [32]byte{1}, "a", "b", card, ss, nil)
	t2, s2 := handshake.Derive([]byte("preamble, ct 2"), [32]byte{1}, "a", "b", card, ss, nil)
	t3, s3 := handshake.Derive([]byte("preamble, ct 1"), [32]byte{2}, "a", "b", card, ss, nil)
	t4, s4 := handshake.Derive([]byte("preamble, ct 1"), [32]byte{1}, "ab", "", card, ss, nil)
	seen := map[[32]byte]bool{t1: true, t2: true, t3: true, t4: true, s1.Root: true, s2.Root: true, s3.Root: true, s4.Root: true}
	if len(seen) != 8 {
		t.Error("two handshakes share a transcript or a root")
	}
	a, b := newParty(t, "Alice", 1), newParty(t, "Bob", 2)
	one, two := b.bundle(t, true), b.bundle(t, true)
	var random [32]byte
	i := initiate(t, initiator(a, b).WithKEMRandom(random), one)
	j := initiate(t, initiator(a, b).WithKEMRandom(random), two)
	f := bytes.Clone(i.Flight)
	copy(f[23:71], j.Flight[23:71]) // digest and ids of the other bundle
	refuseFlight(t, responder(a, b), f, contracts.HandshakeFailed)
}
