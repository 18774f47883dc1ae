package ratchet

import "time"

// Version and suite of the frames that this package speaks (spec §2).
const (
	Version = 0x02   // first byte of each frame
	Suite   = 0x0002 // X25519, ML-KEM-768, Ed25519, HKDF-SHA256, ChaCha20-Poly1305
)

// Limits. Each is normative; the reasons are in spec §7.
const (
	// MaxFrame is the largest frame, in bytes. Larger content is chunked above.
	MaxFrame = 64 << 10
	// MaxBody is the largest body of one message, in bytes: what fits into
	// MaxFrame after the largest header and the padding.
	MaxBody = 60 << 10
	// MaxGap is how many message keys one frame may skip in one chain.
	MaxGap = 1000
	// MaxSkipped is how many skipped keys a session keeps; the oldest go first.
	MaxSkipped = 2000
	// MaxOldChains is how many finished receiving chains may keep skipped keys.
	MaxOldChains = 5
	// SkippedTTL is how long a skipped key is kept.
	SkippedTTL = 24 * time.Hour
	// MaxChain is how many messages one chain may carry. A sender that reaches
	// it must wait for a fresh key of its peer.
	MaxChain = 1 << 16
	// MaxSeq bounds sender_seq and recipient_seq, so that no sum of them with a
	// window or a chain can wrap.
	MaxSeq = 1<<63 - 1
	// HealAfter is the number of one-way messages, and HealAge the age of a
	// chain, after which a sender asks its peer for a fresh key.
	HealAfter = 256
	HealAge   = 10 * time.Minute
	// ReserveAhead is how many message keys and sequence numbers a reserve lies
	// ahead of memory.
	ReserveAhead = 64
	// WindowSize is how many sequence numbers past the last contiguous one are
	// accepted.
	WindowSize = 1024
	// maxDID bounds the length of a DID in bytes.
	maxDID = 512
)
