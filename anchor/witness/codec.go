package witness

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"strconv"

	"github.com/talosprotocol/talos/anchor"
	"github.com/talosprotocol/talos/contracts"
)

const (
	// MaxRequest bounds a request: the old size, 63 hashes and the largest note.
	MaxRequest = 32 + anchor.MaxProof*45 + anchor.MaxNote
	// MaxResponse bounds a response: a status and a few signature lines.
	MaxResponse = 2 + 4096
)

// Request is the body of add-checkpoint.
type Request struct {
	OldSize uint64
	Proof   []anchor.Hash
	Note    []byte // the note's text
}

// AppendRequest writes the body as C2SP tlog-witness has it: the line "old" and the
// size, a line of base64 for each hash, an empty line, the note.
func AppendRequest(dst []byte, r Request) []byte {
	dst = append(dst, "old "...)
	dst = strconv.AppendUint(dst, r.OldSize, 10)
	dst = append(dst, '\n')
	for i := range r.Proof {
		dst = base64.StdEncoding.AppendEncode(dst, r.Proof[i][:])
		dst = append(dst, '\n')
	}
	dst = append(dst, '\n')
	return append(dst, r.Note...)
}

// ParseRequest reads a body and accepts exactly what AppendRequest writes. The note
// is left as text; AddCheckpoint reads it. Codes: TOO_LARGE, MALFORMED.
func ParseRequest(body []byte) (Request, error) {
	var r Request
	if len(body) > MaxRequest {
		return r, contracts.Errorf(contracts.TooLarge, "add-checkpoint: %d bytes, at most %d", len(body), MaxRequest)
	}
	rest, ok := bytes.CutPrefix(body, []byte("old "))
	line, rest, ok2 := bytes.Cut(rest, []byte("\n"))
	if !ok || !ok2 {
		return r, contracts.Errorf(contracts.Malformed, "add-checkpoint: no old size")
	}
	var err error
	if r.OldSize, err = parseSize(line); err != nil {
		return r, err
	}
	for {
		line, rest, ok = bytes.Cut(rest, []byte("\n"))
		if !ok {
			return Request{}, contracts.Errorf(contracts.Malformed, "add-checkpoint: no empty line before the note")
		}
		if len(line) == 0 {
			break
		}
		if len(r.Proof) == anchor.MaxProof {
			return Request{}, contracts.Errorf(contracts.Malformed, "add-checkpoint: more than %d hashes", anchor.MaxProof)
		}
		h, err := anchor.DecodeBase64(line)
		if err != nil {
			return Request{}, err
		}
		r.Proof = append(r.Proof, h)
	}
	r.Note = rest
	return r, nil
}

// parseSize reads a decimal without leading zero.
func parseSize(b []byte) (uint64, error) {
	n, err := strconv.ParseUint(string(b), 10, 64)
	if err != nil || strconv.FormatUint(n, 10) != string(b) {
		return 0, contracts.Errorf(contracts.Malformed, "size %.24q: want a decimal without leading zero", b)
	}
	return n, nil
}

// statuses are the numbers of C2SP tlog-witness, and 429 and 503 of HTTP.
var statuses = map[contracts.Code]int{
	contracts.Malformed: 400, contracts.TooLarge: 400, contracts.CheckpointInvalid: 400,
	contracts.SignatureInvalid: 403, contracts.KeyInvalid: 403, contracts.OriginFrozen: 403,
	contracts.OriginUnknown:   404,
	contracts.CheckpointStale: 409, contracts.Equivocation: 409,
	contracts.ProofInvalid: 422,
	contracts.RateLimited:  429,
}

// Status gives the number of an answer: 200 for nil, 503 for what is our fault.
func Status(err error) int {
	if err == nil {
		return 200
	}
	if s, ok := statuses[contracts.CodeOf(err)]; ok {
		return s
	}
	return 503
}

// Response is an answer: the status of C2SP tlog-witness and its body. The body is
// the cosignature line for 200, the size and a newline for 409, the error code for
// others; over HTTP the text x.tlog.size goes with 409.
type Response struct {
	Status int
	Body   []byte
}

// Answer makes the response of what AddCheckpoint returned. It shows no detail of
// the error.
func Answer(line []byte, err error) Response {
	var stale *Stale
	switch {
	case err == nil:
		return Response{Status: 200, Body: line}
	case errors.As(err, &stale):
		return Response{Status: 409, Body: stale.sizeLine()}
	}
	code := contracts.CodeOf(err)
	if _, ok := statuses[code]; !ok {
		code = contracts.Unavailable
	}
	return Response{Status: Status(err), Body: []byte(code)}
}

// Append writes the response for a stream: two bytes of status, big-endian, then the
// body.
func (r Response) Append(dst []byte) []byte {
	dst = binary.BigEndian.AppendUint16(dst, uint16(r.Status))
	return append(dst, r.Body...)
}

// ParseResponse reads a response and gives what AddCheckpoint gave at the other
// side: the cosignature lines of a 200, which the caller verifies; a *[Stale] for
// 409; an error of the code for others. An unknown code becomes UNAVAILABLE.
func ParseResponse(b []byte) ([]byte, error) {
	if len(b) < 2 || len(b) > MaxResponse {
		return nil, contracts.Errorf(contracts.Malformed, "add-checkpoint: response of %d bytes", len(b))
	}
	body := b[2:]
	switch status := binary.BigEndian.Uint16(b); status {
	case 200:
		return body, nil
	case 409:
		line, rest, ok := bytes.Cut(body, []byte("\n"))
		if !ok || len(rest) > 0 {
			return nil, contracts.Errorf(contracts.Malformed, "add-checkpoint: 409 without a size line")
		}
		size, err := parseSize(line)
		if err != nil {
			return nil, err
		}
		return nil, &Stale{Size: size, Code: contracts.CheckpointStale}
	default:
		code := contracts.Code(body)
		if statuses[code] != int(status) {
			code = contracts.Unavailable
		}
		return nil, contracts.Errorf(code, "the witness answered %d", status)
	}
}
