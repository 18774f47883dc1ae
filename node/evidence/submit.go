package evidence

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/talosprotocol/talos/anchor"
	"github.com/talosprotocol/talos/anchor/witness"
	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
	"github.com/talosprotocol/talos/node/directory"
	"github.com/talosprotocol/talos/node/p2p"
)

// The witness stream (spec/witness.md): one frame each way. The first byte says
// what is asked.
const (
	streamName, streamVersion = "witness", "1.0.0"

	askAdd  = 0x01 // a C2SP add-checkpoint body follows; answered by a witness.Response
	askHead = 0x02 // an origin follows; answered by size u64 and root (32), size 0 for none

	maxAsk     = witness.MaxRequest + 1
	firstRetry = time.Second
	lastRetry  = 30 * time.Second
)

// publish gets each new signed head from the log's committer, and must not wait.
func (s *Service) publish(n *anchor.Note) {
	for {
		select {
		case s.news <- n:
			return
		default:
		}
		select {
		case <-s.news: // an older head that nobody took
		default:
		}
	}
}

// submitLoop hands the newest head to gossip and to every anchor, and goes on with
// the anchors that were out of reach.
func (s *Service) submitLoop(ctx context.Context, logDone <-chan struct{}) {
	var head *anchor.Note
	var missing []identity.DID
	retry := firstRetry
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		select {
		case head = <-s.news:
			missing, retry = s.cfg.Anchors, firstRetry
			s.tell(ctx, head)
		case <-timer.C:
		case <-logDone:
			s.lastWords()
			return
		}
		if head == nil {
			continue
		}
		if missing = s.submitAll(ctx, head, missing); len(missing) > 0 {
			timer.Reset(retry)
			retry = min(2*retry, lastRetry)
		}
	}
}

// lastWords submits the head that the log made when it was told to end.
func (s *Service) lastWords() {
	select {
	case head := <-s.news:
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		defer cancel()
		s.submitAll(ctx, head, s.cfg.Anchors)
	default:
	}
}

// tell gossips the digest of a head.
func (s *Service) tell(ctx context.Context, head *anchor.Note) {
	d, err := head.Digest(s.cfg.LogKey.Public().Bytes())
	if err == nil {
		var b []byte
		if b, err = d.Append(nil); err == nil {
			err = s.digests.Publish(ctx, b)
		}
	}
	if err != nil {
		s.log.Debug("digest was not gossiped", "err", err)
	}
}

// submitAll submits a head to anchors at once, keeps the cosignatures, and gives the
// anchors that did not sign.
func (s *Service) submitAll(ctx context.Context, head *anchor.Note, to []identity.DID) (missing []identity.DID) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	note := &anchor.Note{Checkpoint: head.Checkpoint, Signatures: head.Signatures}
	for _, a := range to {
		wg.Go(func() {
			sig, err := s.submit(ctx, a, head)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				s.log.Debug("anchor did not cosign", "anchor", a, "size", head.Size, "err", err)
				missing = append(missing, a)
				return
			}
			note.Signatures = append(note.Signatures, sig)
		})
	}
	wg.Wait()
	if len(note.Signatures) == len(head.Signatures) {
		return missing
	}
	if err := s.keep(note); err != nil {
		s.log.Error("cosignatures were not kept", "err", err)
	}
	return missing
}

// keep adds cosignatures to the row of a head.
func (s *Service) keep(note *anchor.Note) error {
	old, err := s.cfg.Rows.Get(s.headKey(note.Size))
	if err != nil {
		return err
	}
	if old != nil {
		if n, err := anchor.ParseNote(old); err == nil {
			have := map[string]bool{}
			for _, sig := range note.Signatures {
				have[sig.Name] = true
			}
			for _, sig := range n.Signatures {
				if !have[sig.Name] {
					note.Signatures = append(note.Signatures, sig)
				}
			}
		}
	}
	return s.cfg.Rows.Put(context.Background(), s.headKey(note.Size), note.Append(nil))
}

// submit has one anchor cosign a head.
func (s *Service) submit(ctx context.Context, to identity.DID, head *anchor.Note) (anchor.Signature, error) {
	ctx, cancel := context.WithTimeout(ctx, p2p.ReadTimeout)
	defer cancel()
	for range 2 {
		s.mu.Lock()
		old := s.acked[to]
		s.mu.Unlock()
		if old > head.Size {
			return anchor.Signature{}, contracts.Errorf(contracts.CheckpointStale, "the anchor has cosigned size %d of this log already", old)
		}
		proof, err := s.al.Consistency(ctx, old, head.Size)
		if err != nil {
			return anchor.Signature{}, err
		}
		body := witness.AppendRequest([]byte{askAdd}, witness.Request{OldSize: old, Proof: proof, Note: head.Append(nil)})
		b, err := s.ask(ctx, to, body)
		if err != nil {
			return anchor.Signature{}, err
		}
		line, err := witness.ParseResponse(b)
		var stale *witness.Stale
		if errors.As(err, &stale) {
			s.mu.Lock()
			s.acked[to] = stale.Size
			s.mu.Unlock()
			if stale.Code == contracts.CheckpointStale && stale.Size != old {
				continue // with the right proof
			}
		}
		if err != nil {
			return anchor.Signature{}, err
		}
		return s.checkCosignature(ctx, to, head, line)
	}
	return anchor.Signature{}, contracts.Errorf(contracts.Unavailable, "the anchor's size of this log does not settle")
}

func (s *Service) checkCosignature(ctx context.Context, to identity.DID, head *anchor.Note, line []byte) (anchor.Signature, error) {
	sig, err := anchor.ParseSignature(line)
	if err != nil {
		return sig, err
	}
	if sig.Name != string(to) {
		return sig, contracts.Errorf(contracts.SignatureInvalid, "a cosignature of %.80s, not of %s", sig.Name, to)
	}
	r, err := s.dir.Resolve(ctx, to, directory.Options{})
	if err != nil {
		return sig, err
	}
	if _, err := sig.VerifyCosignature(head.Checkpoint, r.State.Doc.Witness.Bytes()); err != nil {
		return sig, err
	}
	s.mu.Lock()
	s.acked[to] = head.Size
	s.mu.Unlock()
	return sig, nil
}

// confirm asks the anchors for the newest head of this log that they cosigned.
func (s *Service) confirm(ctx context.Context) (size uint64, root anchor.Hash, err error) {
	ctx, cancel := context.WithTimeout(ctx, p2p.ReadTimeout)
	defer cancel()
	root, err = anchor.EmptyRoot, contracts.Errorf(contracts.Unavailable, "no anchor answers")
	for _, a := range s.cfg.Anchors {
		b, e := s.ask(ctx, a, append([]byte{askHead}, s.al.Origin()...))
		if e != nil || len(b) != 40 {
			continue
		}
		err = nil
		if n := binary.BigEndian.Uint64(b); n > size {
			size, root = n, anchor.Hash(b[8:])
		}
	}
	return size, root, err
}

// ask sends one frame to an anchor and reads the answer.
func (s *Service) ask(ctx context.Context, to identity.DID, body []byte) ([]byte, error) {
	id, _, err := s.dir.Connect(ctx, to)
	if err != nil {
		return nil, err
	}
	st, err := s.h.NewStream(ctx, id, s.h.Protocol(streamName, streamVersion))
	if err != nil {
		return nil, contracts.Errorf(contracts.Unavailable, "anchor %s: %w", to.Short(), err)
	}
	defer st.Close() //nolint:errcheck // answered already
	stop := context.AfterFunc(ctx, func() { _ = st.Reset() })
	defer stop()
	_ = st.SetDeadline(time.Now().Add(p2p.ReadTimeout))
	if err := p2p.WriteFrame(st, body); err != nil {
		return nil, contracts.Errorf(contracts.Unavailable, "anchor %s: %w", to.Short(), err)
	}
	b, err := p2p.ReadFrame(bufio.NewReader(st), witness.MaxResponse)
	if err != nil {
		return nil, contracts.Errorf(contracts.Unavailable, "anchor %s: %w", to.Short(), err)
	}
	return b, nil
}

// serve answers as an anchor.
func (s *Service) serve(st network.Stream) {
	if s.wit == nil {
		_ = st.ResetWithError(network.StreamProtocolViolation)
		return
	}
	release, err := p2p.Reserve(st, "talos.witness", maxAsk)
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
	out := s.answer(ctx, st.Conn().RemotePeer(), b)
	if out == nil {
		_ = st.ResetWithError(network.StreamProtocolViolation)
		return
	}
	_ = p2p.WriteFrame(st, out)
	_ = st.Close()
}

func (s *Service) answer(ctx context.Context, from peer.ID, b []byte) []byte {
	switch b[0] {
	case askAdd:
		req, err := witness.ParseRequest(b[1:])
		var line []byte
		if err == nil {
			line, err = s.wit.AddCheckpoint(ctx, req.OldSize, req.Proof, req.Note)
		}
		if err != nil {
			s.log.Info("checkpoint refused", "peer", from, "err", err)
		}
		return witness.Answer(line, err).Append(nil)
	case askHead:
		cp, err := s.wit.Head(ctx, string(b[1:]))
		if err != nil {
			return nil
		}
		out := make([]byte, 40)
		if cp != nil {
			binary.BigEndian.PutUint64(out, cp.Size)
			copy(out[8:], cp.Root[:])
		}
		return out
	}
	return nil
}
