package gateway

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
	"github.com/talosprotocol/talos/node/call"
)

const (
	askWithin    = 5 * time.Second
	listKept     = time.Minute
	listMoment   = time.Second // within which nobody asks twice for what is not there
	failedKept   = 5 * time.Second
	maxProviders = 20
	provideEvery = 10 * time.Minute
	mostUnits    = 1_000_000_000
)

// Found is a service of a gateway.
type Found struct {
	Gateway identity.DID
	Region  string
	Trusted bool // prompts may go there
	Service contracts.ServiceEntry
}

// candidates gives the gateways to ask, best first; never none without an error.
func (r *Router) candidates(ctx context.Context, t *Target) ([]candidate, error) {
	if t.DID != "" {
		if t.Kind == Model && !r.Trusts(t.DID) {
			return nil, contracts.Errorf(contracts.Forbidden, "prompts may not go to %s; if its operator may read them: talos trust add %s", t.DID.Short(), t.DID)
		}
		return []candidate{{key: serviceKey{t.DID, t.Kind, t.Name}}}, nil
	}
	known := r.known(t.Kind)
	all, names, silent := r.offering(ctx, known, t)
	if len(all) == 0 && r.forget(known) { // perhaps it is offered since a moment
		all, names, silent = r.offering(ctx, known, t)
	}
	if len(all) == 0 && silent != nil {
		return nil, call.NotBegun(contracts.Errorf(contracts.Unavailable, "no gateway that answers offers the %s %.64q, and one does not answer: %w", t.Kind, t.Name, silent))
	}
	if len(all) == 0 {
		if len(names) == 0 {
			return nil, contracts.Errorf(contracts.UnknownTool, "no gateway that is known here offers any %s; talos find %s shows who does, talos trust add says whom to use", t.Kind, t.Kind)
		}
		return nil, contracts.Errorf(contracts.UnknownTool, "no gateway that is known here offers the %s %.64q%s", t.Kind, t.Name, Nearest(t.Name, names))
	}
	honest := slices.DeleteFunc(all, func(c candidate) bool { return r.health.liar(c.key.did, r.Now()) })
	if len(honest) == 0 {
		return nil, call.NotBegun(contracts.Errorf(contracts.Unavailable, "who offers the %s %.64q has given a wrong receipt within the last hour; talos receipt list --disputed shows which. Name the gateway, <did>/%s, to use it all the same", t.Kind, t.Name, t.Name))
	}
	r.mu.Lock()
	region := r.region
	r.mu.Unlock()
	return r.health.order(honest, region), nil
}

// offering gives those of some gateways that offer a service, what services of the kind
// they offer, and why one has not answered.
func (r *Router) offering(ctx context.Context, known []identity.DID, t *Target) (all []candidate, names []string, silent error) {
	found, silent := r.among(ctx, known, func(s *contracts.ServiceEntry) bool { return s.Kind == t.Kind })
	for _, f := range found {
		names = append(names, f.Service.Name)
		if f.Service.Name == t.Name {
			all = append(all, candidate{serviceKey{f.Gateway, t.Kind, t.Name}, f.Region})
		}
	}
	return all, names, silent
}

// forget has gateways asked again whose lists are not of this moment; false if there are
// none. What they said holds if they do not answer.
func (r *Router) forget(dids []identity.DID) (any bool) {
	now := r.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, d := range dids {
		if l := r.lists[d]; l != nil && l.over() && now.Sub(l.at) >= listMoment && d != r.Dir.Self().DID {
			l.at, any = time.Time{}, true
		}
	}
	return any
}

// known gives the gateways that may be asked without naming them: those that the owner
// trusts with prompts, for tools and agents also those that the wallet holds a capability
// for, and this node.
func (r *Router) known(kind string) []identity.DID {
	r.mu.Lock()
	out := append([]identity.DID{r.Dir.Self().DID}, r.trust...)
	r.mu.Unlock()
	if kind != Model {
		held, err := r.Powers.Held()
		if err != nil {
			r.Log.Warn("reading the wallet", "err", err)
		}
		for _, c := range held {
			out = append(out, identity.DID(c.Leaf().Aud))
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// among asks gateways what they offer, all at once, and gives what fits, and why one of
// them has not answered.
func (r *Router) among(ctx context.Context, dids []identity.DID, fits func(*contracts.ServiceEntry) bool) (out []Found, silent error) {
	lists, errs := make([]*contracts.ServiceList, len(dids)), make([]error, len(dids))
	var wg sync.WaitGroup
	for i, did := range dids {
		wg.Go(func() { lists[i], errs[i] = r.List(ctx, did) })
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			silent = err
		}
	}
	for i, l := range lists {
		if l == nil {
			continue
		}
		if l.Draining != nil && *l.Draining {
			silent = contracts.Errorf(contracts.Unavailable, "%s is stopping", dids[i].Short())
			continue
		}
		for j := range l.Services {
			if fits(&l.Services[j]) {
				out = append(out, Found{dids[i], l.Region, r.Trusts(dids[i]), l.Services[j]})
			}
		}
	}
	return out, silent
}

// List gives what a gateway offers, by its signed word, a minute old at most. Those who
// ask at the same time wait for one question. A gateway that does not answer is believed
// what it said before, as long as that holds.
func (r *Router) List(ctx context.Context, did identity.DID) (*contracts.ServiceList, error) {
	now := r.Now()
	r.mu.Lock()
	l := r.lists[did]
	if l == nil || l.stale(now) {
		if len(r.lists) >= maxTracked {
			clear(r.lists)
		}
		l = &listed{ready: make(chan struct{}), at: now, before: l}
		r.lists[did] = l
		go r.fetch(context.WithoutCancel(ctx), did, l)
	}
	r.mu.Unlock()
	select {
	case <-l.ready:
		return l.list, l.err
	case <-ctx.Done():
		return nil, contracts.Errorf(contracts.Unavailable, "asking %s what it offers: %w", did.Short(), context.Cause(ctx))
	}
}

// overcharged says why a receipt's price is not that of the gateway's own signed list,
// empty if it is, or if nothing is known of the list.
func (r *Router) overcharged(k serviceKey, got *contracts.CallReceipt) string {
	r.mu.Lock()
	l := r.lists[k.did]
	r.mu.Unlock()
	if l == nil || !l.over() || l.list == nil {
		return ""
	}
	for _, s := range l.list.Services {
		if s.Kind != k.kind || s.Name != k.name {
			continue
		}
		const million = 1_000_000
		most := orNone(s.PriceCall) + 1
		for _, part := range [][2]int64{{orNone(got.UnitsIn), orNone(s.PriceIn)}, {orNone(got.UnitsOut), orNone(s.PriceOut)}} {
			if part[0] > mostUnits {
				return fmt.Sprintf("it says that %d units were used in one call", part[0])
			}
			whole, rest := part[0]/million, part[0]%million // a price is at most 10^12: no overflow
			most += whole*part[1] + (rest*(part[1]/million) + rest*(part[1]%million)/million) + 1
		}
		if cost := orNone(got.CostMicro); cost > most {
			return fmt.Sprintf("it costs %d millionths, by the gateway's list at most %d", cost, most)
		}
	}
	return ""
}

func orNone(n *int64) int64 {
	if n == nil {
		return 0
	}
	return *n
}

// listed is an answer, or the wait for one.
type listed struct {
	ready  chan struct{} // closed when the rest is there
	list   *contracts.ServiceList
	err    error
	at     time.Time
	before *listed // what was known then
}

// over reports whether the answer is there.
func (l *listed) over() bool {
	select {
	case <-l.ready:
		return true
	default:
		return false
	}
}

// stale reports whether a new question is due.
func (l *listed) stale(now time.Time) bool {
	if !l.over() {
		return false
	}
	if l.err != nil {
		return now.Sub(l.at) >= failedKept
	}
	return now.Sub(l.at) >= listKept
}

func (r *Router) fetch(ctx context.Context, did identity.DID, l *listed) {
	defer close(l.ready)
	l.list, l.err = r.ask(ctx, did)
	old := l.before
	l.before = nil
	if l.err != nil && old != nil && old.list != nil && r.Now().Unix() < old.list.Exp {
		r.Log.Info("a gateway does not say what it offers; what it said before still holds", "gateway", did, "err", l.err)
		l.list, l.err, l.at = old.list, nil, r.Now().Add(failedKept-listKept)
	}
}

func (r *Router) ask(ctx context.Context, did identity.DID) (*contracts.ServiceList, error) {
	if did == r.Dir.Self().DID {
		return &contracts.ServiceList{V: listVersion, Iss: string(did), Services: r.Own.Services()}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	_, p, err := r.Dir.Connect(ctx, did)
	if err != nil {
		return nil, err
	}
	resp, err := r.Calls.Do(ctx, did, call.Request{Header: call.Header{Surface: surfaceList, Read: true}})
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close() //nolint:errcheck // read, or of no use
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxList+1))
	if err != nil {
		return nil, err
	}
	if p.State == nil {
		return nil, contracts.Errorf(contracts.PeerNotBound, "%s has no document that names its keys", did.Short())
	}
	return VerifyList(raw, did, p.State.Doc.Invocation, r.Now())
}

// Find looks a service up: by its name, or for tools and agents by that of one of their
// tools or skills; all of the kind if name is empty. It asks the gateways that are known
// and those that the DHT names, which are hints alone: what counts is each gateway's
// signed list.
func (r *Router) Find(ctx context.Context, kind, name string) []Found {
	dids := append(r.known(kind), r.providers(ctx, kind, name)...)
	slices.Sort(dids)
	r.forget(dids) // whoever looks wants to know what there is now
	found, _ := r.among(ctx, slices.Compact(dids), func(s *contracts.ServiceEntry) bool {
		return s.Kind == kind && (name == "" || strings.EqualFold(s.Name, name) ||
			slices.ContainsFunc(s.Operations, func(o contracts.ServiceOperation) bool { return strings.EqualFold(o.Name, name) }))
	})
	return found // a gateway that does not answer is not found
}

// Known gives the services of a kind that calls may go to without naming their gateway.
func (r *Router) Known(ctx context.Context, kind string) []Found {
	dids := r.known(kind)
	r.forget(dids)
	found, _ := r.among(ctx, dids, func(s *contracts.ServiceEntry) bool { return s.Kind == kind })
	return found
}

// providers gives the DIDs of the peers that the DHT names for a topic; every gateway is
// also under the kind alone.
func (r *Router) providers(ctx context.Context, kind, name string) []identity.DID {
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	topic := kind
	if name != "" {
		topic += "/" + name
	}
	var mu sync.Mutex
	var out []identity.DID
	var wg sync.WaitGroup
	for info := range r.Host.DHT.FindProvidersAsync(ctx, topicKey(r.Host.Network, topic), maxProviders) {
		if info.ID == r.Host.ID() {
			continue
		}
		wg.Go(func() {
			if did := r.bind(ctx, info); did != "" {
				mu.Lock()
				defer mu.Unlock()
				out = append(out, did)
			}
		})
	}
	wg.Wait()
	return out
}

func (r *Router) bind(ctx context.Context, info peer.AddrInfo) identity.DID {
	if err := r.Host.Connect(ctx, info); err != nil {
		return ""
	}
	p, err := r.Dir.Bind(ctx, info.ID)
	if err != nil || p.DID.IsKey() {
		return ""
	}
	return p.DID
}

// Run tells the DHT what this node offers, until ctx ends.
func (r *Router) Run(ctx context.Context) error {
	told := map[string]time.Time{}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		for _, topic := range r.offered() {
			if now := r.Now(); now.Sub(told[topic]) >= provideEvery && r.provide(ctx, topic) {
				told[topic] = now
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (r *Router) provide(ctx context.Context, topic string) bool {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if r.Host.DHT.RoutingTable().Size() == 0 {
		return false // nobody to tell
	}
	err := r.Host.DHT.Provide(ctx, topicKey(r.Host.Network, topic), true)
	if err != nil {
		r.Log.Debug("telling the DHT of a service", "topic", topic, "err", err)
	}
	return err == nil
}

func (r *Router) offered() []string {
	var out []string
	for _, s := range r.Own.Services() {
		out = append(append(out, s.Kind), topics(&s)...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}
