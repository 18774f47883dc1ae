package evidence

import (
	"context"
	"encoding/binary"
	"strings"
	"time"

	"github.com/talosprotocol/talos/anchor"
	"github.com/talosprotocol/talos/anchor/chain/ethereum"
	"github.com/talosprotocol/talos/anchor/chain/opentimestamps"
	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
)

// A log's part in anchoring: it fetches where its anchors have put its heads, and keeps
// that beside them.

// Bounds of collecting.
const (
	keptAnchorings = 4096                // of one anchor: three days of minutes
	collectAtOnce  = 16                  // new ones of one anchor in a round
	collectFor     = 5 * time.Second     // for one anchor
	watchFor       = 30 * 24 * time.Hour // receipts of an anchoring may come so late
)

// anchoringPrefix begins the rows of an anchor: 'a', incarnation, the anchor's DID, 00.
func (s *Service) anchoringPrefix(by identity.DID) []byte {
	b := binary.BigEndian.AppendUint16([]byte{'a'}, s.cfg.Incarnation)
	return append(append(b, by...), 0)
}

func (s *Service) anchoringKey(by identity.DID, size uint64) []byte {
	return binary.BigEndian.AppendUint64(s.anchoringPrefix(by), size)
}

// collect asks the anchors twice an epoch.
func (s *Service) collect(ctx context.Context) {
	tick := time.NewTicker(max(s.epochEvery()/2, time.Second/2))
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		for _, a := range s.cfg.Anchors {
			if err := s.collectFrom(ctx, a); err != nil {
				s.log.Debug("an anchor gave no anchoring", "anchor", a, "err", err)
			}
		}
	}
}

// held is what is kept of one anchor, so that it is read once: the sizes, ascending, and
// the anchoring whose further receipts are worth asking for. That is the first after the
// last one that has more than signatures: what a chain has of it, it has of all before.
type held struct {
	sizes   []uint64
	watched *anchor.Anchoring
}

func (h *held) add(a *anchor.Anchoring) {
	switch {
	case len(a.Receipts) > 1:
		h.watched = nil
	case h.watched == nil:
		if t, err := anchor.ParseTime(a.Event.Time); err == nil && time.Since(t) < watchFor {
			h.watched = a
		}
	}
	h.sizes = append(h.sizes, a.Leaf.Size)
}

// heldOf gives what is kept of an anchor; the caller holds s.collecting.
func (s *Service) heldOf(by identity.DID) (*held, error) {
	if h := s.held[by]; h != nil {
		return h, nil
	}
	h := new(held)
	err := s.cfg.Rows.Scan(s.anchoringPrefix(by), func(_, v []byte) bool {
		if a, err := anchor.ReadAnchoring(v, s.al.Origin()); err == nil {
			h.add(a)
		}
		return true
	})
	if err == nil {
		s.held[by] = h
	}
	return h, err
}

// collectFrom asks an anchor for the anchorings of heads above the last that it gave, and
// for the receipts that have come since for the one that still lacks some.
func (s *Service) collectFrom(ctx context.Context, by identity.DID) error {
	ctx, cancel := context.WithTimeout(ctx, collectFor)
	defer cancel()
	s.collecting.Lock()
	defer s.collecting.Unlock()
	h, err := s.heldOf(by)
	if err != nil {
		return err
	}
	if h.watched != nil {
		if err := s.fetchAgain(ctx, by, h.watched); err != nil {
			return err
		}
		if h, err = s.heldOf(by); err != nil {
			return err
		}
	}
	s.mu.Lock()
	newest := s.newest
	s.mu.Unlock()
	for range collectAtOnce {
		last := uint64(0)
		if n := len(h.sizes); n > 0 {
			last = h.sizes[n-1]
		}
		if newest.Note == nil || newest.Note.Size <= last {
			break
		}
		if more, err := s.fetchAbove(ctx, by, h, last); err != nil || !more {
			return err
		}
	}
	for ; len(h.sizes) > keptAnchorings; h.sizes = h.sizes[1:] {
		if err := s.cfg.Rows.Delete(ctx, s.anchoringKey(by, h.sizes[0])); err != nil {
			return err
		}
	}
	return nil
}

func (s *Service) fetchAbove(ctx context.Context, by identity.DID, h *held, last uint64) (more bool, err error) {
	a, err := s.askAnchoring(ctx, by, askAnchoring, last+1)
	if err != nil || a == nil {
		return false, err
	}
	if a.Leaf.Size <= last {
		return false, contracts.Errorf(contracts.Malformed, "an anchoring of size %d, where one above %d was asked for", a.Leaf.Size, last)
	}
	if err := s.keepAnchoring(ctx, by, a); err != nil {
		return false, err
	}
	h.add(a)
	return true, nil
}

// fetchAgain asks for an anchoring again; one that lacks what was there is not taken
// (CHAIN-17).
func (s *Service) fetchAgain(ctx context.Context, by identity.DID, old *anchor.Anchoring) error {
	a, err := s.askAnchoring(ctx, by, askEpoch, old.Epoch())
	if err != nil || a == nil {
		return err
	}
	if a.Leaf != old.Leaf || a.Entry != old.Entry {
		return contracts.Errorf(contracts.Conflict, "epoch %d is another than it was", old.Epoch())
	}
	if !provesMore(a, old) {
		return nil
	}
	delete(s.held, by) // another one is watched now
	return s.keepAnchoring(ctx, by, a)
}

// provesMore says that an anchoring has the receipts of another, and more.
func provesMore(a, old *anchor.Anchoring) bool {
	has := map[[2]string]bool{}
	for i := range a.Receipts {
		has[[2]string{a.Receipts[i].Driver, a.Receipts[i].Chain}] = true
	}
	for i := range old.Receipts {
		if !has[[2]string{old.Receipts[i].Driver, old.Receipts[i].Chain}] {
			return false
		}
	}
	return len(a.Receipts) > len(old.Receipts)
}

func (s *Service) keepAnchoring(ctx context.Context, by identity.DID, a *anchor.Anchoring) error {
	c, err := a.Contract()
	if err != nil {
		return err
	}
	return s.cfg.Rows.Put(ctx, s.anchoringKey(by, a.Leaf.Size), c.AppendCanonical(nil))
}

// askAnchoring asks an anchor, and checks the answer as a verifier would.
func (s *Service) askAnchoring(ctx context.Context, by identity.DID, what byte, n uint64) (*anchor.Anchoring, error) {
	body := append(binary.BigEndian.AppendUint64([]byte{what}, n), s.al.Origin()...)
	b, err := s.askUpTo(ctx, by, body, maxAnchoring)
	if err != nil {
		return nil, err
	}
	if len(b) < 2 || binary.BigEndian.Uint16(b) != 200 {
		return nil, contracts.Errorf(contracts.Unavailable, "anchor %s refuses", by.Short())
	}
	if len(b) == 2 {
		return nil, nil
	}
	return s.checkAnchoring(ctx, by, b[2:])
}

// checkAnchoring checks that an anchoring is of this log and of the anchor that gave it,
// and that nothing in it is invalid.
func (s *Service) checkAnchoring(ctx context.Context, by identity.DID, text []byte) (*anchor.Anchoring, error) {
	a, err := anchor.ReadAnchoring(text, s.al.Origin())
	if err != nil {
		return nil, err
	}
	if did, _, _ := strings.Cut(a.Anchor, "/"); did != string(by) {
		return nil, contracts.Errorf(contracts.Forbidden, "an anchoring by %.80s", a.Anchor)
	}
	root, err := s.al.Root(ctx, a.Leaf.Size)
	if err != nil {
		return nil, err
	}
	if root != a.Leaf.Root {
		return nil, contracts.Errorf(contracts.ProofInvalid, "an anchoring of a head of size %d that this log never signed", a.Leaf.Size)
	}
	policy := anchor.Policy{Witnesses: []anchor.PolicyWitness{{Name: string(by), Organisation: string(by)}}, Quorum: 1}
	chains := OfflineChains()
	for i := range a.Receipts {
		r := &a.Receipts[i]
		f := anchor.Finding{Outcome: anchor.CannotTell}
		if r.Driver == anchor.QuorumDriver {
			f = anchor.VerifyQuorum(r, s.keys, policy, time.Now())
		} else if v := chains[r.Driver]; v != nil {
			f = v.VerifyReceipt(r)
		}
		if f.Outcome == anchor.NotValid {
			return nil, contracts.Errorf(contracts.ProofInvalid, "a receipt of %s: %s", r.Chain, f.Why)
		}
	}
	return a, nil
}

// OfflineChains are the verifiers of receipts that trust nobody: they can tell what is
// invalid.
func OfflineChains() map[string]anchor.ReceiptVerifier {
	return map[string]anchor.ReceiptVerifier{ethereum.Name: new(ethereum.Verifier), opentimestamps.Name: new(opentimestamps.Verifier)}
}

// anchoringsFor gives, for a head, the anchoring of each anchor that proves most: the
// first of a head of that size or above, or a later one that is on more chains.
func (s *Service) anchoringsFor(ctx context.Context, head *anchor.Note) (out []anchor.HeadAnchoring, err error) {
	for _, by := range s.cfg.Anchors {
		var best *anchor.Anchoring
		err := s.cfg.Rows.Scan(s.anchoringPrefix(by), func(k, v []byte) bool {
			if binary.BigEndian.Uint64(k[len(k)-8:]) < head.Size {
				return true
			}
			if a, err := anchor.ReadAnchoring(v, head.Origin); err == nil && (best == nil || len(a.Receipts) > len(best.Receipts)) {
				best = a
			}
			return best == nil || len(best.Receipts) < 2
		})
		if err != nil {
			return nil, err
		}
		if best == nil || len(out) == maxAnchorings {
			continue
		}
		proof, err := s.al.Consistency(ctx, head.Size, best.Leaf.Size)
		if err != nil {
			return nil, err
		}
		out = append(out, anchor.HeadAnchoring{Anchoring: *best, Consistency: proof})
	}
	return out, nil
}

// maxAnchorings bounds the anchorings of a bundle.
const maxAnchorings = 8
