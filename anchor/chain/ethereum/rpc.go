package ethereum

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/talosprotocol/talos/anchor/chain/evm"
	"github.com/talosprotocol/talos/contracts"
)

// Bounds of answers.
const (
	maxAnswer = 1 << 20
	maxBlock  = 64 << 20
	rpcFor    = 30 * time.Second
)

// Client asks JSON-RPC endpoints of one chain, the first that answers. It is safe for
// concurrent use.
type Client struct {
	urls []string
	http *http.Client
}

// NewClient makes a client. h may be nil.
func NewClient(urls []string, h *http.Client) *Client {
	if h == nil {
		h = &http.Client{Timeout: rpcFor}
	}
	return &Client{urls, h}
}

// rpcError is what an endpoint answers instead of a result.
type rpcError struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
}

func (e *rpcError) Error() string { return fmt.Sprintf("the endpoint refuses: %.200q", e.Message) }

// call asks for one thing. An endpoint that says no has answered: the next is not asked.
func (c *Client) call(ctx context.Context, out any, limit int64, method string, params ...any) error {
	if params == nil {
		params = []any{}
	}
	body, err := json.Marshal(map[string]any{"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
	if err != nil {
		return contracts.Errorf(contracts.Internal, "%s: %w", method, err)
	}
	last := contracts.Errorf(contracts.ConfigInvalid, "no endpoint")
	for _, url := range c.urls {
		raw, err := c.post(ctx, url, body, limit)
		if err != nil {
			last = contracts.Errorf(contracts.Unavailable, "%s at %s: %w", method, hostOf(url), err)
			continue
		}
		var a struct {
			Result json.RawMessage `json:"result"`
			Error  *rpcError       `json:"error"`
		}
		if err := json.Unmarshal(raw, &a); err != nil {
			last = contracts.Errorf(contracts.Unavailable, "%s at %s: it answers no JSON-RPC", method, hostOf(url))
			continue
		}
		if a.Error != nil {
			return contracts.Errorf(contracts.Unavailable, "%s at %s: %w", method, hostOf(url), a.Error)
		}
		if err := json.Unmarshal(a.Result, out); err != nil {
			return contracts.Errorf(contracts.Malformed, "%s at %s: %w", method, hostOf(url), err)
		}
		return nil
	}
	return last
}

// hostOf leaves out what may hold a key of the endpoint.
func hostOf(url string) string {
	_, rest, _ := strings.Cut(url, "://")
	if _, after, ok := strings.Cut(rest, "@"); ok {
		rest = after
	}
	host, _, _ := strings.Cut(rest, "/")
	return host
}

func (c *Client) post(ctx context.Context, url string, body []byte, limit int64) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return nil, contracts.Errorf(contracts.ConfigInvalid, "the endpoint's address does not read")
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, contracts.Errorf(contracts.Unavailable, "out of reach")
	}
	defer resp.Body.Close() //nolint:errcheck // read only
	raw, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	switch {
	case err != nil:
		return nil, contracts.Errorf(contracts.Unavailable, "cut off")
	case int64(len(raw)) > limit:
		return nil, contracts.Errorf(contracts.TooLarge, "more than %d bytes", limit)
	case resp.StatusCode != http.StatusOK:
		return nil, contracts.Errorf(contracts.Unavailable, "status %d", resp.StatusCode)
	}
	return raw, nil
}

// quantity is a number of JSON-RPC: 0x and hexadecimal.
type quantity uint64

func (q *quantity) UnmarshalText(b []byte) error {
	s, ok := strings.CutPrefix(string(b), "0x")
	n, err := strconv.ParseUint(s, 16, 64)
	if !ok || err != nil {
		return contracts.Errorf(contracts.Malformed, "%.40q is no number", b)
	}
	*q = quantity(n)
	return nil
}

func (q quantity) MarshalText() ([]byte, error) { return fmt.Appendf(nil, "%#x", uint64(q)), nil }

// data is bytes of JSON-RPC: 0x and pairs of hexadecimal digits.
type data []byte

func (d *data) UnmarshalText(b []byte) error {
	s, ok := bytes.CutPrefix(b, []byte("0x"))
	out := make([]byte, hex.DecodedLen(len(s)))
	if _, err := hex.Decode(out, s); !ok || err != nil {
		return contracts.Errorf(contracts.Malformed, "%.40q is no bytes", b)
	}
	*d = out
	return nil
}

func (d data) MarshalText() ([]byte, error) { return fmt.Appendf(nil, "0x%x", []byte(d)), nil }

// ChainID asks which chain the endpoint is of.
func (c *Client) ChainID(ctx context.Context) (uint64, error) {
	var id quantity
	err := c.call(ctx, &id, maxAnswer, "eth_chainId")
	return uint64(id), err
}

// checkChain refuses an endpoint of another chain.
func (c *Client) checkChain(ctx context.Context, want uint64) error {
	id, err := c.ChainID(ctx)
	if err != nil {
		return err
	}
	if id != want {
		return contracts.Errorf(contracts.NetworkMismatch, "the endpoint is of chain %d, not %d", id, want)
	}
	return nil
}

// Header asks for the header of a block by tag or number, and hashes it again. It is nil
// where the chain has none.
func (c *Client) Header(ctx context.Context, block string) (*evm.Header, error) {
	b, err := c.block(ctx, block, false)
	if err != nil || b == nil {
		return nil, err
	}
	return b.head, nil
}

func number(n uint64) string { return "0x" + strconv.FormatUint(n, 16) }
