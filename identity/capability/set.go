package capability

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
)

// Limits of a Set.
const (
	MaxLogs    = 65536   // issuers whose logs are held
	MaxRecords = 4 << 20 // of all logs together
	maxPending = 256     // records of one log that came before an earlier one
)

// Set is what is known to be taken back: exact, in memory, of the logs of those who
// issue. What is revoked counts from the moment Apply returns; what is not known for
// longer than a token allows denies it. It is safe for concurrent use.
//
// The epoch counts what could turn a yes into a no. Who has checked a grant at an
// epoch need not check it again at the same epoch.
type Set struct {
	epoch   atomic.Uint64
	self    identity.DID
	mu      sync.RWMutex
	logs    map[identity.DID]*revLog
	records int
}

// revLog is what is known of one DID: its log, and its standing as an issuer.
type revLog struct {
	ids     []TokenID // of the records from 1 on, without a gap
	pending map[int64]*Record
	tids    map[TokenID]int64 // → until
	jtis    map[string]int64
	subs    map[identity.DID]subject
	below   int64
	lasts   int64 // below, until
	fresh   int64 // iat of the newest head of which all is held
	newest  []byte
	want    *Head // the longest head of which not all is held

	sn, validFrom      int64
	ended, duplicitous bool
	fork               *Fork
}

type subject struct{ made, until int64 }

// Fork says that a log has two histories: two texts signed by its owner that cannot
// both be true. Ours is the id of the record that is held.
type Fork struct {
	Log    identity.DID
	Seq    int64
	Ours   TokenID
	Theirs []byte
}

// NewSet makes an empty set. self is the executor: what it has revoked itself it knows
// at once, so its own tokens are never stale.
func NewSet(self identity.DID) *Set {
	s := &Set{self: self, logs: map[identity.DID]*revLog{}}
	s.epoch.Store(1)
	return s
}

// Epoch gives the epoch.
func (s *Set) Epoch() uint64 { return s.epoch.Load() }

// Records gives how many records are held.
func (s *Set) Records() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.records
}

// log finds or makes a log; nil if there is no room. Logs without any record make room:
// to forget one makes its tokens stale, never valid.
func (s *Set) log(did identity.DID) *revLog {
	if l := s.logs[did]; l != nil {
		return l
	}
	if len(s.logs) >= MaxLogs {
		tried := 0
		for d, l := range s.logs { // in random order
			if l.empty() {
				delete(s.logs, d)
				break
			}
			if tried++; tried == 64 {
				return nil
			}
		}
	}
	l := &revLog{}
	s.logs[did] = l
	return l
}

func (l *revLog) empty() bool {
	return len(l.ids)+len(l.pending) == 0 && l.sn == 0 && !l.ended && !l.duplicitous && l.fork == nil
}

// Note takes what a newer state says of an issuer: it was rotated, ended, or has two
// histories. Grants that were made under what was known before must be verified again,
// from the next decision on.
func (s *Set) Note(i *Issuer) {
	s.mu.RLock()
	l := s.logs[i.DID]
	same := l != nil && l.sn >= i.SN && l.validFrom >= i.ValidFrom && (l.ended || !i.Ended) && (l.duplicitous || !i.Duplicitous)
	s.mu.RUnlock()
	if same || i.SN == 0 && !i.Ended && !i.Duplicitous {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if l = s.log(i.DID); l == nil {
		return // there is no room: the issuer counts as stale
	}
	l.sn, l.validFrom = max(l.sn, i.SN), max(l.validFrom, i.ValidFrom)
	l.ended, l.duplicitous = l.ended || i.Ended, l.duplicitous || i.Duplicitous
	s.epoch.Add(1)
}

// Apply takes a verified record. It has its effect at once, also if records before it
// are missing; CONFLICT says that it has come before, ISSUER_DUPLICITOUS that it
// contradicts what is held, and then nothing that its issuer gave is valid any more.
func (s *Set) Apply(r *Record) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.log(r.Issuer())
	if l == nil || s.records >= MaxRecords {
		return contracts.Errorf(contracts.TooLarge, "no room for another revocation; tokens of %s will be stale", r.Issuer().Short())
	}
	if r.Seq <= int64(len(l.ids)) {
		if l.ids[r.Seq-1] != r.ID {
			return s.forked(l, r.Issuer(), r.Seq, l.ids[r.Seq-1], r.Raw)
		}
		return contracts.Errorf(contracts.Conflict, "record %d of %s is known", r.Seq, r.Issuer().Short())
	}
	if p := l.pending[r.Seq]; p != nil {
		if p.ID != r.ID {
			return s.forked(l, r.Issuer(), r.Seq, p.ID, r.Raw)
		}
		return contracts.Errorf(contracts.Conflict, "record %d of %s is known", r.Seq, r.Issuer().Short())
	}
	l.take(r)
	s.epoch.Add(1)
	if r.Seq > int64(len(l.ids))+1 {
		if len(l.pending) >= maxPending {
			return nil // it counts, and will be asked for again with those before it
		}
		if l.pending == nil {
			l.pending = map[int64]*Record{}
		}
		l.pending[r.Seq] = r
		s.records++
		return nil
	}
	for next := r; next != nil; next = l.pending[int64(len(l.ids))+1] {
		if next.Seq > 1 && next.Prev != l.ids[next.Seq-2].String() {
			return s.forked(l, r.Issuer(), next.Seq, l.ids[next.Seq-2], next.Raw)
		}
		if l.pending[next.Seq] == nil {
			s.records++
		}
		delete(l.pending, next.Seq)
		l.ids = append(l.ids, next.ID)
	}
	return s.reach(l)
}

// take gives a record its effect.
func (l *revLog) take(r *Record) {
	switch {
	case r.Tid != "":
		if l.tids == nil {
			l.tids = map[TokenID]int64{}
		}
		l.tids[r.tid] = max(l.tids[r.tid], r.Until)
	case r.Jti != "":
		if l.jtis == nil {
			l.jtis = map[string]int64{}
		}
		l.jtis[r.Jti] = max(l.jtis[r.Jti], r.Until)
	case r.Below != nil:
		l.below, l.lasts = max(l.below, *r.Below), max(l.lasts, r.Until)
	case r.Sub != "":
		if l.subs == nil {
			l.subs = map[identity.DID]subject{}
		}
		old := l.subs[identity.DID(r.Sub)]
		l.subs[identity.DID(r.Sub)] = subject{made: max(old.made, r.Iat), until: max(old.until, r.Until)}
	}
}

func (s *Set) forked(l *revLog, did identity.DID, seq int64, ours TokenID, theirs []byte) error {
	if l.fork == nil {
		l.fork = &Fork{Log: did, Seq: seq, Ours: ours, Theirs: theirs}
		s.epoch.Add(1)
	}
	return contracts.Errorf(contracts.IssuerDuplicitous, "the revocation log of %s has two histories at record %d", did.Short(), seq)
}

// ApplyHead takes a verified head. One that names more than is held is kept until the
// rest has come (Missing); an older one changes nothing.
func (s *Set) ApplyHead(h *Head) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.log(h.Issuer())
	if l == nil {
		return contracts.Errorf(contracts.TooLarge, "no room for another log; tokens of %s will be stale", h.Issuer().Short())
	}
	if h.Seq <= int64(len(l.ids)) {
		return s.freshen(l, h)
	}
	if l.want == nil || h.Seq > l.want.Seq || h.Seq == l.want.Seq && h.Iat > l.want.Iat {
		l.want = h
	}
	return nil
}

// freshen compares a head with the log that is held until it.
func (s *Set) freshen(l *revLog, h *Head) error {
	if h.Seq > 0 && l.ids[h.Seq-1] != h.Last {
		return s.forked(l, h.Issuer(), h.Seq, l.ids[h.Seq-1], h.Raw)
	}
	l.refresh(h)
	return nil
}

// refresh takes a head of which all is held.
func (l *revLog) refresh(h *Head) {
	if h.Iat >= l.fresh {
		l.fresh, l.newest = h.Iat, h.Raw
	}
}

// reach uses the head that was waited for, once all of it is held.
func (s *Set) reach(l *revLog) error {
	if l.want == nil || l.want.Seq > int64(len(l.ids)) {
		return nil
	}
	h := l.want
	l.want = nil
	return s.freshen(l, h)
}

// Missing gives the records of a log that its longest known head names and that are
// not held; ok is false if none are.
func (s *Set) Missing(did identity.DID) (from, to int64, ok bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	l := s.logs[did]
	if l == nil || l.want == nil {
		return 0, 0, false
	}
	return int64(len(l.ids)) + 1, l.want.Seq, true
}

// Tip gives where the log of did ends, as far as it is held without a gap.
func (s *Set) Tip(did identity.DID) Tip {
	s.mu.RLock()
	defer s.mu.RUnlock()
	l := s.logs[did]
	if l == nil || len(l.ids) == 0 {
		return Tip{}
	}
	return Tip{Seq: int64(len(l.ids)), Last: l.ids[len(l.ids)-1]}
}

// Newest gives the newest head of a log of which every record is held, nil if there is
// none: who asks for the log can be given both. The caller does not change it.
func (s *Set) Newest(did identity.DID) []byte {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if l := s.logs[did]; l != nil {
		return l.newest
	}
	return nil
}

// CatchUp takes the records between what is held and a verified head, in order. Their
// own signatures need not be checked: each names the one before it, and the head names
// the last. It applies all or nothing.
func (s *Set) CatchUp(h *Head, raw [][]byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.log(h.Issuer())
	if l == nil || s.records+len(raw) > MaxRecords {
		return contracts.Errorf(contracts.TooLarge, "no room for %d revocations", len(raw))
	}
	at := int64(len(l.ids))
	if h.Seq-at != int64(len(raw)) || len(raw) == 0 {
		return contracts.Errorf(contracts.Malformed, "%d records, from %d to %d are missing", len(raw), at+1, h.Seq)
	}
	records := make([]*Record, len(raw))
	prev := ""
	if at > 0 {
		prev = l.ids[at-1].String()
	}
	for i, text := range raw {
		j, err := open(text, typRecord, RecordVersion)
		if err != nil {
			return err
		}
		r, err := readRecord(text, j)
		if err != nil {
			return err
		}
		if r.Iss != h.Iss || r.Seq != at+1+int64(i) || i > 0 && r.Prev != prev {
			return contracts.Errorf(contracts.Malformed, "record %d is not the next of this log", i)
		}
		prev, records[i] = r.ID.String(), r
	}
	if last := records[len(records)-1]; last.ID != h.Last {
		return contracts.Errorf(contracts.Malformed, "the records do not lead to the head")
	}
	if at > 0 && records[0].Prev != l.ids[at-1].String() {
		return s.forked(l, h.Issuer(), at, l.ids[at-1], raw[0])
	}
	for _, r := range records {
		if p := l.pending[r.Seq]; p != nil && p.ID != r.ID {
			return s.forked(l, h.Issuer(), r.Seq, p.ID, r.Raw)
		}
	}
	for _, r := range records {
		l.take(r)
		l.ids = append(l.ids, r.ID)
		if l.pending[r.Seq] == nil {
			s.records++
		}
		delete(l.pending, r.Seq)
	}
	s.epoch.Add(1)
	l.refresh(h)
	return s.reach(l)
}

// Forks gives the logs with two histories: everybody should know of them.
func (s *Set) Forks() []Fork {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var out []Fork
	for _, l := range s.logs {
		if l.fork != nil {
			out = append(out, *l.fork)
		}
	}
	return out
}

// Forget drops effects whose time is over.
func (s *Set) Forget(now time.Time) {
	sec := now.Unix()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.logs {
		for id, until := range l.tids {
			if until < sec {
				delete(l.tids, id)
			}
		}
		for id, until := range l.jtis {
			if until < sec {
				delete(l.jtis, id)
			}
		}
		for did, r := range l.subs {
			if r.until < sec {
				delete(l.subs, did)
			}
		}
	}
}
