package evidence

import (
	"bufio"
	"context"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/talosprotocol/talos/anchor"
	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/gossip"
	"github.com/talosprotocol/talos/node/p2p"
)

// The log stream (spec/witness.md): one frame each way. The first byte of a request
// says what is asked, that of an answer whether it is given.
const (
	logName, logVersion = "log", "1.0.0"

	askHeads       = 0x01 // heads follow; answered by heads
	askConvictions = 0x02 // an id follows; answered by the ids of convictions above it
	askEvidence    = 0x03 // an id follows; answered by an evidence message
	askInclusion   = 0x04 // a digest and an index follow; answered by a leaf hash and its proof

	logGiven   = 0x00
	logRefused = 0x01 // an error code follows

	maxHeads      = 33 // the sender's own and 32 of its peers
	maxIDs        = 256
	maxLogAsk     = 1 + 32 + 1 + maxHeads*anchor.DigestSize
	maxIDsAnswer  = 1 + maxIDs*convictionID
	maxInclusion  = 1 + 32 + anchor.MaxProof*32
	maxLogMessage = 1 + gossip.MaxMessage
	logTimeout    = 10 * time.Second // for a question and its answer

	// A peer may ask 128 things at once and four a second: comparing two histories
	// takes at most 2 × 54 questions.
	logEvery, logBurst = 250 * time.Millisecond, 128
)

// serveLog answers for this node's log, and for what it knows of others'.
func (s *Service) serveLog(st network.Stream) {
	release, err := p2p.Reserve(st, "talos.log", maxLogMessage)
	if err != nil {
		return
	}
	defer release()
	_ = st.SetDeadline(time.Now().Add(logTimeout))
	from := st.Conn().RemotePeer()
	b, err := p2p.ReadFrame(bufio.NewReaderSize(st, 1024), maxLogAsk)
	if err != nil || len(b) == 0 {
		_ = st.ResetWithError(network.StreamProtocolViolation)
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), logTimeout)
	defer cancel()
	var out []byte
	if s.asked.take(string(from)) {
		out, err = s.answerLog(ctx, from, b[0], b[1:])
	} else {
		err = contracts.Errorf(contracts.RateLimited, "peer %s asks too often", from)
	}
	if err != nil {
		s.log.Debug("log stream", "peer", from, "err", err)
		out = append([]byte{logRefused}, contracts.CodeOf(err)...)
	} else {
		out = append([]byte{logGiven}, out...)
	}
	_ = p2p.WriteFrame(st, out)
	_ = st.Close()
}

func (s *Service) answerLog(ctx context.Context, from peer.ID, what byte, body []byte) ([]byte, error) {
	switch what {
	case askHeads:
		// Ours is made first: what the peer tells is no news to it.
		out := s.ourHeads(from)
		return out, s.takeHeads(ctx, from, body)
	case askConvictions:
		return s.idsAfter(body)
	case askEvidence:
		return s.evidenceByID(body)
	case askInclusion:
		return s.proveOwn(ctx, body)
	}
	return nil, contracts.Errorf(contracts.Malformed, "a question of kind %d", what)
}

// proveOwn proves an entry under a head that this log has signed. Nobody else's heads
// are anything to us; one that our key has signed over another tree means that the key
// is elsewhere too, or that this store is a copy.
func (s *Service) proveOwn(ctx context.Context, body []byte) ([]byte, error) {
	d, index, err := parseInclusionAsk(body)
	if err != nil {
		return nil, err
	}
	if d.Origin != s.al.Origin() {
		return nil, contracts.Errorf(contracts.OriginUnknown, "this is not %.80s", d.Origin)
	}
	if _, err := d.Note(s.cfg.LogKey.Public().Bytes()); err != nil {
		return nil, err
	}
	root, err := s.al.Root(ctx, d.Size)
	if err != nil {
		return nil, err
	}
	if root != d.Root {
		s.log.Error("a head is signed with this log's key and is not of this log: the key is used elsewhere", "size", d.Size, "root", d.Root)
		return nil, contracts.Errorf(contracts.Equivocation, "size %d has another root here", d.Size)
	}
	e, err := s.al.Entry(ctx, index)
	if err != nil {
		return nil, err
	}
	proof, err := s.al.Inclusion(ctx, index, d.Size)
	if err != nil {
		return nil, err
	}
	leaf := e.Leaf.Hash()
	return appendHashes(leaf[:], proof), nil
}

// askLog asks a peer one thing. The answer has at most limit bytes.
func (s *Service) askLog(ctx context.Context, to peer.ID, body []byte, limit int) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, logTimeout)
	defer cancel()
	st, err := s.h.NewStream(ctx, to, s.h.Protocol(logName, logVersion))
	if err != nil {
		return nil, contracts.Errorf(contracts.Unavailable, "the log stream of %s: %w", to, err)
	}
	defer st.Close() //nolint:errcheck // answered already
	stop := context.AfterFunc(ctx, func() { _ = st.Reset() })
	defer stop()
	_ = st.SetDeadline(time.Now().Add(logTimeout))
	if err := p2p.WriteFrame(st, body); err != nil {
		return nil, contracts.Errorf(contracts.Unavailable, "the log stream of %s: %w", to, err)
	}
	b, err := p2p.ReadFrame(bufio.NewReaderSize(st, 1024), limit)
	if err != nil {
		_ = st.Reset()
		return nil, contracts.Errorf(contracts.Unavailable, "the log stream of %s: %w", to, err)
	}
	switch {
	case len(b) > 0 && b[0] == logGiven:
		return b[1:], nil
	case len(b) > 0 && b[0] == logRefused:
		return nil, contracts.Errorf(contracts.Unavailable, "peer %s refuses: %.40q", to, b[1:])
	}
	return nil, contracts.Errorf(contracts.Malformed, "peer %s answers in no form that this node knows", to)
}
