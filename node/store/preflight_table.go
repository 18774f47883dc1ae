package store

import (
	"encoding/binary"
	"fmt"
	"os"

	"github.com/dgraph-io/badger/v4/fb"
	"github.com/dgraph-io/badger/v4/options"
	"github.com/dgraph-io/badger/v4/pb"
	"github.com/dgraph-io/badger/v4/table"
	"github.com/dgraph-io/badger/v4/y"
	"google.golang.org/protobuf/proto"
)

// checkTable reads a table: every byte of it is in a block or in the index, and both
// have checksums. A table is
//
//	blocks ‖ index ‖ its length (4) ‖ its checksum ‖ length of that (4)
//
// and a block, uncompressed,
//
//	entries ‖ their offsets (4 each) ‖ how many (4) ‖ checksum ‖ its length (4)
//
// all numbers big endian but the offsets. It needs memory for the index and one block.
func checkTable(path string) (err error) {
	f, err := os.Open(path)
	if err != nil {
		return unreadable(path, err)
	}
	defer f.Close() //nolint:errcheck // read only
	// The index is parsed only once its checksum is right; if badger's reader of it
	// panics all the same, the table is not as badger wrote it.
	defer func() {
		if r := recover(); r != nil {
			err = damaged(path, fmt.Sprint("its index does not read: ", r))
		}
	}()
	st, err := f.Stat()
	if err != nil {
		return unreadable(path, err)
	}
	index, end, why := readIndex(f, st.Size())
	if why != "" {
		return damaged(path, why)
	}
	ti := fb.GetRootAsTableIndex(index, 0)
	if ti.OffsetsLength() == 0 {
		return damaged(path, "it has no blocks")
	}
	at, buf, block := int64(0), []byte(nil), fb.BlockOffset{}
	for i := range ti.OffsetsLength() {
		if !ti.Offsets(&block, i) || int64(block.Offset()) != at || at+int64(block.Len()) > end {
			return damaged(path, fmt.Sprintf("block %d is not in its place", i))
		}
		if n := int(block.Len()); n > cap(buf) {
			buf = make([]byte, n)
		} else {
			buf = buf[:n]
		}
		if _, err := f.ReadAt(buf, at); err != nil {
			return unreadable(path, err)
		}
		if why := blockFault(buf); why != "" {
			return damaged(path, fmt.Sprintf("block %d at %d: %s", i, at, why))
		}
		at += int64(len(buf))
	}
	if at != end {
		return damaged(path, "there is more in it than its index says")
	}
	return nil
}

// readIndex gives the index, checked, and where it begins.
func readIndex(f *os.File, end int64) (index []byte, start int64, why string) {
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
	sum := tail(length())
	if sum == nil {
		return nil, 0, "it does not end as a table does"
	}
	if index = tail(length()); len(index) < 8 {
		return nil, 0, "it does not end as a table does"
	}
	return index, end, sumFault(index, sum)
}

// sumFault compares data with a stored checksum. Badger panics over a kind of
// checksum that it does not know.
func sumFault(data, stored []byte) string {
	var sum pb.Checksum
	if proto.Unmarshal(stored, &sum) != nil || sum.Algo != pb.Checksum_CRC32C && sum.Algo != pb.Checksum_XXHash64 {
		return "a checksum does not read"
	}
	if y.VerifyChecksum(data, &sum) != nil {
		return "a checksum is wrong"
	}
	return ""
}

// blockFault checks a block as it stands in the file.
func blockFault(b []byte) string {
	const short = "a length is wrong"
	if len(b) < 8 {
		return short
	}
	end := len(b) - 4
	n := int64(binary.BigEndian.Uint32(b[end:]))
	if n > int64(end-4) {
		return short
	}
	sumAt := end - int(n)
	if count := int64(binary.BigEndian.Uint32(b[sumAt-4:])); count == 0 || 4*count > int64(sumAt-4) {
		return short
	}
	return sumFault(b[:sumAt], b[sumAt:end])
}

// strays looks at intact tables that the manifest does not name. A crash leaves them
// when it comes before the manifest was written: then all that is in them is in a log
// or in other tables as well. It also leaves those that a compaction has replaced, when
// it comes before they were deleted: then the manifest says that they went, or, if it
// was written anew just then, the tables that it names are as new. If neither is so, it
// is the manifest that was cut, and badger would delete what only they hold.
func (p *preflight) strays(logs []*logFile) error {
	for _, stray := range p.leftover {
		if _, gone := p.deleted[stray.id]; gone {
			continue
		}
		only, err := versionsOf(stray.path)
		if err != nil {
			return err
		}
		newest, named := newestOf(only), uint64(0)
		for v := range only {
			for _, l := range logs {
				if l.first <= v && v <= l.last {
					delete(only, v)
				}
			}
		}
		for id := range p.tables {
			if len(only) == 0 || newest <= named {
				break
			}
			have, err := versionsOf(table.NewFilename(id, p.dir))
			if err != nil {
				return err
			}
			named = max(named, newestOf(have))
			for v := range have {
				delete(only, v)
			}
		}
		if len(only) > 0 && newest > named {
			return damaged(p.path(manifestFile), fmt.Sprintf("it does not name %s, and nothing else holds what is in that", stray.path))
		}
	}
	return nil
}

func newestOf(versions map[uint64]struct{}) (newest uint64) {
	for v := range versions {
		newest = max(newest, v)
	}
	return newest
}

// deletedIn gives the tables that an intact manifest says were deleted. It is
//
//	magic, version (8) ‖ change sets: length (4) ‖ checksum (4) ‖ pb.ManifestChangeSet
func deletedIn(manifest []byte) map[uint64]struct{} {
	out := map[uint64]struct{}{}
	for b := manifest[min(8, len(manifest)):]; len(b) >= 8; {
		n := int(binary.BigEndian.Uint32(b))
		if n > len(b)-8 {
			break // what a crash left unfinished
		}
		var set pb.ManifestChangeSet
		if proto.Unmarshal(b[8:8+n], &set) == nil {
			for _, c := range set.Changes {
				if c.Op == pb.ManifestChange_DELETE {
					out[c.Id] = struct{}{}
				}
			}
		}
		b = b[8+n:]
	}
	return out
}

// versionsOf gives the transactions that a checked table has rows of.
func versionsOf(path string) (versions map[uint64]struct{}, err error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, unreadable(path, err)
	}
	defer func() {
		if r := recover(); r != nil {
			err = damaged(path, fmt.Sprint("it does not read: ", r))
		}
	}()
	t, err := table.OpenInMemoryTable(b, 0, &table.Options{Compression: options.None})
	if err != nil {
		return nil, damaged(path, err.Error())
	}
	versions = map[uint64]struct{}{}
	it := t.NewIterator(table.NOCACHE)
	defer it.Close() //nolint:errcheck // in memory
	for it.Rewind(); it.Valid(); it.Next() {
		versions[y.ParseTs(it.Key())] = struct{}{}
	}
	return versions, nil
}
