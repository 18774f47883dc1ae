package gateway

import (
	"bytes"
	"context"
	"crypto/rand"
	"io"
	"strings"

	"github.com/talosprotocol/talos/anchor"
	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/node/call"
	"github.com/talosprotocol/talos/node/gate"
)

// Local makes a call at this gateway for a principal of the same machine. ctx bounds the
// whole call, body included; whoever gets an answer closes its Body.
func (g *Gateway) Local(ctx context.Context, who gate.Principal, h call.Header, body []byte) (*Answer, error) {
	ctx, cancel := context.WithCancel(ctx)
	pr, pw := io.Pipe()
	p := &pipe{PipeWriter: pw, head: make(chan call.ResponseHeader, 1)}
	failed := make(chan error, 1)
	var random [10]byte
	_, _ = rand.Read(random[:]) // never fails
	h.ID = anchor.NewID(g.cfg.Now(), random)
	go func() {
		_, err := g.serve(ctx, who, &h, bytes.NewReader(body), p)
		_ = pw.CloseWithError(err) // nil: io.EOF
		failed <- err
	}()
	select {
	case head := <-p.head:
		return g.answer(head, &localBody{pr, cancel})
	case err := <-failed:
		cancel()
		if len(p.head) > 0 && err == nil { // both at once: an answer without a body
			return g.answer(<-p.head, io.NopCloser(strings.NewReader("")))
		}
		if err == nil {
			err = contracts.Errorf(contracts.Internal, "the service gave no answer")
		}
		return nil, err
	}
}

func (g *Gateway) answer(h call.ResponseHeader, body io.ReadCloser) (*Answer, error) {
	m, err := responseMeta(h.Meta)
	if err != nil {
		_ = body.Close()
		return nil, err
	}
	return &Answer{Status: int(*m.Status), ContentType: h.ContentType, Headers: m.Headers, Length: h.Length, Body: body, Gateway: g.cfg.DID}, nil
}

type localBody struct {
	*io.PipeReader
	cancel context.CancelFunc
}

func (b *localBody) Close() error {
	b.cancel()
	return b.PipeReader.Close()
}

// pipe takes an answer for a local program.
type pipe struct {
	*io.PipeWriter
	head chan call.ResponseHeader
}

func (p *pipe) Header(h call.ResponseHeader) error {
	select {
	case p.head <- h:
		return nil
	default:
		return contracts.Errorf(contracts.Internal, "the header of the response was sent already")
	}
}

func (p *pipe) Flush() error { return nil }
