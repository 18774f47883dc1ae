package ratchet

import "github.com/talosprotocol/talos/contracts"

// The errors of the hot paths are made once: refusing a frame must not allocate
// (RAT-20), and none of them says more than a code and a fixed text. A peer is
// told none of this: on the wire all cryptographic failures look alike (RAT-33).
var (
	errShort     = contracts.Errorf(contracts.Malformed, "frame is shorter than the smallest frame")
	errSize      = contracts.Errorf(contracts.FrameSize, "frame is longer than 64 KiB")
	errVersion   = contracts.Errorf(contracts.UnsupportedVersion, "frame version is not 2")
	errSuite     = contracts.Errorf(contracts.UnsupportedVersion, "suite is not 0x0002")
	errFlags     = contracts.Errorf(contracts.RatchetInvalidHeader, "unknown frame flags")
	errAuth      = contracts.Errorf(contracts.RatchetAuthFailed, "frame does not authenticate")
	errReplay    = contracts.Errorf(contracts.FrameReplay, "the key of this frame was used or has expired")
	errGap       = contracts.Errorf(contracts.RatchetMaxSkip, "frame skips more than 1000 keys of a chain")
	errHeader    = contracts.Errorf(contracts.RatchetInvalidHeader, "header breaks a rule of the protocol")
	errSeq       = contracts.Errorf(contracts.RatchetInvalidHeader, "sender_seq does not follow the chain")
	errAck       = contracts.Errorf(contracts.SessionRollback, "recipient_seq went back")
	errRollback  = contracts.Errorf(contracts.SessionRollback, "peer acknowledges what this state has not sent")
	errDHKey     = contracts.Errorf(contracts.RatchetInvalidDHKey, "X25519 key is not acceptable")
	errPadding   = contracts.Errorf(contracts.Malformed, "payload is not in its one encoding")
	errPending   = contracts.Errorf(contracts.SessionState, "an opened frame is neither committed nor discarded")
	errClosed    = contracts.Errorf(contracts.SessionState, "the state was closed by its final encoding")
	errBody      = contracts.Errorf(contracts.FrameSize, "body is longer than 60 KiB")
	errKind      = contracts.Errorf(contracts.Malformed, "message kind is not between 0 and 127")
	errChainFull = contracts.Errorf(contracts.SessionState, "sending chain is full until the peer sends a fresh key")
	errSeqFull   = contracts.Errorf(contracts.SessionState, "sender_seq is exhausted")
	errDuplicate = contracts.Errorf(contracts.FrameReplay, "sender_seq was received before")
	errTooFar    = contracts.Errorf(contracts.FrameTooFar, "sender_seq is beyond the window")
)
