package mcp

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"github.com/talosprotocol/talos/contracts"
)

const (
	lineBuffer = 64 << 10
	endsWithin = 2 * time.Second // of its own accord, then once more after SIGTERM
)

// child is a program that speaks JSON-RPC in lines on its standard streams. What it writes
// to its error stream is thrown away: it may hold whatever the calls hold.
type child struct {
	cmd   *exec.Cmd
	pipe  *os.File // its output
	out   *bufio.Reader
	limit int // bytes of a line

	mu sync.Mutex // of in
	in io.WriteCloser

	over   chan struct{} // closed when the process is gone and waited for
	ending sync.Once
}

// command is what a child is started with.
type command struct {
	argv []string
	dir  string
	env  []string // all of it
}

// startChild starts a program in a process group of its own. Nothing of this process's
// environment is in its own.
func startChild(c command, limit int) (*child, error) {
	if !filepath.IsAbs(c.argv[0]) {
		return nil, contracts.Errorf(contracts.ConfigInvalid, "%.128q is no absolute path of a program", c.argv[0])
	}
	cmd := exec.Command(c.argv[0], c.argv[1:]...)
	cmd.Dir, cmd.Env = c.dir, append([]string{}, c.env...) // not nil, which would be all of ours
	ownGroup(cmd)
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, contracts.Errorf(contracts.Unavailable, "starting a program: %w", err)
	}
	out, theirs, err := os.Pipe() // not exec's, which may not be read while Wait runs
	if err != nil {
		return nil, contracts.Errorf(contracts.Unavailable, "starting a program: %w", err)
	}
	cmd.Stdout = theirs
	err = cmd.Start()
	_ = theirs.Close()
	if err != nil {
		_ = out.Close()
		return nil, contracts.Errorf(contracts.Unavailable, "the program does not start: %w", startError(err))
	}
	return &child{cmd: cmd, in: in, pipe: out, out: bufio.NewReaderSize(out, lineBuffer), limit: limit, over: make(chan struct{})}, nil
}

// startError keeps of an error what says why, without arguments.
func startError(err error) error {
	var p *os.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

// send writes a message, a line.
func (c *child) send(ctx context.Context, m []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	line := make([]byte, 0, len(m)+1)
	for _, b := range m {
		if b == '\n' || b == '\r' { // between members, where they say nothing
			b = ' '
		}
		line = append(line, b)
	}
	_, err := c.in.Write(append(line, '\n'))
	return err
}

// receive gives the next line. One that is too long ends the child: what follows cannot
// be told from it.
func (c *child) receive() ([]byte, error) {
	var line []byte
	for {
		part, err := c.out.ReadSlice('\n')
		line = append(line, part...)
		if len(line) > c.limit {
			return nil, contracts.Errorf(contracts.TooLarge, "the program wrote a line of more than %d bytes", c.limit)
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		return line, err
	}
}

// close ends the program and its whole process group: first it is told by the end of its
// input, then by a signal, then it is not asked. It returns when it is gone.
func (c *child) close() {
	c.ending.Do(func() {
		go func() {
			defer close(c.over)
			defer c.pipe.Close() //nolint:errcheck // ends the reader, if somebody else has the other end
			_ = c.in.Close()
			gone := make(chan struct{})
			go func() {
				_ = c.cmd.Wait()
				close(gone)
			}()
			for _, signal := range []func(*exec.Cmd){nil, terminate} {
				if signal != nil {
					signal(c.cmd)
				}
				select {
				case <-gone:
					kill(c.cmd) // whom it has left behind
					return
				case <-time.After(endsWithin):
				}
			}
			kill(c.cmd)
			<-gone
		}()
	})
	<-c.over
}
