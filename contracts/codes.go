package contracts

import (
	"errors"
	"fmt"
	"strings"
)

// Code is an error code that may cross the wire or an API. The list is
// append-only: a code never changes its meaning and is never reused.
type Code string

// The codes, grouped by the protocol that first needed them. The text of each
// is normative (contracts/spec/errors.md).
const (
	// Any protocol.
	Malformed          Code = "MALFORMED"           // not the form that the contract says
	TooLarge           Code = "TOO_LARGE"           // over a size or count limit
	UnsupportedVersion Code = "UNSUPPORTED_VERSION" // a version that this program does not speak
	SignatureInvalid   Code = "SIGNATURE_INVALID"   // a signature does not verify
	KeyInvalid         Code = "KEY_INVALID"         // wrong type, non-canonical or small-order key
	Expired            Code = "EXPIRED"             // validity is over
	NotYetValid        Code = "NOT_YET_VALID"       // validity has not begun
	RateLimited        Code = "RATE_LIMITED"        // try again later
	Unavailable        Code = "UNAVAILABLE"         // a needed part is out of reach for now
	Internal           Code = "INTERNAL"            // our fault; details stay at home
	NotFound           Code = "NOT_FOUND"           // nothing under that name
	Conflict           Code = "CONFLICT"            // somebody else changed it first
	Unauthorized       Code = "UNAUTHORIZED"        // the caller is not known or not bound to its DID
	Forbidden          Code = "FORBIDDEN"           // the caller may not do this
	StorageFull        Code = "STORAGE_FULL"        // below the free-space watermark
	StorageCorrupt     Code = "STORAGE_CORRUPT"     // what was read back is not what was written
	Busy               Code = "BUSY"                // held by another process
	ConfigInvalid      Code = "CONFIG_INVALID"      // a configuration value or key is wrong
	NetworkMismatch    Code = "NETWORK_MISMATCH"    // the peer is on another network

	// Identity.
	InvalidDID        Code = "INVALID_DID"        // the text is no DID that we speak
	MethodUnsupported Code = "METHOD_UNSUPPORTED" // a DID method that we do not speak
	Rollback          Code = "ROLLBACK"           // older than what was seen before
	Duplicity         Code = "DUPLICITY"          // two valid events with the same number and predecessor
	Deactivated       Code = "DEACTIVATED"        // the DID was ended by its owner
	KeyLogInvalid     Code = "KEY_LOG_INVALID"    // the key log does not follow its rules
	PublishFailed     Code = "PUBLISH_FAILED"     // too few peers acknowledged the record
	PeerNotBound      Code = "PEER_NOT_BOUND"     // the connection's key is not in the DID's document

	// Sessions and the ratchet.
	RatchetAuthFailed    Code = "RATCHET_AUTH_FAILED"
	RatchetMaxSkip       Code = "RATCHET_MAX_SKIP_EXCEEDED"
	RatchetInvalidHeader Code = "RATCHET_INVALID_HEADER"
	RatchetInvalidDHKey  Code = "RATCHET_INVALID_DH_KEY"
	HandshakeSignature   Code = "X3DH_INVALID_SIGNATURE"
	HandshakePrekey      Code = "X3DH_MISSING_PREKEY"
	HandshakeFailed      Code = "HANDSHAKE_FAILED"
	FrameReplay          Code = "A2A_FRAME_REPLAY_DETECTED"
	FrameTooFar          Code = "A2A_FRAME_SEQUENCE_TOO_FAR"
	FrameSize            Code = "A2A_FRAME_SIZE_EXCEEDED"
	SessionNotFound      Code = "A2A_SESSION_NOT_FOUND"
	SessionState         Code = "A2A_SESSION_STATE_INVALID"
	SessionRollback      Code = "A2A_SESSION_ROLLBACK_DETECTED"
	OutboxFull           Code = "A2A_OUTBOX_FULL"
	SideEffectRefused    Code = "A2A_SIDE_EFFECT_REFUSED" // first flight without a one-time key
	SessionVoid          Code = "A2A_SESSION_VOID"        // made under keys that a later rotation voids

	// Evidence.
	AuditQuarantined  Code = "AUDIT_QUARANTINED"  // the log may not sign until its owner decides
	ProofInvalid      Code = "PROOF_INVALID"      // a Merkle proof does not verify
	CheckpointInvalid Code = "CHECKPOINT_INVALID" // not a checkpoint of that origin and key
	CheckpointStale   Code = "CHECKPOINT_STALE"   // smaller than what the witness cosigned
	OriginUnknown     Code = "ORIGIN_UNKNOWN"     // the witness does not follow that log
	OriginFrozen      Code = "ORIGIN_FROZEN"      // convicted of equivocation
	Equivocation      Code = "EQUIVOCATION"       // two histories under one name
	BundleInvalid     Code = "BUNDLE_INVALID"     // the proof bundle does not verify

	// Authority.
	NoCapability        Code = "NO_CAPABILITY"        // no grant of the caller was shown for this
	ScopeMismatch       Code = "SCOPE_MISMATCH"       // no grant of the caller covers this
	ConstraintViolation Code = "CONSTRAINT_VIOLATION" // a condition of the grant does not hold
	DelegationInvalid   Code = "DELEGATION_INVALID"   // a link of the chain is not allowed by the one before
	AudienceMismatch    Code = "AUDIENCE_MISMATCH"    // the token is for another executor
	HolderMismatch      Code = "HOLDER_MISMATCH"      // the caller is not the subject of the token
	Replay              Code = "REPLAY"               // the same request was seen before
	Revoked             Code = "REVOKED"              // the authority was taken back
	RevocationStale     Code = "REVOCATION_STALE"     // what is known of revocations is too old to decide
	IssuerUnresolved    Code = "ISSUER_UNRESOLVED"    // the issuer's keys are not known, or it is no root of authority here
	IssuerDuplicitous   Code = "ISSUER_DUPLICITOUS"   // the issuer has two contradicting histories
	KeyStateVoid        Code = "KEY_STATE_VOID"       // the issuer's key was given up before, or voided since
	BudgetExhausted     Code = "BUDGET_EXHAUSTED"     // a budget does not pay for this
	UnknownTool         Code = "UNKNOWN_TOOL"         // there is no such tool, model or agent here

	// Executions.
	ApprovalRequired    Code = "APPROVAL_REQUIRED"    // nobody has approved it yet
	ApprovalDenied      Code = "APPROVAL_DENIED"      // who was asked said no
	IdempotencyConflict Code = "IDEMPOTENCY_CONFLICT" // the key stands for another request
	AlreadyDone         Code = "ALREADY_DONE"         // done once; the answer is no longer kept
	OutcomeUnknown      Code = "OUTCOME_UNKNOWN"      // begun once; nobody knows what became of it
)

// Error is an error with a code. Msg says what was wrong and, where the reader
// can do something, what to do; it must never hold secret or content. Err is
// the cause and stays at home: only Code crosses the wire.
type Error struct {
	Code Code
	Msg  string
	Err  error
}

// Errorf makes an Error; a %w in the format keeps its cause.
func Errorf(code Code, format string, args ...any) *Error {
	w := fmt.Errorf(format, args...)
	return &Error{Code: code, Msg: w.Error(), Err: errors.Unwrap(w)}
}

// Error gives the code, then the message.
func (e *Error) Error() string {
	if e.Msg == "" {
		return string(e.Code)
	}
	return string(e.Code) + ": " + e.Msg
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// Is reports whether target is an *Error of the same code without a message:
// errors.Is(err, &Error{Code: c}). CodeOf is the shorter way.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Msg == "" && t.Code == e.Code
}

// CodeOf gives the code of the first Error in err's chain, "" for nil and
// Internal for an error without a code.
func CodeOf(err error) Code {
	if err == nil {
		return ""
	}
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return Internal
}

// Message gives what err says without the code in front, for those who show the code
// apart.
func Message(err error) string {
	text := err.Error()
	for {
		rest, ok := strings.CutPrefix(text, string(CodeOf(err))+": ")
		if !ok {
			return text
		}
		text = rest
	}
}

// Retryable reports whether the same request may succeed later unchanged.
func (c Code) Retryable() bool {
	switch c {
	case RateLimited, Unavailable, Conflict, Busy, StorageFull, PublishFailed, NotYetValid, OutboxFull, RevocationStale, IssuerUnresolved, ApprovalRequired:
		return true
	}
	return false
}
