package evidence

import (
	"bufio"
	"context"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/talosprotocol/talos/anchor"
	"github.com/talosprotocol/talos/anchor/witness"
	"github.com/talosprotocol/talos/node/p2p"
)

// The witness stream (spec/witness.md): one frame each way. The first byte says
// what is asked; both are answered by a witness.Response.
const (
	streamName, streamVersion = "witness", "1.0.0"

	askAdd  = 0x01 // a C2SP add-checkpoint body follows; answered by a cosignature
	askHead = 0x02 // an origin follows; answered by the log's own note, or nothing

	askAnchoring = 0x03 // a size and an origin follow; answered by an anchoring, or nothing
	askEpoch     = 0x04 // the number of an epoch and an origin follow; the same

	maxAsk = witness.MaxRequest + 1
)

// serve answers as an anchor.
func (s *Service) serve(st network.Stream) {
	if s.wit == nil {
		_ = st.ResetWithError(network.StreamProtocolViolation)
		return
	}
	release, err := p2p.Reserve(st, "talos.witness", maxAsk+maxAnchoring)
	if err != nil {
		return
	}
	defer release()
	_ = st.SetDeadline(time.Now().Add(p2p.WriteTimeout))
	b, err := p2p.ReadFrame(bufio.NewReader(st), maxAsk)
	if err != nil || len(b) == 0 {
		_ = st.ResetWithError(network.StreamProtocolViolation)
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), p2p.WriteTimeout)
	defer cancel()
	var line []byte
	switch b[0] {
	case askAdd:
		line, err = s.addCheckpoint(ctx, st.Conn().RemotePeer(), b[1:])
	case askHead:
		line, err = s.lastHead(ctx, string(b[1:]))
	case askAnchoring, askEpoch:
		line, err = s.anchorOf(ctx, b[0], b[1:])
	default:
		_ = st.ResetWithError(network.StreamProtocolViolation)
		return
	}
	_ = p2p.WriteFrame(st, witness.Answer(line, err).Append(nil))
	_ = st.Close()
}

func (s *Service) addCheckpoint(ctx context.Context, from peer.ID, body []byte) ([]byte, error) {
	req, err := witness.ParseRequest(body)
	var line []byte
	if err == nil {
		line, err = s.wit.AddCheckpoint(ctx, req.OldSize, req.Proof, req.Note)
	}
	if err != nil {
		s.log.Info("checkpoint refused", "peer", from, "err", err)
		s.submitted(ctx, req.Note, err)
		return nil, err
	}
	s.retell(ctx, req.Note)
	return line, nil
}

// retell gossips the digest of a head that was just cosigned, unless its owner's has
// come already: a log that shows each anchor another history keeps silent itself.
func (s *Service) retell(ctx context.Context, text []byte) {
	n, err := anchor.ParseNote(text)
	if err != nil {
		return
	}
	key, err := s.keys.gossipKey(n.Origin)
	if err != nil {
		return
	}
	d, err := n.Digest(key)
	if err != nil {
		return
	}
	if b, err := d.Append(nil); err == nil {
		_ = s.digests.Publish(ctx, b) // refused where it is known
	}
}

// lastHead gives the last head of a log that was cosigned, as its owner signed it.
// A log without one is answered from the record alone: anybody can ask for any name,
// and a name is looked up in the network only for a log that is followed.
func (s *Service) lastHead(ctx context.Context, origin string) ([]byte, error) {
	last, err := s.wit.Head(ctx, origin)
	if err != nil || last == nil {
		return nil, err
	}
	n, err := s.wit.Note(ctx, origin)
	if err != nil || n == nil {
		return nil, err
	}
	return n.Append(nil), nil
}
