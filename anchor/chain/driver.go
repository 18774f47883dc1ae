package chain

import (
	"context"
	"time"

	"github.com/talosprotocol/talos/anchor"
)

// Phase is how far a submission has come.
type Phase int

// The phases.
const (
	Pending  Phase = iota // on its way
	Unsent                // the chain knows nothing of it: submit again what was prepared
	Replaced              // State is to be submitted instead; both cannot be on the chain
	Lost                  // it can never be there: prepare again
	Final                 // Body is the receipt's
)

// Status is what a driver says of a submission.
type Status struct {
	Phase Phase
	State []byte // with Replaced, and with Pending where it changed: to be kept
	Body  []byte // with Final
	// Head is what is on the chain, with Final, where that is a newer head than was asked for.
	Head *anchor.Note
	// Wait is how long to wait before asking again; 0 is the submitter's default.
	Wait time.Duration
	Note string // for people: where it stands
}

// Driver writes heads to one chain. The submitter calls it from one goroutine; verifying
// may happen beside.
//
// Prepare makes what Submit will send, and sends nothing: the submitter makes state
// durable first. Submit sends it, and sends the same if it is called again, even by
// another process after a crash. Status looks for it. An error from any of them means
// that the chain could not be asked; nothing has changed.
type Driver interface {
	// Name is the driver's, Chain that of the chain: both stand in receipts.
	Name() string
	Chain() string
	// Every is the least time between the beginnings of two submissions.
	Every() time.Duration
	Prepare(ctx context.Context, head *anchor.Note) (state []byte, err error)
	Submit(ctx context.Context, head *anchor.Note, state []byte) error
	Status(ctx context.Context, head *anchor.Note, state []byte) (Status, error)
	// Check judges a receipt by itself alone, as every auditor can: that it proves that
	// the head is in what it says is the chain. Who else looks at the chain is verifying
	// online or offline, with an [anchor.ReceiptVerifier].
	Check(r *anchor.Receipt) error
}

// Rows is a plain durable table. Put and Write are durable when they return nil, Write
// as a whole or not at all; a nil value removes its row. Scan goes in the order of keys.
type Rows interface {
	Get(key []byte) ([]byte, error)
	Put(ctx context.Context, key, value []byte) error
	Write(ctx context.Context, keys, values [][]byte) error
	Delete(ctx context.Context, key []byte) error
	Scan(prefix []byte, f func(key, value []byte) bool) error
}

// The rows:
//
//	e <epoch 8> m          what is known of an epoch
//	e <epoch 8> l <n 4>    a part of its leaves
//	s <driver> <chain>     the submission that is under way
//	r <driver> <chain> <size 8>  a receipt
