package evidence

import (
	"context"
	"encoding/binary"
	"slices"
	"strings"
	"time"

	"github.com/talosprotocol/talos/anchor"
	"github.com/talosprotocol/talos/anchor/auditlog"
	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
	"github.com/talosprotocol/talos/node/directory"
)

// Keys of the rows: 'c' incarnation size for a cosigned head, 'e' origin for evidence,
// 'a' incarnation anchor size for what an anchor anchored, 'x' for what chains keep,
// 'm' origin for the digest of the newest head that a peer has shown of its log.
func (s *Service) headPrefix() []byte {
	return binary.BigEndian.AppendUint16([]byte{'c'}, s.cfg.Incarnation)
}

func (s *Service) headKey(size uint64) []byte {
	return binary.BigEndian.AppendUint64(s.headPrefix(), size)
}

// sizeOfKey gives the size in a head's key.
func sizeOfKey(k []byte) uint64 {
	if len(k) != 11 {
		return 0
	}
	return binary.BigEndian.Uint64(k[3:])
}

// openRows learns what the rows hold.
func (s *Service) openRows() error {
	var last []byte
	if err := s.cfg.Rows.Scan(s.headPrefix(), func(_, v []byte) bool { last = v; return true }); err != nil {
		return err
	}
	if last != nil {
		if h, err := s.parseHead(last); err == nil {
			s.newest = h
		}
	}
	if err := s.cfg.Rows.Scan([]byte{'e'}, func(k, _ []byte) bool { s.ids[idOf(string(k[1:]))] = string(k[1:]); return true }); err != nil {
		return err
	}
	for _, origin := range s.ids { // the summary, once
		s.know(origin)
		break
	}
	var met [][]byte
	if err := s.cfg.Rows.Scan([]byte{'m'}, func(_, v []byte) bool { met = append(met, v); return true }); err != nil {
		return err
	}
	for _, b := range met {
		if d, err := anchor.ParseDigest(b); err == nil {
			s.met.Add(d.Origin, d)
		}
	}
	return nil
}

func (s *Service) parseHead(text []byte) (anchor.Head, error) {
	n, err := anchor.ParseNote(text)
	if err != nil {
		return anchor.Head{}, err
	}
	h := anchor.Head{Note: n.Bare(s.cfg.LogKey.Public().Bytes())}
	if h.Note == nil {
		return h, contracts.Errorf(contracts.StorageCorrupt, "a kept head lacks this log's signature")
	}
	for _, sig := range n.Signatures {
		if sig.Name != n.Origin {
			h.Cosignatures = append(h.Cosignatures, sig)
		}
	}
	return h, nil
}

// keep adds a cosignature to the row of a head.
func (s *Service) keep(head *anchor.Note, sig anchor.Signature) error {
	s.rows.Lock()
	defer s.rows.Unlock()
	note := &anchor.Note{Checkpoint: head.Checkpoint, Signatures: append(slices.Clone(head.Signatures), sig)}
	old, err := s.cfg.Rows.Get(s.headKey(note.Size))
	if err != nil {
		return err
	}
	if n, err := anchor.ParseNote(old); err == nil && n.Checkpoint == note.Checkpoint {
		for _, o := range n.Signatures {
			if o.Name != note.Origin && o.Name != sig.Name {
				note.Signatures = append(note.Signatures, o)
			}
		}
	}
	text := note.Append(nil)
	h, err := s.parseHead(text)
	if err != nil {
		return err
	}
	if err := s.cfg.Rows.Put(context.Background(), s.headKey(note.Size), text); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.newest.Note == nil || h.Note.Size >= s.newest.Note.Size {
		s.newest = h
		close(s.kept)
		s.kept = make(chan struct{})
	}
	return nil
}

// Witnessed gives the newest size that anchors cosigned, and how many of them.
func (s *Service) Witnessed() (size uint64, by int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.newest.Note == nil {
		return 0, 0
	}
	return s.newest.Note.Size, len(s.newest.Cosignatures)
}

// headFor finds the oldest head that covers an entry and has the most cosignatures,
// and the newest one before the entry. Either may be missing.
func (s *Service) headFor(index uint64) (head anchor.Head, prior *anchor.Head, err error) {
	var before []byte
	err = s.cfg.Rows.Scan(s.headPrefix(), func(k, v []byte) bool {
		if sizeOfKey(k) <= index {
			before = v
			return true
		}
		if h, err := s.parseHead(v); err == nil && (head.Note == nil || len(h.Cosignatures) > len(head.Cosignatures)) {
			head = h
		}
		return len(head.Cosignatures) < max(1, len(s.cfg.Anchors))
	})
	if err != nil || before == nil {
		return head, nil, err
	}
	if h, err := s.parseHead(before); err == nil {
		prior = &h
	}
	return head, prior, nil
}

// Prove makes the bundle of an entry: under the oldest head that covers it and has
// the most cosignatures, with the state records that hold all keys. If no head
// covers it yet, one is made.
func (s *Service) Prove(ctx context.Context, index uint64, sealed bool) ([]byte, error) {
	if index >= s.al.Size() {
		return nil, contracts.Errorf(contracts.NotFound, "the log has %d entries; the first is 0", s.al.Size())
	}
	o := auditlog.BundleOptions{Sealed: sealed}
	var err error
	if o.Head, o.Prior, err = s.headFor(index); err != nil {
		return nil, err
	}
	if o.Head.Note == nil {
		if o.Head, err = s.freshHead(ctx, index); err != nil {
			return nil, err
		}
	}
	if o.Anchorings, err = s.anchoringsFor(ctx, o.Head.Note); err != nil {
		return nil, err
	}
	dids := []identity.DID{s.cfg.DID}
	for i := range o.Anchorings {
		did, _, _ := strings.Cut(o.Anchorings[i].Anchor, "/")
		dids = append(dids, identity.DID(did))
	}
	for _, h := range []*anchor.Head{&o.Head, o.Prior} {
		if h == nil {
			continue
		}
		for _, c := range h.Cosignatures {
			dids = append(dids, identity.DID(c.Name))
		}
	}
	slices.Sort(dids)
	for _, did := range slices.Compact(dids) {
		r, err := s.dir.Resolve(ctx, did, directory.Options{})
		if err != nil {
			return nil, contracts.Errorf(contracts.CodeOf(err), "the state of %s for the bundle: %w", did.Short(), err)
		}
		o.States = append(o.States, r.State.Raw)
	}
	b, err := s.al.Bundle(ctx, index, o)
	for contracts.CodeOf(err) == contracts.TooLarge && len(o.Anchorings) > 0 {
		o.Anchorings = o.Anchorings[:len(o.Anchorings)-1] // as many as there is room for
		b, err = s.al.Bundle(ctx, index, o)
	}
	return b, err
}

// How long a proof waits for the anchors: a node that has just started has not
// reached them yet. While none has answered, the log signs nothing; it is asked
// again after a pause.
const (
	freshWait  = 10 * time.Second
	freshPause = 100 * time.Millisecond
)

// freshHead makes a head that covers an entry and waits for the cosignatures of the
// anchors; when they do not come in time, it gives what there is.
func (s *Service) freshHead(ctx context.Context, index uint64) (h anchor.Head, err error) {
	limit, cancel := context.WithTimeout(ctx, freshWait)
	defer cancel()
	for h.Note == nil {
		n, err := s.al.Checkpoint(ctx)
		switch {
		case err == nil:
			h.Note = n
		case contracts.CodeOf(err) != contracts.Unavailable:
			return h, err
		default:
			t := time.NewTimer(freshPause)
			select {
			case <-t.C:
			case <-limit.Done():
				t.Stop()
				return h, err
			}
		}
	}
	for {
		s.mu.Lock()
		newest, kept := s.newest, s.kept
		s.mu.Unlock()
		if newest.Note != nil && newest.Note.Size > index {
			h = newest
		}
		if len(h.Cosignatures) >= len(s.cfg.Anchors) {
			return h, nil
		}
		select {
		case <-kept:
		case <-limit.Done():
			return h, ctx.Err()
		}
	}
}
