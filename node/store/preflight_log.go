package store

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/dgraph-io/badger/v4/y"
)

// Parts of badger's logs: those of its memory tables (.mem), which hold what is in no
// table yet, and those of large values (.vlog). After a header, the number of a key
// (8, of which there is none) and 12 random bytes, come records
//
//	flags (1) ‖ user's flags (1) ‖ length of key ‖ length of value ‖ expiry ‖ key ‖ value ‖ CRC-32C (4)
//
// with lengths and expiry as varints. In a .mem a transaction is records with one
// version, the last 8 bytes of the key, and a record that ends it.
const (
	logHeader  = 20
	inTxn      = 1 << 6 // flag: a part of a transaction
	endsTxn    = 1 << 7 // flag: its end, whose value is the version in decimal
	maxKey     = 1 << 16
	maxLog     = 256 << 20 // bytes in use; badger begins another file far below
	sectorSize = 512       // what a disk writes as a whole
)

var endKey = []byte("!badger!txn")

// logFile is what a log holds.
type logFile struct {
	path        string
	used        int64  // up to the last byte that is not zero
	end         int64  // up to the last whole transaction or record
	first, last uint64 // versions of the transactions; 0 if there are none
	empty       bool   // badger does not open a store with one
}

// checkLogs reads the logs of one kind in order. An incomplete end is what a crash
// leaves in the newest; badger cuts it off. It does the same with all that comes after
// a damaged byte, which loses what was acknowledged: that is refused, where it can be
// told from a crash.
func (p *preflight) checkLogs(kind string) (logs []*logFile, err error) {
	var before *logFile // the newest that has something in it
	names := slices.DeleteFunc(slices.Clone(p.names), func(n string) bool { return !strings.HasSuffix(n, kind) })
	slices.SortFunc(names, func(a, b string) int { return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b)) })
	for _, n := range names {
		l, err := readLog(p.path(n))
		if err != nil {
			return nil, err
		}
		logs = append(logs, l)
		if l.end <= logHeader {
			continue
		}
		if before != nil && before.end < before.used {
			return nil, damaged(before.path, fmt.Sprintf("it cannot be read from %d on, and a later log goes on", before.end))
		}
		// Versions are given without gaps, and a log begins where the one before ended.
		if before != nil && l.first != 0 && l.first != before.last+1 {
			return nil, damaged(before.path, fmt.Sprintf("it ends with transaction %d, and the next log begins with %d", before.last, l.first))
		}
		before = l
	}
	return logs, nil
}

// readLog reads one log.
func readLog(path string) (*logFile, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, unreadable(path, err)
	}
	defer f.Close() //nolint:errcheck // read only
	b, size, err := used(f)
	if err != nil {
		return nil, unreadable(path, err)
	}
	switch {
	case len(b) > maxLog:
		return nil, damaged(path, "it is longer than badger makes one")
	case size == 0: // made and not yet given its length, or emptied before it is deleted
		return &logFile{path: path, empty: true}, nil
	case size < logHeader:
		return nil, damaged(path, "it is too short for a log")
	case len(b) < logHeader:
		return &logFile{path: path, end: logHeader, used: logHeader}, nil // made and not yet used
	case binary.BigEndian.Uint64(b) != 0:
		return nil, damaged(path, "it names a key, and there is none")
	}
	l := &logFile{path: path, used: int64(len(bytes.TrimRight(b, "\x00")))}
	l.scan(b)
	if l.end < l.used && strings.HasSuffix(path, ".mem") {
		if why := notTorn(b, int(l.end)); why != "" {
			return nil, damaged(path, why)
		}
	}
	return l, nil
}

// used reads a file a little beyond its last byte that is not zero: logs are given
// their full length, in zeros, when they are made.
func used(f *os.File) (b []byte, size int64, err error) {
	st, err := f.Stat()
	if err != nil {
		return nil, 0, err
	}
	chunk := make([]byte, 1<<20)
	end := st.Size()
	for end > 0 {
		n := min(end, int64(len(chunk)))
		if _, err := f.ReadAt(chunk[:n], end-n); err != nil {
			return nil, 0, err
		}
		kept := len(bytes.TrimRight(chunk[:n], "\x00"))
		end += int64(kept) - n
		if kept > 0 {
			break
		}
	}
	// The last record's checksum may end in zeros too.
	b = make([]byte, min(end+crc32.Size, st.Size(), maxLog+1))
	_, err = io.ReadFull(io.NewSectionReader(f, 0, st.Size()), b)
	return b, st.Size(), err
}

// scan finds the last whole transaction, by the rules by which badger replays a log.
func (l *logFile) scan(b []byte) {
	l.end = logHeader
	at, txn := logHeader, uint64(0)
	for {
		r, ok := readRecord(b[at:])
		if !ok {
			return
		}
		at += r.size
		switch {
		case r.flags&inTxn != 0:
			if txn == 0 {
				txn = y.ParseTs(r.key)
			}
			if y.ParseTs(r.key) != txn {
				return
			}
			continue
		case r.flags&endsTxn != 0:
			v, err := strconv.ParseUint(string(r.value), 10, 64)
			if err != nil || v != txn {
				return
			}
			if l.first == 0 {
				l.first = v
			}
			l.last, txn = v, 0
		case txn != 0:
			return
		}
		l.end = int64(at)
	}
}

type logRecord struct {
	flags      byte
	key, value []byte
	size       int
}

// readRecord reads the record at the beginning of b, false if there is no intact one.
func readRecord(b []byte) (r logRecord, ok bool) {
	if len(b) < 2 {
		return r, false
	}
	at := 2
	var numbers [3]uint64 // lengths of key and value, expiry
	for i := range numbers {
		v, n := binary.Uvarint(b[at:])
		if n <= 0 {
			return r, false
		}
		numbers[i], at = v, at+n
	}
	rest := uint64(len(b) - at)
	if numbers[0] < 8 || numbers[0] > maxKey || numbers[1] > rest || numbers[0]+numbers[1]+crc32.Size > rest {
		return r, false
	}
	end := at + int(numbers[0]+numbers[1])
	if crc32.Checksum(b[:end], y.CastagnoliCrcTable) != binary.BigEndian.Uint32(b[end:]) {
		return r, false
	}
	split := at + int(numbers[0])
	return logRecord{flags: b[0], key: b[at:split], value: b[split:end], size: end + crc32.Size}, true
}

// notTorn says why what follows the last whole transaction of a log is no unfinished
// write. A transaction is synced before the next one begins, so after one that a crash
// cut nothing else can be whole. The end of the cut one itself can be there while an
// earlier part is not: sectors reach the disk in any order, and one that did not is
// still zero.
func notTorn(b []byte, end int) string {
	var ends []int
	for at := end; ; {
		i := bytes.Index(b[at:], endKey)
		if i < 0 {
			break
		}
		at += i
		// Its header is 5 bytes: two flags, two lengths below 128, no expiry.
		if r, ok := readRecord(b[max(end, at-5):]); ok && r.flags&endsTxn != 0 && len(r.key) == len(endKey)+8 {
			ends = append(ends, at)
		}
		at += len(endKey)
	}
	switch {
	case len(ends) > 1:
		return fmt.Sprintf("a transaction at %d does not read, and later ones do", end)
	case len(ends) == 1 && !lostSector(b, end, ends[0]):
		return fmt.Sprintf("the transaction at %d does not read, and its end does", end)
	}
	return ""
}

// lostSector reports whether a sector between two places was never written, as far as
// it lies behind from.
func lostSector(b []byte, from, to int) bool {
	for at := from - from%sectorSize; at+sectorSize <= to; at += sectorSize {
		if len(bytes.TrimLeft(b[max(at, from):at+sectorSize], "\x00")) == 0 {
			return true
		}
	}
	return false
}
