package call

import (
	"errors"
	"os"

	"github.com/libp2p/go-libp2p/core/network"

	"github.com/talosprotocol/talos/contracts"
)

// notBegun marks an error that says that nothing of a call was done.
type notBegun struct{ error }

func (e notBegun) Unwrap() error { return e.error }

// answer marks an error that the executor has sent.
type answer struct{ error }

func (e answer) Unwrap() error { return e.error }

// NotBegun marks err: nothing of the call was done. A handler returns it only if no byte
// of the request has had an effect, here or further on; the caller may then try again
// whatever the call is, if the code is retryable. nil stays nil.
func NotBegun(err error) error {
	if err == nil {
		return nil
	}
	return notBegun{err}
}

// MayHaveBegun reports whether the call that failed with err may have had an effect at
// the executor: true unless the executor says, or it is known here, that it had none.
// A write for which it is true needs the executor's word before it is tried again.
func MayHaveBegun(err error) bool {
	var e notBegun
	return err != nil && !errors.As(err, &e)
}

// gone gives an error of a stream its code. What the reader refuses has one already.
func gone(err error) error {
	if coded(err) {
		return err
	}
	var reset *network.StreamError
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded), isTimeout(err):
		return contracts.Errorf(contracts.Unavailable, "the other side was silent for too long, or did not take what was sent: %w", err)
	case errors.As(err, &reset) && reset.Remote && (reset.ErrorCode == network.StreamResourceLimitExceeded || reset.ErrorCode == network.StreamRateLimited):
		// Sent by libp2p before the stream has a handler, and by Reserve before the first
		// read; never later (CALL-9).
		return NotBegun(contracts.Errorf(contracts.RateLimited, "the other side has no room for another call: %w", err))
	}
	return contracts.Errorf(contracts.Unavailable, "the other side cancelled the call or went away: %w", err)
}

// coded reports whether err has a code, or is marked.
func coded(err error) bool {
	var c *contracts.Error
	return errors.As(err, &c)
}

func isTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout()
}

// wordsOf gives what the caller is told of a handler's error: its code, and its message
// if that has no cause in it, since causes name what is at home: hosts, paths, rows.
func wordsOf(err error) failure {
	f := failure{Code: contracts.CodeOf(err), NotBegun: !MayHaveBegun(err)}
	if !isCode(f.Code) {
		f.Code = contracts.Internal
	}
	var e *contracts.Error
	if f.Code != contracts.Internal && errors.As(err, &e) && e.Err == nil {
		f.Message = plain(e.Msg)
	}
	return f
}
