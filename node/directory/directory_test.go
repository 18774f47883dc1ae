package directory_test

import (
	"context"
	"crypto/ed25519"
	"io"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	record "github.com/libp2p/go-libp2p-record"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
	"github.com/talosprotocol/talos/node/directory"
	"github.com/talosprotocol/talos/node/p2p"
	"github.com/talosprotocol/talos/node/store"
)

// member is a whole directory on a real host, store and DHT, with the keys of its DID.
type member struct {
	*directory.Directory
	h             *p2p.Host
	st            *store.Store
	clock         *atomic.Int64 // Unix ms
	did           identity.DID
	control, next identity.ControlKey
	hot           identity.Hot
	log           []contracts.SignedKeyEvent
	seq           int64
	rnd           *rand.ChaCha8
}

func gen[P identity.Purpose](t testing.TB, r io.Reader) identity.Private[P] {
	t.Helper()
	k, err := identity.Generate[P](r)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func newMember(t testing.TB, seed byte, bootstrap ...*member) *member {
	t.Helper()
	m := &member{clock: new(atomic.Int64), rnd: rand.NewChaCha8([32]byte{seed})}
	m.clock.Store(time.Now().UnixMilli())
	m.control, m.next = gen[identity.Control](t, m.rnd), gen[identity.Control](t, m.rnd)
	pk := gen[identity.Peer](t, m.rnd)
	ka, err := identity.GenerateAgreement(m.rnd)
	if err != nil {
		t.Fatal(err)
	}
	m.hot = identity.Hot{
		Peer: pk.Public(), Invocation: gen[identity.Invocation](t, m.rnd).Public(),
		Log: gen[identity.Log](t, m.rnd).Public(), Agreement: ka.Public(),
	}
	did, icp := identity.Incept(m.control, m.next.Public(), m.now())
	m.did, m.log = did, []contracts.SignedKeyEvent{icp}
	m.start(t, pk.Ed25519(), bootstrap...)
	return m
}

func (m *member) now() time.Time { return time.UnixMilli(m.clock.Load()) }

func (m *member) start(t testing.TB, key ed25519.PrivateKey, bootstrap ...*member) {
	t.Helper()
	var err error
	if m.st, err = store.Open("", store.Options{Key: make([]byte, 32), InMemory: true}); err != nil {
		t.Fatal(err)
	}
	var infos []peer.AddrInfo
	for _, b := range bootstrap {
		infos = append(infos, peer.AddrInfo{ID: b.h.ID(), Addrs: b.h.Addrs()})
	}
	v := directory.NewValidator(m.now)
	m.h, err = p2p.New(p2p.Config{
		Network: "test", Kind: p2p.Local, Key: key, Listen: []string{"/ip4/127.0.0.1/tcp/0"}, Bootstrap: infos,
	}, m.st.Datastore(), record.NamespacedValidator{directory.Namespace: v})
	if err != nil {
		t.Fatal(err)
	}
	m.Directory = directory.New(m.h, m.st.Directory(), v, slog.New(slog.DiscardHandler))
	t.Cleanup(func() { _ = m.h.Close(); _ = m.st.Close() })
	for _, in := range infos {
		if err := m.h.Connect(t.Context(), in); err != nil {
			t.Fatal(err)
		}
	}
	m.SetSelf(m.sign(t))
	wait(t, "a routing table", func() bool { return len(bootstrap) == 0 || m.h.DHT.RoutingTable().Size() > 0 })
}

func (m *member) sign(t testing.TB) *identity.State {
	t.Helper()
	m.seq++
	s, err := identity.SignState(identity.NewState{
		KeyLog: m.log, Doc: identity.NewDocument(m.did, []identity.ControlPublic{m.control.Public()}, m.hot, 0, directory.Addrs(m.h)),
		Seq: m.seq, Now: m.now(), Valid: 48 * time.Hour, TTL: time.Hour,
	}, m.control)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (m *member) rotate(t testing.TB) {
	t.Helper()
	ks, err := identity.VerifyKeyLog(m.did, m.log)
	if err != nil {
		t.Fatal(err)
	}
	next := gen[identity.Control](t, m.rnd)
	e, err := identity.Rotate(ks, m.next, next.Public(), false, m.now())
	if err != nil {
		t.Fatal(err)
	}
	m.log, m.control, m.next = append(m.log, e), m.next, next
}

func (m *member) publish(t testing.TB) directory.PublishStatus {
	t.Helper()
	st, err := m.Publish(t.Context(), m.Self())
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func wait(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("no %s within 20 s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func code(t *testing.T, err error, want contracts.Code) {
	t.Helper()
	if contracts.CodeOf(err) != want {
		t.Errorf("error %v, want %s", err, want)
	}
}

// mesh makes n members around the first.
func mesh(t testing.TB, n int) []*member {
	t.Helper()
	ms := []*member{newMember(t, 1)}
	for i := 1; i < n; i++ {
		ms = append(ms, newMember(t, byte(i+1), ms[0]))
	}
	for _, m := range ms {
		<-m.h.DHT.ForceRefresh()
	}
	return ms
}

// DIR-3, and a DID is resolved by a node that never met it.
func TestPublishAndResolve(t *testing.T) {
	ms := mesh(t, 5)
	st := ms[1].publish(t)
	if st.Acks < 2 || st.Err != nil {
		t.Errorf("published: %+v", st)
	}
	r, err := ms[4].Resolve(t.Context(), ms[1].did, directory.Options{})
	if err != nil || r.State.Digest != ms[1].Self().Digest || r.Source != "dht" {
		t.Fatalf("resolved %+v, %v", r, err)
	}
	if _, err := ms[2].Resolve(t.Context(), newMember(t, 99).did, directory.Options{}); contracts.CodeOf(err) != contracts.NotFound {
		t.Errorf("an unpublished DID: %v", err)
	}
	if r, err := ms[2].Resolve(t.Context(), identity.KeyDID(ms[1].hot.Peer), directory.Options{}); err != nil || r.Source != "key" {
		t.Errorf("did:key: %v", err)
	}
}

// Row 46: every peer refuses, and publishing says so; DIR-3. kad-dht itself would
// report success.
func TestRow46_PublishThatEverybodyRefusesFails(t *testing.T) {
	ms := mesh(t, 4)
	s := ms[1].Self()
	for i, m := range ms {
		if i != 1 {
			m.clock.Add((49 * time.Hour).Milliseconds()) // expired for everybody else
		}
	}
	_, err := ms[1].Publish(t.Context(), s)
	code(t, err, contracts.PublishFailed)

	alone := newMember(t, 50)
	_, err = alone.Publish(t.Context(), alone.Self())
	code(t, err, contracts.PublishFailed)
}

// Row 42 and 41: an old record, validly signed, never wins over what was seen; DIR-5, ID-14, NET-1.
func TestRow42_ReplayedRecordNeverWins(t *testing.T) {
	ms := mesh(t, 4)
	a, b := ms[1], ms[3]
	old := a.Self()
	a.publish(t)
	a.SetSelf(a.sign(t))
	a.publish(t)
	r, err := b.Resolve(t.Context(), a.did, directory.Options{})
	if err != nil || r.State.Seq != 2 {
		t.Fatalf("resolved %+v, %v", r, err)
	}
	// Every holder expired the new record and took the old one again: we model it by
	// fresh nodes that know only the old one.
	_ = a.h.Close()
	for _, m := range ms[:3] {
		_ = m.h.DHT.Close()
	}
	evil := newMember(t, 60)
	if err := evil.h.DHT.PutValue(t.Context(), directory.Key(a.did), old.Raw); err != nil && !strings.Contains(err.Error(), "routing table") && !strings.Contains(err.Error(), "failed to find any peer") {
		t.Fatal(err)
	}
	if err := b.h.Connect(t.Context(), peer.AddrInfo{ID: evil.h.ID(), Addrs: evil.h.Addrs()}); err != nil {
		t.Fatal(err)
	}
	r, err = b.Resolve(t.Context(), a.did, directory.Options{Fresh: true})
	if err != nil || r.State.Seq != 2 {
		t.Errorf("after a replay: %+v, %v", r, err)
	}
}

// A rotated DID: the new record wins, the old one is refused everywhere. DIR-2.
func TestRotationWins(t *testing.T) {
	ms := mesh(t, 4)
	a := ms[1]
	old := a.Self()
	a.publish(t)
	if _, err := ms[3].Resolve(t.Context(), a.did, directory.Options{}); err != nil {
		t.Fatal(err)
	}
	a.rotate(t)
	a.SetSelf(a.sign(t))
	a.publish(t)
	r, err := ms[3].Resolve(t.Context(), a.did, directory.Options{Fresh: true})
	if err != nil || r.State.SN != 1 {
		t.Fatalf("resolved %+v, %v", r, err)
	}
	v := directory.NewValidator(ms[3].now)
	if i, err := v.Select("", [][]byte{old.Raw, a.Self().Raw}); err != nil || i != 1 {
		t.Errorf("select: %d, %v", i, err)
	}
	// On a tie the first, so that a republished record renews its age (DIR-2).
	if i, err := v.Select("", [][]byte{old.Raw, old.Raw}); err != nil || i != 0 {
		t.Errorf("tie: %d, %v", i, err)
	}
	if i, err := v.Select("", [][]byte{[]byte("junk"), old.Raw}); err != nil || i != 1 {
		t.Errorf("junk first: %d, %v", i, err)
	}
}

// Row 43: many nodes that hold nothing, or lie, do not downgrade. DIR-5, DIR-6.
func TestDeactivationIsForEver(t *testing.T) {
	ms := mesh(t, 4)
	a := ms[1]
	a.publish(t)
	if _, err := ms[3].Resolve(t.Context(), a.did, directory.Options{}); err != nil {
		t.Fatal(err)
	}
	ks, _ := identity.VerifyKeyLog(a.did, a.log)
	end, err := identity.End(ks, a.next, a.now())
	if err != nil {
		t.Fatal(err)
	}
	s, err := identity.SignState(identity.NewState{KeyLog: append(a.log, end), Seq: 99, Now: a.now(), Valid: 48 * time.Hour, TTL: time.Hour}, a.next)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Publish(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	_, err = ms[3].Resolve(t.Context(), a.did, directory.Options{Fresh: true})
	code(t, err, contracts.Deactivated)
	ms[3].clock.Add((1000 * time.Hour).Milliseconds())
	_, err = ms[3].Resolve(t.Context(), a.did, directory.Options{})
	code(t, err, contracts.Deactivated)
}

// Row 47: a hello is believed only if the handshake key is the listed one. DIR-7.
func TestRow47_Hello(t *testing.T) {
	ms := mesh(t, 3)
	a, b, thief := ms[0], ms[1], ms[2]
	p, err := a.Bind(t.Context(), b.h.ID())
	if err != nil || p.DID != b.did {
		t.Fatalf("hello: %+v, %v", p, err)
	}
	wait(t, "binding on the other side", func() bool { p := b.Bound(a.h.ID()); return p != nil && p.DID == a.did })

	thief.SetSelf(b.Self()) // claims b's DID with its own host key
	_, err = a.Bind(t.Context(), thief.h.ID())
	code(t, err, contracts.PeerNotBound)
	if a.Bound(thief.h.ID()) != nil {
		t.Error("the thief is bound")
	}
	// A state lower than what was seen.
	old := thief.sign(t)
	thief.SetSelf(thief.sign(t))
	thief.publish(t)
	if _, err := a.Resolve(t.Context(), thief.did, directory.Options{}); err != nil {
		t.Fatal(err)
	}
	thief.SetSelf(old)
	_, err = a.Bind(t.Context(), thief.h.ID())
	code(t, err, contracts.Rollback)
	// An expired one.
	thief.SetSelf(thief.sign(t))
	a.clock.Add((49 * time.Hour).Milliseconds())
	_, err = a.Bind(t.Context(), thief.h.ID())
	code(t, err, contracts.Expired)
}

func TestConnectByDID(t *testing.T) {
	ms := mesh(t, 4)
	ms[3].publish(t)
	id, p, err := ms[1].Connect(t.Context(), ms[3].did)
	if err != nil || id != ms[3].h.ID() || p.DID != ms[3].did {
		t.Fatalf("connect: %s, %+v, %v", id, p, err)
	}
	_ = ms[3].h.Close()
	wait(t, "unbinding", func() bool { return ms[1].Bound(id) == nil })
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if _, _, err := ms[1].Connect(ctx, ms[3].did); contracts.CodeOf(err) != contracts.Unavailable {
		t.Errorf("connecting to a node that is down: %v", err)
	}
}

// DIR-7: a binding ends with the state that carried it.
func TestBindingEndsWithItsState(t *testing.T) {
	ms := mesh(t, 3)
	a, b := ms[1], ms[2]
	if _, err := b.Bind(t.Context(), a.h.ID()); err != nil {
		t.Fatal(err)
	}
	a.hot.Peer = gen[identity.Peer](t, a.rnd).Public() // the host key was replaced
	s := a.sign(t)
	if _, err := ms[0].Publish(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Resolve(t.Context(), a.did, directory.Options{Fresh: true}); err != nil {
		t.Fatal(err)
	}
	if p := b.Bound(a.h.ID()); p != nil {
		t.Errorf("still bound to %s", p.DID)
	}
}

// Row 41 through the DHT's own door; DIR-1, DIR-4 (the record may be put again).
func TestRow41_ValidatorIsTheFirewall(t *testing.T) {
	ms := mesh(t, 3)
	v, s := directory.NewValidator(ms[0].now), ms[1].Self()
	key := directory.Key(ms[1].did)
	for range 2 {
		if err := v.Validate(key, s.Raw); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if ms[1].publish(t).Acks == 0 {
			t.Error("publishing again is refused")
		}
	}
	for name, c := range map[string]struct {
		key string
		raw []byte
	}{
		"other key": {directory.Key(ms[2].did), s.Raw}, "no key": {"/did/x", s.Raw}, "pk": {"/pk/" + key[5:], s.Raw},
		"large": {key, make([]byte, identity.MaxStateBytes+1)}, "junk": {key, []byte("{}")}, "flip": {key, append([]byte{'['}, s.Raw[1:]...)},
	} {
		if err := v.Validate(c.key, c.raw); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	ms[0].clock.Add((49 * time.Hour).Milliseconds())
	code(t, v.Validate(key, s.Raw), contracts.Expired)
}

// Row 48: addresses of other peers, and too many, are dropped. DIR-8.
func TestRow48_ForeignAddresses(t *testing.T) {
	m := newMember(t, 70)
	own := m.h.ID().String()
	doc := &identity.Document{Hot: m.hot, Addrs: []string{
		"/ip4/127.0.0.1/tcp/1/p2p/" + own, "/ip4/10.0.0.1/tcp/1/p2p/" + own, "/ip4/9.9.9.9/tcp/1/p2p/" + own,
		"/ip4/9.9.9.9/tcp/1/p2p/" + newMember(t, 71).h.ID().String(), "/ip4/9.9.9.9/tcp/1", "/p2p/" + own, "rubbish",
	}}
	for kind, want := range map[p2p.Kind]int{p2p.Local: 3, p2p.Public: 1} {
		info, err := directory.AddrInfo(doc, kind)
		if err != nil || len(info.Addrs) != want {
			t.Errorf("%s: %v, %v; want %d addresses", kind, info.Addrs, err, want)
		}
	}
}

func BenchmarkResolveCached(b *testing.B) {
	ms := mesh(b, 3)
	ms[1].publish(b)
	if _, err := ms[2].Resolve(b.Context(), ms[1].did, directory.Options{}); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ms[2].Resolve(b.Context(), ms[1].did, directory.Options{}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkResolveDHT compares a fresh resolution with the DHT's own GetValue.
func BenchmarkResolveDHT(b *testing.B) {
	ms := mesh(b, 8)
	ms[1].publish(b)
	key := directory.Key(ms[1].did)
	b.ReportAllocs()
	var ours, raw time.Duration
	for b.Loop() {
		t0 := time.Now()
		if _, err := ms[6].h.DHT.GetValue(b.Context(), key); err != nil {
			b.Fatal(err)
		}
		t1 := time.Now()
		if _, err := ms[7].Resolve(b.Context(), ms[1].did, directory.Options{Fresh: true}); err != nil {
			b.Fatal(err)
		}
		raw, ours = raw+t1.Sub(t0), ours+time.Since(t1)
	}
	b.ReportMetric(float64(ours)/float64(raw), "ratio-to-GetValue")
}
