package evidence

import (
	"context"
	"strings"
	"time"

	"github.com/talosprotocol/talos/anchor"
	"github.com/talosprotocol/talos/anchor/witness"
	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
)

// Bounds of asking logs about their heads.
const (
	inquiryQueue = 256             // pairs of heads that wait
	inquirers    = 4               // inquiries at once
	inquireFor   = 2 * time.Minute // for one

	// Of one log four pairs at once, then one in 15 s.
	inquireEvery, inquireBurst = 15 * time.Second, 4

	aheadLogs = 4096 // logs whose next head an anchor waits for
	aheadTick = 10 * time.Second
)

// aheadFor is how long a log may take to submit a head that it has gossiped: a
// variable for tests alone.
var aheadFor = time.Minute

// pair is two heads of one log, both signed by it, that nothing joins yet.
type pair struct{ a, b *anchor.Note }

// suspect has two heads of a log compared by asking the log. nil is no head.
func (s *Service) suspect(a, b *anchor.Note) {
	if a == nil || b == nil || a.Checkpoint == b.Checkpoint || min(a.Size, b.Size) == 0 {
		return
	}
	s.mu.Lock()
	_, convicted := s.ids[idOf(a.Origin)]
	s.mu.Unlock()
	if convicted || !s.inquired.take(a.Origin) {
		return
	}
	select {
	case s.pairs <- pair{a, b}:
	default: // the next head of the log brings another pair
	}
}

func (s *Service) inquire(ctx context.Context) {
	for {
		select {
		case p := <-s.pairs:
			s.compareHistories(ctx, p)
		case <-ctx.Done():
			return
		}
	}
}

// compareHistories asks a log for proofs under two of its heads until they are joined,
// or convict it. A log that does not answer, or with nonsense, is suspected as before
// and convicted of nothing.
func (s *Service) compareHistories(ctx context.Context, p pair) {
	ctx, cancel := context.WithTimeout(ctx, inquireFor)
	defer cancel()
	e, err := anchor.FindFork(ctx, p.a, p.b, s.proveTheirs)
	switch {
	case err != nil:
		s.log.Info("two heads of a log are not joined: it proves nothing", "origin", p.a.Origin, "sizes", []uint64{p.a.Size, p.b.Size}, "err", err)
	case e != nil:
		s.convicted(e.AppendCanonical(nil))
	}
}

// proveTheirs asks the owner of a log for an entry under one of its heads.
func (s *Service) proveTheirs(ctx context.Context, n *anchor.Note, index uint64) (leaf anchor.Hash, proof []anchor.Hash, err error) {
	did, _, _ := strings.Cut(n.Origin, "/")
	id, p, err := s.dir.Connect(ctx, identity.DID(did))
	if err != nil {
		return leaf, nil, err
	}
	if p.State == nil {
		return leaf, nil, contracts.Errorf(contracts.OriginUnknown, "%s keeps no log", did)
	}
	key, err := identity.StateKeys{p.DID: p.State}.LogKey(n.Origin)
	if err != nil {
		return leaf, nil, err
	}
	d, err := n.Digest(key)
	if err != nil {
		return leaf, nil, err
	}
	ask, err := appendInclusionAsk([]byte{askInclusion}, d, index)
	if err != nil {
		return leaf, nil, err
	}
	b, err := s.askLog(ctx, id, ask, maxInclusion)
	if err != nil {
		return leaf, nil, err
	}
	return parseInclusion(b)
}

// submitted looks at a head that our witness refused: one that no proof joins to what
// was cosigned, or an older one.
func (s *Service) submitted(ctx context.Context, text []byte, refusal error) {
	n, err := anchor.ParseNote(text)
	if err != nil {
		return
	}
	switch contracts.CodeOf(refusal) {
	case contracts.ProofInvalid:
	case contracts.CheckpointStale:
		// A larger one comes again with the right proof: every log begins so after a start.
		if last, err := s.wit.Head(ctx, n.Origin); err != nil || last == nil || n.Size > last.Size {
			return
		}
	default:
		return
	}
	key, err := s.keys.knownKey(n.Origin)
	if err != nil {
		return
	}
	if d, err := n.Digest(key); err == nil {
		if b, err := d.Append(nil); err == nil {
			s.againstRecord(ctx, b)
		}
	}
}

// againstRecord compares a head with those that our witness has cosigned: one of a
// kept size decides at once, and for another the log is asked.
func (s *Service) againstRecord(ctx context.Context, digest []byte) {
	d, err := anchor.ParseDigest(digest)
	if err != nil {
		return
	}
	seen, err := s.wit.Observe(ctx, digest)
	if err != nil || seen == witness.Known || seen == witness.Convicted {
		return
	}
	last, err := s.wit.Note(ctx, d.Origin)
	if err != nil || last == nil {
		return
	}
	key, err := s.keys.knownKey(d.Origin)
	if err != nil {
		return
	}
	if n, err := d.Note(key); err == nil {
		s.suspect(last, n)
	}
}

// ahead is the digest of a head from gossip that its log has not submitted yet.
type ahead struct {
	digest []byte
	due    time.Time
}

// awaitHead gives a log time to submit what it has gossiped.
func (s *Service) awaitHead(origin string, digest []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.awaited[origin]; !ok && len(s.awaited) < aheadLogs {
		s.awaited[origin] = ahead{digest, time.Now().Add(s.patience)}
	}
}

// overdue looks at the heads that should have been submitted by now: a log that shows
// this anchor one history and everybody else another keeps the other from it.
func (s *Service) overdue(ctx context.Context) {
	tick := time.NewTicker(min(aheadTick, s.patience))
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		var due [][]byte
		s.mu.Lock()
		for o, a := range s.awaited {
			if time.Now().After(a.due) {
				due = append(due, a.digest)
				delete(s.awaited, o)
			}
		}
		s.mu.Unlock()
		for _, d := range due {
			s.againstRecord(ctx, d)
		}
	}
}
