package anchor

import (
	"crypto/ed25519"
	"slices"
	"time"

	"github.com/talosprotocol/talos/contracts"
)

// Verify judges a bundle offline. keys answers for the names in it, policy says
// whom the auditor listens to, now is the auditor's time. known are evidence and
// notes that the auditor holds from elsewhere (a peer_head entry of another log,
// an anchor's list): what of them verifies can show that the log is forked; what
// does not verify is mentioned and accuses nobody.
//
// A policy that fails [Policy.Check] makes no verdict better than SIGNED.
func Verify(bundle []byte, keys KeyResolver, policy Policy, now time.Time, known ...[]byte) *Verdict {
	return VerifyWith(bundle, Trust{Keys: keys, Policy: policy, Now: now, Known: known})
}

// VerifyWith is Verify by an auditor who also has a view of chains.
func VerifyWith(bundle []byte, t Trust) *Verdict {
	keys, policy, now, known := t.Keys, t.Policy, t.Now, t.Known
	v := &Verdict{Organisations: policy.Organisations(), Quorum: policy.Quorum, Faults: policy.Faults}
	p, err := ReadBundle(bundle)
	if err != nil {
		v.fail(err)
		return v
	}
	head := p.Head.Note
	v.Origin, v.Index, v.Size, v.Event = head.Origin, p.Leaf.Index(), head.Size, p.Event
	key, err := keys.LogKey(head.Origin)
	if err == nil {
		err = head.Verify(key)
	}
	if err == nil && p.Prior != nil {
		err = p.Prior.Note.Verify(key)
	}
	if err != nil {
		v.fail(err)
		return v
	}
	v.Level, v.NotAfter = Signed, now.UTC()
	c := &count{keys: keys, policy: policy, now: now, v: v, liars: map[string]bool{}}
	below, forked := c.forks(head, key, known)
	c.witnesses(p)
	c.anchorings(p, t.Chains)
	if forked && (!v.QuorumMet() || head.Size > below) {
		v.Level, v.Code = Forked, contracts.Equivocation
	}
	c.claim()
	return v
}

// count weighs cosignatures for one verdict.
type count struct {
	keys   KeyResolver
	policy Policy
	now    time.Time
	v      *Verdict
	liars  map[string]bool // witnesses that known evidence convicts
}

// forks looks through what the auditor knows. It gives whether the log is
// convicted, and up to which size its histories may be the same.
func (c *count) forks(head *Note, key ed25519.PublicKey, known [][]byte) (below uint64, forked bool) {
	below = maxSize
	for _, k := range known {
		conv, err := c.judge(head, key, k)
		switch {
		case err != nil:
			c.v.problem("something shown against the log does not verify: %v", err)
			continue
		case conv == nil:
			continue
		}
		if conv.Witness != "" {
			c.liars[conv.Witness] = true
			c.v.problem("witness %s cosigned two histories and is not counted", conv.Witness)
		}
		if conv.Origin == head.Origin {
			forked, below = true, min(below, conv.Below)
			c.v.problem("the log has two histories (type %s), which may agree up to size %d", conv.Type, conv.Below)
		}
	}
	return below, forked
}

// judge gives the conviction in one piece of evidence, or in a note that
// contradicts head; nil if it is a note that does not.
func (c *count) judge(head *Note, key ed25519.PublicKey, known []byte) (*Conviction, error) {
	if len(known) > 0 && known[0] == '{' {
		return VerifyEvidence(known, c.keys)
	}
	n, err := ParseNote(known)
	if err != nil {
		return nil, err
	}
	if n.Origin != head.Origin {
		return nil, nil //nolint:nilnil // a head of another log says nothing here
	}
	if err := n.Verify(key); err != nil {
		return nil, err
	}
	if n.Size != head.Size || n.Root == head.Root {
		return nil, nil //nolint:nilnil // other sizes need proofs, which evidence carries
	}
	return &Conviction{Type: "A", Origin: n.Origin, Below: n.Size - 1}, nil
}

// witnesses counts organisations over the head, then bounds the time.
func (c *count) witnesses(p *Parts) {
	if err := c.policy.Check(); err != nil {
		c.v.problem("%v", err)
		return
	}
	at := c.organisations(&p.Head, true)
	for org := range at {
		c.v.Seen = append(c.v.Seen, org)
	}
	slices.Sort(c.v.Seen)
	if len(at) > 0 {
		c.v.Level = Witnessed
	}
	if k := len(at); k > 0 && k < c.policy.Quorum {
		c.v.problem("%d of %d organisations are too few: the policy wants %d", k, c.v.Organisations, c.policy.Quorum)
	}
	// Among any f+1 organisations one is honest, so the head existed at the
	// (f+1)th earliest time, whatever the others wrote.
	if f := c.policy.Faults; len(at) > f {
		times := sorted(at, func(t span) time.Time { return t.first })
		if times[f].Before(c.v.NotAfter) {
			c.v.NotAfter = times[f]
		}
	}
	if p.Prior == nil {
		return
	}
	// A quorum said at the k-th latest time or later that the prior head was the
	// newest: any quorum for a head with the event shares an honest organisation
	// with it, and that one saw the event's head afterwards.
	before := c.organisations(p.Prior, false)
	if k := c.policy.Quorum; len(before) >= k {
		times := sorted(before, func(t span) time.Time { return t.last })
		c.v.NotBefore = times[len(times)-k]
	}
}

// span is the earliest and latest time of an organisation's cosignatures.
type span struct{ first, last time.Time }

func sorted(at map[string]span, pick func(span) time.Time) []time.Time {
	out := make([]time.Time, 0, len(at))
	for _, s := range at {
		out = append(out, pick(s))
	}
	slices.SortFunc(out, time.Time.Compare)
	return out
}

// organisations gives which organisations cosigned a head, and when. A witness
// counts if the policy knows it, its key is its own, its signature verifies, its
// time is not in the future, and nothing convicts it. say notes why others do not.
func (c *count) organisations(h *Head, say bool) map[string]span {
	at := map[string]span{}
	owner := map[string]string{} // key → name: one key under two names is one witness
	for i := range h.Cosignatures {
		s := &h.Cosignatures[i]
		org := c.policy.organisation(s.Name)
		t, key, err := c.cosignature(h.Note, s)
		switch {
		case org == "":
			err = contracts.Errorf(contracts.NotFound, "the policy does not know witness %.80q", s.Name)
		case err != nil:
		case c.liars[s.Name]:
			continue // said when it was found
		case owner[string(key)] != "" && owner[string(key)] != s.Name:
			err = contracts.Errorf(contracts.KeyInvalid, "witnesses %.80q and %.80q have one key", owner[string(key)], s.Name)
		}
		if err != nil {
			if say {
				c.v.problem("not counted: %v", err)
			}
			continue
		}
		owner[string(key)] = s.Name
		sp, seen := at[org]
		if !seen || t.Before(sp.first) {
			sp.first = t
		}
		if t.After(sp.last) {
			sp.last = t
		}
		at[org] = sp
	}
	return at
}

// cosignature verifies one line and gives its time and the witness's key.
func (c *count) cosignature(n *Note, s *Signature) (time.Time, ed25519.PublicKey, error) {
	if c.policy.organisation(s.Name) == "" {
		return time.Time{}, nil, nil
	}
	key, err := c.keys.WitnessKey(s.Name)
	if err != nil {
		return time.Time{}, nil, err
	}
	t, err := s.VerifyCosignature(n.Checkpoint, key)
	if err == nil && t.After(c.now.Add(ClockSkew)) {
		err = contracts.Errorf(contracts.NotYetValid, "witness %.80q signed in the future", s.Name)
	}
	return t, key, err
}

// claim compares the owner's claimed time with the interval.
func (c *count) claim() {
	v := c.v
	if v.Event == nil {
		return
	}
	t, err := ParseTime(v.Event.Time)
	if err != nil {
		return // ReadBundle has checked it
	}
	switch {
	case t.After(v.NotAfter.Add(ClockSkew)):
		v.problem("the event claims %s, which is after it was entered: future-dated", v.Event.Time)
	case !v.NotBefore.IsZero() && t.Before(v.NotBefore.Add(-ClockSkew)):
		v.problem("the event claims %s, which is before it was entered: late or backdated", v.Event.Time)
	default:
		v.InTime = !v.NotBefore.IsZero()
	}
}
