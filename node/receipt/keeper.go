package receipt

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/talosprotocol/talos/anchor"
	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
	"github.com/talosprotocol/talos/node/execution"
)

// The two sides of a call.
const (
	Caller   = "caller"
	Executor = "executor"
)

const (
	// Retention is how long receipts are kept.
	Retention = 30 * 24 * time.Hour

	maxQueue   = 4096
	batch      = 256
	batchAfter = 200 * time.Millisecond
	maxList    = 131072
	handAgain  = 10 * time.Second
	pruneEvery = time.Hour
)

// The rows: receipts by side and call, so in the order of time; state records by digest.
const (
	prefixReceipt = "r/r/"
	prefixState   = "r/s/"
)

// Event says that a side has a receipt.
type Event struct {
	Peer    identity.DID // the other side
	Surface string
	Request string // commitment
	Digest  string // of the receipt
	// Disputed says that this side does not agree with it.
	Disputed bool
}

// Config of a keeper.
type Config struct {
	DID  identity.DID
	Key  func() (identity.InvocationKey, error) // countersigns
	Self func() *identity.State                 // the state that has the key
	Rows execution.Rows
	// Store makes rows and events durable in one transaction.
	Store func(ctx context.Context, rows []execution.Row, events []Event) error
	// Hand gives an executor the countersignatures of its receipts.
	Hand func(ctx context.Context, to identity.DID, c *contracts.Countersignatures) error
	Log  *slog.Logger
	Now  func() time.Time
}

// Keeper keeps receipts. It is safe for concurrent use.
type Keeper struct {
	cfg   Config
	queue chan taken
	write sync.Mutex // one at a time changes a row that is there
}

type taken struct {
	receipt     *contracts.CallReceipt
	self, other *identity.State // of the two sides; other is nil for a did:key
	side        string
	call        string // that the row is of
	disputed    string
}

// New makes a keeper; it keeps while it runs.
func New(cfg Config) *Keeper { return &Keeper{cfg: cfg, queue: make(chan taken, maxQueue)} }

// Take takes a receipt that was checked, or made, by this side. It does not wait for the
// disk; a receipt for which there is no room, because the disk is too slow, is lost and
// said to be.
func (k *Keeper) Take(side string, r *contracts.CallReceipt, other *identity.State) {
	k.take(taken{receipt: r, self: k.cfg.Self(), other: other, side: side, call: r.Call})
}

// Dispute takes a receipt that its executor has signed and that is not right for the call
// that it was given for, as evidence: it is not countersigned, and takes the place of no
// other.
func (k *Keeper) Dispute(call string, r *contracts.CallReceipt, executor *identity.State, why string) {
	k.take(taken{receipt: r, self: k.cfg.Self(), other: executor, side: Caller, call: call, disputed: why})
}

func (k *Keeper) take(t taken) {
	select {
	case k.queue <- t:
	default:
		k.cfg.Log.Error("a receipt is not kept: too many wait for the disk", "call", t.receipt.Call)
	}
}

// Run keeps what is taken until ctx ends; what was taken by then is kept too.
func (k *Keeper) Run(ctx context.Context) error {
	late := context.WithoutCancel(ctx)
	hand := map[identity.DID][]contracts.Countersignature{}
	again := time.NewTicker(handAgain)
	defer again.Stop()
	prune := time.NewTicker(pruneEvery)
	defer prune.Stop()
	for {
		select {
		case <-ctx.Done():
			for len(k.queue) > 0 {
				k.keep(late, k.collect(ctx, <-k.queue), hand)
			}
			return nil
		case first := <-k.queue:
			k.keep(late, k.collect(ctx, first), hand)
		case <-again.C:
		case <-prune.C:
			if err := k.prune(ctx); err != nil && ctx.Err() == nil {
				k.cfg.Log.Warn("old receipts are still there", "err", err)
			}
		}
		k.hand(ctx, hand)
	}
}

// collect gives what comes within a moment, so that many share a sync.
func (k *Keeper) collect(ctx context.Context, first taken) []taken {
	all := []taken{first}
	t := time.NewTimer(batchAfter)
	defer t.Stop()
	for len(all) < batch {
		select {
		case next := <-k.queue:
			all = append(all, next)
		case <-t.C:
			return all
		case <-ctx.Done():
			if len(k.queue) == 0 {
				return all
			}
		}
	}
	return all
}

// keep stores receipts; those of this node's own calls are countersigned, and noted to be
// handed over.
func (k *Keeper) keep(ctx context.Context, all []taken, hand map[identity.DID][]contracts.Countersignature) {
	key, err := k.cfg.Key()
	if err != nil {
		k.cfg.Log.Error("receipts are not kept", "count", len(all), "err", err)
		return
	}
	var rows []execution.Row
	var events []Event
	states, used := map[string]bool{}, map[string]bool{}
	state := func(s *identity.State) string {
		if s == nil {
			return ""
		}
		d := b64.EncodeToString(s.Digest[:])
		if !states[d] {
			states[d] = true
			rows = append(rows, execution.Row{Key: []byte(prefixState + d), Value: s.Raw})
		}
		return d
	}
	for _, t := range all {
		kept := contracts.KeptReceipt{V: keptVersion, Side: t.side, Receipt: *t.receipt, Disputed: t.disputed}
		ev := Event{Surface: t.receipt.Surface, Request: t.receipt.Request, Digest: Digest(t.receipt), Disputed: t.disputed != ""}
		if t.side == Caller {
			ev.Peer = identity.DID(t.receipt.Executor)
			kept.ExecutorState, kept.CallerState = state(t.other), state(t.self)
			if t.disputed == "" {
				kept.Countersignature = Countersign(t.receipt, key)
				hand[ev.Peer] = append(hand[ev.Peer], contracts.Countersignature{Call: t.receipt.Call, Sig: kept.Countersignature})
			}
		} else {
			ev.Peer = identity.DID(t.receipt.Caller)
			kept.ExecutorState, kept.CallerState = state(t.self), state(t.other)
		}
		key := k.free(rowKey(t.side, t.call), ev.Digest, used)
		rows = append(rows, execution.Row{Key: key, Value: kept.AppendCanonical(nil)})
		events = append(events, ev)
	}
	if err := k.cfg.Store(ctx, rows, events); err != nil {
		k.cfg.Log.Error("receipts are not kept", "count", len(all), "err", err)
	}
}

// free gives a row that no other receipt has: ids of calls are chosen by callers, and who
// uses one twice must not take the place of what was kept.
func (k *Keeper) free(key []byte, digest string, used map[string]bool) []byte {
	old, err := k.cfg.Rows.Get(key)
	if err != nil || old != nil || used[string(key)] {
		key = append(append(key, '+'), digest...)
	}
	used[string(key)] = true
	return key
}

// hand gives executors their countersignatures; what does not arrive is tried again while
// the node runs, up to as many as wait at once.
func (k *Keeper) hand(ctx context.Context, all map[identity.DID][]contracts.Countersignature) {
	for did, sigs := range all {
		for len(sigs) > 0 {
			n := min(len(sigs), batch)
			sub, cancel := context.WithTimeout(ctx, handAgain)
			err := k.cfg.Hand(sub, did, &contracts.Countersignatures{V: ackVersion, Signatures: sigs[:n]})
			cancel()
			if err != nil && contracts.CodeOf(err).Retryable() {
				k.cfg.Log.Debug("countersignatures are not delivered yet", "to", did, "err", err)
				break
			}
			if err != nil {
				k.cfg.Log.Warn("countersignatures are refused", "by", did, "err", err)
			}
			sigs = sigs[n:]
		}
		if len(sigs) == 0 {
			delete(all, did)
		} else {
			all[did] = sigs[max(0, len(sigs)-maxQueue):]
		}
	}
}

func rowKey(side, call string) []byte { return []byte(prefixReceipt + side + "/" + call) }

// Countersigned takes a caller's signatures of receipts that this node gave it (GW-26).
// key is the caller's. One that does not verify is an error, after those before it were
// kept; a call that is not known is passed over, since its receipt may still be on its way
// to the disk, and is reported as UNAVAILABLE in the end.
func (k *Keeper) Countersigned(ctx context.Context, from identity.DID, key identity.InvocationPublic, c *contracts.Countersignatures) error {
	k.write.Lock()
	defer k.write.Unlock()
	var keys, values [][]byte
	var failed error
	for _, s := range c.Signatures {
		kept, err := k.Get(Executor, s.Call)
		if contracts.CodeOf(err) == contracts.NotFound {
			failed = contracts.Errorf(contracts.Unavailable, "the receipt of %s is not kept here, or not yet", s.Call)
			continue
		}
		if err == nil && identity.DID(kept.Receipt.Caller) != from {
			err = contracts.Errorf(contracts.Forbidden, "the call %s was not yours", s.Call)
		}
		if err == nil {
			err = VerifyCountersignature(&kept.Receipt, s.Sig, key)
		}
		if err != nil {
			failed = err
			break
		}
		kept.Countersignature = s.Sig
		keys, values = append(keys, rowKey(Executor, s.Call)), append(values, kept.AppendCanonical(nil))
	}
	if len(keys) > 0 {
		failed = errors.Join(failed, k.cfg.Rows.Write(ctx, keys, values))
	}
	return failed
}

// Get gives a receipt of a call. NOT_FOUND if there is none.
func (k *Keeper) Get(side, call string) (*contracts.KeptReceipt, error) {
	b, err := k.cfg.Rows.Get(rowKey(side, call))
	if err != nil {
		return nil, err
	}
	if b == nil {
		return nil, contracts.Errorf(contracts.NotFound, "there is no receipt of the call %.40s as its %s", call, side)
	}
	return contracts.ParseKeptReceipt(b)
}

// List gives the newest receipts of a side, or of both if it is empty, of calls before an
// id if it is not empty; the newest first, at most limit.
func (k *Keeper) List(side, before string, limit int) ([]contracts.KeptReceipt, error) {
	sides := []string{Caller, Executor}
	if side != "" {
		sides = []string{side}
	}
	var all []contracts.KeptReceipt
	for _, s := range sides {
		var ring []contracts.KeptReceipt
		var failed error
		prefix := prefixReceipt + s + "/"
		if err := k.cfg.Rows.Scan([]byte(prefix), func(key, v []byte) bool {
			if before != "" && string(key[len(prefix):]) >= before {
				return false
			}
			kept, err := contracts.ParseKeptReceipt(v)
			if err != nil {
				failed = err
				return false
			}
			if ring = append(ring, *kept); len(ring) > min(limit, maxList) {
				ring = ring[1:]
			}
			return true
		}); err != nil || failed != nil {
			return nil, errors.Join(err, failed)
		}
		all = append(all, ring...)
	}
	slices.SortStableFunc(all, func(a, b contracts.KeptReceipt) int {
		if a.Receipt.Call > b.Receipt.Call {
			return -1
		}
		if a.Receipt.Call < b.Receipt.Call {
			return 1
		}
		return 0
	})
	return all[:min(len(all), limit)], nil
}

// File makes a file of receipts for a stranger.
func (k *Keeper) File(receipts []contracts.KeptReceipt) (*contracts.ReceiptFile, error) {
	f := &contracts.ReceiptFile{V: fileVersion, Receipts: receipts, States: []contracts.SignedState{}}
	seen := map[string]bool{"": true}
	for i := range receipts {
		for _, d := range []string{receipts[i].ExecutorState, receipts[i].CallerState} {
			if seen[d] {
				continue
			}
			seen[d] = true
			b, err := k.cfg.Rows.Get([]byte(prefixState + d))
			if err != nil {
				return nil, err
			}
			s, err := contracts.ParseSignedState(b)
			if err != nil {
				return nil, contracts.Errorf(contracts.StorageCorrupt, "the state record of a receipt: %w", err)
			}
			f.States = append(f.States, *s)
		}
	}
	return f, nil
}

// prune forgets receipts that are older than the retention. State records stay: they are
// few, and later receipts may name them.
func (k *Keeper) prune(ctx context.Context) error {
	limit := anchor.NewID(k.cfg.Now().Add(-Retention), [10]byte{})
	for _, side := range []string{Caller, Executor} {
		var keys [][]byte
		if err := k.cfg.Rows.Scan([]byte(prefixReceipt+side+"/"), func(key, _ []byte) bool {
			if string(key) >= prefixReceipt+side+"/"+limit || len(keys) >= 5000 {
				return false
			}
			keys = append(keys, slices.Clone(key))
			return true
		}); err != nil {
			return err
		}
		if len(keys) > 0 {
			if err := k.cfg.Rows.Write(ctx, keys, make([][]byte, len(keys))); err != nil {
				return err
			}
		}
	}
	return nil
}
