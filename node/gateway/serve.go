package gateway

import (
	"context"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
	"github.com/talosprotocol/talos/node/call"
	"github.com/talosprotocol/talos/node/execution"
	"github.com/talosprotocol/talos/node/gate"
	"github.com/talosprotocol/talos/node/receipt"
)

const (
	// MaxBody bounds the body of a request, in bytes.
	MaxBody = 8 << 20
	// MaxBodies bounds the bodies of all requests that are in memory at once, in bytes.
	MaxBodies = 256 << 20

	surfaceList = "gateway.services"
)

// Config of a gateway.
type Config struct {
	DID    identity.DID
	Region string
	// Key signs receipts and the list of services: the invocation key in use now.
	Key  func() (identity.InvocationKey, error)
	Gate *gate.Gate
	// Executions keeps what is done of calls that change something; nil: nothing is kept.
	Executions *execution.Log
	// Receipts keeps the receipts of calls of the mesh; nil: nobody does.
	Receipts *receipt.Keeper
	Log      *slog.Logger
	Now      func() time.Time
}

// Gateway serves the calls of others. It is safe for concurrent use.
type Gateway struct {
	cfg    Config
	bodies *semaphore.Weighted

	mu       sync.RWMutex
	region   string
	drivers  map[string]Driver // by kind
	draining bool
	listed   []byte // signed, of changed
	listedAt time.Time
}

// New makes a gateway that offers nothing yet.
func New(cfg Config) *Gateway {
	return &Gateway{cfg: cfg, region: cfg.Region, bodies: semaphore.NewWeighted(MaxBodies), drivers: map[string]Driver{}}
}

// Set replaces the driver of a kind; nil takes it away. Calls that run go on.
func (g *Gateway) Set(kind string, d Driver) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.listed = nil
	if d == nil {
		delete(g.drivers, kind)
		return
	}
	g.drivers[kind] = d
}

// Changed has the list of services made anew: a driver offers something else.
func (g *Gateway) Changed() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.listed = nil
}

// SetRegion replaces the region that the list of services names.
func (g *Gateway) SetRegion(region string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.region, g.listed = region, nil
}

// Drain says in the list of services that nothing new is taken. That it is so is for
// call.Calls to see to.
func (g *Gateway) Drain() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.draining, g.listed = true, nil
}

// Handle answers a call of the mesh; it is a call.Handler.
func (g *Gateway) Handle(ctx context.Context, c *call.Call, w *call.ResponseWriter) error {
	who := gate.Principal{DID: c.Caller.DID, Proof: gate.Channel, Session: string(c.Peer)}
	r, err := g.serve(ctx, who, &c.Header, c.Body, w)
	if r == nil || err != nil {
		return err
	}
	signed, err := g.sign(r)
	if err != nil {
		return err
	}
	if g.cfg.Receipts != nil {
		g.cfg.Receipts.Take(receipt.Executor, r, c.Caller.State)
	}
	return w.Trailer(signed)
}

// serve answers a call for who, and gives what the receipt says when it is over.
func (g *Gateway) serve(ctx context.Context, who gate.Principal, h *call.Header, in io.Reader, out output) (*contracts.CallReceipt, error) {
	if h.Surface == surfaceList {
		return nil, g.list(ctx, who, out)
	}
	kind, ok := strings.CutSuffix(h.Surface, ".use")
	if !ok || kind != Model && kind != Tool && kind != Agent {
		return nil, call.NotBegun(contracts.Errorf(contracts.Forbidden, "%.64q is on no surface that other nodes may call, and denied", h.Surface))
	}
	g.mu.RLock()
	d := g.drivers[kind]
	g.mu.RUnlock()
	if d == nil {
		return nil, call.NotBegun(contracts.Errorf(contracts.UnknownTool, "this node offers nothing of the kind %s", kind))
	}
	body, release, err := g.read(ctx, h.Length, in)
	if err != nil {
		return nil, call.NotBegun(err)
	}
	defer release()
	a, salt, err := g.asked(ctx, who, h, body)
	if err != nil {
		return nil, call.NotBegun(err)
	}
	p, err := d.Plan(ctx, a)
	if err != nil {
		return nil, call.NotBegun(err)
	}
	if s := g.cfg.Gate.Registry().Surface(p.Surface); s == nil || s.Call == nil || !*s.Call {
		return nil, call.NotBegun(contracts.Errorf(contracts.Forbidden, "%.64q is on no surface that other nodes may call, and denied", p.Surface))
	}
	return g.do(ctx, who, h, a, p, salt, out)
}

// read takes the body into memory, within what there is for bodies.
func (g *Gateway) read(ctx context.Context, length int64, in io.Reader) ([]byte, func(), error) {
	if length > MaxBody {
		return nil, nil, contracts.Errorf(contracts.TooLarge, "a request of %d bytes, at most %d", length, MaxBody)
	}
	room := length
	if room == 0 {
		room = MaxBody
	}
	if err := g.bodies.Acquire(ctx, room); err != nil {
		return nil, nil, contracts.Errorf(contracts.RateLimited, "no memory for another request: %w", err)
	}
	release := func() { g.bodies.Release(room) }
	b, err := readAll(in, length)
	if err == nil && len(b) > MaxBody {
		err = contracts.Errorf(contracts.TooLarge, "a request of more than %d bytes", MaxBody)
	}
	if err != nil {
		release()
		return nil, nil, err
	}
	return b, release, nil
}

func readAll(in io.Reader, length int64) ([]byte, error) {
	if in == nil {
		return nil, nil
	}
	if length > 0 {
		b := make([]byte, length)
		_, err := io.ReadFull(in, b)
		return b, err
	}
	return io.ReadAll(io.LimitReader(in, MaxBody+1))
}

func (g *Gateway) asked(ctx context.Context, who gate.Principal, h *call.Header, body []byte) (*Asked, []byte, error) {
	m := &contracts.CallMeta{}
	if len(h.Meta) > 0 {
		var err error
		if m, err = contracts.ParseCallMeta(h.Meta); err != nil {
			return nil, nil, err
		}
	}
	salt, err := b64.Strict().DecodeString(m.Salt)
	if err != nil {
		return nil, nil, contracts.Errorf(contracts.Malformed, "the salt is not in canonical base64url")
	}
	if len(salt) == 0 {
		salt = newSalt() // the audit event must not have a bare digest
	}
	return &Asked{
		ID: h.ID, Caller: who.DID, Service: h.Service, Method: h.Method, ContentType: h.ContentType, Headers: m.Headers, Body: body,
		May: func(surface string, params map[string]string) error {
			return g.cfg.Gate.May(ctx, &gate.Request{Surface: surface, Who: who, Params: params, Token: h.Capability})
		},
	}, salt, nil
}

// do passes the gate and does what was planned, once. Whatever happens before the work
// begins has not begun; so has what the work marks itself.
func (g *Gateway) do(ctx context.Context, who gate.Principal, h *call.Header, a *Asked, p *Plan, salt []byte, out output) (*contracts.CallReceipt, error) {
	request := execution.Commit(salt, a.Body)
	reply := &Reply{out: out, commit: execution.NewCommitment(salt)}
	req := &gate.Request{
		Surface: p.Surface, Who: who, Params: p.Params, Args: p.Args, Token: h.Capability,
		Peer: who.DID, RequestDigest: request, Cost: p.Cost, Body: a.Body,
	}
	ex, prior, err := g.begin(ctx, h, req, salt)
	if err != nil {
		return nil, err
	}
	if prior != nil {
		return g.again(ctx, who, h, p, req, prior, reply)
	}
	if ex != nil {
		defer ex.Close()
		req.Execution, reply.tape = ex, &tape{}
	}
	var used Usage
	begun := false
	err = g.cfg.Gate.Do(ctx, req, func(ctx context.Context, pass *gate.Pass) (gate.Result, error) {
		begun = true
		var err error
		used, err = p.Do(ctx, pass, reply)
		return gate.Result{
			Used:    gate.Amounts{gate.Calls: 1, gate.Tokens: used.Tokens, gate.Micro: used.CostMicro},
			UnitsIn: used.In, UnitsOut: used.Out, ResultDigest: reply.commit.Text(), NotBegun: !call.MayHaveBegun(err),
		}, err
	})
	if err != nil && !begun {
		return nil, call.NotBegun(err)
	}
	if err != nil && !used.Cut {
		return nil, err
	}
	rec := g.receipt(who, h, p, &used, request, reply, err)
	if ex != nil {
		rec.Execution = ex.ID()
		ex.Keep(reply.tape, reply.tape.size())
	}
	return rec, nil
}

func (g *Gateway) receipt(who gate.Principal, h *call.Header, p *Plan, u *Usage, request string, reply *Reply, failed error) *contracts.CallReceipt {
	r := &contracts.CallReceipt{
		V: receipt.Version, Call: h.ID, Caller: string(who.DID), Executor: string(g.cfg.DID), Surface: p.Surface, Service: h.Service, Method: h.Method,
		Request: request, Response: reply.commit.Text(), Outcome: "ok", UnitsIn: &u.In, UnitsOut: &u.Out, CostMicro: &u.CostMicro,
		At: instant(g.cfg.Now()),
	}
	if u.Estimated {
		r.Estimated = &u.Estimated
	}
	if failed != nil {
		r.Outcome = "cut"
	}
	return r
}

func (g *Gateway) sign(r *contracts.CallReceipt) ([]byte, error) {
	key, err := g.cfg.Key()
	if err != nil {
		return nil, err
	}
	if err := r.Validate(); err != nil {
		return nil, contracts.Errorf(contracts.Internal, "the receipt is not as the contract says: %w", err)
	}
	return receipt.Sign(r, key), nil
}
