package gateway

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
	"github.com/talosprotocol/talos/node/execution"
	"github.com/talosprotocol/talos/node/gate"
)

const (
	listValid = 10 * time.Minute
	listFresh = time.Minute // before a new one is signed
	maxList   = 1 << 20
)

// list answers the question what there is. It is public: whoever finds the node may
// know what to ask a capability for.
func (g *Gateway) list(ctx context.Context, who gate.Principal, out output) error {
	return g.cfg.Gate.Do(ctx, &gate.Request{Surface: surfaceList, Who: who}, func(context.Context, *gate.Pass) (gate.Result, error) {
		b, err := g.List()
		if err != nil {
			return gate.Result{}, err
		}
		reply := &Reply{out: out, commit: execution.NewCommitment(nil)}
		if err := reply.Header(200, "application/json", int64(len(b))); err != nil {
			return gate.Result{}, err
		}
		_, err = reply.Write(b)
		return gate.Result{}, err
	})
}

// List gives what the node offers, signed.
func (g *Gateway) List() ([]byte, error) {
	now := g.cfg.Now()
	g.mu.RLock()
	b, at := g.listed, g.listedAt
	g.mu.RUnlock()
	if b != nil && now.Sub(at) < listFresh && !now.Before(at) {
		return b, nil
	}
	key, err := g.cfg.Key()
	if err != nil {
		return nil, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	l := &contracts.ServiceList{V: listVersion, Iss: string(g.cfg.DID), Iat: now.Unix(), Exp: now.Add(listValid).Unix(), Region: g.region, Services: g.services()}
	if g.draining {
		l.Draining = &g.draining
	}
	if err := l.Validate(); err != nil {
		return nil, err
	}
	l.Sig = b64.EncodeToString(key.Sign(listContext, l.AppendCanonical(nil)))
	g.listed, g.listedAt = l.AppendCanonical(nil), now
	return g.listed, nil
}

// services gives what all drivers expose, sorted.
func (g *Gateway) services() []contracts.ServiceEntry {
	out := []contracts.ServiceEntry{}
	for _, d := range g.drivers {
		out = append(out, d.Services()...)
	}
	slices.SortFunc(out, func(a, b contracts.ServiceEntry) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name))
	})
	return out
}

// Services gives what the node offers, sorted by kind and name.
func (g *Gateway) Services() []contracts.ServiceEntry {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return g.services()
}

// VerifyList reads a list of services and checks who signed it, and that it holds at
// now. Codes: MALFORMED, SIGNATURE_INVALID, EXPIRED, NOT_YET_VALID.
func VerifyList(raw []byte, from identity.DID, key identity.InvocationPublic, now time.Time) (*contracts.ServiceList, error) {
	l, err := contracts.ParseServiceList(raw)
	if err != nil {
		return nil, err
	}
	sig, err := b64.Strict().DecodeString(l.Sig)
	unsigned := *l
	unsigned.Sig = ""
	if err != nil || identity.DID(l.Iss) != from || !key.Verify(listContext, unsigned.AppendCanonical(nil), sig) {
		return nil, contracts.Errorf(contracts.SignatureInvalid, "the list of services is not signed by %s", from.Short())
	}
	switch t := now.Unix(); {
	case t >= l.Exp:
		return nil, contracts.Errorf(contracts.Expired, "the list of services of %s is too old", from.Short())
	case t < l.Iat-60:
		return nil, contracts.Errorf(contracts.NotYetValid, "the list of services of %s is of the future; is a clock wrong?", from.Short())
	}
	return l, nil
}

// topics gives what a service is provided under in the DHT: its kind and name, and for
// each of its tools or skills the kind and that.
func topics(s *contracts.ServiceEntry) []string {
	out := []string{s.Kind + "/" + s.Name}
	if s.Kind != Model {
		for _, op := range s.Operations[:min(len(s.Operations), 64)] {
			out = append(out, s.Kind+"/"+op.Name)
		}
	}
	return out
}

// topicKey gives the DHT key of a topic on a network.
func topicKey(network, topic string) cid.Cid {
	h, err := multihash.Sum([]byte("talos/"+network+"/service/"+strings.ToLower(topic)), multihash.SHA2_256, -1)
	if err != nil {
		panic(err) // the hash is there
	}
	return cid.NewCidV1(cid.Raw, h)
}
