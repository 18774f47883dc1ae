package authority

import (
	"bytes"
	"context"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
	"github.com/talosprotocol/talos/identity/capability"
)

// Asking for revocation logs, and answering. A log is believed for its signatures,
// whoever gives it: the issuer's node is asked first, since it knows most, and other
// peers if it is not reached.

func recordNumber(text string) (int64, error) {
	from, err := strconv.ParseInt(text, 10, 62)
	if err != nil || from < 1 {
		return 0, contracts.Errorf(contracts.Malformed, "records are numbered from 1")
	}
	return from, nil
}

// ownLog gives the newest head, and the records from a number on, a line each; at most
// maxRecords of them.
func (s *Service) ownLog(ctx context.Context, from int64) ([]byte, error) {
	s.write.Lock() // head and records are of one moment
	defer s.write.Unlock()
	head, err := s.ownHead()
	if err != nil {
		return nil, err
	}
	return s.logText(ctx, s.dir.Self().DID, from, []byte(head))
}

// heldLog gives another's log as far as its newest head that is held with all before it.
func (s *Service) heldLog(ctx context.Context, log identity.DID, from int64) ([]byte, error) {
	if log == s.dir.Self().DID {
		return s.ownLog(ctx, from)
	}
	head := s.set.Newest(log)
	if head == nil {
		return nil, contracts.Errorf(contracts.NotFound, "nothing is held of the revocation log of %s", log.Short())
	}
	return s.logText(ctx, log, from, head)
}

func (s *Service) logText(ctx context.Context, log identity.DID, from int64, head []byte) ([]byte, error) {
	records, err := s.cfg.Revocations.Records(ctx, log, from, maxRecords)
	if err != nil {
		return nil, err
	}
	return bytes.Join(append([][]byte{head}, records...), []byte{'\n'}), nil
}

// Knows gives how many records of a DID's revocation log are held, without a gap from
// the first.
func (s *Service) Knows(log identity.DID) int64 { return s.set.Tip(log).Seq }

// catchUp asks for the logs of a chain's issuers: with first, of those only that this
// program has not asked yet. The chain is not verified: what a stranger names is looked
// up at most once in pullEvery.
func (s *Service) catchUp(ctx context.Context, chain []byte, first bool) {
	c, err := ParseChain(string(chain))
	if err != nil {
		return
	}
	for _, t := range c.Tokens {
		did := identity.DID(t.Iss)
		if did == s.dir.Self().DID || did.IsKey() {
			continue
		}
		s.mu.Lock()
		_, asked := s.pulled[did]
		if len(s.pulled) > maxPulled { // forgetting one only means that it is asked again
			clear(s.pulled)
		}
		s.mu.Unlock()
		if !first || !asked {
			s.pull(ctx, did)
		}
	}
}

// pull asks for a log from where ours ends: the issuer's own node, or else some of the
// peers.
func (s *Service) pull(ctx context.Context, did identity.DID) {
	s.mu.Lock()
	wait := s.now().Sub(s.pulled[did]) < pullEvery
	if !wait {
		s.pulled[did] = s.now()
	}
	s.mu.Unlock()
	if wait {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, resolveIn)
	defer cancel()
	err := s.pullFrom(ctx, did, func(ctx context.Context, from string) ([]byte, error) { return s.ask(ctx, did, askLog, []byte(from)) })
	if err == nil {
		return
	}
	s.log.Debug("a revocation log was not given by its issuer", "log", did, "err", err)
	if _, err := s.issuer(did); err != nil {
		return // nothing could be verified: strangers can name whom they like
	}
	for i, id := range s.h.Host.Network().Peers() {
		if i == askedPeers || ctx.Err() != nil {
			return
		}
		if err := s.pullFromPeer(ctx, did, id); err != nil {
			s.log.Debug("a revocation log was not given", "log", did, "peer", id, "err", err)
		}
	}
}

func (s *Service) pullFromPeer(ctx context.Context, did identity.DID, id peer.ID) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	return s.pullFrom(ctx, did, func(ctx context.Context, from string) ([]byte, error) {
		return s.askPeer(ctx, id, askOther, []byte(string(did)+" "+from))
	})
}

// pullFrom takes a log in rounds, until its head. Records that do not reach the head
// count by their own signatures; those that do, by the head's.
func (s *Service) pullFrom(ctx context.Context, did identity.DID, ask func(ctx context.Context, from string) ([]byte, error)) error {
	for range maxRounds {
		at := s.logs.stored(did)
		b, err := ask(ctx, strconv.FormatInt(at+1, 10))
		if err != nil {
			return err
		}
		lines := splitLines(b)
		if len(lines) == 0 || len(lines) > maxRecords+1 {
			return contracts.Errorf(contracts.Malformed, "a revocation log of %d lines", len(lines))
		}
		h, err := capability.VerifyHead(lines[0], s.issuer, s.now())
		if err != nil {
			return err
		}
		if h.Issuer() != did {
			return contracts.Errorf(contracts.Malformed, "the head of another log")
		}
		records := lines[1:]
		whole := h.Seq-at <= int64(len(records))
		if whole {
			records = records[:max(h.Seq-at, 0)]
		}
		if err := s.takeLog(h, at, records, whole); err != nil {
			return err
		}
		s.keep(ctx, did, at+1, records)
		if whole || s.logs.stored(did) == at {
			return nil
		}
	}
	return nil // the rest is asked for when the log is needed again
}

// takeLog applies a part of a log: the records after at, of which some may be known.
func (s *Service) takeLog(h *capability.Head, at int64, records [][]byte, whole bool) error {
	known := s.set.Tip(h.Issuer()).Seq - at
	if whole && 0 <= known && known < int64(len(records)) {
		return s.set.CatchUp(h, records[known:])
	}
	for i, raw := range records {
		if int64(i) < known {
			continue
		}
		r, err := capability.VerifyRecord(raw, s.issuer, s.now())
		if err == nil && r.Issuer() != h.Issuer() {
			err = contracts.Errorf(contracts.Malformed, "the record of another log")
		}
		if err == nil {
			err = s.set.Apply(r)
		}
		if err != nil && contracts.CodeOf(err) != contracts.Conflict {
			return err
		}
	}
	return s.set.ApplyHead(h)
}

// logStore brings records of others' logs into the store in their order: gossip brings
// them in any. The zero value is ready for use.
type logStore struct {
	mu   sync.Mutex
	have map[identity.DID]int64            // records in the store
	wait map[identity.DID]map[int64][]byte // for those before them
}

func (l *logStore) stored(did identity.DID) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.have[did]
}

// add takes records from a number on and gives those that can be stored now, and from
// which number on. More than maxRecords wait for nobody: they are asked for again.
func (l *logStore) add(did identity.DID, from int64, records [][]byte) (int64, [][]byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.have == nil {
		l.have, l.wait = map[identity.DID]int64{}, map[identity.DID]map[int64][]byte{}
	}
	if l.wait[did] == nil {
		l.wait[did] = map[int64][]byte{}
	}
	next := l.have[did] + 1
	for i, r := range records {
		if seq := from + int64(i); seq >= next && (len(l.wait[did]) < maxRecords || seq == next) {
			l.wait[did][seq] = r
		}
	}
	var out [][]byte
	for r := l.wait[did][next]; r != nil; r = l.wait[did][next+int64(len(out))] {
		out = append(out, r)
	}
	return next, out
}

// done says that records were stored.
func (l *logStore) done(did identity.DID, from int64, n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.have == nil {
		l.have, l.wait = map[identity.DID]int64{}, map[identity.DID]map[int64][]byte{}
	}
	for i := range int64(n) {
		delete(l.wait[did], from+i)
	}
	if len(l.wait[did]) == 0 {
		delete(l.wait, did)
	}
	l.have[did] = max(l.have[did], from+int64(n)-1)
}

// keep stores records, as far as they follow what is stored.
func (s *Service) keep(ctx context.Context, did identity.DID, from int64, records [][]byte) {
	s.saving.Lock() // in the order of numbers
	defer s.saving.Unlock()
	from, records = s.logs.add(did, from, records)
	if len(records) == 0 {
		return
	}
	if err := s.cfg.Revocations.Append(ctx, did, from, records, nil); err != nil {
		s.log.Warn("a revocation was not stored: it counts until the next start, and is asked for then", "log", did, "err", err)
		return
	}
	s.logs.done(did, from, len(records))
}

// splitLines is how a log travels: head, then records, each on a line.
func splitLines(b []byte) [][]byte {
	var out [][]byte
	for _, line := range strings.Split(string(b), "\n") {
		if line != "" {
			out = append(out, []byte(line))
		}
	}
	return out
}
