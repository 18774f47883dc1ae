package anchor

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"

	"github.com/talosprotocol/talos/contracts"
)

// Signer holds a private Ed25519 key. Implementations may be called concurrently
// and must sign message itself, not a digest of it.
type Signer interface {
	Public() ed25519.PublicKey
	Sign(message []byte) ([]byte, error)
}

// Key makes a Signer of a key in memory.
func Key(k ed25519.PrivateKey) Signer { return memoryKey(k) }

type memoryKey ed25519.PrivateKey

// Public gives the public key.
func (k memoryKey) Public() ed25519.PublicKey {
	return ed25519.PrivateKey(k).Public().(ed25519.PublicKey)
}

// Sign signs message itself.
func (k memoryKey) Sign(message []byte) ([]byte, error) {
	return ed25519.Sign(ed25519.PrivateKey(k), message), nil
}

const (
	// MaxNote bounds a note: three lines and 16 signatures of a foreign log fit.
	MaxNote = 4096
	// maxSignatures bounds the lines that a note may carry; C2SP asks for 16.
	maxSignatures = 16
)

// The kinds of key in a key hash (C2SP signed-note).
const (
	algEd25519       = 0x01
	algCosignatureV1 = 0x04
)

// Signature is one line of a note: — name base64(key hash ‖ body).
type Signature struct {
	Name    string
	KeyHash uint32 // says with Name which key and kind signed; it proves nothing
	Body    []byte // 64 bytes of Ed25519; a time and 64 bytes in a cosignature
}

// Note is a checkpoint with signatures over it: C2SP signed-note.
type Note struct {
	Checkpoint
	Signatures []Signature
}

// keyHash names a key within a note: the first 4 bytes of
// SHA-256(name ‖ newline ‖ kind ‖ key).
func keyHash(name string, alg byte, key ed25519.PublicKey) uint32 {
	b := make([]byte, 0, 320)
	b = append(b, name...)
	b = append(b, '\n', alg)
	b = append(b, key...)
	sum := sha256.Sum256(b)
	return binary.BigEndian.Uint32(sum[:])
}

// Sign makes the note of a checkpoint with the log's signature. The checkpoint
// must be well-formed; the code is CHECKPOINT_INVALID otherwise, or INTERNAL if the
// signer fails.
func Sign(c Checkpoint, s Signer) (*Note, error) {
	text := c.Append(make([]byte, 0, 192))
	if _, err := ParseCheckpoint(text); err != nil {
		return nil, err
	}
	sig, err := s.Sign(text)
	if err != nil || len(sig) != ed25519.SignatureSize {
		return nil, contracts.Errorf(contracts.Internal, "sign checkpoint: %d bytes: %w", len(sig), err)
	}
	line := Signature{Name: c.Origin, KeyHash: keyHash(c.Origin, algEd25519, s.Public()), Body: sig}
	return &Note{Checkpoint: c, Signatures: []Signature{line}}, nil
}

// Append appends the note's text.
func (n *Note) Append(dst []byte) []byte {
	dst = n.Checkpoint.Append(dst)
	dst = append(dst, '\n')
	for i := range n.Signatures {
		dst = n.Signatures[i].Append(dst)
	}
	return dst
}

// ParseNote reads a note's text. It checks the form, no signature; what it accepts
// Append writes back byte for byte. A second line of one name and key hash is
// refused. Codes: TOO_LARGE, CHECKPOINT_INVALID.
func ParseNote(text []byte) (*Note, error) {
	if len(text) > MaxNote {
		return nil, contracts.Errorf(contracts.TooLarge, "note: %d bytes, at most %d", len(text), MaxNote)
	}
	i := bytes.Index(text, []byte("\n\n"))
	if i < 0 {
		return nil, contracts.Errorf(contracts.CheckpointInvalid, "note: no empty line before the signatures")
	}
	c, err := ParseCheckpoint(text[:i+1])
	if err != nil {
		return nil, err
	}
	n := &Note{Checkpoint: c}
	for rest := text[i+2:]; len(rest) > 0; {
		end := bytes.IndexByte(rest, '\n') + 1
		if end == 0 || len(n.Signatures) == maxSignatures {
			return nil, contracts.Errorf(contracts.CheckpointInvalid, "note: want at most %d signatures, each with its newline", maxSignatures)
		}
		s, err := ParseSignature(rest[:end])
		if err != nil {
			return nil, err
		}
		for j := range n.Signatures {
			if n.Signatures[j].Name == s.Name && n.Signatures[j].KeyHash == s.KeyHash {
				return nil, contracts.Errorf(contracts.CheckpointInvalid, "note: two signatures of %.80q", s.Name)
			}
		}
		n.Signatures = append(n.Signatures, s)
		rest = rest[end:]
	}
	if len(n.Signatures) == 0 {
		return nil, contracts.Errorf(contracts.CheckpointInvalid, "note: no signature")
	}
	return n, nil
}

// Open reads a note and verifies the log's signature with the key of its origin.
// Codes: those of ParseNote, KEY_INVALID, SIGNATURE_INVALID.
func Open(text []byte, key ed25519.PublicKey) (*Note, error) {
	n, err := ParseNote(text)
	if err != nil {
		return nil, err
	}
	if err := n.Verify(key); err != nil {
		return nil, err
	}
	return n, nil
}

// Verify checks the log's own signature; other lines are ignored.
func (n *Note) Verify(key ed25519.PublicKey) error {
	if len(key) != ed25519.PublicKeySize {
		return contracts.Errorf(contracts.KeyInvalid, "key of %.80q: %d bytes", n.Origin, len(key))
	}
	s := n.logSignature(key)
	if s == nil || len(s.Body) != ed25519.SignatureSize || !ed25519.Verify(key, n.Checkpoint.Append(make([]byte, 0, 192)), s.Body) {
		return contracts.Errorf(contracts.SignatureInvalid, "checkpoint of %.80q: no valid signature of the log's key", n.Origin)
	}
	return nil
}

func (n *Note) logSignature(key ed25519.PublicKey) *Signature {
	want := keyHash(n.Origin, algEd25519, key)
	for i := range n.Signatures {
		if s := &n.Signatures[i]; s.Name == n.Origin && s.KeyHash == want {
			return s
		}
	}
	return nil
}

// Bare gives the note with the log's signature alone, which is its form in
// evidence, bundles and digests; nil if the key's signature is not in it.
func (n *Note) Bare(key ed25519.PublicKey) *Note {
	s := n.logSignature(key)
	if s == nil {
		return nil
	}
	return &Note{Checkpoint: n.Checkpoint, Signatures: []Signature{*s}}
}

// Append appends the line, with its newline.
func (s *Signature) Append(dst []byte) []byte {
	dst = append(dst, "— "...)
	dst = append(dst, s.Name...)
	dst = append(dst, ' ')
	raw := make([]byte, 0, 80)
	raw = binary.BigEndian.AppendUint32(raw, s.KeyHash)
	raw = append(raw, s.Body...)
	dst = b64.AppendEncode(dst, raw)
	return append(dst, '\n')
}

// ParseSignature reads one line with its newline, and accepts exactly what Append
// writes. The code is CHECKPOINT_INVALID.
func ParseSignature(line []byte) (Signature, error) {
	bad := func(why string) (Signature, error) {
		return Signature{}, contracts.Errorf(contracts.CheckpointInvalid, "signature line: %s", why)
	}
	rest, ok := bytes.CutPrefix(line, []byte("— "))
	if !ok || len(rest) == 0 || rest[len(rest)-1] != '\n' {
		return bad("want a dash, a name, base64 and a newline")
	}
	name, text, ok := bytes.Cut(rest[:len(rest)-1], []byte(" "))
	if !ok || bytes.ContainsAny(text, "\r\n") {
		return bad("want one name and one word of base64")
	}
	if err := checkName(string(name)); err != nil {
		return Signature{}, err
	}
	raw, err := b64.AppendDecode(make([]byte, 0, 80), text)
	if err != nil || len(raw) < 5 {
		return bad("not canonical base64 of a key hash and a signature")
	}
	return Signature{Name: string(name), KeyHash: binary.BigEndian.Uint32(raw), Body: raw[4:]}, nil
}
