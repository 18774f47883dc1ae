package capability

import (
	"fmt"
	"strings"
	"time"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
)

// advice says what somebody can do about a denial.
var advice = map[contracts.Code]string{
	contracts.Malformed:           "the text is not a token as its issuer signed it; copy it again, without spaces or line ends, or ask for a new one",
	contracts.TooLarge:            "ask for a token with fewer scopes, shorter lists or fewer links",
	contracts.UnsupportedVersion:  "the token is of a newer kind; update this program, or ask for a token of this version",
	contracts.NotYetValid:         "wait until the token begins, or correct the clock of this machine",
	contracts.Expired:             "ask the issuer for a new token",
	contracts.IssuerUnresolved:    "make the issuer known here: its state must be reachable, and the first issuer must be this executor or one of the roots in its configuration",
	contracts.IssuerDuplicitous:   "do not use this issuer any more: it has signed two contradicting histories",
	contracts.Deactivated:         "the issuer's identity was ended; ask somebody else",
	contracts.KeyStateVoid:        "ask the issuer for a new token, signed with its present key",
	contracts.SignatureInvalid:    "the token was changed, or somebody else signed it; ask the issuer for it again",
	contracts.DelegationInvalid:   "ask for a delegation that gives no more than the token before it: not more scopes, not longer, not to others",
	contracts.AudienceMismatch:    "use the token at the executor that it names, or ask for one for this executor",
	contracts.HolderMismatch:      "call as the DID that the token names: over its own connection, or with an invocation that it signed",
	contracts.Revoked:             "ask the issuer for a new token, and why it took this one back",
	contracts.RevocationStale:     "wait for the issuer's heartbeat, or reconnect to the network; nobody can say meanwhile whether the token was taken back",
	contracts.NoCapability:        "show a token (again)",
	contracts.ScopeMismatch:       "ask for a token with a scope that covers the call",
	contracts.ConstraintViolation: "change the call so that it meets the condition, or ask for a token without it",
	contracts.Replay:              "make the request anew, with an id of its own",
	contracts.RateLimited:         "call less often",
	contracts.BudgetExhausted:     "ask for a new token",
	contracts.InvalidDID:          "the token names a DID that is none",
	contracts.KeyInvalid:          "the issuer's key is none that may sign",
}

// questions are what the steps ask, in words.
var questions = [numSteps]string{
	StepSize:        "Is it short enough to be read at all?",
	StepForm:        "Is it a chain of one to four signed texts?",
	StepVersion:     "Does this program speak the version of the tokens?",
	StepHeader:      "Do the headers say exactly how the tokens are signed?",
	StepCanonical:   "Is what the tokens say written in the one allowed way?",
	StepTimes:       "Are all tokens valid at this time?",
	StepIssuer:      "Are the issuers known, in good standing, and is the first one an authority here?",
	StepSignature:   "Did the issuers sign the tokens?",
	StepChain:       "Does each token give no more than the one before it?",
	StepAudience:    "Is the token for this executor?",
	StepHolder:      "Is the caller the one whom the token names?",
	StepRevocation:  "Was nothing taken back, as far as fresh knowledge goes?",
	StepScope:       "Does the token cover this call?",
	StepConstraints: "Are all conditions of the tokens met?",
	StepReplay:      "Is the request new?",
	StepCounters:    "Are calls left?",
}

// Finding is one step of an explanation.
type Finding struct {
	Step     Step
	Question string
	Reached  bool   // it was asked
	Passed   bool   // and the answer was yes
	Says     string // what was found
	Do       string // of a no: what to change
}

// Explanation is a decision, step by step, in words.
type Explanation struct {
	Allowed  bool
	Code     contracts.Code
	Findings []Finding
}

// Explain makes the decision that Verify and Grant.Decide make, by the same steps, and
// says what each found. It consumes nothing: whether the request is new and calls are
// left is asked when the call is made.
func (v *Verifier) Explain(chain []byte, holder Holder, call *Call, now time.Time) Explanation {
	c := &check{Verifier: v, raw: chain, holder: holder, now: now.Unix()}
	e := Explanation{}
	for i := range numSteps {
		e.Findings = append(e.Findings, Finding{Step: i, Question: questions[i], Says: "not asked"})
	}
	for i, step := range steps {
		err := step(c)
		e.note(Step(i), err, c.found(Step(i)))
		if err != nil {
			return e
		}
	}
	d := c.grant.Decide(&holder, call, now)
	if d.Step == StepScope {
		e.note(StepScope, d.Err(), "")
		e.at(StepScope).Says = "the call is " + call.String() + "; the token gives " + strings.Join(c.grant.Scopes(), ", ")
		e.at(StepScope).Do = "ask for a token with the scope " + call.String() + ", or a wider one"
		return e
	}
	e.note(StepScope, nil, "the scope "+c.grant.Scope(d.Index)+" covers "+call.String())
	e.note(StepConstraints, d.Err(), c.grant.conditions())
	if d.Allowed() {
		e.Allowed = true
		e.at(StepReplay).Says = "asked when the call is made"
		e.at(StepCounters).Says = "asked when the call is made" + c.grant.counts()
	}
	return e
}

func (e *Explanation) at(s Step) *Finding { return &e.Findings[s] }

func (e *Explanation) note(s Step, err error, found string) {
	f := e.at(s)
	f.Reached, f.Passed, f.Says = true, err == nil, found
	if err != nil {
		e.Code = contracts.CodeOf(err)
		f.Says, f.Do = contracts.Message(err), advice[e.Code]
	}
}

// found says what a passed step has found.
func (c *check) found(s Step) string {
	leaf := func() *Token { return c.tokens[len(c.tokens)-1] }
	switch s {
	case StepSize:
		return fmt.Sprintf("%d bytes", len(c.raw))
	case StepForm:
		return fmt.Sprintf("%d of at most %d", len(c.tokens), MaxLinks)
	case StepVersion:
		return TokenVersion
	case StepTimes:
		until := leaf().Exp
		for _, t := range c.tokens {
			until = min(until, t.Exp)
		}
		return "it is " + clock(c.now) + ", they are valid until " + clock(until)
	case StepIssuer:
		return identity.DID(c.tokens[0].Iss).Short() + " is an authority here"
	case StepSignature:
		names := make([]string, len(c.issuers))
		for i, is := range c.issuers {
			names[i] = is.DID.Short()
		}
		return "signed by " + strings.Join(names, ", then ")
	case StepAudience:
		return "it is for " + c.Executor.Short()
	case StepHolder:
		return c.holder.DID().Short() + " has proved itself by " + proofWords[c.holder.proof]
	}
	return "yes"
}

var proofWords = [numProofs]string{"nothing", "its connection", "the key of a session", "a signed invocation"}

// conditions says what the grant asks of a call.
func (g *Grant) conditions() string {
	var asks []string
	for _, r := range g.about.rules[:g.rules] {
		asks = append(asks, r.describe)
	}
	if len(asks) == 0 {
		return "there are none"
	}
	return strings.Join(asks, "; ")
}

func (g *Grant) counts() string {
	var asks []string
	for _, r := range g.about.rules[g.rules:] {
		asks = append(asks, r.describe)
	}
	if len(asks) == 0 {
		return "; nothing is counted"
	}
	return ": " + strings.Join(asks, "; ")
}

// String gives the explanation as lines.
func (e Explanation) String() string {
	var b strings.Builder
	for _, f := range e.Findings {
		mark := "–"
		switch {
		case f.Reached && f.Passed:
			mark = "✓"
		case f.Reached:
			mark = "✗"
		}
		fmt.Fprintf(&b, "%s %-12s %s %s\n", mark, f.Step, f.Question, f.Says)
		if f.Do != "" {
			fmt.Fprintf(&b, "  %-12s → %s\n", "", f.Do)
		}
	}
	if e.Allowed {
		b.WriteString("Allowed.\n")
	} else {
		fmt.Fprintf(&b, "Denied: %s\n", e.Code)
	}
	return b.String()
}
