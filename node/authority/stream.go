package authority

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"strconv"
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
	askLog   = 0x04 // from (decimal): the revocation log from that record on

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
		from, err := strconv.ParseInt(string(body), 10, 62)
		if err != nil || from < 1 {
			return nil, contracts.Errorf(contracts.Malformed, "records are numbered from 1")
		}
		return s.ownLog(ctx, from)
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

// ownLog gives the head and the records from a number on, a line each.
func (s *Service) ownLog(ctx context.Context, from int64) ([]byte, error) {
	s.write.Lock() // head and records are of one moment
	defer s.write.Unlock()
	self := s.dir.Self().DID
	if tip := s.set.Tip(self).Seq; tip-from >= maxRecords {
		return nil, contracts.Errorf(contracts.TooLarge, "%d records are asked for, at most %d at once", tip-from+1, maxRecords)
	}
	head, err := s.ownHead()
	if err != nil {
		return nil, err
	}
	records, err := s.cfg.Revocations.Records(ctx, self, from, maxRecords)
	if err != nil {
		return nil, err
	}
	return bytes.Join(append([][]byte{[]byte(head)}, records...), []byte{'\n'}), nil
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

func (s *Service) askLog(ctx context.Context, did identity.DID, from int64) (head []byte, records [][]byte, err error) {
	b, err := s.ask(ctx, did, askLog, []byte(strconv.FormatInt(from, 10)))
	if err != nil {
		return nil, nil, err
	}
	lines := splitLines(b)
	if len(lines) == 0 || len(lines) > maxRecords+1 {
		return nil, nil, contracts.Errorf(contracts.Malformed, "a revocation log of %d lines", len(lines))
	}
	return lines[0], lines[1:], nil
}

// Present shows an executor what the wallet holds for it, once on a connection; again
// says that it has forgotten.
func (s *Service) Present(ctx context.Context, id peer.ID, executor identity.DID, again bool) error {
	chains, err := s.For(executor)
	if err != nil || len(chains) == 0 {
		return err
	}
	var last error
	for _, c := range chains {
		s.mu.Lock()
		done := s.shown[id][c.Text]
		s.mu.Unlock()
		if done && !again {
			continue
		}
		if _, err := s.askPeer(ctx, id, askShow, []byte(c.Text)); err != nil {
			s.log.Info("a capability is not accepted", "executor", executor, "token", c.Leaf().ID, "err", err)
			last = err
			continue
		}
		s.mu.Lock()
		if s.shown[id] == nil {
			s.shown[id] = map[string]bool{}
		}
		s.shown[id][c.Text] = true
		s.mu.Unlock()
	}
	return last
}

// Wanted is a request for a capability.
type Wanted struct {
	ID     string       `json:"id,omitempty"`
	From   identity.DID `json:"from,omitempty"` // as the connection proved it
	Scopes []string     `json:"scopes"`
	Why    string       `json:"why,omitempty"` // in the words of whoever asks
	Hours  int          `json:"hours"`
	At     time.Time    `json:"at,omitzero"`
}

func (w *Wanted) check() error {
	if _, err := capability.NewScopes(w.Scopes...); err != nil {
		return err
	}
	if len(w.Scopes) == 0 || len(w.Scopes) > 8 || len(w.Why) > 500 || w.Hours < 1 || w.Hours > 24*30 {
		return contracts.Errorf(contracts.Malformed, "a request names 1 to 8 scopes, a reason of up to 500 bytes, and 1 to 720 hours")
	}
	return nil
}

// Request asks another node's owner for a capability. The answer comes as an offer,
// when the owner has approved.
func (s *Service) Request(ctx context.Context, to identity.DID, w Wanted) error {
	w.ID, w.From, w.At = "", "", time.Time{}
	if err := w.check(); err != nil {
		return err
	}
	b, err := json.Marshal(w)
	if err != nil {
		return contracts.Errorf(contracts.Internal, "encoding a request: %w", err)
	}
	_, err = s.ask(ctx, to, askGrant, b)
	return err
}

const rowWanted = "cap/want/"

// enqueue keeps a stranger's request for the owner: a few of each, a bounded number of
// all, and the same one once.
func (s *Service) enqueue(ctx context.Context, from identity.DID, body []byte) error {
	var w Wanted
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(&w); err != nil || d.More() {
		return contracts.Errorf(contracts.Malformed, "a request for a capability in no form that this node knows")
	}
	if err := w.check(); err != nil {
		return err
	}
	s.write.Lock()
	defer s.write.Unlock()
	all, err := s.Requests()
	if err != nil {
		return err
	}
	mine, next := 0, 1
	for _, o := range all {
		if o.From == from {
			mine++
			if strings.Join(o.Scopes, " ") == strings.Join(w.Scopes, " ") && o.Hours == w.Hours {
				return nil // it waits already
			}
		}
		if n, _ := strconv.Atoi(o.ID); n >= next {
			next = n + 1
		}
	}
	if mine >= maxRequestOf || len(all) >= maxRequests {
		return contracts.Errorf(contracts.RateLimited, "%d requests wait for the owner, %d of yours", len(all), mine)
	}
	w.ID, w.From, w.At = strconv.Itoa(next), from, s.now().UTC().Truncate(time.Second)
	b, err := json.Marshal(w)
	if err != nil {
		return contracts.Errorf(contracts.Internal, "encoding a request: %w", err)
	}
	return s.cfg.Rows.Put(ctx, []byte(rowWanted+strings.Repeat("0", 10-len(w.ID))+w.ID), b)
}

// Requests lists what waits for the owner, oldest first.
func (s *Service) Requests() (out []Wanted, err error) {
	var failed error
	err = s.cfg.Rows.Scan([]byte(rowWanted), func(_, v []byte) bool {
		var w Wanted
		if e := json.Unmarshal(v, &w); e != nil {
			failed = contracts.Errorf(contracts.StorageCorrupt, "a request of the queue is not as it was written")
			return false
		}
		out = append(out, w)
		return true
	})
	if err == nil {
		err = failed
	}
	return out, err
}

// Settle ends a request: approved ones get what they ask for.
func (s *Service) Settle(ctx context.Context, id string, approve bool) (chain *Chain, delivered bool, err error) {
	all, err := s.Requests()
	if err != nil {
		return nil, false, err
	}
	for _, w := range all {
		if w.ID != id {
			continue
		}
		if approve {
			if chain, delivered, err = s.Grant(ctx, Terms{To: w.From, Scopes: w.Scopes, Life: time.Duration(w.Hours) * time.Hour}); err != nil {
				return nil, false, err
			}
		}
		return chain, delivered, s.cfg.Rows.Delete(ctx, []byte(rowWanted+strings.Repeat("0", 10-len(w.ID))+w.ID))
	}
	return nil, false, contracts.Errorf(contracts.NotFound, "no request %.20q waits", id)
}
