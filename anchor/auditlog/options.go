package auditlog

import (
	"context"
	"io"
	"time"

	"github.com/talosprotocol/talos/anchor"
	"github.com/talosprotocol/talos/contracts"
)

// Options is all that a log depends on. Origin, Signer, Backend, HeadFile, Clock
// and Rand are required; zero numbers mean the defaults.
type Options struct {
	Origin   anchor.Origin
	Signer   anchor.Signer // of the log key, which belongs to this origin alone
	Backend  Backend
	HeadFile HeadFile
	Clock    Clock
	// Rand gives salts and ids: crypto/rand.Reader outside of tests. It is read
	// concurrently.
	Rand io.Reader

	// Publish gets each signed head once it is durable, in order, from the committer:
	// it must hand it on and return. Losing one is harmless. Nil: nobody listens.
	Publish func(*anchor.Note)
	// Confirm asks an anchor for the last head of this log that it cosigned, before
	// the first signature; size 0 means that it has seen none. The caller believes only
	// a head that this log's key has signed: else one lying anchor could stop the log.
	// On an error the log
	// takes events but signs nothing, and asks again when the next checkpoint is due.
	// It runs in a goroutine of its own. Nil: nobody is asked.
	Confirm func(context.Context) (size uint64, root anchor.Hash, err error)
	// Free gives the free bytes of the disk. Nil: not watched.
	Free func() (uint64, error)

	// Reserve is how many free bytes the log leaves alone: 64 MiB, which the other
	// stores of a node need to come to rest without losing data.
	Reserve uint64
	// Interval is the time between checkpoints: 60 s.
	Interval time.Duration
	// Events is how many events make a checkpoint due before its time: 256.
	Events uint64
	// MinInterval is the least time between two checkpoints that are due by Events:
	// 1 s. A head costs two syncs and a round to the anchors, who allow few.
	MinInterval time.Duration
	// MaxBatch is how many events one write takes: 4096, a few MiB.
	MaxBatch int
	// MaxBytes is about how many bytes of companions one write takes: 1 MiB. One that
	// is larger by itself is written alone.
	MaxBytes int

	// Begin is written as the first entry of an empty log that follows an earlier
	// incarnation. It is required from incarnation 2 on.
	Begin *Succession
}

// Succession says why a new incarnation begins, and after which head.
type Succession struct {
	// Reason is one of the event's: rotated makes a key_rotate entry, any other a
	// recovered entry.
	Reason string
	// Last is the last head of the incarnation before that is known to be cosigned;
	// its zero value means that none was ever signed.
	Last anchor.Checkpoint
	// Lost is how many entries of it are lost, as far as known.
	Lost uint64
}

func (o *Options) defaults() error {
	switch {
	case o.Signer == nil, o.Backend == nil, o.HeadFile == nil, o.Clock == nil, o.Rand == nil:
		return contracts.Errorf(contracts.ConfigInvalid, "audit log: Signer, Backend, HeadFile, Clock and Rand are required")
	case o.Origin.Incarnation > 1 && o.Begin == nil:
		return contracts.Errorf(contracts.ConfigInvalid, "audit log: incarnation %d must say what it follows", o.Origin.Incarnation)
	}
	if _, err := anchor.ParseOrigin(o.Origin.String()); err != nil {
		return err
	}
	or(&o.Reserve, 64<<20)
	or(&o.Interval, 60*time.Second)
	or(&o.Events, 256)
	or(&o.MinInterval, time.Second)
	or(&o.MaxBatch, 4096)
	or(&o.MaxBytes, 1<<20)
	if o.Publish == nil {
		o.Publish = func(*anchor.Note) {}
	}
	return nil
}

func or[T comparable](p *T, def T) {
	var zero T
	if *p == zero {
		*p = def
	}
}
