package session

import "time"

// SetRetry shortens the pause of a failed delivery.
func (m *Manager) SetRetry(d time.Duration) { m.retry.Store(int64(d)) }

// OutboxFrame gives session and frame of an outbox row; ok is false for other rows.
func OutboxFrame(k, v []byte) (session [16]byte, seq uint64, frame []byte, ok bool) {
	if len(k) != 25 || k[0] != rowOutbox {
		return session, 0, nil, false
	}
	row, err := decodeOutbox(v)
	if err != nil {
		return session, 0, nil, false
	}
	r := rowReader{b: k[17:]}
	return row.session, r.u64(), row.frame, true
}

// Names and numbers that tests on the wire need.
const (
	StreamName, PrekeyName = sessionName, prekeyName
	StreamVersion          = protocolVersion
	FrameRatchet           = frameRatchet
	FrameFlight            = frameFlight
	FrameRefuse            = frameRefuse
	FrameHave              = frameHave
	MaxFetches             = maxFetches
	MaxOutbox              = maxOutbox
	FetchEvery             = fetchEvery
	RotateAfter            = rotateAfter
)
