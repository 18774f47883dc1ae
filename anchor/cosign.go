package anchor

import (
	"crypto/ed25519"
	"encoding/binary"
	"strconv"
	"time"

	"github.com/talosprotocol/talos/contracts"
)

// cosigSize is the body of a cosignature/v1: 8 bytes of Unix seconds, then the
// Ed25519 signature.
const cosigSize = 8 + ed25519.SignatureSize

// maxCosignTime is the last second of the year 9999: what is later has no text in
// our format of times, and no honest clock shows it.
const maxCosignTime = 253402300799

// cosignText is what a witness signs (C2SP tlog-cosignature): a header, the time,
// then the checkpoint's three lines.
func cosignText(c Checkpoint, unix uint64) []byte {
	b := make([]byte, 0, 224)
	b = append(b, "cosignature/v1\ntime "...)
	b = strconv.AppendUint(b, unix, 10)
	b = append(b, '\n')
	return c.Append(b)
}

// Cosign makes the line by which the witness of the given name says: at this time
// this was the newest head of the log that I know, and it extends every head that I
// have cosigned. Only [github.com/talosprotocol/talos/anchor/witness] may call it
// for a key in service, after it stored the checkpoint.
func Cosign(c Checkpoint, name string, at time.Time, s Signer) (Signature, error) {
	if err := checkName(name); err != nil {
		return Signature{}, err
	}
	unix := at.Unix()
	if unix < 0 || unix > maxCosignTime {
		return Signature{}, contracts.Errorf(contracts.Internal, "cosign at %d seconds: the clock is wrong", unix)
	}
	sig, err := s.Sign(cosignText(c, uint64(unix)))
	if err != nil || len(sig) != ed25519.SignatureSize {
		return Signature{}, contracts.Errorf(contracts.Internal, "cosign: %d bytes: %w", len(sig), err)
	}
	body := binary.BigEndian.AppendUint64(make([]byte, 0, cosigSize), uint64(unix))
	return Signature{Name: name, KeyHash: keyHash(name, algCosignatureV1, s.Public()), Body: append(body, sig...)}, nil
}

// VerifyCosignature checks that s is a cosignature of c by the witness with the
// given key, and gives its time. Codes: KEY_INVALID, SIGNATURE_INVALID.
func (s *Signature) VerifyCosignature(c Checkpoint, key ed25519.PublicKey) (time.Time, error) {
	if len(key) != ed25519.PublicKeySize {
		return time.Time{}, contracts.Errorf(contracts.KeyInvalid, "key of witness %.80q: %d bytes", s.Name, len(key))
	}
	if len(s.Body) == cosigSize && s.KeyHash == keyHash(s.Name, algCosignatureV1, key) {
		unix := binary.BigEndian.Uint64(s.Body)
		if unix <= maxCosignTime && ed25519.Verify(key, cosignText(c, unix), s.Body[8:]) {
			return time.Unix(int64(unix), 0).UTC(), nil
		}
	}
	return time.Time{}, contracts.Errorf(contracts.SignatureInvalid, "witness %.80q: not its cosignature of this checkpoint", s.Name)
}
