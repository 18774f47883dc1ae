package store

import (
	"encoding/binary"
	"os"
	"path/filepath"

	"github.com/dgraph-io/badger/v4/pb"
	"github.com/dgraph-io/badger/v4/y"
	"google.golang.org/protobuf/proto"

	"github.com/talosprotocol/talos/contracts"
)

// checkTables looks at the footer and index of each table file before badger does:
// badger panics on a damaged one in a goroutine of its own, where nobody can
// recover. A table ends: index ‖ length of index (4) ‖ checksum ‖ length of
// checksum (4), all big endian.
func checkTables(dir string) error {
	files, err := filepath.Glob(filepath.Join(dir, "*.sst"))
	if err != nil {
		return err
	}
	for _, f := range files {
		if !tableIndexIntact(f) {
			return contracts.Errorf(contracts.StorageCorrupt, "table %s is damaged; restore the store from a backup, or start a new home", f)
		}
	}
	return nil
}

func tableIndexIntact(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close() //nolint:errcheck // read only
	st, err := f.Stat()
	if err != nil {
		return false
	}
	end := st.Size()
	// tail reads the n bytes before end, and moves end there.
	tail := func(n int64) []byte {
		if n < 0 || n > end {
			return nil
		}
		b := make([]byte, n)
		if _, err := f.ReadAt(b, end-n); err != nil {
			return nil
		}
		end -= n
		return b
	}
	length := func() int64 {
		if b := tail(4); b != nil {
			return int64(binary.BigEndian.Uint32(b))
		}
		return -1
	}
	var sum pb.Checksum
	if b := tail(length()); b == nil || proto.Unmarshal(b, &sum) != nil {
		return false
	}
	index := tail(length())
	return index != nil && y.VerifyChecksum(index, &sum) == nil
}
