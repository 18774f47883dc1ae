package anchor

import (
	"encoding/binary"
	"encoding/hex"
	"time"

	"github.com/talosprotocol/talos/contracts"
)

// TimeFormat is the layout of times in events: UTC with milliseconds.
const TimeFormat = "2006-01-02T15:04:05.000Z"

// EventVersion is the value of an event's member v.
const EventVersion = "talos-audit/1"

// eventTypes gives each type of event its byte in leaf data. The table is
// append-only: a byte, once given, never changes (spec/audit-log.md, AUD-4).
var eventTypes = map[string]byte{
	"intent": 1, "result": 2, "denied": 3,
	"message_out": 4, "message_in": 5,
	"session_open": 6, "session_accept": 7, "session_rotate": 8, "session_close": 9,
	"group_change": 10, "cap_grant": 11, "cap_revoke": 12,
	"peer_head": 13, "key_rotate": 14, "recovered": 15, "gap": 16, "erase": 17, "noop": 18,
	"approval": 19, "receipt": 20, "node_start": 21, "node_stop": 22, "config_change": 23,
	"equivocation": 24, "epoch": 25,
}

// EventType gives the byte of a type of event in leaf data, false if there is no
// such type.
func EventType(name string) (byte, bool) {
	b, ok := eventTypes[name]
	return b, ok
}

// NewEvent begins an event of the given type: version, id and time are set, the
// caller fills in the rest. random is 10 bytes of the caller's randomness.
func NewEvent(typ, actor string, now time.Time, random [10]byte) *contracts.AuditEvent {
	return &contracts.AuditEvent{
		V:     EventVersion,
		ID:    NewID(now, random),
		Time:  now.UTC().Format(TimeFormat),
		Type:  typ,
		Actor: actor,
	}
}

// NewID gives a UUIDv7 (RFC 9562 section 5.7) of the millisecond of now.
func NewID(now time.Time, random [10]byte) string {
	var u [16]byte
	binary.BigEndian.PutUint64(u[:8], uint64(now.UnixMilli())<<16)
	copy(u[6:], random[:])
	u[6] = u[6]&0x0f | 0x70
	u[8] = u[8]&0x3f | 0x80
	dst := make([]byte, 36)
	hex.Encode(dst, u[:4])
	hex.Encode(dst[9:], u[4:6])
	hex.Encode(dst[14:], u[6:8])
	hex.Encode(dst[19:], u[8:10])
	hex.Encode(dst[24:], u[10:])
	dst[8], dst[13], dst[18], dst[23] = '-', '-', '-', '-'
	return string(dst)
}

// EncodeEvent validates an event and gives its canonical bytes (RFC 8785). Errors
// have the code MALFORMED or TOO_LARGE.
func EncodeEvent(ev *contracts.AuditEvent) ([]byte, error) {
	if err := ev.Validate(); err != nil {
		return nil, err
	}
	if err := checkTimes(ev); err != nil {
		return nil, err
	}
	b := ev.AppendCanonical(make([]byte, 0, 640))
	if len(b) > MaxEvent {
		return nil, contracts.Errorf(contracts.TooLarge, "audit event: %d bytes, at most %d", len(b), MaxEvent)
	}
	return b, nil
}

// MaxEvent bounds an event's canonical bytes. All its members are short; what
// does not fit is content, and content has no place in a log.
const MaxEvent = 4096

// DecodeEvent reads an event from its canonical bytes and refuses any other.
func DecodeEvent(data []byte) (*contracts.AuditEvent, error) {
	ev, err := contracts.DecodeAuditEvent(data)
	if err != nil {
		return nil, err
	}
	return ev, checkTimes(ev)
}

// checkTimes refuses what the pattern of the schema lets pass: the 31st of June.
func checkTimes(ev *contracts.AuditEvent) error {
	for _, s := range []string{ev.Time, ev.Since} {
		if s == "" {
			continue
		}
		if _, err := ParseTime(s); err != nil {
			return err
		}
	}
	return nil
}

// ParseTime reads a time of an event.
func ParseTime(s string) (time.Time, error) {
	t, err := time.Parse(TimeFormat, s)
	if err != nil {
		return time.Time{}, contracts.Errorf(contracts.Malformed, "time %.32q: want RFC 3339 UTC with milliseconds", s)
	}
	return t, nil
}
