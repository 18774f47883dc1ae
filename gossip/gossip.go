package gossip

import (
	"context"
	"crypto/sha256"
	"log/slog"
	"sync"
	"time"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	pubsub_pb "github.com/libp2p/go-libp2p-pubsub/pb"
	"github.com/libp2p/go-libp2p/core/discovery"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/talosprotocol/talos/contracts"
)

// Verdict of a validator on a payload.
type Verdict int

// The verdicts.
const (
	Ignore Verdict = iota // drop it, blame nobody
	Accept                // hand it over and relay it
	Reject                // drop it and count it against the peer that sent it
)

const (
	// MaxMessage bounds a payload: an evidence message with its proofs and states is
	// the largest.
	MaxMessage = 64 << 10
	// seenFor is how long an id is remembered; older repeats are for the validators.
	seenFor = 5 * time.Minute
	// queue bounds what waits for validation and for a slow consumer.
	queue = 1024
	// judging bounds the payloads of one topic that are being judged.
	judging = 1024
)

// Config of a gossip node.
type Config struct {
	Network      string
	PeerExchange bool                // bootstraps: offer other peers when pruning
	Discovery    discovery.Discovery // finds the peers of a topic; nil: none
}

// Gossip is a node's part in the topics. It is safe for concurrent use.
type Gossip struct {
	ps      *pubsub.PubSub
	network string
	log     *slog.Logger
	ctx     context.Context // ends with Close
	cancel  context.CancelFunc
	done    sync.WaitGroup
}

// New starts gossip on h. Close ends it.
func New(h host.Host, cfg Config, log *slog.Logger) (*Gossip, error) {
	ctx, cancel := context.WithCancel(context.Background())
	opts := []pubsub.Option{
		pubsub.WithMessageSignaturePolicy(pubsub.StrictNoSign), pubsub.WithNoAuthor(),
		pubsub.WithMessageIdFn(messageID), pubsub.WithSeenMessagesTTL(seenFor),
		pubsub.WithMaxMessageSize(MaxMessage + 1024), pubsub.WithFloodPublish(true),
		pubsub.WithValidateQueueSize(queue), pubsub.WithPeerOutboundQueueSize(256),
		pubsub.WithPeerExchange(cfg.PeerExchange),
		pubsub.WithSubscriptionFilter(pubsub.WrapLimitSubscriptionFilter(topicsOf(cfg.Network), 128)),
		pubsub.WithPeerScore(scores(), thresholds()),
	}
	if cfg.Discovery != nil {
		opts = append(opts, pubsub.WithDiscovery(cfg.Discovery))
	}
	ps, err := pubsub.NewGossipSub(ctx, h, opts...)
	if err != nil {
		cancel()
		return nil, contracts.Errorf(contracts.ConfigInvalid, "starting gossipsub: %w", err)
	}
	return &Gossip{ps: ps, network: cfg.Network, log: log, ctx: ctx, cancel: cancel}, nil
}

// messageID names a message by its content, so that copies published by several are one.
func messageID(m *pubsub_pb.Message) string {
	h := sha256.New()
	h.Write([]byte(m.GetTopic()))
	h.Write([]byte{0})
	h.Write(m.GetData())
	return string(h.Sum(nil)[:20])
}

// topicsOf lets peers subscribe to this network's topics only.
func topicsOf(network string) pubsub.SubscriptionFilter {
	prefix := contracts.Topic(network, "", "")
	return networkFilter(prefix[:len(prefix)-1])
}

type networkFilter string

func (f networkFilter) CanSubscribe(topic string) bool {
	return len(topic) <= 128 && len(topic) > len(f) && topic[:len(f)] == string(f)
}

func (f networkFilter) FilterIncomingSubscriptions(from peer.ID, subs []*pubsub_pb.RPC_SubOpts) ([]*pubsub_pb.RPC_SubOpts, error) {
	return pubsub.FilterSubscriptions(subs, f.CanSubscribe), nil
}

// scores punish invalid messages and broken promises only. Penalties for slow
// delivery are off: in a small network asymmetry is not malice, and all nodes of a
// testnet share an address.
func scores() *pubsub.PeerScoreParams {
	return &pubsub.PeerScoreParams{
		SkipAtomicValidation:   true,
		Topics:                 map[string]*pubsub.TopicScoreParams{},
		AppSpecificScore:       func(peer.ID) float64 { return 0 },
		AppSpecificWeight:      1,
		BehaviourPenaltyWeight: -10, BehaviourPenaltyThreshold: 6, BehaviourPenaltyDecay: pubsub.ScoreParameterDecay(time.Hour),
		DecayInterval: time.Second, DecayToZero: 0.01, RetainScore: time.Hour,
	}
}

func thresholds() *pubsub.PeerScoreThresholds {
	return &pubsub.PeerScoreThresholds{GossipThreshold: -500, PublishThreshold: -1000, GraylistThreshold: -2500, AcceptPXThreshold: 0, OpportunisticGraftThreshold: 3.5}
}

func topicScore() *pubsub.TopicScoreParams {
	return &pubsub.TopicScoreParams{
		SkipAtomicValidation: true, TopicWeight: 1,
		TimeInMeshWeight: 0.00027, TimeInMeshQuantum: time.Second, TimeInMeshCap: 1,
		FirstMessageDeliveriesWeight: 0.5, FirstMessageDeliveriesDecay: pubsub.ScoreParameterDecay(time.Hour), FirstMessageDeliveriesCap: 25,
		InvalidMessageDeliveriesWeight: -1000, InvalidMessageDeliveriesDecay: pubsub.ScoreParameterDecay(time.Hour),
	}
}

// Close leaves all topics and waits for the handlers.
func (g *Gossip) Close() error {
	g.cancel()
	g.done.Wait()
	return nil
}

// Topic is a topic that this node publishes to and perhaps hears.
type Topic struct {
	g *Gossip
	t *pubsub.Topic
}

// Join joins a topic. validate judges every payload, ours too. Each payload of others
// is judged in a goroutine of its own, of which a topic has at most 1,024; what comes
// above that is dropped. So validate may wait, but has to bound how many of its calls
// do. handle gets the accepted ones in turn, ours left
// out; nil means that this node only publishes.
func (g *Gossip) Join(name, major string, validate func([]byte) Verdict, handle func(context.Context, []byte)) (*Topic, error) {
	full := contracts.Topic(g.network, name, major)
	err := g.ps.RegisterTopicValidator(full, func(_ context.Context, _ peer.ID, m *pubsub.Message) pubsub.ValidationResult {
		if len(m.GetData()) > MaxMessage {
			return pubsub.ValidationReject
		}
		switch validate(m.GetData()) {
		case Accept:
			return pubsub.ValidationAccept
		case Reject:
			return pubsub.ValidationReject
		}
		return pubsub.ValidationIgnore
	}, pubsub.WithValidatorTimeout(5*time.Second), pubsub.WithValidatorConcurrency(judging))
	if err != nil {
		return nil, contracts.Errorf(contracts.Conflict, "topic %s: %w", full, err)
	}
	t, err := g.ps.Join(full)
	if err != nil {
		return nil, contracts.Errorf(contracts.Conflict, "topic %s: %w", full, err)
	}
	if err := t.SetScoreParams(topicScore()); err != nil {
		return nil, contracts.Errorf(contracts.ConfigInvalid, "topic %s: %w", full, err)
	}
	if handle == nil {
		return &Topic{g, t}, nil
	}
	sub, err := t.Subscribe(pubsub.WithBufferSize(queue))
	if err != nil {
		return nil, contracts.Errorf(contracts.Conflict, "topic %s: %w", full, err)
	}
	g.done.Go(func() {
		for {
			m, err := sub.Next(g.ctx)
			if err != nil {
				return // Close, or the subscription ended
			}
			if !m.Local {
				handle(g.ctx, m.GetData())
			}
		}
	})
	return &Topic{g, t}, nil
}

// Publish sends data to the topic. Without a peer to send to it is lost, silently:
// see the package comment.
func (t *Topic) Publish(ctx context.Context, data []byte) error {
	if err := t.t.Publish(ctx, data); err != nil {
		return contracts.Errorf(contracts.Malformed, "publishing to %s: %w", t.t.String(), err)
	}
	return nil
}

// Peers gives the peers that are known to be in the topic.
func (t *Topic) Peers() []peer.ID { return t.t.ListPeers() }

// OnPeer calls f with each peer that comes into the topic from now on, in turn, until
// Close. f must not wait.
func (t *Topic) OnPeer(f func(peer.ID)) error {
	h, err := t.t.EventHandler()
	if err != nil {
		return contracts.Errorf(contracts.Unavailable, "topic %s: %w", t.t.String(), err)
	}
	t.g.done.Go(func() {
		defer h.Cancel()
		for {
			e, err := h.NextPeerEvent(t.g.ctx)
			if err != nil {
				return // Close
			}
			if e.Type == pubsub.PeerJoin {
				f(e.Peer)
			}
		}
	})
	return nil
}
