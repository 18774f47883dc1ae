package session

import "time"

const sweepEvery = 10 * time.Minute

// sweepLoop forgets what time has ended in conversations where nothing comes: keys of
// messages that never arrived, and sessions that have drained.
func (m *Manager) sweepLoop() {
	t := time.NewTicker(sweepEvery)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			for _, c := range m.all() {
				if err := c.sweep(); err != nil {
					m.log.Warn("sweeping a conversation", "peer", c.peer, "err", err)
				}
			}
		case <-m.ctx.Done():
			return
		}
	}
}

func (c *conversation) sweep() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.row == nil {
		return nil // not in memory: load forgets nothing, the first frame does
	}
	rows, now := c.prune(), c.m.now()
	for id, st := range c.states {
		if st.Expire(now) {
			rows = append(rows, write{key(rowSession, id), st.AppendState(nil)})
		}
	}
	if len(rows) == 0 {
		return nil
	}
	return c.commit(c.m.ctx, 0, func(tx Tx) error { put(tx, rows); return nil })
}
