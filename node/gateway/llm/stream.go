package llm

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/node/gate"
	"github.com/talosprotocol/talos/node/gateway"
	"github.com/talosprotocol/talos/node/gateway/outbound"
	"github.com/talosprotocol/talos/node/gateway/sse"
)

// chunk is of an event what is counted, in all dialects.
type chunk struct {
	ID    string  `json:"id"`
	Model string  `json:"model"`
	Type  string  `json:"type"`
	Usage *counts `json:"usage"`
	Error any     `json:"error"`

	Choices []struct { // chat
		Delta struct {
			Content   string          `json:"content"`
			Reasoning string          `json:"reasoning_content"`
			Refusal   string          `json:"refusal"`
			Calls     json.RawMessage `json:"tool_calls"`
		} `json:"delta"`
	} `json:"choices"`

	Delta    json.RawMessage `json:"delta"` // responses, messages
	Sequence int64           `json:"sequence_number"`
	Response *struct {
		Usage *counts `json:"usage"`
	} `json:"response"`
	Message *struct {
		Usage *counts `json:"usage"`
	} `json:"message"`
}

// stream copies events, counts what they bring, and ends when a budget is used up.
func (c *upstreamCall) stream(ctx context.Context, dog *outbound.Watchdog, resp *http.Response, m *meter, p *gate.Pass, w *gateway.Reply) (gateway.Usage, error) {
	if err := w.Header(http.StatusOK, "text/event-stream", 0); err != nil {
		return m.usage(c.m.price), err
	}
	if err := w.Flush(); err != nil {
		return m.usage(c.m.price), err
	}
	in := bufio.NewReaderSize(resp.Body, 16<<10)
	held := int64(Slice)
	var last chunk
	for {
		event, err := sse.Read(in)
		if len(event) > 0 {
			dog.Alive(c.d.limits.Idle)
			drop := c.count(event, m, &last)
			if now := m.running(); now > held {
				if cut := p.TopUp(c.m.price.amounts(0, Slice)); cut != nil {
					return c.cut(m, &last, w, cut)
				}
				held += Slice
			}
			if !drop {
				if _, err := w.Write(event); err != nil {
					return m.usage(c.m.price), err
				}
				if in.Buffered() == 0 { // what comes at once leaves at once
					if err := w.Flush(); err != nil {
						return m.usage(c.m.price), err
					}
				}
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return m.usage(c.m.price), nil
		case err != nil:
			return m.usage(c.m.price), c.gone(ctx, err)
		}
	}
}

// count takes of an event what it says of usage. It reports whether the event is only
// there because the gateway asked for it.
func (c *upstreamCall) count(event []byte, m *meter, last *chunk) (drop bool) {
	data := sse.Data(event)
	if len(data) == 0 || data[0] != '{' {
		return false
	}
	var e chunk
	if json.Unmarshal(data, &e) != nil {
		m.note(len(data)) // not as it should be, and passed on as it is
		return false
	}
	if e.ID != "" {
		last.ID, last.Model = e.ID, e.Model
	}
	last.Sequence = max(last.Sequence, e.Sequence)
	m.take(e.Usage)
	if e.Response != nil {
		m.take(e.Response.Usage)
	}
	if e.Message != nil {
		m.take(e.Message.Usage)
	}
	for _, ch := range e.Choices {
		m.note(len(ch.Delta.Content) + len(ch.Delta.Reasoning) + len(ch.Delta.Refusal) + len(ch.Delta.Calls))
	}
	if len(e.Choices) == 0 && len(e.Delta) > 0 && e.Type != "message_delta" {
		m.note(contentOf(e.Delta))
	}
	return c.r.op == Chat && !c.r.usage && e.Usage != nil && len(e.Choices) == 0 && e.Error == nil
}

// contentOf gives how many bytes of content a delta of responses or messages has.
func contentOf(delta json.RawMessage) int {
	if delta[0] == '"' {
		return len(delta) - 2
	}
	var d struct {
		Text      string `json:"text"`
		JSON      string `json:"partial_json"`
		Thinking  string `json:"thinking"`
		Signature string `json:"signature"`
	}
	if json.Unmarshal(delta, &d) != nil {
		return len(delta)
	}
	return len(d.Text) + len(d.JSON) + len(d.Thinking)
}

// cut ends a stream at the limit of a budget: the client is told in its own dialect, and
// the upstream's body is closed by whoever called.
func (c *upstreamCall) cut(m *meter, last *chunk, w *gateway.Reply, why error) (gateway.Usage, error) {
	u := m.usage(c.m.price)
	u.Cut = true
	message, err := json.Marshal(contracts.Message(why))
	if err != nil {
		return u, err
	}
	var text string
	switch c.r.op {
	case Chat:
		id, err := json.Marshal(last.ID)
		if err != nil {
			return u, err
		}
		model, err := json.Marshal(last.Model)
		if err != nil {
			return u, err
		}
		text = fmt.Sprintf("data: {\"id\":%s,\"object\":\"chat.completion.chunk\",\"model\":%s,\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"length\"}]}\n\n", id, model) +
			fmt.Sprintf("data: {\"error\":{\"message\":%s,\"type\":\"talos_budget\",\"param\":null,\"code\":%q}}\n\n", message, contracts.BudgetExhausted)
	case Responses:
		text = fmt.Sprintf("event: error\ndata: {\"type\":\"error\",\"code\":%q,\"message\":%s,\"param\":null,\"sequence_number\":%d}\n\n", contracts.BudgetExhausted, message, last.Sequence+1)
	default:
		text = fmt.Sprintf("event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"talos_budget\",\"message\":%s}}\n\n", message)
	}
	if _, err := io.WriteString(w, text); err != nil {
		return u, err
	}
	return u, why
}
