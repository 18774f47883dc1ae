package gateway

import (
	"context"
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
	failedKept   = 5 * time.Second
	maxProviders = 20
	provideEvery = 10 * time.Minute
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
	found := r.among(ctx, r.known(t.Kind), func(s *contracts.ServiceEntry) bool { return s.Kind == t.Kind })
	var all []candidate
	var names []string
	for _, f := range found {
		names = append(names, f.Service.Name)
		if f.Service.Name == t.Name {
			all = append(all, candidate{serviceKey{f.Gateway, t.Kind, t.Name}, f.Region})
		}
	}
	if len(all) == 0 {
		if len(found) == 0 {
			return nil, contracts.Errorf(contracts.UnknownTool, "no gateway that is known here offers any %s; talos find %s shows who does, talos trust add says whom to use", t.Kind, t.Kind)
		}
		return nil, contracts.Errorf(contracts.UnknownTool, "no gateway that is known here offers the %s %.64q%s", t.Kind, t.Name, Nearest(t.Name, names))
	}
	r.mu.Lock()
	region := r.region
	r.mu.Unlock()
	return r.health.order(all, region), nil
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

// among asks gateways what they offer, all at once, and gives what fits.
func (r *Router) among(ctx context.Context, dids []identity.DID, fits func(*contracts.ServiceEntry) bool) []Found {
	lists := make([]*contracts.ServiceList, len(dids))
	var wg sync.WaitGroup
	for i, did := range dids {
		wg.Go(func() { lists[i], _ = r.List(ctx, did) }) // one that does not answer offers nothing
	}
	wg.Wait()
	var out []Found
	for i, l := range lists {
		if l == nil || l.Draining != nil && *l.Draining {
			continue
		}
		for j := range l.Services {
			if fits(&l.Services[j]) {
				out = append(out, Found{dids[i], l.Region, r.Trusts(dids[i]), l.Services[j]})
			}
		}
	}
	return out
}

// List gives what a gateway offers, by its signed word, a minute old at most.
func (r *Router) List(ctx context.Context, did identity.DID) (*contracts.ServiceList, error) {
	now := r.Now()
	r.mu.Lock()
	l := r.lists[did]
	r.mu.Unlock()
	if l != nil && (l.err == nil && now.Sub(l.at) < listKept || l.err != nil && now.Sub(l.at) < failedKept) {
		return l.list, l.err
	}
	l = &listed{at: now}
	l.list, l.err = r.ask(ctx, did)
	if ctx.Err() != nil && l.err != nil {
		return nil, l.err // that says nothing of the gateway
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.lists) >= maxTracked {
		clear(r.lists)
	}
	r.lists[did] = l
	return l.list, l.err
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
	return r.among(ctx, slices.Compact(dids), func(s *contracts.ServiceEntry) bool {
		return s.Kind == kind && (name == "" || strings.EqualFold(s.Name, name) ||
			slices.ContainsFunc(s.Operations, func(o contracts.ServiceOperation) bool { return strings.EqualFold(o.Name, name) }))
	})
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
