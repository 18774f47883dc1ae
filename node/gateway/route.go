package gateway

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
	"github.com/talosprotocol/talos/node/authority"
	"github.com/talosprotocol/talos/node/call"
	"github.com/talosprotocol/talos/node/directory"
	"github.com/talosprotocol/talos/node/execution"
	"github.com/talosprotocol/talos/node/gate"
	"github.com/talosprotocol/talos/node/p2p"
	"github.com/talosprotocol/talos/node/receipt"
)

const maxTries = 3

// Target says what is to be used, and of whom.
type Target struct {
	Kind   string
	Name   string
	Method string
	DID    identity.DID // empty: any gateway that the owner trusts
}

// ParseTarget reads "name" or "did/name".
func ParseTarget(kind, method, text string) (Target, error) {
	t := Target{Kind: kind, Name: text, Method: method}
	if strings.HasPrefix(text, "did:") {
		did, name, _ := strings.Cut(text, "/")
		id, err := identity.ParseDID(did)
		if err != nil {
			return t, err
		}
		t.DID, t.Name = id, name
	}
	if t.Name == "" {
		return t, contracts.Errorf(contracts.Malformed, "%.128q names no %s; write its name, or the DID of its gateway, / and its name", text, kind)
	}
	return t, nil
}

// Use is a call for a local program.
type Use struct {
	Target
	ContentType    string
	Headers        []contracts.CallHeader
	Body           []byte
	Repeatable     bool // it may be done twice: it changes nothing
	IdempotencyKey string
}

// Answer is what came back. Whoever gets one closes its Body, which is one reader's.
type Answer struct {
	Status      int
	ContentType string
	Headers     []contracts.CallHeader
	Length      int64 // of the body; 0: not known
	Body        io.ReadCloser
	Gateway     identity.DID
	Request     string // commitment to the request
	receipt     func() *contracts.CallReceipt
}

// Receipt gives the gateway's receipt when the body has been read to its end; nil if there
// is none, or not yet. The node's own services give none.
func (a *Answer) Receipt() *contracts.CallReceipt {
	if a.receipt == nil {
		return nil
	}
	return a.receipt()
}

// RouterConfig of a router.
type RouterConfig struct {
	Calls  *call.Calls
	Host   *p2p.Host
	Dir    *directory.Directory
	Powers *authority.Service
	Own    *Gateway        // of this node
	Keeper *receipt.Keeper // of the receipts; nil: nobody keeps them
	Log    *slog.Logger
	Now    func() time.Time
}

// Router makes the calls of local programs. It is safe for concurrent use.
type Router struct {
	RouterConfig
	health *health

	mu     sync.Mutex
	trust  []identity.DID // prompts may go to
	region string
	lists  map[identity.DID]*listed
}

// NewRouter makes a router that trusts nobody with prompts.
func NewRouter(cfg RouterConfig) *Router {
	return &Router{RouterConfig: cfg, health: newHealth(), lists: map[identity.DID]*listed{}}
}

// SetTrust replaces the gateways that prompts may go to, and the region that is preferred.
func (r *Router) SetTrust(dids []identity.DID, region string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.trust, r.region = slices.Clone(dids), region
}

// Trusts reports whether prompts may go to a gateway.
func (r *Router) Trusts(did identity.DID) bool {
	if did == r.Dir.Self().DID {
		return true
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Contains(r.trust, did)
}

type candidate struct {
	key    serviceKey
	region string
}

// Use makes a call, at the gateway that it names or at the best of those that offer what
// it wants. Another gateway is tried only if the first says that it has not begun, or if
// the call may be done twice; and only until an answer has begun. Errors: FORBIDDEN for a
// prompt to a gateway that is not trusted, UNKNOWN_TOOL, and what the gateway or the way
// to it says.
func (r *Router) Use(ctx context.Context, u *Use) (*Answer, error) {
	all, err := r.candidates(ctx, &u.Target)
	if err != nil {
		return nil, err
	}
	r.health.called()
	if u.IdempotencyKey == "" {
		u.IdempotencyKey = b64.EncodeToString(newSalt())[:22]
	}
	var last error
	for i, c := range all[:min(len(all), maxTries)] {
		if i > 0 && !r.health.mayRetry() {
			break
		}
		a, err := r.try(ctx, c, u, len(all))
		if err == nil {
			return a, nil
		}
		if last == nil || !lacking(err) { // that one was too dear says more than that another is closed
			last = err
		}
		if ctx.Err() != nil || !elsewhere(u, err) {
			return nil, err
		}
		r.Log.Info("a gateway is left out", "gateway", c.key.did, "service", c.key.name, "err", err)
	}
	return nil, last
}

// lacking reports whether a call was refused for want of authority.
func lacking(err error) bool {
	switch contracts.CodeOf(err) {
	case contracts.NoCapability, contracts.ScopeMismatch, contracts.Revoked, contracts.Expired:
		return true
	}
	return false
}

// elsewhere reports whether a failed call may be made at another gateway.
func elsewhere(u *Use, err error) bool {
	switch contracts.CodeOf(err) {
	case contracts.Malformed, contracts.TooLarge:
		return false
	}
	return !call.MayHaveBegun(err) || u.Repeatable && against(err)
}

// try makes the call at one gateway.
func (r *Router) try(ctx context.Context, c candidate, u *Use, gateways int) (*Answer, error) {
	done, err := r.health.begin(c.key)
	if err != nil {
		return nil, call.NotBegun(err)
	}
	start := time.Now()
	salt := newSalt()
	meta := contracts.CallMeta{V: metaVersion, Salt: b64.EncodeToString(salt), Headers: u.Headers}
	h := call.Header{
		Surface: u.Kind + ".use", Service: u.Name, Method: u.Method, Read: u.Repeatable,
		ContentType: u.ContentType, IdempotencyKey: u.IdempotencyKey, Meta: meta.AppendCanonical(nil),
	}
	var a *Answer
	if c.key.did == r.Dir.Self().DID {
		a, err = r.Own.Local(ctx, gate.Principal{DID: c.key.did, Proof: gate.Owner}, h, u.Body)
	} else {
		a, err = r.remote(ctx, c.key.did, h, u.Body, salt, gateways)
	}
	if errors.Is(ctx.Err(), context.Canceled) { // it was given up here, whatever came of that
		done(context.Canceled, time.Since(start))
	} else {
		done(err, time.Since(start))
	}
	if err != nil {
		return nil, err
	}
	a.Request = execution.Commit(salt, u.Body)
	return a, nil
}

// remote calls a gateway.
func (r *Router) remote(ctx context.Context, did identity.DID, h call.Header, body, salt []byte, gateways int) (*Answer, error) {
	id, p, err := r.Dir.Connect(ctx, did)
	if err != nil {
		return nil, call.NotBegun(err)
	}
	tries := 0 // as calls are made
	if gateways > 1 {
		tries = 1 // another one is asked instead
	}
	resp, err := r.show(ctx, id, did, h, body, tries)
	for _, pause := range askAgain {
		// The gateway does a write once for its key: asked again, it says what became of it.
		if err == nil || h.Read || !call.MayHaveBegun(err) || contracts.CodeOf(err) != contracts.Unavailable || !wait(ctx, pause) {
			break
		}
		r.Log.Info("a gateway is asked what became of a call", "gateway", did, "service", h.Service, "err", err)
		if again, e := r.show(ctx, id, did, h, body, tries); e == nil || contracts.CodeOf(e) != contracts.Unavailable {
			resp, err = again, mayHaveBegun(e)
		}
	}
	if lacking(err) && !call.MayHaveBegun(err) {
		return nil, call.NotBegun(contracts.Errorf(contracts.CodeOf(err), "%s has given this node nothing that covers the %s %s; ask its owner: talos cap request %s --scope %s:%s",
			did.Short(), kindOf(h.Surface), h.Service, did, kindOf(h.Surface), h.Service))
	}
	if err != nil {
		return nil, err
	}
	m, err := responseMeta(resp.Header.Meta)
	if err != nil {
		_ = resp.Body.Close()
		return nil, err
	}
	b := &answerBody{r: r, key: serviceKey{did, kindOf(h.Surface), h.Service}, resp: resp, peer: p, commit: execution.NewCommitment(salt), want: contracts.CallReceipt{
		Call: resp.ID, Caller: string(r.Dir.Self().DID), Executor: string(did), Service: h.Service, Request: execution.Commit(salt, body),
	}}
	return &Answer{Status: int(*m.Status), ContentType: resp.Header.ContentType, Headers: m.Headers, Length: resp.Header.Length, Body: b, Gateway: did, receipt: func() *contracts.CallReceipt { return b.got }}, nil
}

// askAgain is how long after each other a gateway is asked what became of a write, when it
// went away in the middle.
var askAgain = []time.Duration{250 * time.Millisecond, time.Second, 3 * time.Second}

func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// mayHaveBegun takes back that nothing was begun: what an answer to a second try says, it
// does not say of the first.
func mayHaveBegun(err error) error {
	if err == nil || call.MayHaveBegun(err) {
		return err
	}
	return contracts.Errorf(contracts.CodeOf(err), "whether the call was done is not known; asked again, the gateway says: %s", contracts.Message(err))
}

// show shows what the wallet holds for the gateway and calls it; once more if it has
// forgotten.
func (r *Router) show(ctx context.Context, id peer.ID, did identity.DID, h call.Header, body []byte, tries int) (resp *call.Response, err error) {
	for again := false; ; again = true {
		if err := r.Powers.Present(ctx, id, did, again); err != nil {
			return nil, call.NotBegun(err)
		}
		resp, err = r.Calls.Do(ctx, did, call.Request{Header: h, Body: bytes.NewReader(body), Tries: tries})
		if err == nil || again || call.MayHaveBegun(err) || contracts.CodeOf(err) != contracts.NoCapability {
			return resp, err
		}
	}
}

// Ask makes a call of a node whose answer is short: at most `most` bytes, and no service of
// a gateway.
func (r *Router) Ask(ctx context.Context, did identity.DID, surface string, body []byte, most int64) ([]byte, error) {
	id, _, err := r.Dir.Connect(ctx, did)
	if err != nil {
		return nil, err
	}
	resp, err := r.show(ctx, id, did, call.Header{Surface: surface}, body, 0)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close() //nolint:errcheck // read
	b, err := io.ReadAll(io.LimitReader(resp.Body, most+1))
	if err == nil && int64(len(b)) > most {
		err = contracts.Errorf(contracts.TooLarge, "an answer of more than %d bytes", most)
	}
	return b, err
}

// kindOf gives the kind of service that a surface is of: what precedes the point.
func kindOf(surface string) string {
	kind, _, _ := strings.Cut(surface, ".")
	return kind
}

func responseMeta(raw []byte) (*contracts.CallMeta, error) {
	m, err := contracts.ParseCallMeta(raw)
	if err != nil {
		return nil, contracts.Errorf(contracts.Malformed, "what the gateway says of its answer: %w", err)
	}
	if m.Status == nil {
		return nil, contracts.Errorf(contracts.Malformed, "the gateway's answer has no status")
	}
	return m, nil
}

// answerBody checks the receipt where the answer ends: until then an answer is only what
// somebody says.
type answerBody struct {
	r      *Router
	key    serviceKey
	resp   *call.Response
	peer   *directory.Peer
	commit *execution.Commitment
	want   contracts.CallReceipt
	got    *contracts.CallReceipt
	over   error
}

func (b *answerBody) Read(p []byte) (int, error) {
	if b.over != nil {
		return 0, b.over
	}
	n, err := b.resp.Body.Read(p)
	_, _ = b.commit.Write(p[:n])
	if errors.Is(err, io.EOF) {
		err = b.check()
	}
	if err != nil {
		b.over = err
	}
	return n, err
}

// check verifies the receipt; io.EOF means that it is right. A surface that needs none
// has none.
func (b *answerBody) check() error {
	raw := b.resp.Trailer()
	if b.peer.State == nil || len(raw) == 0 {
		return contracts.Errorf(contracts.SignatureInvalid, "the gateway gave no receipt")
	}
	got, err := receipt.Verify(raw, b.peer.State.Doc.Invocation)
	if err == nil {
		b.want.Response = b.commit.Text()
		if err = expect(got, &b.want); err != nil {
			b.dispute(got, contracts.Message(err))
		}
	}
	if err != nil {
		b.r.Log.Warn("a gateway's receipt is not right", "gateway", b.want.Executor, "call", b.want.Call, "err", err)
		b.r.health.lied(b.key, b.r.Now())
		return err
	}
	b.got = got
	if why := b.r.overcharged(b.key, got); why != "" {
		b.dispute(got, why)
		b.r.health.lied(b.key, b.r.Now())
	} else if b.r.Keeper != nil {
		b.r.Keeper.Take(receipt.Caller, got, b.peer.State)
	}
	return io.EOF
}

// dispute keeps a receipt that is signed and not right: it speaks against its executor.
func (b *answerBody) dispute(got *contracts.CallReceipt, why string) {
	b.r.Log.Warn("a gateway's receipt is disputed", "gateway", b.want.Executor, "call", b.want.Call, "why", why)
	if b.r.Keeper != nil {
		b.r.Keeper.Dispute(b.want.Call, got, b.peer.State, why)
	}
}

func (b *answerBody) Close() error { return b.resp.Body.Close() }
