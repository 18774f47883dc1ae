package authority

import (
	"bufio"
	"context"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
	"github.com/talosprotocol/talos/identity/capability"
	"github.com/talosprotocol/talos/node/p2p"
)

// The stream of this package (spec/authority.md): one question, one answer.
const (
	streamName, streamVersion = "capability", "1.0.0"

	askShow  = 0x01 // a chain: it counts for this connection from the answer on
	askGrant = 0x02 // a request for a capability, JSON
	askOffer = 0x03 // a chain for the peer's wallet
	askLog   = 0x04 // from (decimal): the peer's revocation log from that record on
	askOther = 0x05 // DID, space, from: another's log, as the peer holds it

	answerOK   = 0x00
	answerFail = 0x01 // code, 0x00, message

	maxQuestion = capability.MaxChainBytes + 64
	maxAnswer   = 1 << 20
	maxRecords  = 256 // in one answer
)

// serve answers a bound peer.
func (s *Service) serve(st network.Stream) {
	release, err := p2p.Reserve(st, "talos.capability", maxQuestion)
	if err != nil {
		return
	}
	defer release()
	_ = st.SetDeadline(time.Now().Add(p2p.ReadTimeout))
	ctx, cancel := context.WithTimeout(context.Background(), p2p.ReadTimeout)
	defer cancel()
	who, err := s.dir.Bind(ctx, st.Conn().RemotePeer())
	if err != nil {
		_ = st.ResetWithError(network.StreamProtocolViolation)
		return
	}
	in, err := p2p.ReadFrame(bufio.NewReader(st), maxQuestion)
	if err != nil || len(in) < 1 {
		_ = st.ResetWithError(network.StreamProtocolViolation)
		return
	}
	out, err := s.reply(ctx, st.Conn().RemotePeer(), who.DID, in)
	if err != nil {
		s.log.Info("a question about authority is refused", "peer", who.DID, "kind", in[0], "err", err)
		out = append([]byte{answerFail}, string(contracts.CodeOf(err))+"\x00"+contracts.Message(err)...)
	} else {
		out = append([]byte{answerOK}, out...)
	}
	_ = p2p.WriteFrame(st, out)
	_ = st.Close()
}

func (s *Service) reply(ctx context.Context, id peer.ID, did identity.DID, in []byte) ([]byte, error) {
	body := in[1:]
	switch in[0] {
	case askShow:
		_, err := s.authorize(ctx, id, did, capability.Channel, body)
		return nil, err
	case askGrant:
		return nil, s.enqueue(ctx, did, body)
	case askOffer:
		return nil, s.offered(ctx, did, string(body))
	case askLog:
		from, err := recordNumber(string(body))
		if err != nil {
			return nil, err
		}
		return s.ownLog(ctx, from)
	case askOther:
		text, number, _ := strings.Cut(string(body), " ")
		from, err := recordNumber(number)
		if err != nil {
			return nil, err
		}
		log, err := identity.ParseDID(text)
		if err != nil {
			return nil, err
		}
		return s.heldLog(ctx, log, from)
	}
	return nil, contracts.Errorf(contracts.UnsupportedVersion, "a question of unknown kind %d", in[0])
}

// offered takes a token from its issuer, or from the executor it is for.
func (s *Service) offered(ctx context.Context, from identity.DID, text string) error {
	c, err := ParseChain(text)
	if err != nil {
		return err
	}
	if l := c.Leaf(); identity.DID(l.Iss) != from && identity.DID(l.Aud) != from {
		return contracts.Errorf(contracts.Forbidden, "tokens are taken from their issuer or their executor")
	}
	_, err = s.Import(ctx, text)
	return err
}

// ask puts a question to a DID's node.
func (s *Service) ask(ctx context.Context, to identity.DID, kind byte, body []byte) ([]byte, error) {
	id, _, err := s.dir.Connect(ctx, to)
	if err != nil {
		return nil, err
	}
	return s.askPeer(ctx, id, kind, body)
}

func (s *Service) askPeer(ctx context.Context, id peer.ID, kind byte, body []byte) ([]byte, error) {
	st, err := s.h.NewStream(ctx, id, s.h.Protocol(streamName, streamVersion))
	if err != nil {
		return nil, contracts.Errorf(contracts.Unavailable, "asking about a capability: %w", err)
	}
	defer st.Close() //nolint:errcheck // answered already
	stop := context.AfterFunc(ctx, func() { _ = st.Reset() })
	defer stop()
	_ = st.SetDeadline(time.Now().Add(p2p.ReadTimeout))
	if err := p2p.WriteFrame(st, append([]byte{kind}, body...)); err != nil {
		return nil, contracts.Errorf(contracts.Unavailable, "asking about a capability: %w", err)
	}
	b, err := p2p.ReadFrame(bufio.NewReader(st), maxAnswer)
	if err != nil || len(b) == 0 {
		return nil, contracts.Errorf(contracts.Unavailable, "asking about a capability: %w", err)
	}
	if b[0] == answerOK {
		return b[1:], nil
	}
	code, text, _ := strings.Cut(string(b[1:]), "\x00")
	return nil, contracts.Errorf(contracts.Code(code), "%.300s", text)
}

func (s *Service) offer(ctx context.Context, to identity.DID, text string) error {
	ctx, cancel := context.WithTimeout(ctx, resolveIn)
	defer cancel()
	_, err := s.ask(ctx, to, askOffer, []byte(text))
	return err
}

// Present shows an executor what the wallet holds for it, once on a connection; again
// says that it has forgotten. Those who call at the same time wait for one of them. It
// fails if there is something to show and nothing of it is accepted.
func (s *Service) Present(ctx context.Context, id peer.ID, executor identity.DID, again bool) error {
	chains, err := s.For(executor)
	if err != nil || len(chains) == 0 {
		return err
	}
	missing, round, _ := s.missing(id, chains, again)
	if len(missing) == 0 {
		return nil
	}
	release, err := s.turn(ctx, id)
	if err != nil {
		return err
	}
	defer release()
	missing, now, _ := s.missing(id, chains, again)
	if now != round { // somebody has shown what there was meanwhile
		missing, _, _ = s.missing(id, chains, false)
	}
	for _, c := range missing {
		_, err := s.askPeer(ctx, id, askShow, []byte(c.Text))
		if err != nil {
			s.log.Info("a capability is not accepted", "executor", executor, "token", c.Leaf().ID, "err", err)
		}
		s.mu.Lock()
		if s.shown[id] == nil {
			s.shown[id] = map[string]error{}
		}
		s.shown[id][c.Text] = err
		s.mu.Unlock()
	}
	s.mu.Lock()
	s.rounds[id]++
	s.mu.Unlock()
	_, _, err = s.missing(id, chains, false)
	return err
}

// missing gives those of some chains that are to be shown on a connection, and how often
// something was shown there. What was refused is shown again only if nothing was accepted;
// then refused says why.
func (s *Service) missing(id peer.ID, chains []*Chain, all bool) (out []*Chain, round uint64, refused error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	accepted := false
	for _, c := range chains {
		err, asked := s.shown[id][c.Text]
		if asked && err == nil {
			accepted = true
		} else if asked {
			refused = err
		}
		if all || !asked {
			out = append(out, c)
		}
	}
	if accepted {
		refused = nil
	} else if refused != nil && !all {
		out = chains
	}
	return out, s.rounds[id], refused
}

// turn lets one at a time show something on a connection.
func (s *Service) turn(ctx context.Context, id peer.ID) (release func(), err error) {
	for {
		s.mu.Lock()
		busy := s.showing[id]
		if busy == nil {
			busy = make(chan struct{})
			s.showing[id] = busy
			s.mu.Unlock()
			return func() {
				s.mu.Lock()
				defer s.mu.Unlock()
				delete(s.showing, id)
				close(busy)
			}, nil
		}
		s.mu.Unlock()
		select {
		case <-busy:
		case <-ctx.Done():
			return nil, contracts.Errorf(contracts.Unavailable, "showing capabilities: %w", context.Cause(ctx))
		}
	}
}
