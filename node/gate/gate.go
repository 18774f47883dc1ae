package gate

import (
	"context"
	"errors"
	"log/slog"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
	"github.com/talosprotocol/talos/node/execution"
)

// Proof says how a principal proved who it is.
type Proof string

// The proofs that a gate knows.
const (
	Nobody   Proof = ""         // nothing was proved
	Owner    Proof = "owner"    // the node's own socket or token file: its owner
	Channel  Proof = "channel"  // a connection that hello has bound to the DID
	Attested Proof = "attested" // a signed HTTP request
	Signed   Proof = "signed"   // a signed invocation, relayed or stored on its way
)

// Principal is who asks.
type Principal struct {
	DID     identity.DID // empty for nobody
	Proof   Proof
	Session string // of the connection or session; replay windows belong to it
}

// Subject names a principal in limits and budgets.
func (p Principal) Subject() string {
	switch {
	case p.Proof == Owner:
		return "owner"
	case p.DID != "":
		return string(p.DID)
	case p.Session != "":
		return "peer " + p.Session // a connection that says nothing of who it is
	}
	return "nobody"
}

// Request is one call at the door.
type Request struct {
	Surface string
	Who     Principal
	Params  map[string]string // of the surface's templates
	Args    []byte            // canonical JSON for constraints, nil if there is none
	ID      string            // of the request, for replay; empty where the transport has its own order
	// Token is a capability chain that comes with the call; nil: those that the
	// principal has shown before count.
	Token []byte
	// Peer, Session and RequestDigest go into the audit event where the surface allows it.
	Peer          identity.DID
	Session       string
	RequestDigest string
	Reason        string // one of the audit event's reasons
	// Cost is reserved of every payer's budget before the work begins.
	Cost Amounts
	// Allow further limits beside the surface's own, from whoever runs the node.
	Rate Rate
	// Execution is the record of a call that must not be done twice; nil: none is kept.
	Execution *execution.Execution
	// Body is what the call is about, for whoever has to approve it; the gate does not look
	// at it, and it goes nowhere else.
	Body []byte
}

// Decision is an authority's yes.
type Decision struct {
	Grant      string // which grant it was, for the audit log: "owner", "rbac:<binding>", "cap:<token id>"
	Capability string // token id, base64url; empty unless it was a capability
	Scope      string // the scope that covered the call
	Rate       Rate   // of the grant
	Payers     []Payer
	// Commit consumes what the decision used up (a call of max_calls, a request id). It
	// is called once, when nothing else can refuse the call any more, and may itself
	// refuse, since calls race. Nil: nothing.
	Commit func(now time.Time) error
}

// Authority decides. An error is a denial with its code; anything else is a yes.
type Authority interface {
	Decide(ctx context.Context, now time.Time, r *Request, c Call) (Decision, error)
}

// Book is the audit log and the rows of the ledger, in one transaction.
type Book interface {
	// Enter makes an event and rows durable together: what is spent, and what else there is.
	Enter(ctx context.Context, e Event, spent []Spent, more []execution.Row) error
}

// Approver is asked whether a call that everything else allows may begin. It waits for
// the decision. Nil and no error: nobody has to be asked.
type Approver interface {
	Approve(ctx context.Context, r *Request, s *contracts.Surface, c Call) (*Approval, error)
}

// Approval is a yes that was asked for.
type Approval struct {
	Action   *contracts.Action
	Decision *contracts.ActionDecision
}

// Event is what the gate records: an intent, a result, a denial or an approval.
type Event struct {
	ID                           string // UUIDv7
	Type                         string // intent, result, denied, approval
	Intent                       string // of a result: the id of its intent
	Surface, Subject             string
	Peer                         identity.DID
	Session, Scope, Capability   string
	RequestDigest, ResultDigest  string
	Reason                       string
	Outcome                      string // ok, error, denied, cancelled, timeout
	Code                         contracts.Code
	HighRisk                     bool
	UnitsIn, UnitsOut, CostMicro int64
	Duration                     time.Duration
}

// Result is what the work says of itself.
type Result struct {
	Used              Amounts // of the budgets, really
	UnitsIn, UnitsOut int64
	ResultDigest      string
	// Peer and RequestDigest go into the event where only the work knows them.
	Peer          identity.DID
	RequestDigest string
	// NotBegun says of work that failed that it certainly had no effect.
	NotBegun bool
}

// Pass is what the work holds while it runs.
type Pass struct {
	Decision
	Call        Call
	reservation *Reservation
}

// TopUp reserves more of the budgets, while the work goes on; on an error the work must
// end.
func (p *Pass) TopUp(cost Amounts) error { return p.reservation.TopUp(cost) }

// Hard reports whether a hard budget pays for the call.
func (p *Pass) Hard() bool {
	return slices.ContainsFunc(p.Payers, func(p Payer) bool { return p.Mode == Hard })
}

// Gate is the door. It is safe for concurrent use.
type Gate struct {
	reg    *Registry
	auth   Authority
	book   Book
	limits *Limiter
	ledger *Ledger
	log    *slog.Logger
	now    func() time.Time
	node   Rate     // of the whole node; the zero value does not limit
	asks   Approver // nil: nobody has to be asked
	later  sync.WaitGroup
	slots  chan struct{} // of what is recorded later
}

// maxLater bounds what waits to be recorded.
const maxLater = 256

// Options of a gate.
type Options struct {
	Registry  *Registry
	Authority Authority
	Book      Book
	Ledger    *Ledger
	Approver  Approver
	Node      Rate
	Log       *slog.Logger
	Now       func() time.Time
}

// New makes a gate.
func New(o Options) *Gate {
	return &Gate{reg: o.Registry, auth: o.Authority, book: o.Book, limits: NewLimiter(), ledger: o.Ledger, log: o.Log, now: o.Now, node: o.Node, asks: o.Approver, slots: make(chan struct{}, maxLater)}
}

// Registry gives the gate's surfaces.
func (g *Gate) Registry() *Registry { return g.reg }

// Ledger gives what is spent.
func (g *Gate) Ledger() *Ledger { return g.ledger }

// Do lets r pass and runs work, or refuses with the code that says why. work gets a
// context that it must heed; its error becomes the outcome of the result, and Do's.
// Budgets are settled and the result recorded also when work panics.
func (g *Gate) Do(ctx context.Context, r *Request, work func(context.Context, *Pass) (Result, error)) error {
	s := g.reg.Surface(r.Surface)
	if s == nil {
		return contracts.Errorf(contracts.Forbidden, "%.64q is on no surface of the registry, and denied", r.Surface)
	}
	pass, err := g.admit(ctx, r, s)
	if err != nil {
		return err
	}
	intent, err := g.begin(ctx, r, s, pass)
	if err != nil {
		pass.reservation.Settle(nil)
		return err
	}
	return g.run(ctx, r, s, pass, intent, work)
}

// May reports why a call would be denied, nil if it would not be for want of authority:
// for lists of what somebody may do. It consumes and records nothing, and says nothing of
// rates and budgets.
func (g *Gate) May(ctx context.Context, r *Request) error {
	s := g.reg.Surface(r.Surface)
	if s == nil {
		return contracts.Errorf(contracts.Forbidden, "%.64q is on no surface of the registry, and denied", r.Surface)
	}
	c, err := call(s, r.Params, r.Args)
	if err != nil || s.Open != nil && *s.Open {
		return err
	}
	_, err = g.auth.Decide(ctx, g.now(), r, c)
	return err
}

// Check decides without doing anything: for surfaces that have an order and a record of
// their own, as the frames of a session.
func (g *Gate) Check(ctx context.Context, r *Request) (Decision, error) {
	s := g.reg.Surface(r.Surface)
	if s == nil {
		return Decision{}, contracts.Errorf(contracts.Forbidden, "%.64q is on no surface of the registry, and denied", r.Surface)
	}
	pass, err := g.admit(ctx, r, s)
	if err != nil {
		return Decision{}, err
	}
	pass.reservation.Settle(r.Cost)
	return pass.Decision, nil
}

// admit does all that can refuse a call. What it consumes it consumes last.
func (g *Gate) admit(ctx context.Context, r *Request, s *contracts.Surface) (*Pass, error) {
	now := g.now()
	c, err := call(s, r.Params, r.Args)
	if err != nil {
		return nil, err
	}
	d := Decision{Grant: "open"}
	if s.Open == nil || !*s.Open {
		if d, err = g.auth.Decide(ctx, now, r, c); err != nil {
			g.denied(ctx, r, s, err)
			return nil, err
		}
	}
	who := r.Who.Subject()
	keys := []string{"", "s:" + s.ID + ":" + who, "g:" + d.Grant, "x:" + who}
	rates := []Rate{g.node, rateOf(s), d.Rate, r.Rate}
	if err := g.limits.Allow(now, keys, rates); err != nil {
		g.ledger.Outcome(d.Payers, true)
		return nil, err
	}
	res, err := g.ledger.Reserve(d.Payers, r.Cost)
	if err != nil {
		g.ledger.Outcome(d.Payers, true)
		g.denied(ctx, r, s, err)
		return nil, err
	}
	if err := g.last(ctx, r, s, c, &d); err != nil {
		res.Settle(nil)
		g.denied(ctx, r, s, err)
		return nil, err
	}
	return &Pass{Decision: d, Call: c, reservation: res}, nil
}

// last asks for an approval where one is needed, and has the grant count the call.
func (g *Gate) last(ctx context.Context, r *Request, s *contracts.Surface, c Call, d *Decision) error {
	if g.asks != nil {
		a, err := g.asks.Approve(ctx, r, s, c)
		if err != nil {
			return err // recorded as a denial, as often as those are
		}
		if a != nil {
			if err := g.approved(ctx, r, s, a); err != nil {
				return err
			}
		}
		if a != nil && r.Execution != nil {
			r.Execution.Approved(a.Action, a.Decision)
		}
	}
	if d.Commit == nil {
		return nil
	}
	return d.Commit(g.now())
}

// approved records that somebody was asked and said yes.
func (g *Gate) approved(ctx context.Context, r *Request, s *contracts.Surface, a *Approval) error {
	if s.Record == "none" {
		return nil
	}
	e := g.event("approval", r, s, Decision{})
	e.Outcome, e.Peer, e.RequestDigest = "ok", identity.DID(a.Decision.By), a.Action.Request
	return g.book.Enter(ctx, e, nil, nil)
}

// begin makes the decision to begin durable, with the budgets that it holds and the record
// of the execution.
func (g *Gate) begin(ctx context.Context, r *Request, s *contracts.Surface, p *Pass) (intent string, err error) {
	if s.Record != "intent" && s.Record != "intent-later" {
		return "", nil
	}
	e := g.event("intent", r, s, p.Decision)
	var rows []execution.Row
	if r.Execution != nil {
		if rows, err = r.Execution.Start(e.ID); err != nil {
			return "", err
		}
	}
	return e.ID, g.book.Enter(ctx, e, p.reservation.Rows(), rows)
}

// run does the work and records how it ended.
func (g *Gate) run(ctx context.Context, r *Request, s *contracts.Surface, p *Pass, intent string, work func(context.Context, *Pass) (Result, error)) (err error) {
	start := g.now()
	var res Result
	finished := false
	defer func() {
		if !finished {
			_ = recover()
			// What a panic says may hold what must not be in a log: where it was is enough.
			g.log.Error("the work of a surface has panicked", "surface", s.ID, "stack", string(debug.Stack()))
			res.Used = p.reservation.held // what it used is not known
			err = contracts.Errorf(contracts.Internal, "the work of %s failed; the node's log says where", s.ID)
		}
		err = errors.Join(err, g.end(ctx, r, s, p, intent, res, err, g.now().Sub(start)))
	}()
	res, err = work(ctx, p)
	finished = true
	return err
}
