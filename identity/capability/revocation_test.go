package capability_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity/capability"
)

// Row 25 of the acceptance table; REV-1, REV-2, REV-3: every link can be taken back, by
// its issuer, by those above it, and by its subject; cached sessions too, at once.
func TestRow25_Revoked(t *testing.T) {
	type by func(w *world) (*agent, capability.Target)
	for name, what := range map[string]by{
		"leaf by its issuer": func(w *world) (*agent, capability.Target) {
			return w.bob, capability.Target{Token: tokenID(w.chain(3)[2])}
		},
		"leaf by the root": func(w *world) (*agent, capability.Target) {
			return w.org, capability.Target{Token: tokenID(w.chain(3)[2])}
		},
		"parent by its issuer": func(w *world) (*agent, capability.Target) {
			return w.alice, capability.Target{Token: tokenID(w.chain(3)[1])}
		},
		"parent by the root": func(w *world) (*agent, capability.Target) {
			return w.org, capability.Target{Token: tokenID(w.chain(3)[1])}
		},
		"parent given back": func(w *world) (*agent, capability.Target) {
			return w.bob, capability.Target{Token: tokenID(w.chain(3)[1])}
		},
		"root by its issuer": func(w *world) (*agent, capability.Target) {
			return w.org, capability.Target{Token: tokenID(w.chain(3)[0])}
		},
		"leaf given back": func(w *world) (*agent, capability.Target) {
			return w.carol, capability.Target{Token: tokenID(w.chain(3)[2])}
		},
		"by jti": func(w *world) (*agent, capability.Target) {
			return w.alice, capability.Target{JTI: must(capability.ParseToken([]byte(w.chain(3)[1]))).Jti}
		},
		"by subject": func(w *world) (*agent, capability.Target) { return w.org, capability.Target{Subject: w.alice.did} },
		"by ksn":     func(w *world) (*agent, capability.Target) { return w.alice, capability.Target{Below: 1} },
		"not: leaf by a stranger": func(w *world) (*agent, capability.Target) {
			return w.exec, capability.Target{Token: tokenID(w.chain(3)[2])}
		},
		"not: root by a delegate": func(w *world) (*agent, capability.Target) {
			return w.bob, capability.Target{Token: tokenID(w.chain(3)[0])}
		},
		"not: other subject": func(w *world) (*agent, capability.Target) { return w.org, capability.Target{Subject: w.carol.did} },
		"not: jti of somebody's": func(w *world) (*agent, capability.Target) {
			return w.bob, capability.Target{JTI: must(capability.ParseToken([]byte(w.chain(3)[1]))).Jti}
		},
		"not: another token": func(w *world) (*agent, capability.Target) {
			return w.org, capability.Target{Token: capability.TokenID{1}}
		},
		"not: key event of others": func(w *world) (*agent, capability.Target) { return w.carol, capability.Target{Below: 1} },
	} {
		w := newWorld() // jti is drawn anew in the same order, so that the ids are the same
		who, target := what(newWorld())
		chain := join(w.chain(3)...)
		h := holder(w.carol.did)
		cache := capability.NewCache(w.v, 10)
		s := capability.SessionOf("s")
		if _, err := cache.Authorize(s, chain, h, now); err != nil {
			t.Fatal(err)
		}
		c := call(capability.Tool, "fs", "read", "data", "x")
		if d := cache.Decide(s, &h, c, now); !d.Allowed() {
			t.Fatal(d.Err())
		}
		agents := map[string]*agent{string(w.org.did): w.org, string(w.alice.did): w.alice, string(w.bob.did): w.bob, string(w.carol.did): w.carol, string(w.exec.did): w.exec}
		me := agents[string(who.did)]
		if err := w.set.Apply(w.revoke(me, me.signer(), target, now)); err != nil {
			t.Fatal(err)
		}
		want := contracts.Revoked
		if strings.HasPrefix(name, "not") {
			want = ""
		}
		wantCode(t, name+", cached", cache.Decide(s, &h, c, now).Err(), want)
		_, err := w.v.Verify(chain, h, now)
		wantCode(t, name, err, want)
		if cache.Sweep(now); (cache.Len() == 0) != (want != "") {
			t.Errorf("%s: %d sessions are left", name, cache.Len())
		}
		// After its time the effect is over, and the token long expired.
		w.set.Forget(now.Add(31 * 24 * time.Hour))
	}
}

// Row 26 of the acceptance table; REV-4, REV-5: gaps are asked for, what comes again
// changes nothing, and two histories end the issuer's authority.
func TestRow26_LogsThatLie(t *testing.T) {
	w := newWorld()
	chain, h := join(w.chain(1)...), holder(w.alice.did)
	var records []*capability.Record
	for i := range 5 {
		records = append(records, w.revoke(w.org, w.org.signer(), capability.Target{Token: capability.TokenID{byte(i + 1)}}, now))
	}
	head := w.head(w.org, now)
	wantCode(t, "first", w.set.Apply(records[0]), "")
	wantCode(t, "again", w.set.Apply(records[0]), contracts.Conflict)
	wantCode(t, "gap", w.set.Apply(records[3]), "")
	wantCode(t, "gap again", w.set.Apply(records[3]), contracts.Conflict)
	wantCode(t, "head", w.set.ApplyHead(head), "")
	if from, to, ok := w.set.Missing(w.org.did); !ok || from != 2 || to != 5 {
		t.Errorf("missing %d to %d, %v", from, to, ok)
	}
	for _, i := range []int{2, 1, 4} {
		wantCode(t, "fill", w.set.Apply(records[i]), "")
	}
	if _, _, ok := w.set.Missing(w.org.did); ok || w.set.Tip(w.org.did) != w.org.tip || w.set.Records() != 5 {
		t.Errorf("tip %v, %d records", w.set.Tip(w.org.did), w.set.Records())
	}
	_, err := w.v.Verify(chain, h, now.Add(5*time.Minute))
	wantCode(t, "fresh by its head", err, "")

	// The same log with another third record.
	other := *w.org
	other.tip = capability.Tip{Seq: 2, Last: records[1].ID}
	fork := w.revoke(&other, w.org.signer(), capability.Target{Token: capability.TokenID{99}}, now)
	epoch := w.set.Epoch()
	wantCode(t, "fork", w.set.Apply(fork), contracts.IssuerDuplicitous)
	if f := w.set.Forks(); len(f) != 1 || f[0].Log != w.org.did || f[0].Seq != 3 || f[0].Ours != records[2].ID || w.set.Epoch() == epoch {
		t.Errorf("forks %+v", f)
	}
	_, err = w.v.Verify(chain, h, now)
	wantCode(t, "after a fork", err, contracts.IssuerDuplicitous)

	for name, attack := range map[string]func(w *world, set *capability.Set) error{
		"another head of the same number": func(w *world, set *capability.Set) error { return set.ApplyHead(w.head(&other, now)) },
		"another record that waits": func(w *world, _ *capability.Set) error {
			waits := capability.NewSet(w.exec.did)
			if err := waits.Apply(records[2]); err != nil {
				return err
			}
			return waits.Apply(fork)
		},
		"a record that names another before it": func(w *world, set *capability.Set) error {
			longer := other // a copy: the attacks run in any order
			next := w.revoke(&longer, w.org.signer(), capability.Target{Token: capability.TokenID{98}}, now)
			short := capability.NewSet(w.exec.did)
			for _, r := range records[:3] {
				if err := short.Apply(r); err != nil {
					return err
				}
			}
			return short.Apply(next)
		},
		"catching up with another history": func(w *world, set *capability.Set) error {
			short := capability.NewSet(w.exec.did)
			for _, r := range records[:3] {
				if err := short.Apply(r); err != nil {
					return err
				}
			}
			longer := other
			w.revoke(&longer, w.org.signer(), capability.Target{Token: capability.TokenID{98}}, now)
			return short.CatchUp(w.head(&longer, now), longer.raw[len(longer.raw)-1:])
		},
	} {
		set := capability.NewSet(w.exec.did)
		for _, r := range records {
			wantCode(t, name, set.Apply(r), "")
		}
		wantCode(t, name, attack(w, set), contracts.IssuerDuplicitous)
	}
	// Old heads change nothing.
	set := capability.NewSet(w.exec.did)
	w.org.tip = capability.Tip{}
	wantCode(t, "old head", set.ApplyHead(w.head(w.org, now.Add(-time.Hour))), "")
}

// REV-6: records between what is held and a head need no signature checks of their own.
func TestCatchUp(t *testing.T) {
	w := newWorld()
	for i := range 50 {
		w.revoke(w.org, w.org.signer(), capability.Target{Token: capability.TokenID{byte(i + 1)}}, now)
	}
	head := w.head(w.org, now)
	raw := w.org.raw
	bad := slices.Clone(raw)
	bad[7] = bad[8]
	for name, r := range map[string][][]byte{"short": raw[:49], "from the middle": raw[1:], "swapped": bad, "none": nil, "not records": {[]byte("x")}} {
		set := capability.NewSet(w.exec.did)
		if err := set.CatchUp(head, r); contracts.CodeOf(err) != contracts.Malformed || set.Records() != 0 {
			t.Errorf("%s: %v, %d records", name, err, set.Records())
		}
	}
	set := capability.NewSet(w.exec.did)
	wantCode(t, "one early", set.Apply(must(capability.VerifyRecord(raw[30], w.v.Resolve, now))), "")
	wantCode(t, "all", set.CatchUp(head, raw), "")
	if set.Records() != 50 || set.Tip(w.org.did) != w.org.tip {
		t.Errorf("%d records, tip %v", set.Records(), set.Tip(w.org.did))
	}
}

// Row 27 of the acceptance table; REV-7: without a heartbeat a token is denied after
// rfs, and never allowed for want of knowledge.
func TestRow27_Stale(t *testing.T) {
	w := newWorld()
	chain, h := join(w.chain(2)...), holder(w.bob.did)
	cache := capability.NewCache(w.v, 10)
	s := capability.SessionOf("s")
	if _, err := cache.Authorize(s, chain, h, now); err != nil {
		t.Fatal(err)
	}
	c := call(capability.Tool, "fs", "read")
	check := func(at time.Duration, want contracts.Code) {
		t.Helper()
		wantCode(t, at.String()+", cached", cache.Decide(s, &h, c, now.Add(at)).Err(), want)
		_, err := w.v.Verify(chain, h, now.Add(at))
		wantCode(t, at.String(), err, want)
	}
	check(300*time.Second, "") // the tokens themselves are as young as that
	check(301*time.Second, contracts.RevocationStale)
	wantCode(t, "head", w.set.ApplyHead(w.head(w.org, now.Add(290*time.Second))), "")
	check(301*time.Second, contracts.RevocationStale) // alice, too, has to say so
	wantCode(t, "head", w.set.ApplyHead(w.head(w.alice, now.Add(200*time.Second))), "")
	check(500*time.Second, "")
	check(501*time.Second, contracts.RevocationStale)
	// A head of which not all is known is no heartbeat.
	w.revoke(w.alice, w.alice.signer(), capability.Target{JTI: "cap_" + strings.Repeat("0", 32)}, now.Add(500*time.Second))
	wantCode(t, "head", w.set.ApplyHead(w.head(w.alice, now.Add(500*time.Second))), "")
	check(501*time.Second, contracts.RevocationStale)
	wantCode(t, "record", w.set.Apply(must(capability.VerifyRecord(w.alice.raw[0], w.v.Resolve, now.Add(500*time.Second)))), "")
	check(501*time.Second, "")
	w.v.Revoked = nil
	_, err := w.v.Verify(chain, h, now)
	wantCode(t, "no set at all", err, contracts.RevocationStale)

	// The executor knows its own revocations; rfs 0 asks for a head of this second.
	w = newWorld()
	tm := w.terms(w.alice.did, "tool:fs")
	tm.Fresh = 0
	for by, want := range map[*agent]contracts.Code{w.exec: "", w.org: contracts.RevocationStale} {
		_, err := w.v.Verify([]byte(w.issue(by.signer(), tm)), holder(w.alice.did), now.Add(time.Second))
		wantCode(t, "rfs 0", err, want)
	}
}

// Row 28 of the acceptance table; REV-8: the set is exact. With many revocations, of
// tokens that nobody holds, none of ours is denied, and each that is in it is.
func TestRow28_ExactAmongMany(t *testing.T) {
	n := 20_000
	if !testing.Short() {
		n = 100_000
	}
	w := newWorld()
	set := w.set
	raw, head := unsignedLog(w, n)
	if err := set.CatchUp(head, raw); err != nil {
		t.Fatal(err)
	}
	chain, h := join(w.chain(1)...), holder(w.alice.did)
	if _, err := w.v.Verify(chain, h, now); err != nil {
		t.Error(err)
	}
	if set.Records() != n {
		t.Errorf("%d records", set.Records())
	}
}

// Row 30 of the acceptance table; REV-9: after Apply has returned no decision allows.
func TestRow30_RevokeBesideDecisions(t *testing.T) {
	for round := range 50 {
		w := newWorld()
		chain, h := join(w.chain(1)...), holder(w.alice.did)
		cache := capability.NewCache(w.v, 10)
		s := capability.SessionOf("s")
		if _, err := cache.Authorize(s, chain, h, now); err != nil {
			t.Fatal(err)
		}
		r := w.revoke(w.org, w.org.signer(), capability.Target{Token: tokenID(string(chain))}, now)
		c := call(capability.Tool, "fs", "read")
		var revoked atomic.Bool
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for i := 0; i < 500; i++ {
					after := revoked.Load()
					if d := cache.Decide(s, &h, c, now); after && d.Allowed() {
						t.Errorf("round %d: allowed after it was revoked", round)
						return
					}
				}
			})
		}
		if err := w.set.Apply(r); err != nil {
			t.Fatal(err)
		}
		revoked.Store(true)
		wg.Wait()
	}
}

// CAP-15: what is noted of an issuer counts for cached sessions at once.
func TestRotationEndsSessions(t *testing.T) {
	for name, e := range map[string]struct {
		change func(w *world)
		want   contracts.Code
		again  contracts.Code // when the chain is shown again
	}{
		"rotated":     {func(w *world) { w.org.rotate(false, now.Add(time.Second)) }, contracts.NoCapability, ""},
		"voided":      {func(w *world) { w.org.rotate(true, now.Add(time.Second)) }, contracts.KeyStateVoid, contracts.KeyStateVoid},
		"ended":       {func(w *world) { w.org.end(now.Add(time.Second)) }, contracts.Deactivated, contracts.Deactivated},
		"duplicitous": {func(w *world) {}, contracts.IssuerDuplicitous, contracts.IssuerDuplicitous},
	} {
		w := newWorld()
		chain, h := join(w.chain(1)...), holder(w.alice.did)
		cache := capability.NewCache(w.v, 10)
		s := capability.SessionOf("s")
		if _, err := cache.Authorize(s, chain, h, now); err != nil {
			t.Fatal(err)
		}
		e.change(w)
		i := w.org.issuer()
		i.Duplicitous = name == "duplicitous"
		w.issuers[w.org.did] = i
		w.set.Note(i)
		c := call(capability.Tool, "fs", "read")
		wantCode(t, name, cache.Decide(s, &h, c, now.Add(2*time.Second)).Err(), e.want)
		_, err := cache.Authorize(s, chain, h, now.Add(2*time.Second))
		wantCode(t, name+", again", err, e.again)
		if err == nil {
			wantCode(t, name, cache.Decide(s, &h, c, now.Add(2*time.Second)).Err(), "")
		}
	}
	// A resolver that is behind what was noted does not help.
	w := newWorld()
	old := w.issuers[w.org.did]
	w.org.rotate(false, now)
	w.set.Note(w.org.issuer())
	w.issuers[w.org.did] = old
	_, err := w.v.Verify([]byte(w.chain(1)[0]), holder(w.alice.did), now)
	if err == nil {
		t.Error("an older key log is believed")
	}
}

// REV-10: records and heads are read strictly.
func TestRecordsThatAreRefused(t *testing.T) {
	w := newWorld()
	good := w.revoke(w.org, w.org.signer(), capability.Target{Token: capability.TokenID{1}}, now)
	h, p := parts(string(good.Raw))
	for name, e := range map[string]struct {
		old, by string
		want    contracts.Code
	}{
		"two targets": {`"ksn":0`, `"jti":"cap_` + strings.Repeat("0", 32) + `","ksn":0`, contracts.Malformed}, "no target": {`"tid":"` + good.Tid + `",`, "", contracts.Malformed},
		"reason": {"misuse", "because", contracts.Malformed}, "number 0": {`"seq":1`, `"seq":0`, contracts.Malformed}, "second without a first": {`"seq":1`, `"seq":2`, contracts.Malformed},
		"forgotten before it was made": {fmt.Sprint(`"until":`, good.Until), fmt.Sprint(`"until":`, good.Iat-1), contracts.Malformed}, "version": {"talos-rev/1", "talos-rev/2", contracts.UnsupportedVersion},
		"another issuer": {`"iss":"` + string(w.org.did), `"iss":"` + string(w.bob.did), contracts.SignatureInvalid}, "future": {fmt.Sprint(`"iat":`, good.Iat), fmt.Sprint(`"iat":`, good.Iat+61), contracts.NotYetValid},
		"key event": {`"ksn":0`, `"ksn":3`, contracts.IssuerUnresolved}, "space": {`":`, `": `, contracts.Malformed}, "tid": {good.Tid, good.Tid[:42] + "B", contracts.Malformed},
	} {
		_, err := capability.VerifyRecord([]byte(forge(w.org.control.Ed25519(), h, replace(p, e.old, e.by))), w.v.Resolve, now)
		wantCode(t, name, err, e.want)
	}
	_, err := capability.VerifyRecord([]byte(forge(w.bob.control.Ed25519(), h, p)), w.v.Resolve, now)
	wantCode(t, "signed by another", err, contracts.SignatureInvalid)
	if did, err := capability.LogOf(good.Raw); err != nil || did != w.org.did || good.Issuer() != w.org.did {
		t.Errorf("%s, %v", did, err)
	}
	head := must(capability.SignHead(w.org.signer(), w.org.tip, now))
	hh, hp := parts(head)
	for name, e := range map[string][2]string{"empty with a record": {`"seq":1`, `"seq":0`}, "version": {"talos-revhead/1", "talos-revhead/x"}, "number": {`"seq":1`, `"seq":-1`}} {
		if _, err := capability.VerifyHead([]byte(forge(w.org.control.Ed25519(), hh, replace(hp, e[0], e[1]))), w.v.Resolve, now); err == nil {
			t.Errorf("head: %s is accepted", name)
		}
	}
	// An issuer does not sign what others would refuse.
	_, _, err = capability.Revoke(w.org.signer(), w.org.tip, capability.Target{}, "misuse", now, now)
	wantCode(t, "no target", err, contracts.Malformed)
	// Keys that were rotated out are no heartbeat any more.
	old := w.org.signer()
	w.org.rotate(false, now.Add(time.Second))
	w.issuers[w.org.did] = w.org.issuer()
	_, err = capability.VerifyHead([]byte(must(capability.SignHead(old, w.org.tip, now.Add(time.Minute)))), w.v.Resolve, now.Add(time.Minute))
	wantCode(t, "heartbeat with the old key", err, contracts.KeyStateVoid)
}

func FuzzRecord(f *testing.F) {
	w := newWorld()
	f.Add(w.revoke(w.org, w.org.signer(), capability.Target{Token: capability.TokenID{1}}, now).Raw)
	f.Add(w.revoke(w.org, w.org.signer(), capability.Target{Subject: w.bob.did}, now).Raw)
	f.Add(w.head(w.org, now).Raw)
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := capability.VerifyRecord(b, w.v.Resolve, now); err == nil {
			if _, p := parts(string(b)); p != string(r.AppendCanonical(nil)) {
				t.Errorf("%q is another text", b)
			}
		} else if contracts.CodeOf(err) == contracts.Internal {
			t.Error(err)
		}
		if h, err := capability.VerifyHead(b, w.v.Resolve, now); err == nil {
			if _, p := parts(string(b)); p != string(h.AppendCanonical(nil)) {
				t.Errorf("%q is another text", b)
			}
		}
		_, _ = capability.LogOf(b)
	})
}
