// Package quorum is the chain that needs no outside part: the heads of an anchor's log,
// cosigned by the other anchors. Its receipt is the note with their signatures, which
// every verifier can judge (anchor.VerifyQuorum).
package quorum

import (
	"context"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/talosprotocol/talos/anchor"
	"github.com/talosprotocol/talos/anchor/chain"
	"github.com/talosprotocol/talos/contracts"
)

// Config of the driver.
type Config struct {
	// Cosigned gives the head of at least a size that has the most cosignatures, with
	// them; nil if there is none. The cosignatures have been verified.
	Cosigned func(size uint64) (*anchor.Note, error)
	// Others is how many other anchors there are.
	Others int
	// Patience is how long all of them are waited for; after it, more than half of all
	// anchors, the own one counted, will do. Two minutes if zero.
	Patience time.Duration
	// Every is the least time between receipts; a second if zero.
	Every time.Duration
}

// Driver is a [chain.Driver].
type Driver struct{ c Config }

// New makes the driver.
func New(c Config) *Driver {
	if c.Patience == 0 {
		c.Patience = 2 * time.Minute
	}
	if c.Every == 0 {
		c.Every = time.Second
	}
	return &Driver{c}
}

// Name gives the driver's name.
func (d *Driver) Name() string { return anchor.QuorumDriver }

// Chain gives the chain's name, which is the driver's.
func (d *Driver) Chain() string { return anchor.QuorumDriver }

// Every gives the least time between receipts.
func (d *Driver) Every() time.Duration { return d.c.Every }

// Prepare notes the time; the head goes to the other anchors by itself, as every head of
// a log does.
func (d *Driver) Prepare(context.Context, *anchor.Note) ([]byte, error) {
	return binary.BigEndian.AppendUint64(nil, uint64(time.Now().Unix())), nil
}

// Submit has nothing to do.
func (d *Driver) Submit(context.Context, *anchor.Note, []byte) error { return nil }

// Status looks whether enough anchors have cosigned the head, or a newer one.
func (d *Driver) Status(_ context.Context, head *anchor.Note, state []byte) (chain.Status, error) {
	n, err := d.c.Cosigned(head.Size)
	if err != nil {
		return chain.Status{}, err
	}
	if n == nil {
		n = head
	}
	got := len(n.Signatures) - 1
	want := d.c.Others
	if len(state) == 8 {
		age := time.Since(time.Unix(int64(binary.BigEndian.Uint64(state)), 0))
		if age > d.c.Patience || age < -time.Second { // below zero: the clock was set back
			want = (d.c.Others + 1) / 2
		}
	}
	if got < want {
		return chain.Status{Phase: chain.Pending, Wait: time.Second, Note: fmt.Sprintf("%d of %d other anchors have cosigned", got, d.c.Others)}, nil
	}
	return chain.Status{Phase: chain.Final, Body: n.Append(nil), Head: n, Note: fmt.Sprintf("%d other anchors have cosigned", got)}, nil
}

// Check judges that the body is a note of the head; whose signatures count, an auditor's
// policy says.
func (d *Driver) Check(r *anchor.Receipt) error {
	n, err := anchor.ParseNote(r.Body)
	if err != nil {
		return err
	}
	if n.Checkpoint != r.Head {
		return contracts.Errorf(contracts.ProofInvalid, "quorum: the note is of size %d, the receipt of %d", n.Size, r.Head.Size)
	}
	return nil
}
