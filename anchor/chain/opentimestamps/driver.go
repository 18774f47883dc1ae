package opentimestamps

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/talosprotocol/talos/anchor"
	"github.com/talosprotocol/talos/anchor/chain"
	"github.com/talosprotocol/talos/contracts"
)

// Config of the driver.
type Config struct {
	Calendars []string
	Every     time.Duration // an hour if zero
	Node      *Node         // a Bitcoin node that knows the blocks; nil: calendars are believed
	HTTP      *http.Client
}

// Driver is a [chain.Driver].
type Driver struct{ c Config }

// New makes the driver; it asks nothing yet.
func New(c Config) (*Driver, error) {
	if len(c.Calendars) == 0 {
		return nil, contracts.Errorf(contracts.ConfigInvalid, "opentimestamps: calendars are needed")
	}
	if c.Every == 0 {
		c.Every = time.Hour
	}
	return &Driver{c}, nil
}

// Name gives the driver's name.
func (d *Driver) Name() string { return Name }

// Chain gives the chain's name.
func (d *Driver) Chain() string { return Chain }

// Every gives the least time between two submissions.
func (d *Driver) Every() time.Duration { return d.c.Every }

// state is what the calendars have promised: their answers, by address.
type state struct {
	Promises map[string][]byte `json:"promises"`
}

// Prepare has nothing to make: the digest follows from the head.
func (d *Driver) Prepare(context.Context, *anchor.Note) ([]byte, error) {
	return json.Marshal(state{})
}

// Submit leaves it to Status, which keeps what the calendars answer.
func (d *Driver) Submit(context.Context, *anchor.Note, []byte) error { return nil }

func digestOf(head *anchor.Note) [32]byte {
	c := head.Commitment()
	return sha256.Sum256(c[:])
}

// upgradeEvery is how often calendars are asked: they write to Bitcoin about hourly.
const upgradeEvery = 10 * time.Minute

// Status hands the digest to the calendars that have not promised anything, and asks the
// others whether they have kept it. One of them is enough.
func (d *Driver) Status(ctx context.Context, head *anchor.Note, b []byte) (chain.Status, error) {
	var s state
	if err := json.Unmarshal(b, &s); err != nil {
		return chain.Status{}, contracts.Errorf(contracts.StorageCorrupt, "opentimestamps: a submission does not read")
	}
	if s.Promises == nil {
		s.Promises = map[string][]byte{}
	}
	digest := digestOf(head)
	var last error
	changed := false
	for _, url := range d.c.Calendars {
		if s.Promises[url] == nil {
			promise, err := d.submit(ctx, url, digest)
			if err != nil {
				last = err
				continue
			}
			s.Promises[url], changed = promise, true
		}
		way, err := d.upgrade(ctx, url, digest, s.Promises[url])
		if err != nil {
			last = err
		}
		if way != nil {
			return chain.Status{Phase: chain.Final, Body: way.File(digest), Note: fmt.Sprintf("it is in Bitcoin's block %d", way.Height)}, nil
		}
	}
	if len(s.Promises) == 0 {
		return chain.Status{}, last
	}
	st := chain.Status{Phase: chain.Pending, Wait: upgradeEvery, Note: fmt.Sprintf("%d of %d calendars have promised it", len(s.Promises), len(d.c.Calendars))}
	if changed {
		var err error
		if st.State, err = json.Marshal(s); err != nil {
			return chain.Status{}, contracts.Errorf(contracts.Internal, "opentimestamps: %w", err)
		}
	}
	return st, nil
}

// submit hands a digest to a calendar and gives its promise, if it can be read.
func (d *Driver) submit(ctx context.Context, url string, digest [32]byte) ([]byte, error) {
	b, err := fetch(ctx, d.c.HTTP, http.MethodPost, strings.TrimSuffix(url, "/")+"/digest", "application/octet-stream", digest[:])
	if err != nil {
		return nil, err
	}
	_, err = ParseTimestamp(digest[:], b)
	return b, err
}

// upgrade looks for a way to a block: in the promise, or in what the calendar says of it
// now. The calendar that is asked is the configured one, whatever the promise names.
func (d *Driver) upgrade(ctx context.Context, url string, digest [32]byte, promise []byte) (*Way, error) {
	ways, err := ParseTimestamp(digest[:], promise)
	if err != nil {
		return nil, err
	}
	for i := range ways {
		w := ways[i]
		if w.URI != "" {
			b, err := fetch(ctx, d.c.HTTP, http.MethodGet, strings.TrimSuffix(url, "/")+"/timestamp/"+hex.EncodeToString(w.Message), "", nil)
			if contracts.CodeOf(err) == contracts.NotFound {
				continue
			}
			if err != nil {
				return nil, err
			}
			more, err := ParseTimestamp(w.Message, b)
			if err != nil {
				return nil, err
			}
			for j := range more {
				if joined := w.then(more[j]); d.kept(ctx, &joined) {
					return &joined, nil
				}
			}
		}
		if d.kept(ctx, &w) {
			return &w, nil
		}
	}
	return nil, nil
}

// kept says that a way leads to a block, deep enough if there is a node to ask.
func (d *Driver) kept(ctx context.Context, w *Way) bool {
	if !w.Bitcoin || len(w.Message) != 32 {
		return false
	}
	if d.c.Node == nil {
		return true
	}
	h, above, err := d.c.Node.Header(ctx, w.Height)
	return err == nil && above >= minDepth && h.Root() == [32]byte(w.Message)
}

// Check follows a receipt to the Merkle root of a block.
func (d *Driver) Check(r *anchor.Receipt) error {
	_, _, err := Open(r)
	return err
}
