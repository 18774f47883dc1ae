package opentimestamps

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/talosprotocol/talos/anchor"
	"github.com/talosprotocol/talos/contracts"
)

// Name is the driver's name in receipts, Chain the chain's.
const (
	Name  = "opentimestamps"
	Chain = "bitcoin"
)

// Open follows a receipt from the head to the Merkle root that it says of a block, and
// gives the block's height. It accepts one way and nothing beside it. Codes: MALFORMED,
// TOO_LARGE, UNSUPPORTED_VERSION, PROOF_INVALID.
func Open(r *anchor.Receipt) (height uint64, root [32]byte, err error) {
	if r.Driver != Name || r.Chain != Chain {
		return 0, root, contracts.Errorf(contracts.ProofInvalid, "opentimestamps: a receipt of %.40q on %.40q", r.Driver, r.Chain)
	}
	digest, ways, err := ParseFile(r.Body)
	if err != nil {
		return 0, root, err
	}
	c := r.Head.Commitment()
	switch {
	case digest != sha256.Sum256(c[:]):
		return 0, root, contracts.Errorf(contracts.ProofInvalid, "opentimestamps: the proof is of something else than this head")
	case len(ways) != 1 || !ways[0].Bitcoin || len(ways[0].Message) != 32:
		return 0, root, contracts.Errorf(contracts.ProofInvalid, "opentimestamps: want one way to one block")
	case !bytes.Equal(ways[0].File(digest), r.Body):
		return 0, root, contracts.Errorf(contracts.Malformed, "opentimestamps: the receipt has another encoding")
	}
	return ways[0].Height, [32]byte(ways[0].Message), nil
}

// Header is a block header of Bitcoin, 80 bytes.
type Header [80]byte

// ParseHeader reads a header in hexadecimal, as Bitcoin's programs print it.
func ParseHeader(text string) (h Header, err error) {
	b, err := hex.DecodeString(text)
	if err != nil || len(b) != len(h) {
		return h, contracts.Errorf(contracts.Malformed, "a Bitcoin header has 80 bytes in hexadecimal")
	}
	return Header(b), nil
}

// Root gives the Merkle root, Time the time that its miner said.
func (h *Header) Root() [32]byte { return [32]byte(h[36:68]) }
func (h *Header) Time() time.Time {
	return time.Unix(int64(binary.LittleEndian.Uint32(h[68:])), 0).UTC()
}

// Verifier judges receipts for an auditor. The zero value trusts nothing.
type Verifier struct {
	Headers map[uint64]Header // that the auditor knows to be in the chain, by height
	Node    *Node             // is asked for others; nil: nobody is
}

// VerifyReceipt judges one receipt.
func (v *Verifier) VerifyReceipt(r *anchor.Receipt) anchor.Finding {
	height, root, err := Open(r)
	if contracts.CodeOf(err) == contracts.UnsupportedVersion {
		return anchor.Findingf(anchor.CannotTell, "%v", err)
	}
	if err != nil {
		return anchor.Findingf(anchor.NotValid, "%v", err)
	}
	h, ok := v.Headers[height]
	from := "which you trust"
	if !ok {
		if v.Node == nil {
			return anchor.Findingf(anchor.CannotTell, "it says Bitcoin's block %d, and nothing here has its header: give it, or a node", height)
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		var deep uint64
		if h, deep, err = v.Node.Header(ctx, height); err != nil {
			return anchor.Findingf(anchor.CannotTell, "%v", err)
		}
		if deep < minDepth {
			return anchor.Findingf(anchor.CannotTell, "Bitcoin's block %d has %d blocks above it, and needs %d", height, deep, minDepth)
		}
		from = "as the node says"
	}
	if h.Root() != root {
		return anchor.Findingf(anchor.NotValid, "Bitcoin's block %d has another Merkle root than the proof leads to", height)
	}
	f := anchor.Findingf(anchor.Valid, "it is in Bitcoin's block %d, %s", height, from)
	f.Existed, f.Final = h.Time(), true
	return f
}

// minDepth is how many blocks above make a block of Bitcoin final, as is usual.
const minDepth = 6

// Node is a Bitcoin node's JSON-RPC.
type Node struct {
	URL  string
	HTTP *http.Client
}

func (n *Node) call(ctx context.Context, out any, method string, params ...any) error {
	body, err := json.Marshal(map[string]any{"jsonrpc": "1.0", "id": "1", "method": method, "params": params})
	if err != nil {
		return contracts.Errorf(contracts.Internal, "%s: %w", method, err)
	}
	raw, err := fetch(ctx, n.HTTP, http.MethodPost, n.URL, "application/json", body)
	if err != nil {
		return err
	}
	var a struct {
		Result json.RawMessage `json:"result"`
		Error  json.RawMessage `json:"error"`
	}
	if err := json.Unmarshal(raw, &a); err != nil || len(a.Error) > 0 && string(a.Error) != "null" {
		return contracts.Errorf(contracts.Unavailable, "the Bitcoin node refuses %s: %.100q", method, a.Error)
	}
	if err := json.Unmarshal(a.Result, out); err != nil {
		return contracts.Errorf(contracts.Malformed, "%s: %w", method, err)
	}
	return nil
}

// Header gives the header of a height, and how many blocks are above it. Its hash is
// computed again, so a node can lie about the chain and not about a block.
func (n *Node) Header(ctx context.Context, height uint64) (h Header, above uint64, err error) {
	var hash, text string
	if err := n.call(ctx, &hash, "getblockhash", height); err != nil {
		return h, 0, err
	}
	if err := n.call(ctx, &text, "getblockheader", hash, false); err != nil {
		return h, 0, err
	}
	if h, err = ParseHeader(text); err != nil {
		return h, 0, err
	}
	one := sha256.Sum256(h[:])
	two := sha256.Sum256(one[:])
	for i := range 16 {
		two[i], two[31-i] = two[31-i], two[i]
	}
	if hex.EncodeToString(two[:]) != hash {
		return h, 0, contracts.Errorf(contracts.ProofInvalid, "the Bitcoin node lies: header %d is not that of its hash", height)
	}
	var best uint64
	if err := n.call(ctx, &best, "getblockcount"); err != nil {
		return h, 0, err
	}
	if best < height {
		return h, 0, contracts.Errorf(contracts.ProofInvalid, "the Bitcoin node lies: it counts %d blocks", best)
	}
	return h, best - height, nil
}

// fetch asks for one thing, and reads no more than a calendar has to say.
func fetch(ctx context.Context, c *http.Client, method, url, typ string, body []byte) ([]byte, error) {
	if c == nil {
		c = &http.Client{Timeout: 30 * time.Second}
	}
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return nil, contracts.Errorf(contracts.ConfigInvalid, "the address does not read")
	}
	if typ != "" {
		req.Header.Set("Content-Type", typ)
	}
	req.Header.Set("Accept", "application/vnd.opentimestamps.v1, application/json")
	resp, err := c.Do(req)
	if err != nil {
		return nil, contracts.Errorf(contracts.Unavailable, "%s is out of reach", req.URL.Host)
	}
	defer resp.Body.Close() //nolint:errcheck // read only
	if resp.StatusCode == http.StatusNotFound {
		return nil, contracts.Errorf(contracts.NotFound, "%s has nothing yet", req.URL.Host)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, contracts.Errorf(contracts.Unavailable, "%s answers %d", req.URL.Host, resp.StatusCode)
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, MaxFile+1))
	if err != nil || len(b) > MaxFile {
		return nil, contracts.Errorf(contracts.TooLarge, "%s answers more than %d bytes, or is cut off", req.URL.Host, MaxFile)
	}
	return b, nil
}

// ParseTrusted reads what an auditor trusts: a height and a header.
func ParseTrusted(height, header string) (uint64, Header, error) {
	n, err := strconv.ParseUint(height, 10, 32)
	if err != nil {
		return 0, Header{}, contracts.Errorf(contracts.Malformed, "%.20q is no height", height)
	}
	h, err := ParseHeader(header)
	return n, h, err
}
