package evidence

import (
	"context"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/talosprotocol/talos/anchor"
	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/gossip"
	"github.com/talosprotocol/talos/identity"
)

// JudgeDigest is the validator of digests.
func (s *Service) JudgeDigest(b []byte) gossip.Verdict { return s.judgeDigest(b) }

// FindFork compares two heads of a log by asking it, whatever was asked before.
func (s *Service) FindFork(ctx context.Context, a, b *anchor.Note) (*contracts.Evidence, error) {
	return anchor.FindFork(ctx, a, b, s.proveTheirs)
}

// Learn fetches the convictions of a peer.
func (s *Service) Learn(ctx context.Context, from peer.ID) error { return s.learnAll(ctx, from) }

// Exchange exchanges heads with a peer.
func (s *Service) Exchange(ctx context.Context, with peer.ID) error { return s.exchangeWith(ctx, with) }

// Ask asks a peer one thing on the log stream.
func (s *Service) Ask(ctx context.Context, to peer.ID, body []byte) ([]byte, error) {
	return s.askLog(ctx, to, body, maxLogMessage)
}

// SetPatience sets how long anchors started from now on wait for gossiped heads to be
// submitted, and gives what undoes it.
func SetPatience(d time.Duration) (undo func()) {
	old := aheadFor
	aheadFor = d
	return func() { aheadFor = old }
}

// CheckAnchoring judges what an anchor answers, as this log does before it keeps it.
func (s *Service) CheckAnchoring(ctx context.Context, by identity.DID, text []byte) error {
	_, err := s.checkAnchoring(ctx, by, text)
	return err
}

// ProvesMore says that an anchoring may replace another.
var ProvesMore = provesMore
