package chain

import (
	"context"
	"encoding/json"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/talosprotocol/talos/anchor"
	"github.com/talosprotocol/talos/contracts"
)

// Times of submitting.
const (
	firstRetry = time.Second
	lastRetry  = 5 * time.Minute
	lookEvery  = 15 * time.Second // at a submission that is pending
	stepFor    = time.Minute      // for one call of a driver
)

// Submission is what is under way on one chain, as the table keeps it.
type Submission struct {
	Note      []byte    `json:"note"`  // the head, as the anchor's log signed it
	State     []byte    `json:"state"` // the driver's
	Began     time.Time `json:"began"`
	Submitted bool      `json:"submitted"` // at least once
	Tries     int       `json:"tries"`     // how often it was sent
}

// Info says where a submitter stands, for people.
type Info struct {
	Driver  string    `json:"driver"`
	Chain   string    `json:"chain"`
	Pending uint64    `json:"pending_size,omitempty"` // of the anchor's log, 0 if nothing is under way
	Since   time.Time `json:"since,omitzero"`
	Newest  uint64    `json:"receipt_size,omitempty"` // of the newest receipt
	Note    string    `json:"note,omitempty"`
	Failing string    `json:"failing,omitempty"` // why the last step failed
}

// Submitter brings heads of one log to one chain. Run is called once; the others may be
// called concurrently.
type Submitter struct {
	d    Driver
	rows *receipts
	head func() *anchor.Note // the newest head of the log
	log  *slog.Logger
	wake chan struct{}

	mu     sync.Mutex // guards what follows; never held over I/O
	now    *Submission
	newest uint64
	began  time.Time
	note   string
	err    error
}

// NewSubmitter takes up what the table has.
func NewSubmitter(d Driver, rows Rows, head func() *anchor.Note, log *slog.Logger) (*Submitter, error) {
	s := &Submitter{d: d, rows: &receipts{Rows: rows, driver: d.Name(), chain: d.Chain()}, head: head, log: log, wake: make(chan struct{}, 1)}
	b, err := rows.Get(s.rows.submissionKey())
	if err != nil {
		return nil, err
	}
	if b != nil {
		s.now = new(Submission)
		if err := json.Unmarshal(b, s.now); err != nil {
			return nil, contracts.Errorf(contracts.StorageCorrupt, "a submission to %s: %w", d.Chain(), err)
		}
		s.began = s.now.Began
	}
	sizes, err := s.rows.load()
	if n := len(sizes); n > 0 {
		s.newest = sizes[n-1]
	}
	return s, err
}

// Info says where the submitter stands.
func (s *Submitter) Info() Info {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := Info{Driver: s.d.Name(), Chain: s.d.Chain(), Newest: s.newest, Note: s.note}
	if s.now != nil {
		if n, err := anchor.ParseNote(s.now.Note); err == nil {
			i.Pending, i.Since = n.Size, s.now.Began
		}
	}
	if s.err != nil {
		i.Failing = s.err.Error()
	}
	return i
}

// Wake says that there is a new head.
func (s *Submitter) Wake() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Run walks through submissions until ctx ends. After a failure it waits longer and
// longer; nothing is given up, and what came meanwhile is covered by the next head.
func (s *Submitter) Run(ctx context.Context) error {
	retry := firstRetry
	for ctx.Err() == nil {
		wait, err := s.step(ctx)
		if contracts.CodeOf(err) == contracts.StorageCorrupt {
			return err
		}
		if err != nil && ctx.Err() == nil {
			if retry == firstRetry {
				s.log.Warn("a chain could not be written to; it is tried again", "driver", s.d.Name(), "chain", s.d.Chain(), "err", err)
			}
			wait, retry = retry+rand.N(retry/4), min(2*retry, lastRetry)
		} else {
			retry = firstRetry
		}
		s.mu.Lock()
		s.err = err
		s.mu.Unlock()
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-s.woken(err != nil):
			t.Stop()
		case <-ctx.Done():
			t.Stop()
		}
	}
	return nil
}

// woken is never ready after a failure: a new head does not make a chain come back.
func (s *Submitter) woken(failed bool) <-chan struct{} {
	if failed {
		return nil
	}
	return s.wake
}

// step does the next thing and says how long to wait then.
func (s *Submitter) step(ctx context.Context) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, stepFor)
	defer cancel()
	s.mu.Lock()
	cur, newest, began := s.now, s.newest, s.began
	s.mu.Unlock()
	if cur == nil {
		head := s.head()
		if head == nil || head.Size <= newest {
			return lookEvery, nil
		}
		// A clock that was set back does not stop it: the wait is never longer than wanted.
		if wait := time.Until(began.Add(s.d.Every())); !began.IsZero() && wait > 0 && wait <= s.d.Every() {
			return wait, nil
		}
		return 0, s.prepare(ctx, head)
	}
	head, err := anchor.ParseNote(cur.Note)
	if err != nil {
		return 0, contracts.Errorf(contracts.StorageCorrupt, "a submission to %s: %w", s.d.Chain(), err)
	}
	if !cur.Submitted {
		if err := s.d.Submit(ctx, head, cur.State); err != nil {
			return 0, err
		}
		next := *cur
		next.Submitted, next.Tries = true, cur.Tries+1
		return 0, s.keep(ctx, &next)
	}
	st, err := s.d.Status(ctx, head, cur.State)
	if err != nil {
		return 0, err
	}
	s.mu.Lock()
	s.note = st.Note
	s.mu.Unlock()
	return s.follow(ctx, cur, head, st)
}

// follow does what a status asks for.
func (s *Submitter) follow(ctx context.Context, cur *Submission, head *anchor.Note, st Status) (time.Duration, error) {
	wait := st.Wait
	if wait == 0 {
		wait = lookEvery
	}
	next := *cur
	switch st.Phase {
	case Unsent:
		s.log.Info("a submission is gone from the chain and is sent again", "chain", s.d.Chain(), "size", head.Size)
		next.Submitted = false
		return firstRetry, s.keep(ctx, &next)
	case Replaced:
		next.State, next.Submitted = st.State, false
		return 0, s.keep(ctx, &next)
	case Lost:
		s.log.Info("a submission can no more come onto the chain; the newest head goes there instead", "chain", s.d.Chain(), "size", head.Size)
		if newest := s.head(); newest != nil && newest.Size > head.Size {
			head = newest
		}
		return 0, s.prepare(ctx, head)
	case Final:
		if st.Head != nil {
			head = st.Head
		}
		return 0, s.finish(ctx, head, st.Body)
	}
	if st.State != nil {
		next.State = st.State
		return wait, s.keep(ctx, &next)
	}
	return wait, nil
}

// prepare begins a submission: it is durable before anything is sent.
func (s *Submitter) prepare(ctx context.Context, head *anchor.Note) error {
	state, err := s.d.Prepare(ctx, head)
	if err != nil {
		return err
	}
	return s.keep(ctx, &Submission{Note: head.Append(nil), State: state, Began: time.Now().UTC()})
}

func (s *Submitter) keep(ctx context.Context, sub *Submission) error {
	b, err := json.Marshal(sub)
	if err != nil {
		return contracts.Errorf(contracts.Internal, "a submission: %w", err)
	}
	if err := s.rows.Put(ctx, s.rows.submissionKey(), b); err != nil {
		return err
	}
	s.mu.Lock()
	s.now, s.began = sub, sub.Began
	s.mu.Unlock()
	return nil
}

// finish keeps a receipt, if it is one (CHAIN-7), and ends the submission in the same
// transaction.
func (s *Submitter) finish(ctx context.Context, head *anchor.Note, body []byte) error {
	r := &anchor.Receipt{Driver: s.d.Name(), Chain: s.d.Chain(), Head: head.Checkpoint, Body: body}
	if err := s.d.Check(r); err != nil {
		return contracts.Errorf(contracts.CodeOf(err), "what should be a receipt of %s proves nothing: %w", s.d.Chain(), err)
	}
	row, err := encodeReceipt(r)
	if err != nil {
		return err
	}
	if err := s.rows.keep(ctx, head.Size, row); err != nil {
		return err
	}
	s.log.Info("anchored", "driver", r.Driver, "chain", r.Chain, "size", head.Size)
	s.mu.Lock()
	s.now, s.newest = nil, head.Size
	s.mu.Unlock()
	return nil
}
