package evidence

import "github.com/talosprotocol/talos/gossip"

// JudgeDigest is the validator of digests.
func (s *Service) JudgeDigest(b []byte) gossip.Verdict { return s.judgeDigest(b) }
