package auditlog

import (
	"context"
	"io"
	"sync"

	"github.com/talosprotocol/talos/anchor"
	"github.com/talosprotocol/talos/contracts"
)

// Log is one incarnation of an agent's log. Its methods may be called
// concurrently; Run is called once.
type Log struct {
	o      Options
	origin string
	queue  chan *request
	asked  chan chan answer // of Checkpoint
	done   chan struct{}    // closed when the log stops
	pool   sync.Pool        // of *request

	// Owned by the committer (Open before it starts).
	tip       anchor.Frontier // of all durable entries
	signed    anchor.Frontier // at head
	stored    []byte          // the head in the backend, for compare-and-swap
	torn      bool
	held      *request // taken from the queue, but too large for the batch before
	refused   uint64   // events refused for lack of space since the last gap event
	since     string   // when that began
	confirmed bool
	asking    chan confirmation // nil while nobody is being asked

	mu      sync.Mutex    // guards what follows; never held over I/O
	size    uint64        // of tip
	head    *anchor.Note  // the newest published head
	why     error         // why the log stopped
	changed chan struct{} // closed and replaced when size or head changes
}

// request is one caller's events on their way through the committer.
type request struct {
	items    []item
	with     Companion // nil: none
	bytes    int       // of with
	highRisk bool
	done     chan answer
}

type item struct {
	typ   byte
	event []byte
	salt  anchor.Salt
}

type answer struct {
	index uint64
	head  *anchor.Note
	err   error
}

func newLog(o Options) *Log {
	l := &Log{
		o:       o,
		origin:  o.Origin.String(),
		queue:   make(chan *request, o.MaxBatch),
		asked:   make(chan chan answer),
		done:    make(chan struct{}),
		changed: make(chan struct{}),
	}
	l.pool.New = func() any { return &request{done: make(chan answer, 1)} }
	return l
}

// Append makes an event durable and gives its index. It returns after the sync that
// holds the event; events of concurrent callers share one. Codes: MALFORMED and
// TOO_LARGE for the event; STORAGE_FULL, after which the same event may be tried
// again; AUDIT_QUARANTINED or the cause once the log has stopped. With any error of
// the last kind, and when ctx ends first, the event may or may not be in the log.
func (l *Log) Append(ctx context.Context, ev *contracts.AuditEvent) (uint64, error) {
	return l.AppendWith(ctx, nil, ev)
}

// AppendWith makes events and what comes with them durable in one transaction, and
// gives the index of the first event. It is as Append, but once the write may have
// begun, ctx does not end it: who gives a companion must know the outcome.
func (l *Log) AppendWith(ctx context.Context, with Companion, evs ...*contracts.AuditEvent) (uint64, error) {
	r := l.pool.Get().(*request)
	r.items, r.with, r.bytes, r.highRisk = r.items[:0], with, 0, false
	for _, ev := range evs {
		if err := l.add(r, ev); err != nil {
			return 0, err
		}
	}
	if len(r.items) == 0 {
		return 0, contracts.Errorf(contracts.Malformed, "audit log: no event to append")
	}
	if with != nil {
		r.bytes = with.Bytes()
	}
	select {
	case l.queue <- r:
	case <-l.done:
		return 0, l.Err()
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	over := ctx.Done()
	if with != nil {
		over = nil
	}
	// A request that is given up here stays with the committer and is not pooled.
	select {
	case a := <-r.done:
		r.with = nil
		l.pool.Put(r)
		return a.index, a.err
	case <-l.done:
		select {
		case a := <-r.done: // the last batch was answered before the log stopped
			return a.index, a.err
		default:
			return 0, l.Err()
		}
	case <-over:
		return 0, ctx.Err()
	}
}

// add encodes an event into a request.
func (l *Log) add(r *request, ev *contracts.AuditEvent) error {
	event, err := anchor.EncodeEvent(ev)
	if err != nil {
		return err
	}
	it := item{event: event}
	it.typ, _ = anchor.EventType(ev.Type)
	if _, err := io.ReadFull(l.o.Rand, it.salt[:]); err != nil {
		return contracts.Errorf(contracts.Internal, "audit log: no randomness: %w", err)
	}
	r.items = append(r.items, it)
	r.highRisk = r.highRisk || ev.HighRisk != nil && *ev.HighRisk
	return nil
}

// Checkpoint signs a head that covers all durable entries and gives it; if there is
// nothing new it gives the newest one, nil for an empty log. The code is UNAVAILABLE
// while Confirm has not succeeded.
func (l *Log) Checkpoint(ctx context.Context) (*anchor.Note, error) {
	c := make(chan answer, 1)
	select {
	case l.asked <- c:
	case <-l.done:
		return nil, l.Err()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	select {
	case a := <-c:
		return a.head, a.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Err gives why the log stopped: nil while it runs, a *Quarantine, the fatal error,
// or UNAVAILABLE after Run was told to end.
func (l *Log) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.why
}

// Size gives the number of durable entries.
func (l *Log) Size() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.size
}

// Head gives the newest head that was published, nil before the first.
func (l *Log) Head() *anchor.Note {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.head
}

// Origin gives the log's origin.
func (l *Log) Origin() string { return l.origin }

// Wait returns when the log has more than size entries.
func (l *Log) Wait(ctx context.Context, size uint64) error {
	for {
		l.mu.Lock()
		now, changed := l.size, l.changed
		l.mu.Unlock()
		if now > size {
			return nil
		}
		select {
		case <-changed:
		case <-l.done:
			return l.Err()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// set changes what readers see.
func (l *Log) set(change func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change()
	close(l.changed)
	l.changed = make(chan struct{})
}

// stop ends the log for a reason, once.
func (l *Log) stop(why error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.why == nil {
		l.why = why
		close(l.done)
	}
}
