package p2p

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"time"

	"github.com/libp2p/go-libp2p/core/network"

	"github.com/talosprotocol/talos/contracts"
)

// Deadlines of one exchange on a stream.
const (
	WriteTimeout = 10 * time.Second
	ReadTimeout  = 30 * time.Second
)

// AppendFrame appends body with its uvarint length, to be written at once: a length
// and a body in two writes cost a second packet and, measured, half as much again
// in round-trip time.
func AppendFrame(dst, body []byte) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(body)))
	return append(dst, body...)
}

// WriteFrame writes body as one frame.
func WriteFrame(w io.Writer, body []byte) error {
	_, err := w.Write(AppendFrame(make([]byte, 0, len(body)+binary.MaxVarintLen32), body))
	return err
}

// ReadFrame reads one frame of at most limit bytes. The limit is checked before
// anything is allocated. io.EOF means that the other side ended between frames.
func ReadFrame(r *bufio.Reader, limit int) ([]byte, error) {
	n, err := binary.ReadUvarint(r)
	if err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
			return nil, err
		}
		return nil, contracts.Errorf(contracts.Malformed, "frame length: %w", err)
	}
	if n > uint64(limit) {
		return nil, contracts.Errorf(contracts.TooLarge, "a frame of %d bytes, at most %d", n, limit)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, contracts.Errorf(contracts.Malformed, "a frame is cut short: %w", err)
	}
	return b, nil
}

// Buffered reports whether ReadFrame would not have to wait.
func Buffered(r *bufio.Reader) bool {
	b, _ := r.Peek(min(r.Buffered(), binary.MaxVarintLen64)) // what is buffered, no more
	n, k := binary.Uvarint(b)
	return k > 0 && n <= uint64(r.Buffered()-k)
}

// Reserve names the service that a stream belongs to and reserves the memory that
// its reading may take; it resets the stream and fails if the limits forbid it.
// The returned function gives the memory back.
func Reserve(s network.Stream, service string, bytes int) (func(), error) {
	if err := s.Scope().SetService(service); err != nil {
		_ = s.ResetWithError(network.StreamResourceLimitExceeded)
		return nil, contracts.Errorf(contracts.RateLimited, "stream limit of %s: %w", service, err)
	}
	if err := s.Scope().ReserveMemory(bytes, network.ReservationPriorityAlways); err != nil {
		_ = s.ResetWithError(network.StreamResourceLimitExceeded)
		return nil, contracts.Errorf(contracts.RateLimited, "memory limit of %s: %w", service, err)
	}
	return func() { s.Scope().ReleaseMemory(bytes) }, nil
}
