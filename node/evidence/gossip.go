package evidence

import (
	"context"
	"encoding/base64"

	"github.com/talosprotocol/talos/anchor"
	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/gossip"
	"github.com/talosprotocol/talos/identity"
)

// How much of other logs' heads a node remembers to compare new ones with.
const (
	seenOrigins = 4096
	seenHeads   = 16
)

// judgeDigest lets a digest pass whose log's key is known and has signed it. A log
// that cannot be resolved now is nobody's fault.
func (s *Service) judgeDigest(b []byte) gossip.Verdict {
	d, err := anchor.ParseDigest(b)
	if err != nil {
		return gossip.Reject
	}
	key, err := liveKeys{s.dir}.LogKey(d.Origin)
	if err != nil {
		return gossip.Ignore
	}
	n, err := d.Note(key)
	if err != nil {
		return gossip.Reject
	}
	if s.compare(n) {
		// A second root for a size travels as evidence, once, and never as a digest:
		// two copies relayed against each other would go round for ever.
		return gossip.Ignore
	}
	return gossip.Accept
}

// compare remembers a head and reports whether it contradicts one that was seen;
// then the evidence goes out.
func (s *Service) compare(n *anchor.Note) bool {
	s.mu.Lock()
	heads := s.seen[n.Origin]
	if heads == nil {
		if len(s.order) >= seenOrigins {
			delete(s.seen, s.order[0])
			s.order = s.order[1:]
		}
		s.order = append(s.order, n.Origin)
	}
	var other *anchor.Note
	for _, h := range heads {
		if h.Size == n.Size {
			other = h
		}
	}
	if other == nil {
		s.seen[n.Origin] = append(heads[max(0, len(heads)-seenHeads+1):], n)
	}
	s.mu.Unlock()
	if other == nil || other.Root == n.Root {
		return false
	}
	s.convicted(anchor.ForkOfSize(other, n).AppendCanonical(nil))
	return true
}

// takeDigest gets the digests that passed. An anchor compares them with what it has
// cosigned.
func (s *Service) takeDigest(ctx context.Context, b []byte) {
	if s.wit == nil {
		return
	}
	if _, err := s.wit.Observe(ctx, b); err != nil {
		s.log.Debug("digest", "err", err)
	}
}

// convicted keeps evidence that this node found and tells everybody, with the states
// that hold the keys.
func (s *Service) convicted(evidence []byte) {
	c, err := anchor.VerifyEvidence(evidence, liveKeys{s.dir})
	if err != nil {
		s.log.Error("own evidence does not verify", "err", err)
		return
	}
	m := contracts.EvidenceMessage{V: "talos-evidence-message/1", Evidence: base64.RawURLEncoding.EncodeToString(evidence)}
	dids := []string{didOf(c.Origin)}
	if c.Witness != "" {
		dids = append(dids, c.Witness)
	}
	for _, did := range dids {
		st, err := liveKeys{s.dir}.state(did)
		if err != nil {
			s.log.Error("the state for evidence", "did", did, "err", err)
			return
		}
		m.States = append(m.States, base64.RawURLEncoding.EncodeToString(st.Raw))
	}
	b := m.AppendCanonical(nil)
	s.takeEvidence(context.Background(), b)
	if err := s.evidence.Publish(context.Background(), b); err != nil {
		s.log.Error("evidence was not gossiped", "err", err)
	}
}

func didOf(origin string) string {
	for i := range origin {
		if origin[i] == '/' {
			return origin[:i]
		}
	}
	return origin
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
	if old, err := s.cfg.Rows.Get(evidenceKey(c.Origin)); err != nil || old != nil && string(old) != string(b) {
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
	old, err := s.cfg.Rows.Get(evidenceKey(c.Origin))
	if err == nil && old == nil {
		s.log.Warn("a log is convicted of two histories", "origin", c.Origin, "type", c.Type)
		err = s.cfg.Rows.Put(ctx, evidenceKey(c.Origin), b)
	}
	if err != nil {
		s.log.Error("evidence was not kept", "err", err)
	}
	if s.wit != nil {
		if err := s.wit.AddEvidence(ctx, evidence); err != nil {
			s.log.Debug("evidence at the witness", "err", err)
		}
	}
}

// Evidence gives the evidence messages that this node holds, by origin.
func (s *Service) Evidence() (map[string][]byte, error) {
	out := map[string][]byte{}
	err := s.cfg.Rows.Scan([]byte{'e'}, func(k, v []byte) bool { out[string(k[1:])] = v; return true })
	return out, err
}
