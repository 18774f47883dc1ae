package session

import (
	"bytes"

	"github.com/talosprotocol/talos/contracts"
)

// The surfaces that the door is asked about.
const (
	openSurface    = "a2a.session.open"
	receiveSurface = "a2a.message.receive"
)

// denied begins an answer that says why the peer may not: code, 0x00, words. A bundle
// begins with its version, which is never 0.
const denied = 0x00

// mayTell reports whether an error is the door's: then the peer learns what it lacks,
// and can ask for it. Everything else looks alike to it.
func mayTell(err error) bool {
	switch contracts.CodeOf(err) {
	case contracts.NoCapability, contracts.ScopeMismatch, contracts.ConstraintViolation, contracts.Revoked, contracts.RevocationStale,
		contracts.BudgetExhausted, contracts.HolderMismatch:
		return true
	}
	return false
}

func appendDenial(b []byte, err error) []byte {
	b = append(append(b, denied), string(contracts.CodeOf(err))...)
	return append(append(b, 0), contracts.Message(err)...)
}

// maxDenial bounds the words of a denial that are read.
const maxDenial = 1024

// denial reads what appendDenial wrote.
func denial(b []byte) error {
	code, text, _ := bytes.Cut(b[1:], []byte{0})
	err := contracts.Errorf(contracts.Code(code), "the peer says: %.300s", text)
	if !mayTell(err) {
		return contracts.Errorf(contracts.Unavailable, "the peer refuses without a reason that this node knows")
	}
	return err
}
