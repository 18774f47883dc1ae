package evidence

import (
	"context"
	"encoding/base64"
	"strings"
	"time"

	"github.com/talosprotocol/talos/anchor"
	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/gossip"
	"github.com/talosprotocol/talos/identity"
)

// How much of other logs a node remembers: heads to compare new ones with, and
// evidence. Anybody can make DIDs and convict them; evidence against logs that this
// node has met is kept all the same.
const (
	seenOrigins = 4096
	seenHeads   = 16
	maxEvidence = 4096
	remindEvery = 30 * time.Minute
)

// judgeDigest lets a digest pass that is new, and whose log's key is known and has
// signed it. A log that cannot be resolved now is nobody's fault.
func (s *Service) judgeDigest(b []byte) gossip.Verdict {
	d, err := anchor.ParseDigest(b)
	if err != nil {
		return gossip.Reject
	}
	key, err := s.keys.gossipKey(d.Origin)
	if err != nil {
		return gossip.Ignore
	}
	n, err := d.Note(key)
	if err != nil {
		return gossip.Reject
	}
	fresh, other := s.compare(n)
	if other != nil {
		// A second root for a size travels as evidence, once, and never as a digest:
		// two copies relayed against each other would go round for ever.
		s.convicted(anchor.ForkOfSize(other, n).AppendCanonical(nil))
		return gossip.Ignore
	}
	if !fresh {
		return gossip.Ignore // somebody replays what everybody has
	}
	return gossip.Accept
}

// compare remembers a head, and gives the one that it contradicts.
func (s *Service) compare(n *anchor.Note) (fresh bool, other *anchor.Note) {
	s.mu.Lock()
	defer s.mu.Unlock()
	heads := s.seen[n.Origin]
	for _, h := range heads {
		if h.Size == n.Size {
			if h.Root == n.Root {
				return false, nil
			}
			return false, h
		}
	}
	if heads == nil {
		if len(s.order) >= seenOrigins {
			delete(s.seen, s.order[0])
			s.order = s.order[1:]
		}
		s.order = append(s.order, n.Origin)
	}
	s.seen[n.Origin] = append(heads[max(0, len(heads)-seenHeads+1):], n)
	return true, nil
}

// takeDigest gets the digests that passed. An anchor compares them with what it has
// cosigned. What it does not follow tells it nothing, and is not worth a lookup; what
// extends a log that it follows should be submitted soon.
func (s *Service) takeDigest(ctx context.Context, b []byte) {
	if s.wit == nil {
		return
	}
	d, err := anchor.ParseDigest(b)
	if err != nil {
		return
	}
	last, err := s.wit.Head(ctx, d.Origin)
	switch {
	case err != nil || last == nil || *last == d.Checkpoint:
	case d.Size > last.Size:
		s.awaitHead(d.Origin, b)
	default:
		s.againstRecord(ctx, b)
	}
}

// convicted keeps evidence that this node found and tells everybody, with the states
// that hold the keys.
func (s *Service) convicted(evidence []byte) {
	c, err := anchor.VerifyEvidence(evidence, s.keys)
	if err != nil {
		s.log.Error("own evidence does not verify", "err", err)
		return
	}
	if old, err := s.cfg.Rows.Get(evidenceKey(c.Origin)); err == nil && old != nil {
		return // everybody has been told
	}
	m := contracts.EvidenceMessage{V: "talos-evidence-message/1", Evidence: base64.RawURLEncoding.EncodeToString(evidence)}
	did, _, _ := strings.Cut(c.Origin, "/")
	dids := []string{did}
	if c.Witness != "" && c.Witness != did {
		dids = append(dids, c.Witness)
	}
	for _, did := range dids {
		st, err := s.keys.state(did)
		if err != nil {
			s.log.Error("the state for evidence", "did", did, "err", err)
			return
		}
		m.States = append(m.States, base64.RawURLEncoding.EncodeToString(st.Raw))
	}
	b := m.AppendCanonical(nil)
	s.takeEvidence(context.Background(), b)
	if err := s.evidence.Publish(context.Background(), b); err != nil {
		s.log.Warn("evidence was not gossiped", "err", err)
	}
}

// VerifyMessage verifies evidence with the states that it brings: offline, by
// anybody.
func VerifyMessage(b []byte) (*anchor.Conviction, []byte, error) {
	m, err := contracts.DecodeEvidenceMessage(b)
	if err != nil {
		return nil, nil, err
	}
	evidence, err := base64.RawURLEncoding.Strict().DecodeString(m.Evidence)
	if err != nil {
		return nil, nil, contracts.Errorf(contracts.Malformed, "evidence: not base64url")
	}
	records := make([][]byte, len(m.States))
	for i, t := range m.States {
		if records[i], err = base64.RawURLEncoding.Strict().DecodeString(t); err != nil {
			return nil, nil, contracts.Errorf(contracts.Malformed, "states: not base64url")
		}
	}
	keys, err := identity.NewStateKeys(records)
	if err != nil {
		return nil, nil, err
	}
	c, err := anchor.VerifyEvidence(evidence, keys)
	return c, evidence, err
}

func evidenceKey(origin string) []byte { return append([]byte{'e'}, origin...) }

// judgeEvidence lets valid evidence pass, one for each log.
func (s *Service) judgeEvidence(b []byte) gossip.Verdict {
	c, _, err := VerifyMessage(b)
	if err != nil {
		return gossip.Reject
	}
	s.mu.Lock()
	full := len(s.ids) >= maxEvidence && s.seen[c.Origin] == nil
	s.mu.Unlock()
	switch old, err := s.cfg.Rows.Get(evidenceKey(c.Origin)); {
	case err != nil, old == nil && full, old != nil && string(old) != string(b):
		return gossip.Ignore
	}
	return gossip.Accept
}

// takeEvidence keeps evidence and freezes the log at our witness.
func (s *Service) takeEvidence(ctx context.Context, b []byte) {
	c, evidence, err := VerifyMessage(b)
	if err != nil {
		return
	}
	if err := s.keepEvidence(ctx, c, b); err != nil {
		s.log.Error("evidence was not kept", "err", err)
	}
	if s.wit != nil {
		if err := s.wit.AddEvidence(ctx, evidence); err != nil {
			s.log.Debug("evidence at the witness", "err", err)
		}
	}
}

// keepEvidence stores the first evidence against a log.
func (s *Service) keepEvidence(ctx context.Context, c *anchor.Conviction, b []byte) error {
	s.rows.Lock()
	defer s.rows.Unlock()
	old, err := s.cfg.Rows.Get(evidenceKey(c.Origin))
	if err != nil || old != nil {
		return err
	}
	s.log.Warn("a log is convicted of two histories", "origin", c.Origin, "type", c.Type)
	if err := s.cfg.Rows.Put(ctx, evidenceKey(c.Origin), b); err != nil {
		return err
	}
	s.mu.Lock()
	s.know(c.Origin)
	s.mu.Unlock()
	s.unannounced.Store(true)
	return nil
}

// remind freezes what a crash left unfrozen, and gossips the evidence again now and
// then, for nodes that were away: an anchor's part, to whom all are connected.
func (s *Service) remind(ctx context.Context) {
	tick := time.NewTicker(remindEvery)
	defer tick.Stop()
	for {
		all, err := s.Evidence()
		if err != nil {
			s.log.Error("reading the evidence", "err", err)
		}
		for _, b := range all {
			s.takeEvidence(ctx, b)
			_ = s.evidence.Publish(ctx, b) // the next time does as well
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// Evidence gives the evidence messages that this node holds, by origin.
func (s *Service) Evidence() (map[string][]byte, error) {
	out := map[string][]byte{}
	err := s.cfg.Rows.Scan([]byte{'e'}, func(k, v []byte) bool { out[string(k[1:])] = v; return true })
	return out, err
}
