package gateway

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"time"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
)

const (
	metaVersion = "talos-meta/1"
	listVersion = "talos-services/1"

	// Contexts of signatures: none of Talos's begins as another.
	listContext = "talos/services/1"
)

var b64 = base64.RawURLEncoding

func newSalt() []byte {
	b := make([]byte, 32)
	_, _ = rand.Read(b) // never fails
	return b
}

// expect compares a receipt with what the caller knows itself.
func expect(r *contracts.CallReceipt, want *contracts.CallReceipt) error {
	for _, c := range []struct{ what, got, want string }{
		{"call", r.Call, want.Call}, {"caller", r.Caller, want.Caller}, {"executor", r.Executor, want.Executor},
		{"service", r.Service, want.Service}, {"request", r.Request, want.Request}, {"response", r.Response, want.Response},
	} {
		if subtle.ConstantTimeCompare([]byte(c.got), []byte(c.want)) != 1 {
			return contracts.Errorf(contracts.SignatureInvalid, "the gateway's receipt says another %s than what was sent and received", c.what)
		}
	}
	return nil
}

// instant gives a time as contracts write it.
func instant(t time.Time) string { return identity.FormatTime(t) }
