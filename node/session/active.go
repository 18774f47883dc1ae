package session

// Active gives how many conversations have a session to send on. It reads the store
// alone and waits for no conversation: whoever asks how the node is must get an
// answer also while one is busy.
func (m *Manager) Active() (n int, err error) {
	var failed error
	err = m.store.Scan([]byte{rowConversation}, nil, func(_, v []byte) bool {
		row, e := decodeConversation(v)
		if e != nil {
			failed = e
			return false
		}
		for _, s := range row.sessions {
			if !s.draining {
				n++
				break
			}
		}
		return true
	})
	if err == nil {
		err = failed
	}
	return n, err
}
