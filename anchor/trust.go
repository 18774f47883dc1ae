package anchor

import (
	"fmt"
	"time"
)

// Outcome is what a verifier comes to. There is no fourth.
type Outcome string

// The outcomes.
const (
	Valid      Outcome = "valid"
	NotValid   Outcome = "invalid"
	CannotTell Outcome = "cannot tell" // something is missing: trust, an endpoint, a newer program
)

// Finding is what came of one receipt, and why.
type Finding struct {
	Outcome Outcome
	Why     string // in words; always there
	// Existed is a time at which the head was on the chain, by the chain's own word; zero
	// if it says none.
	Existed time.Time
	// Final says that the chain will not take it back, as far as is known.
	Final bool
}

// Findingf makes a finding.
func Findingf(o Outcome, format string, args ...any) Finding {
	return Finding{Outcome: o, Why: fmt.Sprintf(format, args...)}
}

// ReceiptVerifier judges the receipts of one driver. It brings the auditor's trust with
// it: which blocks are on the chain, which endpoint to ask. It is called one receipt at
// a time.
type ReceiptVerifier interface {
	VerifyReceipt(r *Receipt) Finding
}

// ReceiptVerifierFunc is a function that verifies receipts.
type ReceiptVerifierFunc func(r *Receipt) Finding

// VerifyReceipt calls f.
func (f ReceiptVerifierFunc) VerifyReceipt(r *Receipt) Finding { return f(r) }

// Trust is what an auditor brings to a bundle.
type Trust struct {
	Keys   KeyResolver
	Policy Policy
	Now    time.Time
	// Known are evidence and notes that the auditor holds from elsewhere: [Verify].
	Known [][]byte
	// Chains judge the receipts, by driver; quorum needs none. A receipt of a driver that
	// is not here cannot be told of.
	Chains map[string]ReceiptVerifier
}

// Anchored is what came of one receipt of a bundle.
type Anchored struct {
	Anchor string // the anchor's log
	Epoch  uint64
	Size   uint64 // of the bundle's log in that epoch
	Driver string
	Chain  string
	Finding
}

// QuorumDriver is the name of the driver whose receipts are cosignatures of other
// anchors: it needs no outside part, and every verifier has it.
const QuorumDriver = "quorum"

// anchorings judges the receipts of a bundle. A valid one raises the level; one that is
// not, or that nobody can judge here, changes nothing and is said.
func (c *count) anchorings(p *Parts, chains map[string]ReceiptVerifier) {
	for i := range p.Anchorings {
		a := &p.Anchorings[i].Anchoring
		for j := range a.Receipts {
			r := &a.Receipts[j]
			f := Findingf(CannotTell, "this verifier does not know the driver %s", r.Driver)
			switch v := chains[r.Driver]; {
			case r.Driver == QuorumDriver:
				f = VerifyQuorum(r, c.keys, c.policy, c.now)
			case v != nil:
				f = v.VerifyReceipt(r)
			}
			c.v.Anchorings = append(c.v.Anchorings, Anchored{Anchor: a.Anchor, Epoch: a.Epoch(), Size: a.Leaf.Size, Driver: r.Driver, Chain: r.Chain, Finding: f})
			if f.Outcome != Valid {
				c.v.problem("receipt of %s %s: %s because %s", r.Driver, r.Chain, f.Outcome, f.Why)
				continue
			}
			level := Chained
			if r.Driver == QuorumDriver {
				level = AnchoredByQuorum
			}
			c.v.Level = max(c.v.Level, level)
			if !f.Existed.IsZero() && f.Existed.Before(c.v.NotAfter) {
				c.v.NotAfter = f.Existed
			}
		}
	}
}

// VerifyQuorum judges a receipt of cosignatures: the body is the head of the anchor's
// log as a note, signed by the anchor, and cosigned by witnesses of the policy. The
// anchor's own signature counts for its organisation: a head that it signed is one that
// it will be held to.
func VerifyQuorum(r *Receipt, keys KeyResolver, policy Policy, now time.Time) Finding {
	n, err := ParseNote(r.Body)
	if err != nil {
		return Findingf(NotValid, "the body is no note: %v", err)
	}
	if n.Checkpoint != r.Head || r.Chain != QuorumDriver {
		return Findingf(NotValid, "the note is of another head than the receipt")
	}
	key, err := keys.LogKey(n.Origin)
	if err != nil {
		return Findingf(CannotTell, "the key of the anchor's log is not known here: %v", err)
	}
	if err := n.Verify(key); err != nil {
		return Findingf(NotValid, "the anchor did not sign the head: %v", err)
	}
	if err := policy.Check(); err != nil {
		return Findingf(CannotTell, "%v", err)
	}
	c := &count{keys: keys, policy: policy, now: now, v: &Verdict{}, liars: map[string]bool{}}
	h := Head{Note: n.Bare(key)}
	for _, s := range n.Signatures {
		if s.Name != n.Origin {
			h.Cosignatures = append(h.Cosignatures, s)
		}
	}
	at := c.organisations(&h, false)
	o, _ := ParseOrigin(n.Origin)
	own := policy.organisation(o.DID)
	if _, seen := at[own]; own != "" && !seen {
		at[own] = span{first: now, last: now} // its signature carries no time
	}
	if len(at) < policy.Quorum {
		return Findingf(CannotTell, "%d of the policy's %d organisations have signed the anchor's log, and it wants %d", len(at), policy.Organisations(), policy.Quorum)
	}
	f := Findingf(Valid, "%d of %d organisations have signed the anchor's log", len(at), policy.Organisations())
	f.Final = true
	if times := sorted(at, func(s span) time.Time { return s.first }); policy.Faults < len(times) {
		f.Existed = times[policy.Faults]
	}
	return f
}
