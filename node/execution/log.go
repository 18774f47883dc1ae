package execution

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"sync"
	"time"

	"github.com/talosprotocol/talos/anchor"
	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
)

// Retention is how long an execution is remembered after it began, and with it that its
// idempotency key was used.
const Retention = 7 * 24 * time.Hour

const pruneAtOnce = 2000

// Row is a row of the log's table; a nil value removes it.
type Row struct{ Key, Value []byte }

// Rows is the durable table that a log is in. Scan goes in the order of keys.
type Rows interface {
	Get(key []byte) ([]byte, error)
	Write(ctx context.Context, keys, values [][]byte) error
	Scan(prefix []byte, f func(key, value []byte) bool) error
}

// The rows: executions by id, so in the order of time; ids by idempotency key, with a
// commitment to what was asked; and what runs, with the id of the audit log's intent.
const (
	prefixRecord = "x/e/"
	prefixKey    = "x/k/"
	prefixOpen   = "x/o/"
)

// Ask is what a caller wants done.
type Ask struct {
	ID               string // of the execution: the node's own choice, so that nobody can take another's
	Caller, Executor identity.DID
	Surface, Access  string
	Service, Method  string
	Key              string // idempotency key, empty if there is none
	Request          string // commitment to the body
	Salt, Body       []byte // what the commitment is to
}

// content is what the same key must stand for: salted, since the log has no content.
func (a *Ask) content(salt []byte) []byte {
	h := hmac.New(sha256.New, salt)
	for _, s := range []string{a.Surface, a.Service, a.Method} {
		h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(s))))
		h.Write([]byte(s))
	}
	h.Write(a.Body)
	return h.Sum(nil)
}

func (a *Ask) keyed() []byte {
	h := sha256.New()
	h.Write([]byte(a.Caller))
	h.Write([]byte{0})
	h.Write([]byte(a.Key))
	return h.Sum(nil)
}

// Log is the execution log of a node. It is safe for concurrent use.
type Log struct {
	rows Rows
	now  func() time.Time

	mu    sync.Mutex
	live  map[string]*Execution // by keyed hash
	known *kept
}

// Open opens the log that is in rows.
func Open(rows Rows, now func() time.Time) *Log {
	return &Log{rows: rows, now: now, live: map[string]*Execution{}, known: newKept()}
}

// Prior is what became of a call that was made before with the same key.
type Prior struct {
	ID     string
	State  string         // completed, failed or unknown
	Code   contracts.Code // of failed and unknown, where it is known
	Answer any            // as it was kept; nil if it no longer is
}

// Err says what a caller is to know of a prior call whose answer is not kept.
func (p *Prior) Err() error {
	switch p.State {
	case Completed:
		return contracts.Errorf(contracts.AlreadyDone, "this was done once, as the execution %s, and is not done again; its answer is no longer kept", p.ID)
	case Failed:
		return contracts.Errorf(contracts.AlreadyDone, "this was tried as the execution %s and was not done, as the gateway's owner says; use a new idempotency key to try it again", p.ID)
	}
	return contracts.Errorf(contracts.OutcomeUnknown, "this was begun once, as the execution %s, and nobody knows what became of it; it is not done again. Look at what it should have changed, or ask the gateway's owner", p.ID)
}

// Execution is a call that is about to be done, or is being done. Its methods are one
// goroutine's, but for Close.
type Execution struct {
	l       *Log
	ask     *Ask
	live    string // key in l.live, empty if there is none
	salt    []byte
	content []byte
	rec     contracts.Execution
	action  contracts.Action
	decided *contracts.ActionDecision
	done    chan struct{} // closed when nobody works on it any more
	state   string        // of the last step that was made, empty before the first
}

// Begin begins an execution. If one with the caller's key is there, it waits until that
// one is over and gives it instead. Errors: IDEMPOTENCY_CONFLICT if the key stands for
// another request; ctx's.
func (l *Log) Begin(ctx context.Context, a *Ask) (*Execution, *Prior, error) {
	e := &Execution{l: l, ask: a, done: make(chan struct{})}
	e.salt = make([]byte, 32)
	_, _ = rand.Read(e.salt) // never fails
	e.content = a.content(e.salt)
	e.action = contracts.Action{
		V: ActionVersion, ID: a.ID, Caller: string(a.Caller), Executor: string(a.Executor), Surface: a.Surface, Access: a.Access,
		Service: a.Service, Method: a.Method, Request: a.Request, At: identity.FormatTime(l.now()),
	}
	if a.Key == "" {
		return e, nil, nil
	}
	hash := a.keyed()
	e.action.Key, e.live = b64.EncodeToString(hash), string(hash)
	for {
		l.mu.Lock()
		other := l.live[e.live]
		if other == nil {
			l.live[e.live] = e
			l.mu.Unlock()
			p, err := l.prior(a, hash)
			if p != nil || err != nil {
				e.Close()
				return nil, p, err
			}
			return e, nil, nil
		}
		l.mu.Unlock()
		if !hmac.Equal(a.content(other.salt), other.content) {
			return nil, nil, errConflict
		}
		select {
		case <-other.done:
		case <-ctx.Done():
			return nil, nil, context.Cause(ctx)
		}
	}
}

var errConflict error = contracts.Errorf(contracts.IdempotencyConflict, "the idempotency key was used for another request; use a new one")

// prior looks up what a key stands for; nil if it is new.
func (l *Log) prior(a *Ask, hash []byte) (*Prior, error) {
	v, err := l.rows.Get(append([]byte(prefixKey), hash...))
	if err != nil || v == nil {
		return nil, err
	}
	if len(v) != 36+32+32 {
		return nil, contracts.Errorf(contracts.StorageCorrupt, "a row of the execution log is not as it was written")
	}
	if !hmac.Equal(a.content(v[36:68]), v[68:]) {
		return nil, errConflict
	}
	rec, err := l.Get(string(v[:36]))
	if err != nil {
		return nil, err
	}
	return l.priorOf(rec), nil
}

func (l *Log) priorOf(rec *contracts.Execution) *Prior {
	last := rec.Steps[len(rec.Steps)-1]
	p := &Prior{ID: rec.ID, State: last.State, Code: contracts.Code(last.Code)}
	if p.State == Executing { // its end could not be recorded
		p.State = Unknown
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	p.Answer = l.known.get(l.now(), rec.ID)
	return p
}

// ID gives the execution's id.
func (e *Execution) ID() string { return e.ask.ID }

// Action gives what is to be decided, with the body that its commitment is to.
func (e *Execution) Action() (action *contracts.Action, salt, body []byte) {
	return &e.action, e.ask.Salt, e.ask.Body
}

// Approved notes that somebody was asked and said yes. The action is the one that the
// decision is about: that of an earlier try of the same content, perhaps.
func (e *Execution) Approved(a *contracts.Action, d *contracts.ActionDecision) {
	e.action, e.decided = *a, d
}

// Start gives the rows that must be durable before the work begins, in one transaction
// with the intent of the audit log that has the given id.
func (e *Execution) Start(intent string) ([]Row, error) {
	at := identity.FormatTime(e.l.now())
	e.rec = contracts.Execution{V: version, ID: e.ask.ID}
	for _, s := range []contracts.ExecutionStep{{State: Pending, At: e.action.At, Action: &e.action}, {State: Authorized, At: at, Decision: e.decided}, {State: Executing, At: at}} {
		if err := add(&e.rec, s); err != nil {
			return nil, err
		}
	}
	if err := e.rec.Validate(); err != nil {
		return nil, contracts.Errorf(contracts.Internal, "the record of an execution is not as the contract says: %w", err)
	}
	e.state = Executing
	rows := []Row{{recordKey(e.ask.ID), e.rec.AppendCanonical(nil)}, {openKey(e.ask.ID), []byte(intent)}}
	if e.live != "" {
		v := append(append([]byte(e.ask.ID), e.salt...), e.content...)
		rows = append(rows, Row{[]byte(prefixKey + e.live), v})
	}
	return rows, nil
}

// End gives the rows that are durable with the audit log's result. failed is why the work
// failed, nil if it did not; begun reports whether it may have had an effect. What failed
// without one frees its key: the same request may be made again.
func (e *Execution) End(failed error, begun bool, response string) ([]Row, error) {
	s := contracts.ExecutionStep{State: Completed, At: identity.FormatTime(e.l.now()), Response: response}
	if failed != nil {
		s.State, s.Response, s.Code = Unknown, "", string(contracts.CodeOf(failed))
		if !begun {
			s.State = Failed
		}
	}
	if err := add(&e.rec, s); err != nil {
		return nil, err
	}
	rows := []Row{{recordKey(e.ask.ID), e.rec.AppendCanonical(nil)}, {openKey(e.ask.ID), nil}}
	e.state = s.State
	if s.State == Failed && e.live != "" {
		rows = append(rows, Row{[]byte(prefixKey + e.live), nil})
	}
	return rows, nil
}

// Keep keeps the answer of a completed execution in memory for whoever asks again.
func (e *Execution) Keep(answer any, size int) {
	if e.live == "" || e.state != Completed {
		return
	}
	e.l.mu.Lock()
	defer e.l.mu.Unlock()
	e.l.known.put(e.l.now(), e.ask.ID, answer, size)
}

// Close lets those go on who wait for the execution. It may be called more than once.
func (e *Execution) Close() {
	e.l.mu.Lock()
	defer e.l.mu.Unlock()
	select {
	case <-e.done:
		return
	default:
	}
	if e.live != "" && e.l.live[e.live] == e {
		delete(e.l.live, e.live)
	}
	close(e.done)
}

func recordKey(id string) []byte { return []byte(prefixRecord + id) }
func openKey(id string) []byte   { return []byte(prefixOpen + id) }

// Get gives an execution. NOT_FOUND if there is none of that id.
func (l *Log) Get(id string) (*contracts.Execution, error) {
	b, err := l.rows.Get(recordKey(id))
	if err != nil {
		return nil, err
	}
	if b == nil {
		return nil, contracts.Errorf(contracts.NotFound, "there is no execution %.40s; they are kept for %d days", id, Retention/(24*time.Hour))
	}
	return contracts.ParseExecution(b)
}

// List gives executions, the newest first: those of a state, all if it is empty; at most
// limit, of those before an id if it is not empty.
func (l *Log) List(state, before string, limit int) ([]*contracts.Execution, error) {
	ring := []*contracts.Execution{}
	var failed error
	err := l.rows.Scan([]byte(prefixRecord), func(k, v []byte) bool {
		if before != "" && string(k[len(prefixRecord):]) >= before {
			return false
		}
		rec, err := contracts.ParseExecution(v)
		if err != nil {
			failed = err
			return false
		}
		if state == "" || State(rec) == state {
			ring = append(ring, rec)
			if len(ring) > limit {
				ring = ring[1:]
			}
		}
		return true
	})
	if err == nil {
		err = failed
	}
	for i, j := 0, len(ring)-1; i < j; i, j = i+1, j-1 {
		ring[i], ring[j] = ring[j], ring[i]
	}
	return ring, err
}

// Left is an execution that ran when the program ended.
type Left struct {
	Execution *contracts.Execution // unknown now
	Intent    string               // of the audit log
	Rows      []Row                // to be made durable with its result
}

// Left gives what an earlier run of the program left executing: each is unknown from now
// on (EXE-3). Its rows are to be stored with a result in the audit log.
func (l *Log) Left() (out []Left, err error) {
	intents := map[string]string{}
	if err := l.rows.Scan([]byte(prefixOpen), func(k, v []byte) bool {
		intents[string(k[len(prefixOpen):])] = string(v)
		return true
	}); err != nil {
		return nil, err
	}
	for id, intent := range intents {
		rec, err := l.Get(id)
		if err != nil {
			return nil, err
		}
		if err := add(rec, contracts.ExecutionStep{State: Unknown, At: identity.FormatTime(l.now())}); err != nil {
			return nil, err
		}
		out = append(out, Left{rec, intent, []Row{{recordKey(id), rec.AppendCanonical(nil)}, {openKey(id), nil}}})
	}
	return out, nil
}

// Settle records what the owner found out of an execution that is unknown.
func (l *Log) Settle(ctx context.Context, id string, done bool) (*contracts.Execution, error) {
	rec, err := l.Get(id)
	if err != nil {
		return nil, err
	}
	s := contracts.ExecutionStep{State: Failed, At: identity.FormatTime(l.now()), By: "owner"}
	if done {
		s.State = Completed
	}
	if State(rec) != Unknown {
		return nil, contracts.Errorf(contracts.Conflict, "the execution %s is %s: only one whose outcome is unknown can be settled", id, State(rec))
	}
	if err := add(rec, s); err != nil {
		return nil, err
	}
	return rec, l.rows.Write(ctx, [][]byte{recordKey(id)}, [][]byte{rec.AppendCanonical(nil)})
}

// Prune forgets executions that are older than the retention, with the keys that stand for
// them, and reports how many.
func (l *Log) Prune(ctx context.Context) (int, error) {
	var keys [][]byte
	byKey := map[string]string{} // key row → id
	limit := prefixRecord + anchor.NewID(l.now().Add(-Retention), [10]byte{})
	if err := l.rows.Scan([]byte(prefixRecord), func(k, v []byte) bool {
		if string(k) >= limit || len(keys) >= pruneAtOnce {
			return false
		}
		keys = append(keys, bytes.Clone(k))
		rec, err := contracts.ParseExecution(v)
		if err == nil && rec.Steps[0].Action != nil {
			if hash, err := b64.DecodeString(rec.Steps[0].Action.Key); err == nil && len(hash) > 0 {
				byKey[prefixKey+string(hash)] = rec.ID
			}
		}
		return true
	}); err != nil {
		return 0, err
	}
	n := len(keys)
	for k, id := range byKey {
		v, err := l.rows.Get([]byte(k))
		if err != nil {
			return 0, err
		}
		if len(v) >= len(id) && string(v[:len(id)]) == id { // else a later execution has it
			keys = append(keys, []byte(k))
		}
	}
	if n == 0 {
		return 0, nil
	}
	return n, l.rows.Write(ctx, keys, make([][]byte, len(keys)))
}
