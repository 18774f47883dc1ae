package evidence

import (
	"context"
	"encoding/binary"
	"slices"
	"strings"
	"time"

	"github.com/talosprotocol/talos/anchor"
	"github.com/talosprotocol/talos/anchor/chain"
	"github.com/talosprotocol/talos/anchor/chain/quorum"
	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
)

// An anchor's part in anchoring: it closes epochs over the heads that its witness has
// cosigned, and puts its own log onto chains (spec/anchoring.md).

// defaultEpoch is the time between epochs.
const defaultEpoch = time.Minute

// maxAnchoring bounds an answer that holds an anchoring.
const maxAnchoring = 2 + 64<<10

// prefixedRows is a part of a table.
type prefixedRows struct {
	Rows
	prefix []byte
}

func (p prefixedRows) key(k []byte) []byte { return append(slices.Clone(p.prefix), k...) }

func (p prefixedRows) Get(k []byte) ([]byte, error) { return p.Rows.Get(p.key(k)) }

func (p prefixedRows) Put(ctx context.Context, k, v []byte) error {
	return p.Rows.Put(ctx, p.key(k), v)
}

func (p prefixedRows) Delete(ctx context.Context, k []byte) error {
	return p.Rows.Delete(ctx, p.key(k))
}

func (p prefixedRows) Write(ctx context.Context, keys, values [][]byte) error {
	full := make([][]byte, len(keys))
	for i, k := range keys {
		full[i] = p.key(k)
	}
	return p.Rows.Write(ctx, full, values)
}

func (p prefixedRows) Scan(prefix []byte, f func(key, value []byte) bool) error {
	return p.Rows.Scan(p.key(prefix), func(k, v []byte) bool { return f(k[len(p.prefix):], v) })
}

// chainRows are the rows of epochs and chains of this incarnation of the log.
func (s *Service) chainRows() chain.Rows {
	return prefixedRows{s.cfg.Rows, binary.BigEndian.AppendUint16([]byte{'x'}, s.cfg.Incarnation)}
}

// openChains starts epochs and drivers on an anchor.
func (s *Service) openChains() error {
	if s.wit == nil {
		return nil
	}
	drivers := append([]chain.Driver{quorum.New(quorum.Config{Cosigned: s.cosigned, Others: len(s.cfg.Anchors)})}, s.cfg.Chains...)
	rows := s.chainRows()
	for _, d := range drivers {
		sub, err := chain.NewSubmitter(d, rows, s.al.Head, s.log)
		if err != nil {
			return err
		}
		s.submitters = append(s.submitters, sub)
	}
	fellow := func(origin string) bool {
		did, _, _ := strings.Cut(origin, "/")
		return slices.Contains(s.cfg.Anchors, identity.DID(did))
	}
	var err error
	s.epochs, err = chain.OpenEpochs(rows, s.al, chain.Source{Heads: s.wit.Heads, Fellow: fellow, NewEvent: s.NewEvent}, drivers)
	return err
}

// cosigned gives the head of this log of at least a size that has the most cosignatures.
func (s *Service) cosigned(size uint64) (*anchor.Note, error) {
	s.mu.Lock()
	best := s.newest
	s.mu.Unlock()
	if best.Note != nil && best.Note.Size < size {
		best = anchor.Head{}
	}
	b, err := s.cfg.Rows.Get(s.headKey(size))
	if err != nil {
		return nil, err
	}
	if h, err := s.parseHead(b); b != nil && err == nil && (best.Note == nil || len(h.Cosignatures) > len(best.Cosignatures)) {
		best = h
	}
	if best.Note == nil {
		return nil, nil
	}
	return &anchor.Note{Checkpoint: best.Note.Checkpoint, Signatures: append(slices.Clone(best.Note.Signatures), best.Cosignatures...)}, nil
}

// runEpochs closes epochs until ctx ends.
func (s *Service) runEpochs(ctx context.Context) {
	_ = s.epochs.Run(ctx, s.epochEvery(), func(m *chain.Epoch, err error) {
		if err != nil {
			s.log.Warn("an epoch could not be closed; it is tried again", "err", err)
			return
		}
		s.log.Debug("epoch", "number", m.Number, "logs", m.Count)
	})
}

func (s *Service) epochEvery() time.Duration {
	if s.cfg.EpochEvery > 0 {
		return s.cfg.EpochEvery
	}
	return defaultEpoch
}

// anchorOf answers the questions for an anchoring: 03 with a size, 04 with an epoch.
func (s *Service) anchorOf(ctx context.Context, what byte, body []byte) ([]byte, error) {
	if len(body) < 9 || len(body) > 8+anchor.MaxName {
		return nil, contracts.Errorf(contracts.Malformed, "a question of %d bytes", len(body))
	}
	if s.epochs == nil {
		return nil, nil
	}
	n, origin := binary.BigEndian.Uint64(body), string(body[8:])
	ask := s.epochs.Anchoring
	if what == askEpoch {
		ask = s.epochs.AnchoringIn
	}
	c, err := ask(ctx, origin, n)
	if err != nil || c == nil {
		return nil, err
	}
	return c.AppendCanonical(nil), nil
}

// AnchorStatus is where an anchor's epochs and chains stand.
type AnchorStatus struct {
	Epochs   []chain.Epoch   `json:"epochs"`
	Chains   []chain.Info    `json:"chains"`
	Receipts []AnchorReceipt `json:"receipts"`
}

// AnchorReceipt is a receipt without its body.
type AnchorReceipt struct {
	Driver string `json:"driver"`
	Chain  string `json:"chain"`
	Size   uint64 `json:"size"`
	Root   string `json:"root"`
	Bytes  int    `json:"bytes"`
}

// Anchoring says where the epochs and chains of this anchor stand; nil on a node that is
// none.
func (s *Service) Anchoring(limit int) (*AnchorStatus, error) {
	if s.epochs == nil {
		return nil, nil
	}
	out := &AnchorStatus{Epochs: s.epochs.List(limit), Chains: []chain.Info{}, Receipts: []AnchorReceipt{}}
	for _, sub := range s.submitters {
		out.Chains = append(out.Chains, sub.Info())
	}
	rs, err := chain.Receipts(s.chainRows(), limit)
	if err != nil {
		return nil, err
	}
	for _, r := range rs {
		out.Receipts = append(out.Receipts, AnchorReceipt{r.Driver, r.Chain, r.Head.Size, anchor.EncodeHash(r.Head.Root), len(r.Body)})
	}
	return out, nil
}
