package witness

import (
	"context"
	"crypto/ed25519"

	"github.com/talosprotocol/talos/anchor"
	"github.com/talosprotocol/talos/contracts"
)

// convict stores evidence from a head and a kept one of the same size.
func (w *Witness) convict(ctx context.Context, n *anchor.Note, key ed25519.PublicKey, kept head) error {
	other, err := kept.note(n.Origin, key)
	if err != nil {
		return contracts.Errorf(contracts.StorageCorrupt, "witness: a kept head of %.80q does not verify: %w", n.Origin, err)
	}
	evidence := anchor.ForkOfSize(n.Bare(key), other).AppendCanonical(nil)
	return w.AddEvidence(ctx, evidence)
}

// AddEvidence verifies evidence from anywhere, stores it, and freezes the log that
// it convicts. A log has one evidence: more is verified and dropped. Codes: those of
// anchor.VerifyEvidence; ORIGIN_UNKNOWN; UNAVAILABLE.
func (w *Witness) AddEvidence(ctx context.Context, evidence []byte) error {
	c, err := anchor.VerifyEvidence(evidence, w.o.Keys)
	if err != nil {
		return err
	}
	for range 4 {
		var stored []byte
		var r record
		if stored, r, err = w.load(ctx, c.Origin); err != nil {
			return err
		}
		if r.flags&flagFrozen != 0 {
			return nil
		}
		if stored == nil && w.origins.Load() >= int64(w.o.MaxOrigins) {
			return contracts.Errorf(contracts.Unavailable, "witness: full, with %d logs", w.o.MaxOrigins)
		}
		r.flags |= flagFrozen
		r.evidence = evidence
		err = w.swap(ctx, c.Origin, stored, r.append(nil))
		if err == nil {
			w.o.Convicted(evidence)
			return nil
		}
		if contracts.CodeOf(err) != contracts.Conflict {
			return err
		}
	}
	return contracts.Errorf(contracts.Unavailable, "witness: %w", err)
}

// Evidence gives what convicts a log, nil if nothing does.
func (w *Witness) Evidence(ctx context.Context, origin string) ([]byte, error) {
	_, r, err := w.load(ctx, origin)
	if err != nil || r.flags&flagFrozen == 0 {
		return nil, err
	}
	return r.evidence, nil
}

// Retire closes a log whose owner began a new incarnation or rotated its key: no
// head of it is cosigned again, whoever holds the old key. It cannot be undone.
func (w *Witness) Retire(ctx context.Context, origin string) error {
	var err error
	for range 4 {
		var stored []byte
		var r record
		if stored, r, err = w.load(ctx, origin); err != nil {
			return err
		}
		if r.flags&flagRetired != 0 {
			return nil
		}
		r.flags |= flagRetired
		if err = w.swap(ctx, origin, stored, r.append(nil)); contracts.CodeOf(err) != contracts.Conflict {
			return err
		}
	}
	return contracts.Errorf(contracts.Unavailable, "witness: %w", err)
}

// Observation is what a digest means to a witness.
type Observation int

// The observations.
const (
	Known     Observation = iota // the head is one that is kept
	Ahead                        // the log is larger than cosigned: fetch a proof, or wait
	Behind                       // an older head that is not kept: fetch a proof to compare
	Convicted                    // the log is convicted, by this digest or before
)

// Observe looks at a digest from gossip or from a peer's message. It cosigns
// nothing and stores nothing but evidence. Codes: those of anchor.ParseDigest;
// ORIGIN_UNKNOWN; SIGNATURE_INVALID; UNAVAILABLE.
func (w *Witness) Observe(ctx context.Context, digest []byte) (Observation, error) {
	d, err := anchor.ParseDigest(digest)
	if err != nil {
		return 0, err
	}
	key, err := w.o.Keys.LogKey(d.Origin)
	if err != nil {
		return 0, contracts.Errorf(contracts.OriginUnknown, "witness: %.80q is not followed: %w", d.Origin, err)
	}
	_, r, err := w.load(ctx, d.Origin)
	if err != nil {
		return 0, err
	}
	h, kept := r.ofSize(d.Size)
	if kept && h.root == d.Root && r.flags&flagFrozen == 0 {
		return Known, nil // nothing new, whoever signed it
	}
	n, err := d.Note(key)
	if err != nil {
		return 0, err
	}
	last, _ := r.last()
	switch {
	case r.flags&flagFrozen != 0:
		return Convicted, nil
	case kept:
		return Convicted, w.convict(ctx, n, key, h)
	case d.Size > last || r.len() == 0:
		return Ahead, nil
	}
	return Behind, nil
}
