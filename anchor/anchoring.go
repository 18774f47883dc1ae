package anchor

import (
	"github.com/talosprotocol/talos/contracts"
)

// Versions of the artifacts of anchoring.
const (
	AnchoringVersion    = "talos-anchoring/1"
	ChainReceiptVersion = "talos-chain-receipt/1"
)

// Receipt shows that a head of an anchor's log is on a chain. What its body proves, a
// [ReceiptVerifier] of the driver says.
type Receipt struct {
	Driver, Chain string
	Head          Checkpoint // of the anchor's log
	Inclusion     []Hash     // of the epoch's event under Head
	Body          []byte
}

// Anchoring is the way from the head of a log to the heads of an anchor's log: the head
// is in an epoch tree, the tree's root in an event of type epoch, and that event under
// the head of each receipt.
type Anchoring struct {
	Anchor   string // origin of the anchor's log
	Leaf     EpochLeaf
	Index    uint64 // of Leaf in the epoch tree
	Proof    []Hash
	Event    *contracts.AuditEvent
	Salt     Salt
	Entry    Leaf // of Event
	Receipts []Receipt
}

// Epoch gives the number of the epoch.
func (a *Anchoring) Epoch() uint64 {
	if a.Event == nil || a.Event.Index == nil {
		return 0
	}
	return uint64(*a.Event.Index)
}

// Contract gives the artifact. It checks everything first that a reader checks without
// trusting anybody: [ReadAnchoring].
func (a *Anchoring) Contract() (*contracts.Anchoring, error) {
	if err := a.check(a.Leaf.Log); err != nil {
		return nil, err
	}
	c := &contracts.Anchoring{
		V: AnchoringVersion, Anchor: a.Anchor, Size: int64(a.Leaf.Size), Root: EncodeHash(a.Leaf.Root), Index: int64(a.Index),
		Proof: hashTexts(a.Proof), Event: *a.Event, Salt: EncodeHash(Hash(a.Salt)), Leaf: b64u.EncodeToString(a.Entry[:]),
	}
	for i := range a.Receipts {
		r := &a.Receipts[i]
		c.Receipts = append(c.Receipts, contracts.ChainReceipt{
			V: ChainReceiptVersion, Driver: r.Driver, Chain: r.Chain, Size: int64(r.Head.Size), Root: EncodeHash(r.Head.Root),
			Inclusion: hashTexts(r.Inclusion), Body: b64u.EncodeToString(r.Body),
		})
	}
	if err := c.Validate(); err != nil {
		return nil, contracts.Errorf(contracts.BundleInvalid, "anchoring: %w", err)
	}
	return c, nil
}

// ReadAnchoring reads the anchoring of a log strictly, and checks every step that needs
// no trust: leaf in epoch, epoch in event, event under each receipt's head. It judges
// no receipt. Codes: MALFORMED, TOO_LARGE, UNSUPPORTED_VERSION, BUNDLE_INVALID,
// PROOF_INVALID.
func ReadAnchoring(data []byte, origin string) (*Anchoring, error) {
	c, err := contracts.DecodeAnchoring(data)
	if err != nil {
		return nil, err
	}
	return readAnchoring(c, LogID(origin))
}

func readAnchoring(c *contracts.Anchoring, log Hash) (*Anchoring, error) {
	a := &Anchoring{Anchor: c.Anchor, Index: uint64(c.Index), Event: &c.Event}
	a.Leaf.Log, a.Leaf.Size = log, uint64(c.Size)
	for _, h := range []struct {
		to   *Hash
		text string
	}{{&a.Leaf.Root, c.Root}, {(*Hash)(&a.Salt), c.Salt}} {
		var err error
		if *h.to, err = DecodeHash(h.text); err != nil {
			return nil, err
		}
	}
	if _, err := b64u.Decode(a.Entry[:], []byte(c.Leaf)); err != nil {
		return nil, contracts.Errorf(contracts.BundleInvalid, "anchoring: the leaf is not canonical base64url")
	}
	var err error
	if a.Proof, err = parseHashes(c.Proof); err != nil {
		return nil, err
	}
	for i := range c.Receipts {
		r, err := readReceipt(&c.Receipts[i], c.Anchor)
		if err != nil {
			return nil, err
		}
		a.Receipts = append(a.Receipts, r)
	}
	return a, a.check(log)
}

func readReceipt(c *contracts.ChainReceipt, anchor string) (r Receipt, err error) {
	r = Receipt{Driver: c.Driver, Chain: c.Chain, Head: Checkpoint{Origin: anchor, Size: uint64(c.Size)}}
	if r.Head.Root, err = DecodeHash(c.Root); err != nil {
		return r, err
	}
	if r.Inclusion, err = parseHashes(c.Inclusion); err != nil {
		return r, err
	}
	if r.Body, err = b64u.DecodeString(c.Body); err != nil {
		return r, contracts.Errorf(contracts.BundleInvalid, "receipt of %s: the body is not canonical base64url", c.Driver)
	}
	return r, nil
}

// check follows the way from the log's head to the receipts' heads.
func (a *Anchoring) check(log Hash) error {
	bad := func(format string, args ...any) error {
		return contracts.Errorf(contracts.BundleInvalid, "anchoring: "+format, args...)
	}
	e := a.Event
	if _, err := ParseOrigin(a.Anchor); err != nil {
		return err
	}
	if e == nil || e.Type != "epoch" || e.Index == nil || e.Count == nil || e.HeadRoot == "" || a.Leaf.Log != log {
		return bad("the event is not an epoch with number, count and root")
	}
	root, err := DecodeHash(e.HeadRoot)
	if err != nil {
		return err
	}
	if err := VerifyInclusion(a.Index, uint64(*e.Count), a.Leaf.Hash(), root, a.Proof); err != nil {
		return err
	}
	canon, err := EncodeEvent(e)
	if err != nil {
		return err
	}
	if a.Entry.Type() != eventTypes["epoch"] {
		return bad("the leaf is of type %d", a.Entry.Type())
	}
	if err := a.Entry.Opens(&a.Salt, canon); err != nil {
		return err
	}
	if len(a.Receipts) == 0 {
		return bad("no receipt")
	}
	for i := range a.Receipts {
		r := &a.Receipts[i]
		if i > 0 && (a.Receipts[i-1].Driver > r.Driver || a.Receipts[i-1].Driver == r.Driver && a.Receipts[i-1].Chain >= r.Chain) {
			return bad("the receipts are not in ascending order, one of each chain")
		}
		if err := VerifyInclusion(a.Entry.Index(), r.Head.Size, a.Entry.Hash(), r.Head.Root, r.Inclusion); err != nil {
			return err
		}
	}
	return nil
}
