package evidence

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"slices"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/talosprotocol/talos/anchor"
	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
)

// Bounds of exchanging heads with peers.
const (
	metLogs       = 1024            // logs of peers whose newest head is kept, on disk too
	exchangeQueue = 256             // peers that wait for an exchange
	exchangers    = 4               // exchanges at once
	exchangeEvery = time.Minute     // at the most, with one peer while a connection lasts
	toldPeers     = 4096            // peers that are exchanged with again
	announceEvery = 5 * time.Second // new convictions, to all peers of the topic
	learnFor      = time.Minute     // to learn a peer's convictions

	// A peer that comes into the topic again and again: three times, then once in this.
	joinEvery, joinBurst = 10 * time.Second, 3

	// A peer's head is recorded once a minute, of all peers 60 at once and one a second.
	recordEvery                    = time.Minute
	recordAllEvery, recordAllBurst = time.Second, 60
)

func metKey(origin string) []byte { return append([]byte{'m'}, origin...) }

// newlyBound gets the peers that this node has bound; it must not wait.
func (s *Service) newlyBound(id peer.ID) {
	s.mu.Lock()
	if len(s.told) < toldPeers {
		s.told[id] = told{}
	}
	s.mu.Unlock()
	s.meet(id)
}

// newInTopic gets the peers that come into the topic of evidence: one that was not
// there when a conviction was gossiped would not hear of it.
func (s *Service) newInTopic(id peer.ID) {
	s.mu.Lock()
	some := len(s.ids) > 0
	s.mu.Unlock()
	if some && s.joins.take(string(id)) {
		s.meet(id)
	}
}

// meet has heads exchanged with a peer. What finds the queue full is left to the next
// minute, or to the peer.
func (s *Service) meet(id peer.ID) {
	select {
	case s.meeting <- id:
	default:
	}
}

// told is what a peer was last told of this log.
type told struct {
	at   time.Time
	size uint64 // of the log, without the records of peers' heads
}

// exchange works off the queue.
func (s *Service) exchange(ctx context.Context) {
	for {
		select {
		case id := <-s.meeting:
			if err := s.exchangeWith(ctx, id); err != nil {
				s.log.Debug("exchange of heads", "peer", id, "err", err)
			}
		case <-ctx.Done():
			return
		}
	}
}

// exchangeWith tells a peer the newest heads and takes its.
func (s *Service) exchangeWith(ctx context.Context, id peer.ID) error {
	s.mu.Lock()
	if t, ok := s.told[id]; ok {
		t.at = time.Now() // whatever comes of it: one that fails is not tried all the time
		s.told[id] = t
	}
	s.mu.Unlock()
	size := s.saidSize()
	answer, err := s.askLog(ctx, id, append([]byte{askHeads}, s.ourHeads(id)...), maxLogAsk)
	if err != nil {
		return err
	}
	s.mu.Lock()
	if t, ok := s.told[id]; ok {
		t.size = size
		s.told[id] = t
	}
	s.mu.Unlock()
	return s.takeHeads(ctx, id, answer)
}

// saidSize is the size of the log without the records of peers' heads: two peers that
// told each other of those would never come to rest.
func (s *Service) saidSize() uint64 { return s.al.Size() - min(s.al.Size(), s.recorded.Load()) }

// keepTelling repeats the exchange with peers that this node has bound, when its log
// has gone on.
func (s *Service) keepTelling(ctx context.Context) {
	tick := time.NewTicker(exchangeEvery / 6)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		size, now := s.saidSize(), time.Now()
		s.mu.Lock()
		for id, t := range s.told {
			switch {
			case len(s.h.Host.Network().ConnsToPeer(id)) == 0:
				delete(s.told, id)
			case t.size < size && now.Sub(t.at) >= exchangeEvery:
				s.meet(id)
			}
		}
		s.mu.Unlock()
	}
}

// ourHeads is what a peer is told: our newest head, and those of the peers that we
// have met last.
func (s *Service) ourHeads(to peer.ID) []byte {
	var m headsMessage
	s.mu.Lock()
	m.summary = s.summary
	s.mu.Unlock()
	if h := s.al.Head(); h != nil {
		if d, err := h.Digest(s.cfg.LogKey.Public().Bytes()); err == nil {
			m.heads = append(m.heads, d)
		}
	}
	its := ""
	if p := s.dir.Bound(to); p != nil {
		its = string(p.DID)
	}
	met := s.met.Values() // oldest first
	slices.Reverse(met)
	for _, d := range met {
		if did, _, _ := strings.Cut(d.Origin, "/"); did != its && len(m.heads) < maxHeads {
			m.heads = append(m.heads, d)
		}
	}
	return m.append(nil)
}

// takeHeads looks at what a peer tells. What does not verify under the peer's own name
// ends it; heads of others that are not known here tell nothing.
func (s *Service) takeHeads(ctx context.Context, from peer.ID, body []byte) error {
	m, err := parseHeads(body)
	if err != nil {
		return err
	}
	bound := s.dir.Bound(from)
	for _, d := range m.heads {
		did, _, _ := strings.Cut(d.Origin, "/")
		switch {
		case d.Origin == s.al.Origin():
		case bound != nil && bound.State != nil && did == string(bound.DID):
			if err := s.takePeerHead(ctx, bound.State, d); err != nil {
				return err
			}
		default:
			s.takeOthersHead(ctx, d)
		}
	}
	s.mu.Lock()
	differs := m.summary != s.summary
	s.mu.Unlock()
	if differs {
		s.learnFrom(from)
	}
	return nil
}

// takePeerHead takes the head that a peer shows of its own log: it is kept, recorded,
// and compared with the one before and with what gossip said.
func (s *Service) takePeerHead(ctx context.Context, st *identity.State, d *anchor.Digest) error {
	key, err := identity.StateKeys{st.DID: st}.LogKey(d.Origin)
	if err != nil {
		return err
	}
	n, err := d.Note(key)
	if err != nil {
		return err
	}
	before, newest := s.knownHeads(n, key)
	fresh, other := s.compare(n)
	if other != nil {
		s.convicted(anchor.ForkOfSize(other, n).AppendCanonical(nil))
		return nil
	}
	if before == nil || before.Size < n.Size {
		s.met.Add(d.Origin, d)
		if b, err := d.Append(nil); err == nil {
			if err := s.cfg.Rows.Put(ctx, metKey(d.Origin), b); err != nil {
				s.log.Debug("a peer's head was not kept", "err", err)
			}
		}
		s.recordHead(ctx, st.DID, n)
	}
	if fresh || before == nil || before.Checkpoint != n.Checkpoint {
		s.suspect(before, n)
		s.suspect(newest, n)
	}
	return nil
}

// takeOthersHead takes the head of a third log. Only one that can contradict something
// is worth a signature check; nothing is looked up in the network for it.
func (s *Service) takeOthersHead(ctx context.Context, d *anchor.Digest) {
	s.mu.Lock()
	seen := s.seen[d.Origin] != nil
	s.mu.Unlock()
	if !seen && !s.met.Contains(d.Origin) && s.wit == nil {
		return
	}
	key, err := s.keys.knownKey(d.Origin)
	if err != nil {
		return
	}
	n, err := d.Note(key)
	if err != nil {
		return // its bearer may be wrong about others
	}
	before, _ := s.knownHeads(n, key)
	fresh, other := s.compare(n)
	if other != nil {
		s.convicted(anchor.ForkOfSize(other, n).AppendCanonical(nil))
		return
	}
	if fresh {
		s.suspect(before, n)
	}
	if b, err := d.Append(nil); err == nil {
		s.takeDigest(ctx, b)
	}
}

// knownHeads gives the newest head that the log's owner has shown us, and the newest
// of another size that anybody has; nil where there is none.
func (s *Service) knownHeads(n *anchor.Note, key ed25519.PublicKey) (met, newest *anchor.Note) {
	if d, ok := s.met.Peek(n.Origin); ok {
		met, _ = d.Note(key)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, h := range s.seen[n.Origin] {
		if h.Size != n.Size && (met == nil || h.Size != met.Size) && (newest == nil || h.Size > newest.Size) {
			newest = h
		}
	}
	return met, newest
}

// recordHead logs the new head of a peer. An anchor keeps heads in its record of
// cosignatures instead.
func (s *Service) recordHead(ctx context.Context, did identity.DID, n *anchor.Note) {
	if s.wit != nil || !s.records.take(string(did)) || !s.allRecords.take("") {
		return
	}
	ev := s.NewEvent("peer_head")
	size := int64(n.Size)
	ev.Peer, ev.HeadOrigin, ev.HeadSize, ev.HeadRoot = string(did), n.Origin, &size, anchor.EncodeHash(n.Root)
	s.recorded.Add(1) // first: in between, the record would look like news
	if _, err := s.al.Append(ctx, ev); err != nil {
		s.recorded.Add(^uint64(0))
		s.log.Debug("a peer's head was not recorded", "err", err)
	}
}

// idsAfter gives a page of the ids of all convictions.
func (s *Service) idsAfter(body []byte) ([]byte, error) {
	if len(body) != convictionID {
		return nil, contracts.Errorf(contracts.Malformed, "an id of %d bytes", len(body))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []byte
	for _, id := range s.sortedIDs() {
		if bytes.Compare(id[:], body) > 0 && len(out) < maxIDs*convictionID {
			out = append(out, id[:]...)
		}
	}
	return out, nil
}

func (s *Service) evidenceByID(body []byte) ([]byte, error) {
	if len(body) != convictionID {
		return nil, contracts.Errorf(contracts.Malformed, "an id of %d bytes", len(body))
	}
	s.mu.Lock()
	origin, ok := s.ids[[convictionID]byte(body)]
	s.mu.Unlock()
	if !ok {
		return nil, contracts.Errorf(contracts.NotFound, "no such conviction")
	}
	return s.cfg.Rows.Get(evidenceKey(origin))
}

// know enters a conviction into what peers are told of. mu is held.
func (s *Service) know(origin string) {
	s.ids[idOf(origin)] = origin
	h := sha256.New()
	for _, id := range s.sortedIDs() {
		h.Write(id[:])
	}
	h.Sum(s.summary[:0])
}

func (s *Service) sortedIDs() [][convictionID]byte {
	out := make([][convictionID]byte, 0, len(s.ids))
	for id := range s.ids {
		out = append(out, id)
	}
	slices.SortFunc(out, func(a, b [convictionID]byte) int { return bytes.Compare(a[:], b[:]) })
	return out
}
