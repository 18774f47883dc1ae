package evidence

import (
	"context"
	"crypto/ed25519"
	"strings"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
	"github.com/talosprotocol/talos/node/directory"
)

// Bounds of looking up keys in the network. Streams wait for a place, gossip does
// not; each has its own places, so that neither takes the other's.
const (
	keyTimeout    = 5 * time.Second
	streamLookups = 16
	gossipLookups = 8
	notFoundKept  = 4096
	notFoundFor   = time.Minute // a DID that was not found is not looked for again
)

// liveKeys finds keys through the directory.
type liveKeys struct {
	dir      *directory.Directory
	stream   chan struct{} // a place for each lookup
	gossip   chan struct{}
	notFound *lru.Cache[string, time.Time]
}

func newLiveKeys(dir *directory.Directory) *liveKeys {
	c, _ := lru.New[string, time.Time](notFoundKept) // fails for sizes below 1 only
	return &liveKeys{dir: dir, stream: make(chan struct{}, streamLookups), gossip: make(chan struct{}, gossipLookups), notFound: c}
}

// LogKey gives the key of a log that this node can resolve.
func (k *liveKeys) LogKey(origin string) (ed25519.PublicKey, error) {
	did, _, _ := strings.Cut(origin, "/")
	keys, err := k.keys(did)
	if err != nil {
		return nil, err
	}
	return keys.LogKey(origin)
}

// WitnessKey gives the key of an anchor that this node can resolve.
func (k *liveKeys) WitnessKey(name string) (ed25519.PublicKey, error) {
	keys, err := k.keys(name)
	if err != nil {
		return nil, err
	}
	return keys.WitnessKey(name)
}

func (k *liveKeys) keys(did string) (identity.StateKeys, error) {
	s, err := k.state(did)
	if err != nil {
		return nil, contracts.Errorf(contracts.OriginUnknown, "%.80s: %w", did, err)
	}
	return identity.StateKeys{s.DID: s}, nil
}

// state gives the state of a DID; for what is not known it waits for the network.
func (k *liveKeys) state(did string) (*identity.State, error) {
	d, err := identity.ParseDID(did)
	if err != nil {
		return nil, err
	}
	if s, stale := k.known(d); s != nil && !stale {
		return s, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), keyTimeout)
	defer cancel()
	select {
	case k.stream <- struct{}{}:
		defer func() { <-k.stream }()
	case <-ctx.Done():
		return nil, contracts.Errorf(contracts.Unavailable, "%d other DIDs are being looked up", streamLookups)
	}
	return k.resolve(ctx, d)
}

func (k *liveKeys) resolve(ctx context.Context, d identity.DID) (*identity.State, error) {
	r, err := k.dir.Resolve(ctx, d, directory.Options{})
	if err != nil {
		return nil, err
	}
	if r.State == nil {
		return nil, contracts.Errorf(contracts.OriginUnknown, "%s is a did:key and keeps no log", d)
	}
	return r.State, nil
}

// over is a context that has ended: with it the directory gives what it knows and
// asks nobody.
var over = func() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}()

// known gives the state of a DID if this node has it, and whether it has aged.
func (k *liveKeys) known(d identity.DID) (s *identity.State, stale bool) {
	r, err := k.dir.Resolve(over, d, directory.Options{})
	if err != nil || r.State == nil {
		return nil, false
	}
	return r.State, r.Stale
}

// gossipKey gives the key of a log for judging gossip, where anybody can name any
// DID. What is known is answered at once, even if it has aged: a log's key stays the
// same through its incarnation. For the rest there are few places, and a DID that
// was not found is not looked for again soon; so unknown ones cannot hold up others.
func (k *liveKeys) gossipKey(origin string) (ed25519.PublicKey, error) {
	did, _, _ := strings.Cut(origin, "/")
	d, err := identity.ParseDID(did)
	if err != nil {
		return nil, err
	}
	if key, err := k.knownKey(origin); err == nil {
		return key, nil
	}
	if at, ok := k.notFound.Get(origin); ok && time.Since(at) < notFoundFor {
		return nil, contracts.Errorf(contracts.OriginUnknown, "%.80s was not found lately", origin)
	}
	select {
	case k.gossip <- struct{}{}:
		defer func() { <-k.gossip }()
	default:
		return nil, contracts.Errorf(contracts.Unavailable, "%d other DIDs are being looked up", gossipLookups)
	}
	ctx, cancel := context.WithTimeout(context.Background(), keyTimeout)
	defer cancel()
	s, err := k.resolve(ctx, d)
	if err == nil {
		var key ed25519.PublicKey
		if key, err = (identity.StateKeys{d: s}).LogKey(origin); err == nil {
			return key, nil
		}
	}
	k.notFound.Add(origin, time.Now())
	return nil, err
}

// knownKey gives the key of a log that this node knows, and asks nobody.
func (k *liveKeys) knownKey(origin string) (ed25519.PublicKey, error) {
	did, _, _ := strings.Cut(origin, "/")
	d, err := identity.ParseDID(did)
	if err != nil {
		return nil, err
	}
	s, _ := k.known(d)
	if s == nil {
		return nil, contracts.Errorf(contracts.OriginUnknown, "%.80s is not known here", origin)
	}
	return identity.StateKeys{d: s}.LogKey(origin)
}
