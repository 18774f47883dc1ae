package call

import (
	"encoding/binary"
	"errors"
	"io"
	"time"

	"github.com/talosprotocol/talos/contracts"
)

const (
	// partSize is how much of a body travels in one frame: half of what is allowed,
	// since larger ones are no faster (bench_test.go) and cost memory for each call.
	partSize = 32 << 10
	// room is what precedes a body's part in its frame: length and kind.
	room = 4
	// maxEmpty is how often in a row a source may give nothing, as in package bufio.
	maxEmpty = 100
)

var errClosed = errors.New("the call is over")

// writer puts frames on a stream: whole ones, each with its length in one write, as many
// at once as are ready. One goroutine uses it; beside it only ping may be called.
type writer struct {
	l     *link
	kind  byte // of the body's frames
	stall time.Duration
	every time.Duration // between keepalives
	buf   []byte        // frames that wait, the last of them open if open ≥ 0
	open  int           // where the open frame of the body begins
	sum   int64         // bytes of the body
	lost  func(error)   // told what a keepalive has failed with

	turn  chan struct{} // holds a token while somebody writes; guards what follows
	done  bool
	err   error // of a write: frames may be cut, nothing more is written
	timer *time.Timer
}

func newWriter(l *link, kind byte, lim *Limits, lost func(error)) *writer {
	return &writer{l: l, kind: kind, stall: lim.Stall, every: lim.Keepalive, open: -1, lost: lost, turn: make(chan struct{}, 1)}
}

// keepAlive begins to write keepalives where nothing else is written.
func (w *writer) keepAlive() {
	w.turn <- struct{}{}
	defer func() { <-w.turn }()
	if !w.done {
		w.timer = time.AfterFunc(w.every, w.ping)
	}
}

// frame appends a whole frame.
func (w *writer) frame(kind byte, payload []byte) {
	w.seal()
	w.buf = binary.AppendUvarint(w.buf, uint64(len(payload)+1))
	w.buf = append(append(w.buf, kind), payload...)
}

// begin opens a frame of the body, unless one with free space is open.
func (w *writer) begin() error {
	if w.open >= 0 && len(w.buf)-w.open-room >= partSize {
		if err := w.flush(); err != nil {
			return err
		}
	}
	if w.open < 0 {
		w.open = len(w.buf)
		w.buf = append(w.buf, make([]byte, room)...)
	}
	return nil
}

// write appends p to the body and sends each frame that is full.
func (w *writer) write(p []byte) (n int, err error) {
	for n < len(p) {
		if err := w.begin(); err != nil {
			return n, err
		}
		k := min(len(p)-n, partSize-(len(w.buf)-w.open-room))
		w.buf = append(w.buf, p[n:n+k]...)
		n += k
		w.sum += int64(k)
	}
	return n, nil
}

// readFrom sends what src gives, each read at once; length is what the header states of
// the body, so that a short one gets a short buffer. (Buffers are not shared between
// calls: whoever writes after the end of a call would write into another's.) Whether it
// fails to read or to write are two things: the one is known here, the other comes from
// the peer.
func (w *writer) readFrom(src io.Reader, length int64) (n int64, reading, writing error) {
	for empty := 0; empty < maxEmpty; {
		if err := w.begin(); err != nil {
			return n, nil, err
		}
		size := len(w.buf)
		free := partSize - (size - w.open - room)
		if length > 0 { // with room for a surplus, which is refused, and for the end
			free = int(min(int64(free), max(length-w.sum, 0)+512))
		}
		if cap(w.buf) < size+free {
			w.buf = append(make([]byte, 0, size+free), w.buf...)
		}
		k, err := src.Read(w.buf[size : size+free])
		if k < 0 || k > free {
			return n, contracts.Errorf(contracts.Internal, "a reader claims to have read %d bytes", k), nil
		}
		w.buf = w.buf[:size+k]
		n += int64(k)
		w.sum += int64(k)
		switch {
		case err == io.EOF: //nolint:errorlint // as io.Reader says
			return n, nil, nil
		case err != nil:
			return n, err, nil
		case k == 0:
			empty++
			continue
		}
		empty = 0
		if err := w.flush(); err != nil {
			return n, nil, err
		}
	}
	return n, io.ErrNoProgress, nil
}

// seal completes the open frame: the length takes no more bytes than it must, and what
// follows moves up to it.
func (w *writer) seal() {
	if w.open < 0 {
		return
	}
	at := w.open
	w.open = -1
	n := len(w.buf) - at - room
	if n == 0 {
		w.buf = w.buf[:at]
		return
	}
	head := append(binary.AppendUvarint(make([]byte, 0, room), uint64(n+1)), w.kind)
	copy(w.buf[at:], head)
	copy(w.buf[at+len(head):], w.buf[at+room:])
	w.buf = w.buf[:at+len(head)+n]
}

// flush writes what waits.
func (w *writer) flush() error {
	w.seal()
	if len(w.buf) == 0 {
		return nil
	}
	w.turn <- struct{}{}
	defer func() { <-w.turn }()
	err := w.send(w.buf)
	w.buf = w.buf[:0]
	return err
}

// send writes frames; the caller holds the turn.
func (w *writer) send(frames []byte) error {
	if w.done && w.err == nil {
		w.err = errClosed
	}
	if w.err != nil {
		return w.err
	}
	w.l.writeWithin(w.stall)
	if _, err := w.l.Write(frames); err != nil {
		w.err = err
	}
	if w.timer != nil {
		w.timer.Reset(w.every)
	}
	return w.err
}

var keepalive = []byte{1, kindKeepalive}

// ping writes a keepalive, unless somebody is writing: then it will be seen anyhow
// whether the peer is there.
func (w *writer) ping() {
	select {
	case w.turn <- struct{}{}:
	default:
		return
	}
	err := error(nil)
	if !w.done {
		err = w.send(keepalive)
	}
	<-w.turn
	if err != nil {
		w.lost(err)
	}
}

// end stops the keepalives and lets nothing more be written; it reports whether all
// that was written is whole.
func (w *writer) end() bool {
	w.turn <- struct{}{}
	defer func() { <-w.turn }()
	w.done = true
	if w.timer != nil {
		w.timer.Stop()
	}
	return w.err == nil
}

// stated checks a body against the length that its header states.
func (w *writer) stated(length int64) error {
	if length > 0 && w.sum != length {
		return contracts.Errorf(contracts.Malformed, "the body has %d bytes, its header states %d", w.sum, length)
	}
	return nil
}
