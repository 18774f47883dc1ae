package gateway

import (
	"context"
	"io"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
	"github.com/talosprotocol/talos/node/call"
	"github.com/talosprotocol/talos/node/execution"
	"github.com/talosprotocol/talos/node/gate"
)

// Kinds of services, as scopes name them.
const (
	Model = "model"
	Tool  = "tool"
	Agent = "agent"
)

// Driver does the calls of one kind of service. It is used concurrently.
type Driver interface {
	// Services gives what is exposed now.
	Services() []contracts.ServiceEntry
	// Plan reads of a call what policy needs to know. It has no effect anywhere. Errors:
	// UNKNOWN_TOOL (with the nearest names), MALFORMED, TOO_LARGE and what the driver's
	// own rules say.
	Plan(ctx context.Context, a *Asked) (*Plan, error)
}

// Asked is a call as a driver sees it.
type Asked struct {
	ID          string // of this try
	Caller      identity.DID
	Service     string
	Method      string
	ContentType string
	Headers     []contracts.CallHeader
	Body        []byte // whole
	// May reports why the caller could not use a surface, nil if it could.
	May func(surface string, params map[string]string) error
}

// Header gives a header of the call, empty if there is none.
func (a *Asked) Header(name string) string { return header(a.Headers, name) }

func header(all []contracts.CallHeader, name string) string {
	for _, h := range all {
		if h.Name == name {
			return h.Value
		}
	}
	return ""
}

// Plan is a call that is understood.
type Plan struct {
	Surface string            // of the registry
	Params  map[string]string // of its templates
	Args    []byte            // canonical JSON that constraints may look at, nil if there is none
	Cost    gate.Amounts      // held before it begins: a bound, or what the first slice costs
	// Do does it. It gives what was used also with an error. An error that is marked by
	// call.NotBegun says that the upstream has seen nothing of the call.
	Do func(ctx context.Context, p *gate.Pass, w *Reply) (Usage, error)
}

// Usage is what a call has used.
type Usage struct {
	In, Out   int64 // tokens of a model; bytes of others
	Tokens    int64 // that count in budgets
	CostMicro int64
	Estimated bool // the upstream did not say
	Cut       bool // it was ended at a budget's limit, and the caller told in the body
}

// output is where an answer goes: the stream of a call, or a pipe to a local program.
type output interface {
	io.Writer
	Header(h call.ResponseHeader) error
	Flush() error
}

// Reply takes the answer of a driver, and keeps the commitment to what was sent. One
// goroutine at a time may use it.
type Reply struct {
	out    output
	commit *execution.Commitment
	headed bool
	n      int64
	tape   *tape // of an answer that may be asked for again; nil: none
}

// Header sets what precedes the body: the upstream's status, content type, and the
// headers that the operation knows. length is 0 if it is not known.
func (r *Reply) Header(status int, contentType string, length int64, headers ...contracts.CallHeader) error {
	s := int64(status)
	m := contracts.CallMeta{V: metaVersion, Status: &s, Headers: headers}
	r.headed = true
	head := call.ResponseHeader{ContentType: contentType, Length: length, Meta: m.AppendCanonical(nil)}
	if r.tape != nil {
		r.tape.head = head
	}
	return r.out.Header(head)
}

// Write appends to the body. It waits while the caller does not read.
func (r *Reply) Write(p []byte) (int, error) {
	n, err := r.out.Write(p)
	_, _ = r.commit.Write(p[:n])
	r.tape.write(p[:n])
	r.n += int64(n)
	return n, err
}

// Flush sends what was written.
func (r *Reply) Flush() error { return r.out.Flush() }

// Headed reports whether the answer has begun.
func (r *Reply) Headed() bool { return r.headed }

// Sent gives how many bytes the body has so far.
func (r *Reply) Sent() int64 { return r.n }
