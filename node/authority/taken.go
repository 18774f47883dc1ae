package authority

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity/capability"
)

// What calls have used up, so that a restart forgets none of it (CAP-20, CAP-21): a row
// for each counted token, and one for each request id that is remembered. Both are
// bounded by the meter, which refuses what it has no room for, and swept when their time
// is over.
const (
	rowUsed = "cap/used/" // token id, slash, limit → calls (8), until (8)
	rowSeen = "cap/seen/" // capability.Seen → one octet

	// replayFor is how long the id of a request is remembered. The id says itself when it
	// was made; an older one is refused.
	replayFor = 10 * time.Minute
	// sweepAtOnce bounds one transaction.
	sweepAtOnce = 4096
)

// replayUntil gives until when a request id is remembered, the zero time for none.
// Codes: MALFORMED, NOT_YET_VALID. That it is too old is for the window to say.
func replayUntil(id string, now time.Time) (time.Time, error) {
	if id == "" {
		return time.Time{}, nil
	}
	raw, err := hex.DecodeString(strings.ReplaceAll(id, "-", ""))
	if err != nil || len(raw) != 16 || len(id) != 36 || raw[6]>>4 != 7 || raw[8]>>6 != 2 || strings.ToLower(id) != id {
		return time.Time{}, contracts.Errorf(contracts.Malformed, "a request id is a UUIDv7, made for this request")
	}
	made := time.UnixMilli(int64(binary.BigEndian.Uint64(append([]byte{0, 0}, raw[:6]...))))
	if made.Sub(now) > capability.ClockSkew {
		return time.Time{}, contracts.Errorf(contracts.NotYetValid, "the request was made %s from now; look at the clock", made.Sub(now).Round(time.Second))
	}
	return made.Add(replayFor), nil
}

// keepTaken makes what a call has used up durable, in one transaction, before the call
// begins.
func (s *Service) keepTaken(t capability.Taken) error {
	var keys, values [][]byte
	for _, u := range t.Used {
		keys = append(keys, fmt.Appendf(nil, "%s%s/%d", rowUsed, u.Token, u.Limit))
		values = append(values, binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, uint64(u.Calls)), uint64(u.Until)))
	}
	if t.Seen != nil {
		keys, values = append(keys, append([]byte(rowSeen), t.Seen[:]...)), append(values, []byte{1})
	}
	if len(keys) == 0 {
		return nil
	}
	return s.cfg.Rows.Write(context.Background(), keys, values)
}

// loadTaken reads what earlier runs have used up.
func (s *Service) loadTaken() error {
	var used []capability.Used
	var seen []capability.Seen
	err := s.scanUsed(func(_ []byte, u capability.Used) bool { used = append(used, u); return true })
	if err != nil {
		return err
	}
	if err := s.scanSeen(func(_ []byte, r capability.Seen) bool { seen = append(seen, r); return true }); err != nil {
		return err
	}
	s.meter.Restore(used, seen)
	return nil
}

func (s *Service) scanUsed(f func(key []byte, u capability.Used) bool) error {
	var failed error
	err := s.cfg.Rows.Scan([]byte(rowUsed), func(k, v []byte) bool {
		u := capability.Used{}
		token, limit, ok := strings.Cut(string(k[len(rowUsed):]), "/")
		if _, err := fmt.Sscan(limit, &u.Limit); !ok || err != nil || len(v) != 16 {
			failed = contracts.Errorf(contracts.StorageCorrupt, "the count of a capability is not as it was written")
			return false
		}
		u.Token, u.Calls, u.Until = token, int64(binary.BigEndian.Uint64(v)), int64(binary.BigEndian.Uint64(v[8:]))
		return f(k, u)
	})
	if err == nil {
		err = failed
	}
	return err
}

// scanSeen visits the remembered requests, those that end first before the others.
func (s *Service) scanSeen(f func(key []byte, r capability.Seen) bool) error {
	var failed error
	err := s.cfg.Rows.Scan([]byte(rowSeen), func(k, _ []byte) bool {
		var r capability.Seen
		if copy(r[:], k[len(rowSeen):]) != len(r) || len(k) != len(rowSeen)+len(r) {
			failed = contracts.Errorf(contracts.StorageCorrupt, "a request that was remembered is not as it was written")
			return false
		}
		return f(k, r)
	})
	if err == nil {
		err = failed
	}
	return err
}

// sweepCounts deletes the rows whose time is over, some at a time.
func (s *Service) sweepCounts(ctx context.Context) error {
	now := s.now().Add(-time.Minute).Unix() // a clock that is set back a little forgets nothing
	var keys [][]byte
	err := s.scanSeen(func(k []byte, r capability.Seen) bool {
		if r.Until() >= now || len(keys) == sweepAtOnce {
			return false
		}
		keys = append(keys, []byte(string(k)))
		return true
	})
	if err != nil {
		return err
	}
	err = s.scanUsed(func(k []byte, u capability.Used) bool {
		if u.Until < now {
			keys = append(keys, []byte(string(k)))
		}
		return len(keys) < 2*sweepAtOnce
	})
	if err != nil || len(keys) == 0 {
		return err
	}
	return s.cfg.Rows.Write(ctx, keys, make([][]byte, len(keys)))
}
