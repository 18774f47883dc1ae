package execution

import (
	"crypto/sha256"
	"encoding/base64"
	"slices"

	"github.com/talosprotocol/talos/contracts"
)

// The states of an execution.
const (
	Pending    = "pending"    // wanted
	Authorized = "authorized" // allowed, by authority and by whoever had to be asked
	Executing  = "executing"  // it may have had an effect
	Completed  = "completed"  // done
	Failed     = "failed"     // not done, and had no effect
	Unknown    = "unknown"    // it may have been done: nobody can tell but its owner
)

// follows says which states may come behind which (EXE-4).
var follows = map[string][]string{
	"":         {Pending},
	Pending:    {Authorized},
	Authorized: {Executing},
	Executing:  {Completed, Failed, Unknown},
	Unknown:    {Completed, Failed},
}

const (
	version = "talos-execution/1"
	// ActionVersion of actions.
	ActionVersion = "talos-action/1"
)

var b64 = base64.RawURLEncoding

// Digest is SHA-256 of a canonical form, as steps name each other.
func Digest(canonical []byte) string {
	sum := sha256.Sum256(canonical)
	return b64.EncodeToString(sum[:])
}

// ActionDigest is what a decision is about.
func ActionDigest(a *contracts.Action) string { return Digest(a.AppendCanonical(nil)) }

// add appends a step.
func add(e *contracts.Execution, s contracts.ExecutionStep) error {
	from := ""
	s.Prev = Digest([]byte(e.ID))
	if n := len(e.Steps); n > 0 {
		from = e.Steps[n-1].State
		s.Prev = Digest(e.Steps[n-1].AppendCanonical(nil))
	}
	if !slices.Contains(follows[from], s.State) {
		return contracts.Errorf(contracts.Conflict, "an execution that is %s cannot become %s", orNew(from), s.State)
	}
	e.Steps = append(e.Steps, s)
	return nil
}

func orNew(state string) string {
	if state == "" {
		return "new"
	}
	return state
}

// State gives the state that an execution is in.
func State(e *contracts.Execution) string { return e.Steps[len(e.Steps)-1].State }

// Verify checks that the steps of an execution follow each other as they may, that each
// names the one before, and that a decision is about the action (EXE-4). Who signed the
// decision is checked by approval.Verify.
func Verify(e *contracts.Execution) error {
	if err := e.Validate(); err != nil {
		return err
	}
	again := &contracts.Execution{V: e.V, ID: e.ID}
	for i, s := range e.Steps {
		if err := shape(e, &s); err != nil {
			return contracts.Errorf(contracts.ProofInvalid, "step %d: %w", i+1, err)
		}
		prev := s.Prev
		if err := add(again, s); err != nil {
			return contracts.Errorf(contracts.ProofInvalid, "step %d: %w", i+1, err)
		}
		if again.Steps[i].Prev != prev {
			return contracts.Errorf(contracts.ProofInvalid, "step %d does not name what is before it", i+1)
		}
	}
	return nil
}

// shape checks that a step has what its state has, and nothing else.
func shape(e *contracts.Execution, s *contracts.ExecutionStep) error {
	switch {
	case (s.Action != nil) != (s.State == Pending):
		return contracts.Errorf(contracts.Malformed, "an action belongs to the step pending, and to no other")
	case s.Decision != nil && s.State != Authorized:
		return contracts.Errorf(contracts.Malformed, "a decision belongs to the step authorized")
	case s.Decision != nil && (e.Steps[0].Action == nil || s.Decision.Action != ActionDigest(e.Steps[0].Action)):
		return contracts.Errorf(contracts.Malformed, "the decision is about another action")
	case s.Decision != nil && s.Decision.Verdict != "approve":
		return contracts.Errorf(contracts.Malformed, "the decision is not an approval")
	case s.Response != "" && s.State != Completed, s.Code != "" && s.State != Failed && s.State != Unknown:
		return contracts.Errorf(contracts.Malformed, "a step %s has no response, or no code", s.State)
	}
	return nil
}
