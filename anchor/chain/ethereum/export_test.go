package ethereum

import (
	"context"
	"encoding/json"
)

// Transactions gives the transactions of a block, after everything was computed again.
func (c *Client) Transactions(ctx context.Context, n uint64) ([][]byte, error) {
	b, err := c.block(ctx, number(n), true)
	if err != nil || b == nil {
		return nil, err
	}
	return b.txs, nil
}

// EncodeTransaction gives the bytes of a transaction in the JSON of an endpoint.
func EncodeTransaction(text []byte) ([]byte, error) {
	var o object
	if err := json.Unmarshal(text, &o); err != nil {
		return nil, err
	}
	return o.transaction()
}
