package anchor

import (
	"fmt"
	"strings"
	"time"

	"github.com/talosprotocol/talos/contracts"
)

// Level is how much is proven, from nothing upwards. The numbers leave
// room.
type Level int

// The levels. There is no level that means complete: a log proves what is in it,
// never that nothing was left out.
const (
	Invalid   Level = 0  // the file proves nothing
	Forked    Level = 10 // its log has been shown to have two histories
	Signed    Level = 20 // the log's owner says so, nobody else
	Witnessed Level = 30 // organisations other than the owner saw it: see Seen
	// AnchoredByQuorum says that it is in an epoch of an anchor's log that a quorum has signed.
	AnchoredByQuorum Level = 40
	// Chained says that such an epoch is on a chain outside: see Anchorings.
	Chained Level = 50
)

// String gives the level's name.
func (l Level) String() string {
	switch l {
	case Invalid:
		return "INVALID"
	case Forked:
		return "FORKED"
	case Signed:
		return "SIGNED"
	case Witnessed:
		return "WITNESSED"
	case AnchoredByQuorum:
		return "ANCHORED"
	case Chained:
		return "CHAINED"
	}
	return fmt.Sprintf("Level(%d)", int(l))
}

// Verdict is what a bundle proves to an auditor with a given policy.
type Verdict struct {
	Level Level
	// Code is BUNDLE_INVALID or a more exact code when Invalid, EQUIVOCATION when
	// Forked, "" otherwise.
	Code contracts.Code
	// Problems say in words what is wrong or weak; empty when nothing is.
	Problems []string

	Origin string
	Index  uint64
	Size   uint64                // of the head that covers the event
	Event  *contracts.AuditEvent // nil if the bundle shows the commitment alone

	// Seen are the organisations that cosigned the head (k), Organisations how many
	// the policy has (n), Quorum how many it wants, Faults how many may lie (f).
	Seen          []string
	Organisations int
	Quorum        int
	Faults        int

	// Anchorings are the receipts of the bundle, each with what came of it.
	Anchorings []Anchored

	// NotBefore and NotAfter bound when the event was entered in the log, by
	// witnesses' clocks: the owner's claim, Event.Time, is only compared. A zero
	// NotBefore means unknown. NotAfter is at the latest the time of the verdict.
	NotBefore, NotAfter time.Time
	// InTime says that the claimed time lies in the interval, give or take
	// ClockSkew. It is false for an event without a known NotBefore.
	InTime bool
}

// ClockSkew is how far honest clocks may differ: five minutes, as is usual for
// certificates and tokens.
const ClockSkew = 5 * time.Minute

// QuorumMet says that at least Quorum organisations saw the head.
func (v *Verdict) QuorumMet() bool {
	return v.Level >= Witnessed && v.Quorum > 0 && len(v.Seen) >= v.Quorum
}

// Outcome puts the verdict in one of three words. What is wrong or missing stands in
// Problems. A bundle of a version that this program does not know, and one whose log's
// key nobody here knows, may be as good as any.
func (v *Verdict) Outcome() Outcome {
	switch {
	case v.Level >= Signed:
		return Valid
	case v.Code == contracts.UnsupportedVersion, v.Code == contracts.OriginUnknown, v.Code == contracts.Unavailable:
		return CannotTell
	}
	return NotValid
}

// String gives the verdict in one line, with its numbers.
func (v *Verdict) String() string {
	var b strings.Builder
	b.WriteString(v.Level.String())
	if v.Level >= Witnessed && v.Organisations > 0 {
		fmt.Fprintf(&b, " %d/%d organisations (quorum %d, f=%d", len(v.Seen), v.Organisations, v.Quorum, v.Faults)
		if !v.QuorumMet() {
			b.WriteString(", not met")
		}
		b.WriteString(")")
	}
	for _, a := range v.Anchorings {
		if a.Outcome == Valid {
			fmt.Fprintf(&b, ", epoch %d of %.28s… by %s %s", a.Epoch, a.Anchor, a.Driver, a.Chain)
		}
	}
	if v.Level >= Signed {
		from := "unknown"
		if !v.NotBefore.IsZero() {
			from = v.NotBefore.Format(TimeFormat)
		}
		fmt.Fprintf(&b, " entered in [%s, %s]", from, v.NotAfter.Format(TimeFormat))
	}
	for _, p := range v.Problems {
		b.WriteString("; ")
		b.WriteString(p)
	}
	return b.String()
}

func (v *Verdict) problem(format string, args ...any) {
	v.Problems = append(v.Problems, fmt.Sprintf(format, args...))
}

// fail makes the verdict INVALID for a reason.
func (v *Verdict) fail(err error) {
	v.Level = Invalid
	v.Code = contracts.CodeOf(err)
	if v.Code == contracts.Internal {
		v.Code = contracts.BundleInvalid // a resolver's error without a code
	}
	v.Anchorings = nil
	v.Seen, v.NotBefore, v.NotAfter, v.InTime = nil, time.Time{}, time.Time{}, false
	v.problem("%v", err)
}
