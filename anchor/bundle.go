package anchor

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	"github.com/talosprotocol/talos/contracts"
)

// The values of the member v of a bundle: the second exactly when it has anchorings, so
// that one meaning has one encoding.
const (
	BundleVersion         = "talos-bundle/1"
	BundleVersionAnchored = "talos-bundle/2"
)

// Head is a note with the cosignatures that witnesses gave for it.
type Head struct {
	Note         *Note // with the log's signature alone: [Note.Bare]
	Cosignatures []Signature
}

// Parts is what a bundle is made of.
type Parts struct {
	Leaf  Leaf
	Proof []Hash // of Leaf's index in the tree of Head
	Head  Head
	// Event and Salt open the leaf; leave both out to show the commitment alone.
	Event *contracts.AuditEvent
	Salt  *Salt
	// Prior is a head that does not cover the event, to bound its time from below.
	Prior *Head
	// Anchorings are where anchors put the log's head, in ascending order of Anchor.
	Anchorings []HeadAnchoring
	// States are signed DID states, opaque here, for the reader's [KeyResolver].
	States [][]byte
}

// HeadAnchoring is an anchoring of a head of the bundle's log that extends the bundle's
// own, with the proof that it does.
type HeadAnchoring struct {
	Anchoring
	Consistency []Hash
}

// NewBundle writes a bundle: one file of canonical JSON. It verifies the proof and
// the opening first, so a log whose store went wrong does not hand out a bundle
// that fails elsewhere. Codes: BUNDLE_INVALID, PROOF_INVALID, TOO_LARGE.
func NewBundle(p Parts) ([]byte, error) {
	if p.Head.Note == nil || (p.Event == nil) != (p.Salt == nil) {
		return nil, contracts.Errorf(contracts.BundleInvalid, "a bundle has a head, and event and salt together")
	}
	b := &contracts.ProofBundle{
		V:     BundleVersion,
		Leaf:  b64u.EncodeToString(p.Leaf[:]),
		Index: int64(p.Leaf.Index()),
		Proof: hashTexts(p.Proof),
		Head:  p.Head.contract(),
		Event: p.Event,
	}
	if err := VerifyInclusion(p.Leaf.Index(), p.Head.Note.Size, p.Leaf.Hash(), p.Head.Note.Root, p.Proof); err != nil {
		return nil, err
	}
	if p.Event != nil {
		canon, err := EncodeEvent(p.Event)
		if err != nil {
			return nil, err
		}
		if err := p.Leaf.Opens(p.Salt, canon); err != nil {
			return nil, err
		}
		b.Salt = EncodeHash(Hash(*p.Salt))
	}
	if p.Prior != nil {
		prior := p.Prior.contract()
		b.Prior = &prior
	}
	if err := p.putAnchorings(b); err != nil {
		return nil, err
	}
	for _, s := range p.States {
		b.States = append(b.States, b64u.EncodeToString(s))
	}
	b.Digest = EncodeHash(bundleDigest(b))
	if err := b.Validate(); err != nil {
		return nil, contracts.Errorf(contracts.BundleInvalid, "new bundle: %w", err)
	}
	out := b.AppendCanonical(nil)
	if len(out) > maxBundle {
		return nil, contracts.Errorf(contracts.TooLarge, "a bundle of %d bytes, at most %d", len(out), maxBundle)
	}
	return out, nil
}

func (p *Parts) putAnchorings(b *contracts.ProofBundle) error {
	for i := range p.Anchorings {
		a := &p.Anchorings[i]
		if err := p.checkAnchoring(i); err != nil {
			return err
		}
		c, err := a.Contract()
		if err != nil {
			return err
		}
		b.V = BundleVersionAnchored
		b.Anchorings = append(b.Anchorings, contracts.BundleAnchoring{Anchoring: *c, Consistency: hashTexts(a.Consistency)})
	}
	return nil
}

// checkAnchoring checks that an anchoring is of the bundle's log, extends its head, and
// stands in its place.
func (p *Parts) checkAnchoring(i int) error {
	a, head := &p.Anchorings[i], p.Head.Note
	if a.Leaf.Log != LogID(head.Origin) || i > 0 && p.Anchorings[i-1].Anchor >= a.Anchor {
		return contracts.Errorf(contracts.BundleInvalid, "an anchoring of another log, or not in ascending order of anchors")
	}
	return VerifyConsistency(head.Size, a.Leaf.Size, head.Root, a.Leaf.Root, a.Consistency)
}

func (h Head) contract() contracts.BundleHead {
	out := contracts.BundleHead{Note: string(h.Note.Append(nil)), Size: int64(h.Note.Size)}
	for i := range h.Cosignatures {
		out.Cosignatures = append(out.Cosignatures, h.Cosignatures[i].text())
	}
	slices.Sort(out.Cosignatures)
	return out
}

// emptyDigest is the member digest of a bundle whose digest member is empty, as
// the encoder writes it at the place of the sorted name.
var emptyDigest = []byte(`"digest":"",`)

// bundleDigest is SHA-256 of the canonical bundle without its member digest. It is
// no proof of anything: it names the bundle, and it shows damage to the parts that
// a reader cannot judge, such as the cosignature of a witness unknown to it.
func bundleDigest(b *contracts.ProofBundle) Hash {
	c := *b
	c.Digest = ""
	text := c.AppendCanonical(nil)
	return sha256.Sum256(bytes.Replace(text, emptyDigest, nil, 1))
}

// parseHead reads a head of a bundle: the note with one signature, its size said
// twice, and cosignature lines in ascending order.
func parseHead(h *contracts.BundleHead) (Head, error) {
	bad := func(why string) (Head, error) {
		return Head{}, contracts.Errorf(contracts.BundleInvalid, "head: %s", why)
	}
	n, err := ParseNote([]byte(h.Note))
	if err != nil {
		return Head{}, err
	}
	if len(n.Signatures) != 1 || n.Signatures[0].Name != n.Origin {
		return bad("the note carries the log's signature alone")
	}
	if uint64(h.Size) != n.Size {
		return bad("size and note differ")
	}
	out := Head{Note: n}
	for i, line := range h.Cosignatures {
		if i > 0 && h.Cosignatures[i-1] >= line {
			return bad("cosignatures are not in ascending order")
		}
		s, err := ParseSignature([]byte(line + "\n"))
		if err != nil {
			return Head{}, err
		}
		out.Cosignatures = append(out.Cosignatures, s)
	}
	return out, nil
}

// ReadBundle reads a bundle strictly: canonical bytes, every base64 without spare
// bits, digest as computed, everything said twice equal, the leaf opened by event
// and salt, the proof leading to the root. It verifies no signature: [Verify] does,
// and a caller reads States first to make its [KeyResolver]. Codes: MALFORMED,
// TOO_LARGE, UNSUPPORTED_VERSION, BUNDLE_INVALID, CHECKPOINT_INVALID, PROOF_INVALID.
func ReadBundle(data []byte) (*Parts, error) {
	b, err := contracts.DecodeProofBundle(data)
	if err != nil {
		if newer := checkVersion(data); newer != nil {
			return nil, newer
		}
		return nil, err
	}
	if b.Digest != EncodeHash(bundleDigest(b)) {
		return nil, contracts.Errorf(contracts.BundleInvalid, "the bundle's digest does not match: the file is damaged")
	}
	p := &Parts{Event: b.Event}
	if _, err := b64u.Decode(p.Leaf[:], []byte(b.Leaf)); err != nil {
		return nil, contracts.Errorf(contracts.BundleInvalid, "leaf is not canonical base64url")
	}
	if p.Head, err = parseHead(&b.Head); err != nil {
		return nil, err
	}
	if b.Prior != nil {
		prior, err := parseHead(b.Prior)
		if err != nil {
			return nil, err
		}
		if prior.Note.Origin != p.Head.Note.Origin || prior.Note.Size > uint64(b.Index) {
			return nil, contracts.Errorf(contracts.BundleInvalid, "the prior head is of another log, or covers the event")
		}
		p.Prior = &prior
	}
	if err := p.readLeaf(b); err != nil {
		return nil, err
	}
	if err := p.readAnchorings(b); err != nil {
		return nil, err
	}
	for i, s := range b.States {
		raw, err := b64u.DecodeString(s)
		if err != nil {
			return nil, contracts.Errorf(contracts.BundleInvalid, "state %d is not canonical base64url", i)
		}
		p.States = append(p.States, raw)
	}
	return p, nil
}

// checkVersion refuses by name a bundle of a version that this program does not know:
// it may be as good as any, so its verdict is that one cannot tell.
func checkVersion(data []byte) error {
	var m struct {
		V string `json:"v"`
	}
	if len(data) > maxBundle || json.Unmarshal(data, &m) != nil {
		return nil // what it is, the decoder says
	}
	number, ok := strings.CutPrefix(m.V, "talos-bundle/")
	if n, err := strconv.ParseUint(number, 10, 31); ok && err == nil && n > 2 {
		return contracts.Errorf(contracts.UnsupportedVersion, "a bundle of version %d; this program knows 1 and 2: use a newer one", n)
	}
	return nil
}

// maxBundle is the largest bundle, as its schema says.
const maxBundle = 256 << 10

func (p *Parts) readAnchorings(b *contracts.ProofBundle) error {
	if (len(b.Anchorings) > 0) != (b.V == BundleVersionAnchored) {
		return contracts.Errorf(contracts.BundleInvalid, "a bundle of version %s, with %d anchorings", b.V, len(b.Anchorings))
	}
	for i := range b.Anchorings {
		a, err := readAnchoring(&b.Anchorings[i].Anchoring, LogID(p.Head.Note.Origin))
		if err != nil {
			return err
		}
		proof, err := parseHashes(b.Anchorings[i].Consistency)
		if err != nil {
			return err
		}
		p.Anchorings = append(p.Anchorings, HeadAnchoring{Anchoring: *a, Consistency: proof})
		if err := p.checkAnchoring(i); err != nil {
			return err
		}
	}
	return nil
}

// readLeaf checks the leaf against index, event, salt and proof.
func (p *Parts) readLeaf(b *contracts.ProofBundle) error {
	if p.Leaf[0] != leafVersion {
		return contracts.Errorf(contracts.UnsupportedVersion, "leaf data: version %d, want %d", p.Leaf[0], leafVersion)
	}
	if p.Leaf.Index() != uint64(b.Index) || (b.Event == nil) != (b.Salt == "") {
		return contracts.Errorf(contracts.BundleInvalid, "the leaf is of index %d, not %d; or event and salt do not come together", p.Leaf.Index(), b.Index)
	}
	if b.Event != nil {
		salt, err := DecodeHash(b.Salt)
		if err != nil {
			return err
		}
		p.Salt = (*Salt)(&salt)
		canon, err := EncodeEvent(b.Event)
		if err != nil {
			return err
		}
		if typ := eventTypes[b.Event.Type]; typ != p.Leaf.Type() {
			return contracts.Errorf(contracts.BundleInvalid, "the leaf is of type %d, the event of type %d", p.Leaf.Type(), typ)
		}
		if err := p.Leaf.Opens(p.Salt, canon); err != nil {
			return err
		}
	}
	var err error
	if p.Proof, err = parseHashes(b.Proof); err != nil {
		return err
	}
	return VerifyInclusion(p.Leaf.Index(), p.Head.Note.Size, p.Leaf.Hash(), p.Head.Note.Root, p.Proof)
}
