package ethereum

import "context"

// Transactions gives the transactions of a block, after everything was computed again.
func (c *Client) Transactions(ctx context.Context, n uint64) ([][]byte, error) {
	b, err := c.block(ctx, number(n), true)
	if err != nil || b == nil {
		return nil, err
	}
	return b.txs, nil
}
