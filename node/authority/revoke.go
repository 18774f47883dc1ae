package authority

import (
	"context"
	"time"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/gossip"
	"github.com/talosprotocol/talos/identity"
	"github.com/talosprotocol/talos/identity/capability"
)

// pullEvery bounds how often one log is asked for.
const (
	pullEvery  = 2 * time.Second
	maxPulled  = 1 << 16
	maxRounds  = 64 // of one log, maxRecords each
	askedPeers = 4  // others, where the issuer is not reached
)

// loadLogs reads the revocation logs of the store. They were verified when they came,
// and are verified again: the store is not the judge.
func (s *Service) loadLogs(ctx context.Context) error {
	logs, err := s.cfg.Revocations.Logs(ctx)
	if err != nil {
		return err
	}
	for _, did := range logs {
		for from := int64(1); ; {
			records, err := s.cfg.Revocations.Records(ctx, did, from, 256)
			if err != nil {
				return err
			}
			for _, raw := range records {
				r, err := capability.VerifyRecord(raw, s.ownOr(did), s.now())
				if err == nil {
					err = s.set.Apply(r)
				}
				if err != nil {
					// Denies by itself: what is missing makes the issuer's tokens stale.
					s.log.Warn("a revocation of the store is not applied", "log", did, "err", err)
					break
				}
			}
			s.logs.done(did, from, len(records))
			if from += int64(len(records)); len(records) < 256 {
				break
			}
		}
	}
	return nil
}

// ownOr resolves this node's own keys without asking anybody.
func (s *Service) ownOr(did identity.DID) capability.Resolve {
	if did != s.dir.Self().DID {
		return s.issuer
	}
	return func(identity.DID) (*capability.Issuer, error) { return capability.NewIssuer(s.dir.Self()) }
}

// Revoke takes a token back that this node has issued, and all below it. It is denied
// here when Revoke returns, and told to the others.
func (s *Service) Revoke(ctx context.Context, id capability.TokenID, why string) error {
	b, err := s.cfg.Rows.Get([]byte(rowGave + id.String()))
	if err != nil {
		return err
	}
	if b == nil {
		return contracts.Errorf(contracts.NotFound, "this node has issued no token %s", id)
	}
	c, err := ParseChain(string(b))
	if err != nil {
		return err
	}
	signer, err := s.cfg.Signer()
	if err != nil {
		return err
	}
	if err := s.cfg.Record(ctx, "cap_revoke", identity.DID(c.Leaf().Sub), id); err != nil {
		return err
	}
	s.write.Lock()
	self := s.dir.Self().DID
	until := time.Unix(c.Leaf().Exp, 0).Add(time.Hour)
	text, tip, err := capability.Revoke(signer, s.set.Tip(self), capability.Target{Token: id}, why, until, s.now())
	var r *capability.Record
	if err == nil {
		r, err = capability.VerifyRecord([]byte(text), s.ownOr(self), s.now())
	}
	if err == nil { // durable before anybody hears of it
		err = s.cfg.Revocations.Append(ctx, self, tip.Seq, [][]byte{[]byte(text)}, nil)
	}
	if err == nil {
		err = s.set.Apply(r)
	}
	s.write.Unlock()
	if err != nil {
		return err
	}
	if err := s.topic.Publish(ctx, []byte(text)); err != nil {
		s.log.Debug("a revocation waits for the next head to be told", "err", err)
	}
	return s.beat(ctx)
}

// beat signs the head of the own log and tells it: whoever holds all until it knows
// that nothing else was taken back.
func (s *Service) beat(ctx context.Context) error {
	given, err := s.list(rowGave)
	if err != nil || len(given) == 0 {
		return err
	}
	head, err := s.ownHead()
	if err != nil {
		return err
	}
	return s.topic.Publish(ctx, []byte(head))
}

func (s *Service) ownHead() (string, error) {
	signer, err := s.cfg.Signer()
	if err != nil {
		return "", err
	}
	return capability.SignHead(signer, s.set.Tip(s.dir.Self().DID), s.now())
}

// judge lets records and heads pass that verify. An issuer that is not known now is
// nobody's fault.
func (s *Service) judge(b []byte) gossip.Verdict {
	if _, err := capability.LogOf(b); err != nil {
		return gossip.Reject
	}
	if _, _, err := s.read(b); err != nil {
		switch contracts.CodeOf(err) {
		case contracts.IssuerUnresolved, contracts.Unavailable, contracts.NotFound, contracts.NotYetValid:
			return gossip.Ignore
		}
		return gossip.Reject
	}
	return gossip.Accept
}

// read verifies a record or a head.
func (s *Service) read(b []byte) (*capability.Record, *capability.Head, error) {
	did, err := capability.LogOf(b)
	if err != nil {
		return nil, nil, err
	}
	r, err := capability.VerifyRecord(b, s.ownOr(did), s.now())
	if err == nil {
		return r, nil, nil
	}
	if contracts.CodeOf(err) != contracts.Malformed {
		return nil, nil, err
	}
	h, err := capability.VerifyHead(b, s.ownOr(did), s.now())
	return nil, h, err
}

// take applies what gossip brings.
func (s *Service) take(ctx context.Context, b []byte) {
	r, h, err := s.read(b)
	if err != nil {
		return
	}
	if h != nil {
		if err := s.set.ApplyHead(h); err != nil {
			s.log.Warn("a head of a revocation log", "log", h.Iss, "err", err)
		}
		if _, _, missing := s.set.Missing(h.Issuer()); missing {
			s.pull(ctx, h.Issuer())
		}
		return
	}
	if r.Issuer() == s.dir.Self().DID {
		return
	}
	if err := s.set.Apply(r); err != nil && contracts.CodeOf(err) != contracts.Conflict {
		s.log.Warn("a revocation", "log", r.Iss, "err", err)
		return
	}
	s.keep(ctx, r.Issuer(), r.Seq, [][]byte{b})
}
