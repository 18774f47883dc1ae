package evidence

import (
	"context"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/gossip"
)

// learnFrom has the convictions of a peer fetched that this node does not hold.
func (s *Service) learnFrom(id peer.ID) {
	select {
	case s.learning <- id:
	default: // the next exchange finds the same difference
	}
}

func (s *Service) learn(ctx context.Context) {
	for {
		select {
		case id := <-s.learning:
			if err := s.learnAll(ctx, id); err != nil {
				s.log.Debug("learning convictions", "peer", id, "err", err)
			}
		case <-ctx.Done():
			return
		}
	}
}

// learnAll goes through the convictions of a peer. It ends with the first that does
// not convict: the next exchange begins again.
func (s *Service) learnAll(ctx context.Context, from peer.ID) error {
	ctx, cancel := context.WithTimeout(ctx, learnFor)
	defer cancel()
	var after [convictionID]byte
	for range 2 * maxEvidence / maxIDs { // a peer may hold more than maxEvidence of logs that it has met
		b, err := s.askLog(ctx, from, append([]byte{askConvictions}, after[:]...), maxIDsAnswer)
		if err != nil {
			return err
		}
		ids, err := parseIDs(b, after)
		if err != nil {
			return err
		}
		for _, id := range ids {
			if err := s.learnOne(ctx, from, id); err != nil {
				return err
			}
		}
		if len(ids) < maxIDs {
			return nil
		}
		after = ids[len(ids)-1]
	}
	return nil
}

func (s *Service) learnOne(ctx context.Context, from peer.ID, id [convictionID]byte) error {
	s.mu.Lock()
	_, known := s.ids[id]
	s.mu.Unlock()
	if known {
		return nil
	}
	b, err := s.askLog(ctx, from, append([]byte{askEvidence}, id[:]...), maxLogMessage)
	if err != nil {
		return err
	}
	c, _, err := VerifyMessage(b)
	if err != nil {
		return err
	}
	if idOf(c.Origin) != id {
		return contracts.Errorf(contracts.Malformed, "evidence against %.80s under another's id", c.Origin)
	}
	if s.judgeEvidence(b) != gossip.Accept {
		return nil // no room for logs that this node has never met
	}
	s.takeEvidence(ctx, b)
	_ = s.evidence.Publish(ctx, b) // to those who are not connected with the one who told us
	return nil
}

// announce tells the peers of the topic of new convictions by the log stream too, a
// while after they were gossiped: a message that goes out before the meshes stand
// reaches nobody, and gossip would not repeat it.
func (s *Service) announce(ctx context.Context) {
	tick := time.NewTicker(announceEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if !s.unannounced.Swap(false) {
			continue
		}
		for _, id := range s.evidence.Peers() {
			select {
			case s.meeting <- id:
			case <-ctx.Done():
				return
			}
		}
	}
}
