package capability

import (
	"container/heap"
	"crypto/sha256"
	"encoding/binary"

	"github.com/talosprotocol/talos/contracts"
)

// Limits of a replay window.
const (
	MaxReplay        = 1 << 20 // requests remembered
	MaxSessionReplay = 16384   // of one session
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

// Seen is a request that was remembered, as it is kept over a restart: until when (Unix
// seconds, big endian), its session and its id, shortened. In the order of bytes those
// come first that may be forgotten first.
type Seen [8 + 16 + 16]byte

// Until gives after when it may be forgotten, Unix seconds.
func (s Seen) Until() int64 { return int64(binary.BigEndian.Uint64(s[:])) }

func (it replayItem) seen() (s Seen) {
	binary.BigEndian.PutUint64(s[:], uint64(it.until))
	copy(s[8:], it.key.session[:])
	copy(s[24:], it.key.request[:])
	return s
}

// restore takes back what was remembered before a restart; more than there is room for
// too, since to forget one would let it come again.
func (r *Replay) restore(s Seen) {
	it := replayItem{until: s.Until()}
	copy(it.key.session[:], s[8:])
	copy(it.key.request[:], s[24:])
	if _, twice := r.seen[it.key]; !twice {
		r.add(it.key, it.until)
	}
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
