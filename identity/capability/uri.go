package capability

import (
	"bytes"
	"compress/flate"
	"encoding/base32"
	"encoding/binary"
	"io"
	"strings"

	"github.com/talosprotocol/talos/contracts"
)

// uriPrefix begins the form of a chain for QR codes: all of it is in their alphanumeric
// alphabet, where a character takes 5.5 bits.
const uriPrefix = "TALOS:CAP1:"

var uriEncoding = base32.StdEncoding.WithPadding(base32.NoPadding)

// ChainURI gives the form of a chain for QR codes (spec/capability.md): the octets of the
// tokens' parts, deflated, in base32. The chain must be in form; its code is MALFORMED or
// TOO_LARGE otherwise.
func ChainURI(chain string) (string, error) {
	if len(chain) > MaxChainBytes {
		return "", contracts.Errorf(contracts.TooLarge, "a chain of %d bytes, at most %d", len(chain), MaxChainBytes)
	}
	var raw []byte
	for _, token := range strings.Split(chain, chainSeparator) {
		j, err := splitJWS([]byte(token))
		if err != nil {
			return "", err
		}
		for _, part := range [][]byte{j.header, j.payload, j.sig} {
			raw = append(binary.AppendUvarint(raw, uint64(len(part))), part...)
		}
	}
	var small bytes.Buffer
	w, err := flate.NewWriter(&small, flate.BestCompression)
	if err == nil {
		if _, err = w.Write(raw); err == nil {
			err = w.Close()
		}
	}
	if err != nil {
		return "", contracts.Errorf(contracts.Internal, "writing a URI: %w", err)
	}
	return uriPrefix + uriEncoding.EncodeToString(small.Bytes()), nil
}

// IsChainURI reports whether text is meant as the QR form of a chain.
func IsChainURI(text string) bool { return strings.HasPrefix(text, uriPrefix) }

// ParseChainURI gives the chain of a QR form: its text, which is still to be verified.
// What it reads is bounded by MaxChainBytes, however well it was deflated.
func ParseChainURI(uri string) (string, error) {
	bad := contracts.Errorf(contracts.Malformed, "the text is no capability for a QR code; scan it again, or pass the capability as text")
	text, ok := strings.CutPrefix(uri, uriPrefix)
	if !ok || len(text) > 2*MaxChainBytes {
		return "", bad
	}
	packed, err := uriEncoding.DecodeString(text)
	if err != nil {
		return "", bad
	}
	raw, err := io.ReadAll(io.LimitReader(flate.NewReader(bytes.NewReader(packed)), MaxChainBytes+1))
	if err != nil || len(raw) > MaxChainBytes || len(raw) == 0 {
		return "", bad
	}
	var tokens []string
	for len(raw) > 0 {
		var parts [3]string
		for i := range parts {
			n, k := binary.Uvarint(raw)
			if k <= 0 || n > uint64(len(raw)-k) {
				return "", bad
			}
			parts[i], raw = strict64.EncodeToString(raw[k:k+int(n)]), raw[k+int(n):]
		}
		tokens = append(tokens, strings.Join(parts[:], "."))
	}
	if chain := JoinChain(tokens...); len(chain) <= MaxChainBytes {
		return chain, nil
	}
	return "", bad
}
