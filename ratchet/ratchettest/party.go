package ratchettest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand"
	"slices"
	"time"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/ratchet"
)

// party is a session layer in small: it follows the durability rules of
// spec/ratchet.md §6 on a Memory, and dies and comes back on demand.
type party struct {
	name  string
	world *world
	store *Memory
	id    ratchet.SessionID

	state   *ratchet.State
	version uint64
	window  ratchet.Window

	outbox    map[uint64][]byte // unacknowledged frames, as stored
	chain     int               // own DH steps so far
	chainOf   map[uint64]int    // chain of each frame in the outbox
	delivered int               // messages given to the application, in order
	rolled    bool              // restored from an old snapshot: the alarm may ring
	frozen    bool              // the alarm rang
}

func (p *party) row(kind string, seq uint64) string {
	return fmt.Sprintf("%s/%s/%d", p.name, kind, seq)
}

// commit stores state with rows; on any failure the party reloads, as Store
// demands. It reports whether all that was stored may be released.
func (p *party) commit(state []byte, rows ...ratchet.Row) bool {
	err := p.store.Commit(context.Background(), p.id, p.version, state, rows...)
	if err == nil {
		p.version++
		return true
	}
	if !errors.Is(err, ErrInjected) && !errors.Is(err, ratchet.ErrStale) {
		p.world.failf("%s: Commit: %v", p.name, err)
	}
	p.reload()
	return false
}

// reload makes the party what the disk says, as after a crash.
func (p *party) reload() {
	ctx := context.Background()
	r, err := p.store.Load(ctx, p.id)
	if err != nil {
		p.world.failf("%s: Load: %v", p.name, err)
		return
	}
	if p.state, err = ratchet.DecodeState(r.State); err != nil {
		p.world.failf("%s: stored state: %v", p.name, err)
		return
	}
	if !bytes.Equal(p.state.AppendState(nil), r.State) {
		p.world.failf("%s: a stored state has two encodings", p.name)
	}
	p.version = r.Version
	p.window = ratchet.Window{}
	if b, err := p.store.Row(ctx, p.name+"/window"); err == nil {
		if p.window, err = ratchet.DecodeWindow(b); err != nil {
			p.world.failf("%s: stored window: %v", p.name, err)
		}
	}
	p.outbox = map[uint64][]byte{}
	info := p.state.Info()
	for seq := info.PeerAck; seq < info.NextSeq; seq++ {
		if b, err := p.store.Row(ctx, p.row("out", seq)); err == nil {
			p.outbox[seq] = b
		}
	}
	// What was received before the crash and not yet given on is in the inbox.
	p.release(uint64(p.delivered), p.window.Next())
}

// send seals a message and makes it durable before it is released. volatile
// messages rely on the reserve and are not kept.
func (p *party) send(volatile bool) {
	if p.frozen || len(p.outbox) > 200 {
		return
	}
	w := p.world
	// A receiver keeps the keys of a few chains only: do not run away from what
	// is not acknowledged (RAT-36).
	lag := p.lag()
	if lag > ratchet.MaxOldChains-1 {
		return
	}
	// A step counts from when it is made: the disk may have it although the commit fails.
	due := p.state.Info().StepDue
	stepped := func() {
		if due {
			p.chain, due = p.chain+1, false
		}
	}
	if volatile && p.state.Reserved() == 0 {
		if p.state.Reserve(w.now, w.rand) != nil {
			return
		}
		if stepped(); !p.commit(p.state.AppendState(nil)) {
			return
		}
	}
	next := p.state.Info().NextSeq
	body := binary.BigEndian.AppendUint64([]byte(p.name+":"), next)
	kind := ratchet.KindData
	if p.state.OwesAck() || lag > ratchet.MaxOldChains-3 {
		kind, body = ratchet.KindAck, nil
	}
	f, r, err := p.state.AppendSeal(nil, ratchet.Outgoing{Kind: kind, Body: body, RecipientSeq: p.window.Next()}, w.now, w.rand)
	if err != nil {
		if contracts.CodeOf(err) != contracts.SessionState {
			w.failf("%s: seal: %v", p.name, err)
		}
		return
	}
	w.made[string(f)] = r.Seq
	stepped()
	p.chainOf[r.Seq] = p.chain
	if !volatile || r.Store {
		if !p.commit(p.state.AppendState(nil), ratchet.Row{Key: p.row("out", r.Seq), Value: f}) {
			return
		}
		p.outbox[r.Seq] = f
	}
	w.post(p, f)
}

// lag gives how many DH steps lie between the oldest frame that is not
// acknowledged and now.
func (p *party) lag() int {
	lag := 0
	for seq := range p.outbox {
		if seq >= p.state.Info().PeerAck {
			lag = max(lag, p.chain-p.chainOf[seq])
		}
	}
	return lag
}

// resend posts what the outbox holds: stored bytes, never sealed anew.
func (p *party) resend(r *rand.Rand) {
	for _, seq := range p.numbers() {
		if seq < p.state.Info().PeerAck {
			delete(p.outbox, seq)
		} else if r.Intn(4) == 0 {
			p.world.post(p, p.outbox[seq])
		}
	}
}

// numbers gives the numbers in the outbox, in order: a run is decided by its seed alone.
func (p *party) numbers() []uint64 { return slices.Sorted(maps.Keys(p.outbox)) }

// receive opens a frame and commits state, window and inbox row before the
// message counts.
func (p *party) receive(f []byte) {
	if p.frozen {
		return
	}
	w := p.world
	before := p.state.AppendState(nil)
	m, err := p.state.Open(nil, f, w.now)
	if err != nil {
		if !bytes.Equal(before, p.state.AppendState(nil)) {
			w.failf("%s: a refused frame changed the state: %v", p.name, err)
		}
		if contracts.CodeOf(err) == contracts.SessionRollback {
			p.alarm()
		}
		return
	}
	w.opened(p, &m)
	window := p.window
	from, to, err := window.Accept(m.Seq)
	switch contracts.CodeOf(err) {
	case "":
	case contracts.FrameTooFar:
		p.state.Discard() // it comes again when the window has moved
		return
	default: // a late copy: its key is spent, the message is not delivered
		p.finish(window)
		return
	}
	rows := []ratchet.Row{{Key: p.row("in", m.Seq), Value: append([]byte{byte(m.Kind)}, m.Body...)}}
	if !p.finish(window, rows...) {
		return
	}
	p.release(from, to)
}

func (p *party) finish(window ratchet.Window, rows ...ratchet.Row) bool {
	rows = append(rows, ratchet.Row{Key: p.name + "/window", Value: window.Append(nil)})
	if !p.commit(p.state.AppendPending(nil), rows...) {
		return false
	}
	p.state.Commit()
	p.window = window
	p.world.taken++
	return true
}

// release gives [from, to) to the application.
func (p *party) release(from, to uint64) {
	for seq := from; seq < to; seq++ {
		_, err := p.store.Row(context.Background(), p.row("in", seq))
		p.world.deliver(p, seq, err == nil)
	}
}

// void closes the holes that crashes of the other party left.
func (p *party) void(a, b, at uint64) {
	window := p.window
	from, to, err := window.Void(a, b, at)
	if err != nil {
		return
	}
	if p.commit(p.state.AppendState(nil), ratchet.Row{Key: p.name + "/window", Value: window.Append(nil)}) {
		p.window = window
		p.world.taken++
		p.release(from, to)
	}
}

func (p *party) alarm() {
	if !p.world.anyRolled() {
		p.world.failf("%s: rollback alarm without a rollback", p.name)
	}
	p.frozen = true
}

// clock and randomness of a run.
var start = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

type seeded struct{ r *rand.Rand }

func (s seeded) Read(p []byte) (int, error) { return s.r.Read(p) }

var _ io.Reader = seeded{}
