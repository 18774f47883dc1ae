package capability

import (
	"container/heap"
	"crypto/sha256"
	"encoding/binary"
	"slices"

	"github.com/talosprotocol/talos/contracts"
)

// Limits of a replay window.
const (
	MaxReplay        = 1 << 20 // requests remembered
	MaxSessionReplay = 16384   // of one session
	replayVersion    = 1
	replayEntry      = 16 + 16 + 8
)

// Replay remembers which requests were seen, by session and request id, until a time
// after which they could not be valid anyway. It is full rather than forgetful: what
// it cannot remember it refuses. It is not safe for concurrent use.
type Replay struct {
	seen     map[replayKey]struct{}
	sessions map[[16]byte]int
	queue    replayQueue
	max      int
	low      int64 // what ended before it was forgotten
}

type replayKey struct{ session, request [16]byte }

type replayItem struct {
	key   replayKey
	until int64
}

// NewReplay makes a window that remembers at most max requests, MaxReplay at most.
func NewReplay(max int) *Replay {
	return &Replay{seen: map[replayKey]struct{}{}, sessions: map[[16]byte]int{}, max: min(max, MaxReplay)}
}

// keyOf shortens names of any length; what is kept is bounded, and nobody finds two
// names with one key.
func keyOf(session, request string) replayKey {
	var k replayKey
	sum := sha256.Sum256([]byte(session))
	copy(k.session[:], sum[:])
	b := binary.BigEndian.AppendUint64(nil, uint64(len(session)))
	sum = sha256.Sum256(append(append(b, session...), request...))
	copy(k.request[:], sum[:])
	return k
}

// check refuses a request that was seen, that is older than the window, or that there
// is no room to remember; it changes nothing but what is over.
func (r *Replay) check(k replayKey, until, now int64) error {
	r.forget(now)
	_, seen := r.seen[k]
	switch {
	case seen:
		return contracts.Errorf(contracts.Replay, "this request of this session was seen before")
	case until <= max(now, r.low):
		return contracts.Errorf(contracts.Replay, "the request is older than what is remembered; make a new one")
	case len(r.seen) >= r.max:
		return contracts.Errorf(contracts.Replay, "no more requests can be remembered; try again with a new one later")
	case r.sessions[k.session] >= MaxSessionReplay:
		return contracts.Errorf(contracts.Replay, "no more requests of this session can be remembered; try again with a new one later")
	}
	return nil
}

func (r *Replay) add(k replayKey, until int64) {
	r.seen[k] = struct{}{}
	r.sessions[k.session]++
	heap.Push(&r.queue, replayItem{k, until})
}

// Take remembers a request until a time in Unix seconds, or refuses it with REPLAY.
func (r *Replay) Take(session, request string, until, now int64) error {
	k := keyOf(session, request)
	if err := r.check(k, until, now); err != nil {
		return err
	}
	r.add(k, until)
	return nil
}

// Len gives how many requests are remembered.
func (r *Replay) Len() int { return len(r.seen) }

func (r *Replay) forget(now int64) {
	r.low = max(r.low, now)
	for len(r.queue) > 0 && r.queue[0].until <= r.low {
		k := heap.Pop(&r.queue).(replayItem).key
		delete(r.seen, k)
		if r.sessions[k.session]--; r.sessions[k.session] == 0 {
			delete(r.sessions, k.session)
		}
	}
}

// AppendBinary appends the window: version, low mark, entries by time and key.
func (r *Replay) AppendBinary(b []byte) ([]byte, error) {
	items := slices.Clone(r.queue)
	slices.SortFunc(items, compareReplay)
	b = append(b, replayVersion)
	b = binary.BigEndian.AppendUint64(b, uint64(r.low))
	for _, it := range items {
		b = append(b, it.key.session[:]...)
		b = append(b, it.key.request[:]...)
		b = binary.BigEndian.AppendUint64(b, uint64(it.until))
	}
	return b, nil
}

// ParseReplay reads a window back, with room for max requests. It refuses every text
// that AppendBinary would not have written.
func ParseReplay(b []byte, max int) (*Replay, error) {
	bad := contracts.Errorf(contracts.StorageCorrupt, "the replay window does not read; without it, requests of before could come again")
	if len(b) < 9 || (len(b)-9)%replayEntry != 0 || (len(b)-9)/replayEntry > MaxReplay {
		return nil, bad
	}
	if b[0] != replayVersion {
		return nil, contracts.Errorf(contracts.UnsupportedVersion, "a replay window of version %d", b[0])
	}
	r := NewReplay(max)
	r.low = int64(binary.BigEndian.Uint64(b[1:]))
	var last replayItem
	for b = b[9:]; len(b) > 0; b = b[replayEntry:] {
		var it replayItem
		copy(it.key.session[:], b)
		copy(it.key.request[:], b[16:])
		it.until = int64(binary.BigEndian.Uint64(b[32:]))
		if len(r.queue) > 0 && compareReplay(last, it) >= 0 || it.until <= r.low {
			return nil, bad
		}
		if _, twice := r.seen[it.key]; twice {
			return nil, bad
		}
		r.add(it.key, it.until)
		last = it
	}
	return r, nil
}

func compareReplay(a, b replayItem) int {
	switch {
	case a.until != b.until:
		if a.until < b.until {
			return -1
		}
		return 1
	case a.key.session != b.key.session:
		return slices.Compare(a.key.session[:], b.key.session[:])
	}
	return slices.Compare(a.key.request[:], b.key.request[:])
}

// replayQueue is a heap by time.
type replayQueue []replayItem

func (q replayQueue) Len() int           { return len(q) }
func (q replayQueue) Less(i, j int) bool { return q[i].until < q[j].until }
func (q replayQueue) Swap(i, j int)      { q[i], q[j] = q[j], q[i] }
func (q *replayQueue) Push(x any)        { *q = append(*q, x.(replayItem)) }
func (q *replayQueue) Pop() any {
	old := *q
	it := old[len(old)-1]
	*q = old[:len(old)-1]
	return it
}
