package anchor

import (
	"bytes"

	"github.com/talosprotocol/talos/contracts"
)

// EvidenceVersion is the value of the member v of evidence.
const EvidenceVersion = "talos-evidence/1"

// Branch is one side of a fork: a head of the log and, for type B, the leaf hash
// that it has at the index in question, with its inclusion proof. For type C it
// has the witness's cosignature.
type Branch struct {
	Note        *Note // with the log's signature alone: [Note.Bare]
	Leaf        Hash
	Proof       []Hash
	Cosignature Signature
}

// ForkOfSize makes evidence of type A: two notes of one size with different roots.
func ForkOfSize(a, b *Note) *contracts.Evidence {
	return newEvidence("A", Branch{Note: a}, Branch{Note: b})
}

// ForkAtIndex makes evidence of type B: two notes of different sizes whose trees
// have different leaves at one index below both.
func ForkAtIndex(index uint64, a, b Branch) *contracts.Evidence {
	e := newEvidence("B", a, b)
	i := int64(index)
	e.Index = &i
	return e
}

// ForkByWitness makes evidence of type C: two notes of one size with different
// roots, both cosigned by one witness.
func ForkByWitness(a, b Branch) *contracts.Evidence { return newEvidence("C", a, b) }

func newEvidence(typ string, a, b Branch) *contracts.Evidence {
	at, bt := a.Note.Append(nil), b.Note.Append(nil)
	if a.Note.Size > b.Note.Size || a.Note.Size == b.Note.Size && bytes.Compare(at, bt) > 0 {
		a, b, at, bt = b, a, bt, at
	}
	e := &contracts.Evidence{V: EvidenceVersion, Type: typ, Note1: string(at), Note2: string(bt)}
	switch typ {
	case "B":
		e.Leaf1, e.Leaf2 = EncodeHash(a.Leaf), EncodeHash(b.Leaf)
		e.Proof1, e.Proof2 = hashTexts(a.Proof), hashTexts(b.Proof)
	case "C":
		e.Cosignature1, e.Cosignature2 = a.Cosignature.text(), b.Cosignature.text()
	}
	return e
}

// text gives the line without its newline, as JSON holds it.
func (s *Signature) text() string {
	line := s.Append(nil)
	return string(line[:len(line)-1])
}

// Conviction is what evidence proves.
type Conviction struct {
	Type   string // A, B or C
	Origin string // the log that has two histories
	// Witness is the name of the witness that cosigned both: type C only.
	Witness string
	// Below is the number of leaves up to which the evidence shows no difference:
	// heads of at most this size may be common to both histories. In types A and C
	// it is one less than the size, which is all that those notes say.
	Below uint64
}

// VerifyEvidence judges evidence alone, offline, by the keys of its names. Nil
// means convicted; there is no other way to be. Codes: MALFORMED, TOO_LARGE,
// CHECKPOINT_INVALID, SIGNATURE_INVALID, PROOF_INVALID, and what the resolver said.
func VerifyEvidence(data []byte, keys KeyResolver) (*Conviction, error) {
	e, err := contracts.DecodeEvidence(data)
	if err != nil {
		return nil, err
	}
	n1, n2, err := openPair(e, keys)
	if err != nil {
		return nil, err
	}
	switch {
	case e.Type == "B" && n1.Size >= n2.Size:
		return nil, contracts.Errorf(contracts.Malformed, "evidence B: sizes %d and %d: want ascending", n1.Size, n2.Size)
	case e.Type != "B" && (n1.Size != n2.Size || e.Note1 >= e.Note2):
		return nil, contracts.Errorf(contracts.Malformed, "evidence %s: want two notes of one size in ascending order", e.Type)
	case e.Type != "B" && n1.Root == n2.Root:
		return nil, contracts.Errorf(contracts.ProofInvalid, "evidence %s: one root is one history", e.Type)
	}
	c := &Conviction{Type: e.Type, Origin: n1.Origin}
	if err := onlyMembers(e); err != nil {
		return nil, err
	}
	switch e.Type {
	case "B":
		c.Below = uint64(*e.Index)
		err = verifyLeaves(e, n1, n2)
	case "C":
		c.Below = n1.Size - 1
		c.Witness, err = verifyBothCosigned(e, n1, n2, keys)
	default:
		c.Below = n1.Size - 1
	}
	if err != nil {
		return nil, err
	}
	return c, nil
}

// openPair opens the two notes, which are of one log and carry its signature
// alone.
func openPair(e *contracts.Evidence, keys KeyResolver) (n1, n2 *Note, err error) {
	if n1, err = ParseNote([]byte(e.Note1)); err != nil {
		return nil, nil, err
	}
	if n2, err = ParseNote([]byte(e.Note2)); err != nil {
		return nil, nil, err
	}
	if n1.Origin != n2.Origin || len(n1.Signatures) != 1 || len(n2.Signatures) != 1 {
		return nil, nil, contracts.Errorf(contracts.Malformed, "evidence: want two notes of one origin with its signature alone")
	}
	key, err := keys.LogKey(n1.Origin)
	if err != nil {
		return nil, nil, err
	}
	if err := n1.Verify(key); err != nil {
		return nil, nil, err
	}
	return n1, n2, n2.Verify(key)
}

// onlyMembers refuses members that belong to another type: they would be a second
// encoding of the same proof.
func onlyMembers(e *contracts.Evidence) error {
	hasB := e.Index != nil || e.Leaf1 != "" || e.Leaf2 != "" || len(e.Proof1) > 0 || len(e.Proof2) > 0
	hasC := e.Cosignature1 != "" || e.Cosignature2 != ""
	if hasB && e.Type != "B" || hasC && e.Type != "C" || e.Type == "B" && (e.Index == nil || e.Leaf1 == "" || e.Leaf2 == "") {
		return contracts.Errorf(contracts.Malformed, "evidence %s: members of another type, or too few", e.Type)
	}
	return nil
}

func verifyLeaves(e *contracts.Evidence, n1, n2 *Note) error {
	l1, err := DecodeHash(e.Leaf1)
	if err != nil {
		return err
	}
	l2, err := DecodeHash(e.Leaf2)
	if err != nil {
		return err
	}
	if l1 == l2 {
		return contracts.Errorf(contracts.ProofInvalid, "evidence B: the leaves are equal")
	}
	p1, err := parseHashes(e.Proof1)
	if err != nil {
		return err
	}
	p2, err := parseHashes(e.Proof2)
	if err != nil {
		return err
	}
	index := uint64(*e.Index)
	if err := VerifyInclusion(index, n1.Size, l1, n1.Root, p1); err != nil {
		return err
	}
	return VerifyInclusion(index, n2.Size, l2, n2.Root, p2)
}

func verifyBothCosigned(e *contracts.Evidence, n1, n2 *Note, keys KeyResolver) (string, error) {
	s1, err := ParseSignature([]byte(e.Cosignature1 + "\n"))
	if err != nil {
		return "", err
	}
	s2, err := ParseSignature([]byte(e.Cosignature2 + "\n"))
	if err != nil {
		return "", err
	}
	if s1.Name != s2.Name {
		return "", contracts.Errorf(contracts.Malformed, "evidence C: two witnesses")
	}
	key, err := keys.WitnessKey(s1.Name)
	if err != nil {
		return "", err
	}
	if _, err := s1.VerifyCosignature(n1.Checkpoint, key); err != nil {
		return "", err
	}
	_, err = s2.VerifyCosignature(n2.Checkpoint, key)
	return s1.Name, err
}

func hashTexts(hs []Hash) []string {
	out := make([]string, len(hs))
	for i := range hs {
		out[i] = EncodeHash(hs[i])
	}
	return out
}

func parseHashes(texts []string) ([]Hash, error) {
	out := make([]Hash, len(texts))
	for i := range texts {
		h, err := DecodeHash(texts[i])
		if err != nil {
			return nil, err
		}
		out[i] = h
	}
	return out, nil
}
