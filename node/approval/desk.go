package approval

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"sync"
	"time"

	"github.com/talosprotocol/talos/anchor"
	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
	"github.com/talosprotocol/talos/node/execution"
	"github.com/talosprotocol/talos/node/gate"
)

const (
	// Wait is how long a call waits for a decision if its rule does not say: less than the
	// clients that people have wait for an answer.
	Wait = 50 * time.Second
	// Standing is how long a request waits for whoever has to decide, and how long a
	// decision is good.
	Standing = time.Hour

	maxItems = 256
	maxOf    = 16       // of one asker
	maxBytes = 64 << 20 // of bodies
)

// Config of a desk.
type Config struct {
	DID identity.DID
	// Key signs the decisions of this node's owner: the invocation key in use now.
	Key func() (identity.InvocationKey, error)
	// Rule gives the first rule that covers a call on a surface, nil if there is none.
	Rule func(surface string, c gate.Call) (*contracts.ApprovalRule, error)
	// Ask asks a governance peer, and gives its decision with the key that it must be
	// signed with.
	Ask func(ctx context.Context, peer identity.DID, ask *contracts.ActionAsk) (*contracts.ActionDecision, identity.InvocationPublic, error)
	Now func() time.Time
}

// Item is something that waits for a decision.
type Item struct {
	Action contracts.Action
	Asker  identity.DID // the node whose call it is
	By     identity.DID // who decides
	Body   []byte
	At     time.Time
	// Decision is there when it was made and nobody has used it yet.
	Decision *contracts.ActionDecision
}

type item struct {
	Item
	salt    []byte
	content [32]byte
	decided chan struct{} // closed with the decision
}

// Desk is where requests for an approval wait. It is safe for concurrent use.
type Desk struct {
	cfg    Config
	secret [32]byte

	mu        sync.Mutex
	byContent map[[32]byte]*item
	byID      map[string]*item
	bytes     int
}

// New makes an empty desk.
func New(cfg Config) *Desk {
	d := &Desk{cfg: cfg, byContent: map[[32]byte]*item{}, byID: map[string]*item{}}
	_, _ = rand.Read(d.secret[:]) // never fails
	return d
}

// Approve answers the gate: it waits for whoever the rule names. Codes: APPROVAL_REQUIRED
// if there is no decision yet, APPROVAL_DENIED, RATE_LIMITED if too much waits.
func (d *Desk) Approve(ctx context.Context, r *gate.Request, s *contracts.Surface, c gate.Call) (*gate.Approval, error) {
	rule, err := d.cfg.Rule(s.ID, c)
	if err != nil || rule == nil {
		return nil, err
	}
	wait := Wait
	if rule.WaitSeconds != nil {
		wait = time.Duration(*rule.WaitSeconds) * time.Second
	}
	by := cmp.Or(identity.DID(rule.By), d.cfg.DID)
	it, err := d.enqueue(d.wanted(r, s, c, by))
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	if by != d.cfg.DID {
		return d.ofPeer(ctx, it, wait)
	}
	decision, err := d.await(ctx, it)
	if err != nil {
		return nil, err
	}
	return &gate.Approval{Action: &it.Action, Decision: decision}, nil
}

// wanted makes the item of a call. Of a call that has no execution the action is made here.
func (d *Desk) wanted(r *gate.Request, s *contracts.Surface, c gate.Call, by identity.DID) *item {
	it := &item{Item: Item{Asker: d.cfg.DID, By: by, Body: r.Body, At: d.cfg.Now()}, decided: make(chan struct{})}
	if r.Execution != nil {
		action, salt, body := r.Execution.Action()
		it.Action, it.salt, it.Body = *action, salt, body
	} else {
		var random [10]byte
		_, _ = rand.Read(random[:]) // never fails
		it.salt = make([]byte, 32)
		_, _ = rand.Read(it.salt)
		it.Action = contracts.Action{
			V: execution.ActionVersion, ID: anchor.NewID(it.At, random), Caller: string(cmp.Or(r.Who.DID, d.cfg.DID)), Executor: string(d.cfg.DID),
			Surface: s.ID, Access: s.Access, Service: c.Name, Method: c.Method, Request: execution.Commit(it.salt, r.Body), At: identity.FormatTime(it.At),
		}
	}
	h := hmac.New(sha256.New, d.secret[:])
	for _, t := range []string{string(it.Asker), string(by), it.Action.Caller, s.ID, c.Name, c.Method, string(it.Body)} {
		h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(t))))
		h.Write([]byte(t))
	}
	h.Sum(it.content[:0])
	return it
}

// enqueue gives the item of the same content if there is one, else takes it in.
func (d *Desk) enqueue(it *item) (*item, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.expire()
	if old := d.byContent[it.content]; old != nil {
		return old, nil
	}
	mine := 0
	for _, o := range d.byID {
		if o.Asker == it.Asker && o.Action.Caller == it.Action.Caller {
			mine++
		}
	}
	if mine >= maxOf || len(d.byID) >= maxItems || d.bytes+len(it.Body) > maxBytes {
		return nil, contracts.Errorf(contracts.RateLimited, "%d requests wait for an approval, %d of this caller: one of them has to be decided first", len(d.byID), mine)
	}
	d.byContent[it.content], d.byID[it.Action.ID] = it, it
	d.bytes += len(it.Body)
	return it, nil
}

// expire forgets what is older than it may get.
func (d *Desk) expire() {
	for _, it := range d.byID {
		if d.cfg.Now().Sub(it.At) >= Standing {
			d.forget(it)
		}
	}
}

func (d *Desk) forget(it *item) {
	if d.byID[it.Action.ID] == it {
		delete(d.byID, it.Action.ID)
		delete(d.byContent, it.content)
		d.bytes -= len(it.Body)
	}
}

// await waits for the decision of an item. An approval is used up by whoever gets it; a
// denial stands.
func (d *Desk) await(ctx context.Context, it *item) (*contracts.ActionDecision, error) {
	select {
	case <-it.decided:
	case <-ctx.Done():
		return nil, contracts.Errorf(contracts.ApprovalRequired, "%s has not approved this yet: it waits as %s; make the same call again later (the owner answers with: talos approval approve %s)", it.By.Short(), it.Action.ID, it.Action.ID)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if it.Decision.Verdict != approve {
		return nil, denied(it.Decision)
	}
	if d.byID[it.Action.ID] != it {
		return nil, contracts.Errorf(contracts.ApprovalRequired, "the approval of %s was used by another call of the same content, or has expired; make the call again to ask anew", it.Action.ID)
	}
	d.forget(it)
	return it.Decision, nil
}

// Waiting gives what waits, the oldest first.
func (d *Desk) Waiting() []Item {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.expire()
	out := []Item{}
	for _, it := range d.byID {
		if it.By == d.cfg.DID {
			out = append(out, it.Item)
		}
	}
	slices.SortFunc(out, func(a, b Item) int { return cmp.Compare(a.Action.ID, b.Action.ID) })
	return out
}

// Get gives what waits under an id. NOT_FOUND if nothing does.
func (d *Desk) Get(id string) (*Item, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.expire()
	it := d.byID[id]
	if it == nil || it.By != d.cfg.DID {
		return nil, contracts.Errorf(contracts.NotFound, "nothing waits for an approval as %.40s; talos approval list says what does", id)
	}
	c := it.Item
	return &c, nil
}

// Decide is the owner's decision.
func (d *Desk) Decide(id string, yes bool, why string) (*Item, error) {
	key, err := d.cfg.Key()
	if err != nil {
		return nil, err
	}
	if _, err := d.Get(id); err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	it := d.byID[id]
	if it == nil || it.Decision != nil {
		return nil, contracts.Errorf(contracts.Conflict, "%s is decided already", id)
	}
	now := d.cfg.Now()
	dec := &contracts.ActionDecision{
		V: decisionVersion, Action: execution.ActionDigest(&it.Action), Verdict: deny, By: string(d.cfg.DID),
		At: identity.FormatTime(now), Until: identity.FormatTime(now.Add(Standing)), Why: why,
	}
	if yes {
		dec.Verdict = approve
	}
	sign(dec, key)
	if err := dec.Validate(); err != nil {
		return nil, err
	}
	it.Decision = dec
	close(it.decided)
	c := it.Item
	return &c, nil
}
