package witness

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/talosprotocol/talos/anchor"
	"github.com/talosprotocol/talos/contracts"
)

// Options is all that a witness depends on. Name, Signer, Keys, Store and Now are
// required; zero numbers mean the defaults.
type Options struct {
	Name   string        // of the witness's key in notes
	Signer anchor.Signer // of the witness key, used for nothing else
	// Keys knows the logs that this witness follows: LogKey refuses all others.
	Keys  anchor.KeyResolver
	Store Store
	Now   func() time.Time

	// KeyUsed says that this key has been given a database before. The caller keeps
	// that mark with the key, apart from the database, and sets it after the first
	// Open returned and before anything is cosigned.
	KeyUsed bool
	// Convicted gets the evidence against a log, once, after it is stored.
	Convicted func(evidence []byte)

	// MaxOrigins bounds the logs that are followed: 100,000, at most 0.7 GB of
	// records. A log above it is refused; none is evicted.
	MaxOrigins int
	// Every and Burst bound how often one log may advance: one head in 30 s, and five
	// at once. A log signs one a minute, and more only for events of high risk.
	Every time.Duration
	Burst int
	// Ring is how many heads of a log are kept to compare others with: 64, an hour.
	Ring int
}

// Witness cosigns. Its methods may be called concurrently.
type Witness struct {
	o       Options
	limit   *limiter
	origins atomic.Int64
}

// own is the key of the witness's own record: no origin has a space.
const own = " witness"

// Open starts a witness on its database. The code is ROLLBACK if the database is
// empty although the key has been used: the key must be retired and a new one made.
// It is CONFIG_INVALID if the database belongs to another key.
func Open(ctx context.Context, o Options) (*Witness, error) {
	if o.Name == "" || o.Signer == nil || o.Keys == nil || o.Store == nil || o.Now == nil {
		return nil, contracts.Errorf(contracts.ConfigInvalid, "witness: Name, Signer, Keys, Store and Now are required")
	}
	o.defaults()
	mark := fmt.Appendf(nil, "%s\n%x", o.Name, o.Signer.Public())
	got, err := o.Store.Load(ctx, own)
	if err != nil {
		return nil, fmt.Errorf("witness: %w", err)
	}
	switch {
	case got == nil && o.KeyUsed:
		return nil, contracts.Errorf(contracts.Rollback, "witness: the key of %s has been used and its database is gone; a lost database retires the key", o.Name)
	case got == nil:
		if err := o.Store.Swap(ctx, own, nil, mark); err != nil {
			return nil, fmt.Errorf("witness: %w", err)
		}
	case string(got) != string(mark):
		return nil, contracts.Errorf(contracts.ConfigInvalid, "witness: the database is not of %s with this key", o.Name)
	}
	n, err := o.Store.Count(ctx)
	if err != nil {
		return nil, fmt.Errorf("witness: %w", err)
	}
	w := &Witness{o: o, limit: newLimiter(o.Every, o.Burst)}
	w.origins.Store(int64(n) - 1)
	return w, nil
}

func (o *Options) defaults() {
	if o.MaxOrigins == 0 {
		o.MaxOrigins = 100_000
	}
	if o.Every == 0 {
		o.Every = 30 * time.Second
	}
	if o.Burst == 0 {
		o.Burst = 5
	}
	if o.Ring <= 0 || o.Ring > maxRing {
		o.Ring = 64
	}
	if o.Convicted == nil {
		o.Convicted = func([]byte) {}
	}
}

// AddCheckpoint checks a head against the last one cosigned, stores it, and gives
// the cosignature line with its newline. proof joins oldSize to the note's size.
//
// Errors, with the status of C2SP tlog-witness: MALFORMED, TOO_LARGE or
// CHECKPOINT_INVALID for the form (400); ORIGIN_UNKNOWN (404); SIGNATURE_INVALID
// (403); ORIGIN_FROZEN for a log that is convicted or retired (403); a *[Stale] of
// code CHECKPOINT_STALE with the size last cosigned (409), or of code EQUIVOCATION
// if the head has just convicted the log (409); PROOF_INVALID (422); RATE_LIMITED
// (429); UNAVAILABLE if the store failed or the witness is full (503). [Status]
// gives the number.
func (w *Witness) AddCheckpoint(ctx context.Context, oldSize uint64, proof []anchor.Hash, note []byte) ([]byte, error) {
	if len(proof) > anchor.MaxProof {
		return nil, contracts.Errorf(contracts.Malformed, "witness: %d hashes, at most %d", len(proof), anchor.MaxProof)
	}
	n, key, err := w.open(note)
	if err != nil {
		return nil, err
	}
	if oldSize > n.Size {
		return nil, contracts.Errorf(contracts.Malformed, "witness: old size %d is above the head's %d", oldSize, n.Size)
	}
	// The time is taken before the step: then nothing larger had been stored at that
	// time, which is what the cosignature says.
	at := w.o.Now()
	// Losing the race for a record means that somebody advanced it: the second look
	// answers. More than a few in a row means that the store is at fault.
	for range 4 {
		err = w.step(ctx, n, key, oldSize, proof)
		if contracts.CodeOf(err) != contracts.Conflict {
			break
		}
	}
	if err != nil {
		if contracts.CodeOf(err) == contracts.Conflict {
			err = contracts.Errorf(contracts.Unavailable, "witness: %w", err)
		}
		return nil, err
	}
	s, err := anchor.Cosign(n.Checkpoint, w.o.Name, at, w.o.Signer)
	if err != nil {
		return nil, err
	}
	return s.Append(make([]byte, 0, 256)), nil
}

// open reads a note of a log that we follow, and verifies it. The rate is asked
// first: a log over it costs no signature check.
func (w *Witness) open(text []byte) (*anchor.Note, ed25519.PublicKey, error) {
	n, err := anchor.ParseNote(text)
	if err != nil {
		return nil, nil, err
	}
	key, err := w.o.Keys.LogKey(n.Origin)
	if err != nil {
		return nil, nil, contracts.Errorf(contracts.OriginUnknown, "witness: %.80q is not followed: %w", n.Origin, err)
	}
	if !w.limit.ready(n.Origin, w.o.Now()) {
		return nil, nil, contracts.Errorf(contracts.RateLimited, "witness: %.80q advances too often", n.Origin)
	}
	if err := n.Verify(key); err != nil {
		return nil, nil, err
	}
	return n, key, nil
}

// step is one attempt to check a head and store it. The code is CONFLICT if the
// record changed meanwhile.
func (w *Witness) step(ctx context.Context, n *anchor.Note, key ed25519.PublicKey, oldSize uint64, proof []anchor.Hash) error {
	stored, r, err := w.load(ctx, n.Origin)
	if err != nil {
		return err
	}
	if r.flags != 0 {
		return contracts.Errorf(contracts.OriginFrozen, "witness: %.80q is convicted or retired", n.Origin)
	}
	last, lastRoot := r.last()
	if h, ok := r.ofSize(n.Size); ok && h.root != n.Root {
		if err := w.convict(ctx, n, key, h); err != nil {
			return err
		}
		return &Stale{Size: last, Code: contracts.Equivocation}
	}
	if oldSize != last {
		return &Stale{Size: last, Code: contracts.CheckpointStale}
	}
	if err := anchor.VerifyConsistency(oldSize, n.Size, lastRoot, n.Root, proof); err != nil {
		return err
	}
	if stored == nil && w.origins.Load() >= int64(w.o.MaxOrigins) {
		return contracts.Errorf(contracts.Unavailable, "witness: full, with %d logs", w.o.MaxOrigins)
	}
	if !w.limit.take(n.Origin, w.o.Now()) {
		return contracts.Errorf(contracts.RateLimited, "witness: %.80q advances too often", n.Origin)
	}
	if n.Size == last && r.len() > 0 {
		return nil // the same head again: it is stored
	}
	h := head{size: n.Size, root: n.Root, sig: [64]byte(n.Bare(key).Signatures[0].Body)}
	if err := w.swap(ctx, n.Origin, stored, r.with(h, w.o.Ring)); err != nil {
		return err
	}
	return nil
}

func (w *Witness) load(ctx context.Context, origin string) ([]byte, record, error) {
	stored, err := w.o.Store.Load(ctx, origin)
	if err != nil {
		return nil, record{}, contracts.Errorf(contracts.Unavailable, "witness: load: %w", err)
	}
	r, err := parseRecord(stored)
	return stored, r, err
}

func (w *Witness) swap(ctx context.Context, origin string, old, record []byte) error {
	err := w.o.Store.Swap(ctx, origin, old, record)
	switch {
	case err == nil:
		if old == nil {
			w.origins.Add(1)
		}
		return nil
	case contracts.CodeOf(err) == contracts.Conflict:
		return err
	}
	return contracts.Errorf(contracts.Unavailable, "witness: store: %w", err)
}

// note rebuilds the note of a kept head.
func (h *head) note(origin string, key ed25519.PublicKey) (*anchor.Note, error) {
	d := anchor.Digest{Checkpoint: anchor.Checkpoint{Origin: origin, Size: h.size, Root: h.root}, Signature: h.sig}
	return d.Note(key)
}

// Head gives the last head of a log that was cosigned, nil if none was. It is what
// the log asks before its first signature after a start.
func (w *Witness) Head(ctx context.Context, origin string) (*anchor.Checkpoint, error) {
	_, r, err := w.load(ctx, origin)
	if err != nil || r.len() == 0 {
		return nil, err
	}
	size, root := r.last()
	return &anchor.Checkpoint{Origin: origin, Size: size, Root: root}, nil
}

// Note gives the last head that was cosigned as the log's own note, nil if none was:
// the proof that Head is not made up. Codes: ORIGIN_UNKNOWN, UNAVAILABLE.
func (w *Witness) Note(ctx context.Context, origin string) (*anchor.Note, error) {
	key, err := w.o.Keys.LogKey(origin)
	if err != nil {
		return nil, contracts.Errorf(contracts.OriginUnknown, "witness: %.80q is not followed: %w", origin, err)
	}
	_, r, err := w.load(ctx, origin)
	if err != nil || r.len() == 0 {
		return nil, err
	}
	h := r.at(r.len() - 1)
	return h.note(origin, key)
}

// Heads calls f with the last cosigned head of each log that is neither frozen nor
// retired, until f returns false.
func (w *Witness) Heads(ctx context.Context, f func(anchor.Checkpoint) bool) error {
	var bad error
	err := w.o.Store.Scan(ctx, func(origin string, stored []byte) bool {
		if strings.Contains(origin, " ") { // our own record, or another incarnation's
			return true
		}
		r, err := parseRecord(stored)
		if bad = err; bad != nil {
			return false
		}
		if r.flags != 0 || r.len() == 0 {
			return true
		}
		size, root := r.last()
		return f(anchor.Checkpoint{Origin: origin, Size: size, Root: root})
	})
	if bad != nil {
		return bad
	}
	return err
}

// Stale is an answer that carries the size last cosigned, which the submitter needs
// to make the right proof.
type Stale struct {
	Size uint64
	Code contracts.Code // CHECKPOINT_STALE, or EQUIVOCATION
}

// Error gives code and size.
func (s *Stale) Error() string { return fmt.Sprintf("%s: last cosigned size %d", s.Code, s.Size) }

// Unwrap gives the code.
func (s *Stale) Unwrap() error { return &contracts.Error{Code: s.Code} }

// sizeLine is the body of a 409.
func (s *Stale) sizeLine() []byte { return fmt.Appendf(nil, "%d\n", s.Size) }
