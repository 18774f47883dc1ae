package evidence

import (
	"bufio"
	"context"
	"errors"
	"sync"
	"time"

	"github.com/talosprotocol/talos/anchor"
	"github.com/talosprotocol/talos/anchor/witness"
	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
	"github.com/talosprotocol/talos/node/p2p"
)

// Times of submitting.
const (
	firstRetry = time.Second
	lastRetry  = 30 * time.Second
	lastWords  = 3 * time.Second  // for the head that is made at the end
	confirmFor = 10 * time.Second // for an anchor to say what it cosigned
	laggards   = 2 * time.Second  // for the others, once one has said it
)

// publish gets each new signed head from the log's committer, and must not wait.
func (s *Service) publish(n *anchor.Note) { post(s.news, n) }

// post puts a head into a box of one, in place of an older one that nobody took. It
// has one caller for each box.
func post(box chan *anchor.Note, n *anchor.Note) {
	select {
	case <-box:
	default:
	}
	box <- n
}

// submitLoop hands each new head to gossip and to a courier for every anchor, so
// that one which is out of reach holds up no other.
func (s *Service) submitLoop(ctx context.Context, logDone <-chan struct{}) {
	end := make(chan struct{})
	boxes := make([]chan *anchor.Note, len(s.cfg.Anchors))
	var couriers sync.WaitGroup
	for i, a := range s.cfg.Anchors {
		boxes[i] = make(chan *anchor.Note, 1)
		couriers.Go(func() { s.courier(ctx, a, boxes[i], end) })
	}
	deliver := func(head *anchor.Note) {
		for _, b := range boxes {
			post(b, head)
		}
		for _, sub := range s.submitters {
			sub.Wake()
		}
		s.tell(ctx, head)
	}
	for {
		select {
		case head := <-s.news:
			deliver(head)
			continue
		case <-logDone:
		}
		select {
		case head := <-s.news: // the last one
			deliver(head)
		default:
		}
		close(end)
		couriers.Wait()
		return
	}
}

// courier brings heads to one anchor: always the newest alone, since one proof joins
// it to whatever the anchor has. After a failure it waits, whatever comes meanwhile,
// so that an anchor that returns is not stormed.
func (s *Service) courier(ctx context.Context, to identity.DID, box <-chan *anchor.Note, end <-chan struct{}) {
	var head *anchor.Note // that the anchor has not cosigned
	retry := firstRetry
	timer := time.NewTimer(lastRetry)
	timer.Stop()
	defer timer.Stop()
	waiting := false
	for {
		select {
		case head = <-box:
			if waiting {
				continue
			}
		case <-timer.C:
			waiting = false
		case <-end:
			select {
			case head = <-box:
			default:
			}
			if head != nil {
				ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastWords)
				defer cancel()
				_ = s.bring(ctx, to, head) // the next start brings it otherwise
			}
			return
		}
		if head == nil {
			continue
		}
		if err := s.bring(ctx, to, head); err != nil {
			timer.Reset(retry)
			waiting, retry = true, min(2*retry, lastRetry)
			continue
		}
		head, retry = nil, firstRetry
	}
}

// bring has an anchor cosign a head and keeps the cosignature.
func (s *Service) bring(ctx context.Context, to identity.DID, head *anchor.Note) error {
	sig, err := s.submit(ctx, to, head)
	switch contracts.CodeOf(err) {
	case "":
		if err = s.keep(head, sig); err != nil {
			s.log.Error("a cosignature was not kept", "anchor", to, "err", err)
		}
	case contracts.OriginFrozen, contracts.ProofInvalid, contracts.SignatureInvalid:
		s.log.Warn("an anchor refuses this log", "anchor", to, "size", head.Size, "err", err)
	default:
		s.log.Debug("an anchor did not cosign", "anchor", to, "size", head.Size, "err", err)
	}
	return err
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

// submit has one anchor cosign a head.
func (s *Service) submit(ctx context.Context, to identity.DID, head *anchor.Note) (anchor.Signature, error) {
	ctx, cancel := context.WithTimeout(ctx, p2p.ReadTimeout)
	defer cancel()
	for range 2 {
		s.mu.Lock()
		old := s.acked[to]
		s.mu.Unlock()
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
		if errors.As(err, &stale) && stale.Size != old {
			// The size is the anchor's word alone. One above what this log ever signed is
			// not kept: an honest answer must still be possible later.
			if stale.Size > head.Size {
				return anchor.Signature{}, contracts.Errorf(contracts.CheckpointStale, "the anchor claims size %d of this log, which has signed %d", stale.Size, head.Size)
			}
			s.ack(to, stale.Size)
			continue // with the right proof
		}
		if err != nil {
			return anchor.Signature{}, err
		}
		sig, err := s.checkCosignature(to, head, line)
		if err == nil {
			s.ack(to, head.Size)
		}
		return sig, err
	}
	return anchor.Signature{}, contracts.Errorf(contracts.Unavailable, "the anchor's size of this log does not settle")
}

func (s *Service) ack(by identity.DID, size uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.acked[by] = size
}

func (s *Service) checkCosignature(by identity.DID, head *anchor.Note, line []byte) (anchor.Signature, error) {
	sig, err := anchor.ParseSignature(line)
	if err != nil {
		return sig, err
	}
	if sig.Name != string(by) {
		return sig, contracts.Errorf(contracts.SignatureInvalid, "a cosignature of %.80s, not of %s", sig.Name, by)
	}
	key, err := s.keys.WitnessKey(string(by))
	if err != nil {
		return sig, err
	}
	_, err = sig.VerifyCosignature(head.Checkpoint, key)
	return sig, err
}

// confirm asks the anchors for the newest head of this log that they cosigned. All
// are asked at once: one has to answer, and the others get a little longer, since the
// one that saw more may be the slower. Of an answer nothing is believed but this
// log's own signature (WIT-12).
func (s *Service) confirm(ctx context.Context) (size uint64, root anchor.Hash, err error) {
	ctx, cancel := context.WithTimeout(ctx, confirmFor)
	defer cancel()
	type answer struct {
		note *anchor.Note
		err  error
	}
	answers := make(chan answer, len(s.cfg.Anchors))
	for _, a := range s.cfg.Anchors {
		go func() {
			n, err := s.askHead(ctx, a)
			answers <- answer{n, err}
		}()
	}
	root, err = anchor.EmptyRoot, contracts.Errorf(contracts.Unavailable, "no anchor answers")
	last := ctx.Done()
	for range s.cfg.Anchors {
		select {
		case a := <-answers:
			if a.err != nil {
				continue
			}
			if err != nil {
				err = nil
				late, stop := context.WithTimeout(ctx, laggards)
				defer stop()
				last = late.Done()
			}
			if a.note == nil {
				continue
			}
			if r, e := s.al.Root(ctx, a.note.Size); e == nil && r != a.note.Root {
				return a.note.Size, a.note.Root, nil // a second history, which the log judges
			}
			if a.note.Size > size {
				size, root = a.note.Size, a.note.Root
			}
		case <-last:
			return size, root, err
		}
	}
	return size, root, err
}

// askHead asks an anchor for the newest head of this log that it cosigned, nil if
// it has none.
func (s *Service) askHead(ctx context.Context, a identity.DID) (*anchor.Note, error) {
	b, err := s.ask(ctx, a, append([]byte{askHead}, s.al.Origin()...))
	if err != nil {
		return nil, err
	}
	text, err := witness.ParseResponse(b)
	if err != nil || len(text) == 0 {
		return nil, err
	}
	n, err := anchor.Open(text, s.cfg.LogKey.Public().Bytes())
	if err == nil && n.Origin != s.al.Origin() {
		err = contracts.Errorf(contracts.SignatureInvalid, "a head of %.80s", n.Origin)
	}
	if err != nil {
		s.log.Warn("an anchor shows a head that this log never signed", "anchor", a, "err", err)
		return nil, err
	}
	return n, nil
}

// ask sends one frame to an anchor and reads the answer.
func (s *Service) ask(ctx context.Context, to identity.DID, body []byte) ([]byte, error) {
	return s.askUpTo(ctx, to, body, witness.MaxResponse)
}

// askUpTo is ask for an answer of at most limit bytes.
func (s *Service) askUpTo(ctx context.Context, to identity.DID, body []byte, limit int) ([]byte, error) {
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
	b, err := p2p.ReadFrame(bufio.NewReader(st), limit)
	if err != nil {
		return nil, contracts.Errorf(contracts.Unavailable, "anchor %s: %w", to.Short(), err)
	}
	return b, nil
}
