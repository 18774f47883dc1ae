package store

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/table"
	"golang.org/x/sync/errgroup"

	"github.com/talosprotocol/talos/contracts"
)

// Files of badger beside its tables (.sst) and logs (.mem, .vlog).
const (
	manifestFile = "MANIFEST"
	registryFile = "KEYREGISTRY"
	discardFile  = "DISCARD"
)

// checkTables reads every file of the database before badger does. Badger maps its
// files and looks at most of them in goroutines of its own, where a damaged byte
// becomes a panic that nobody can recover; and what it cannot read at the end of a
// log or of the manifest it cuts off without a word. Here damage becomes an error that
// names the file. The cost is one pass over the store at each start, at the speed of
// the disk: a mark of a clean end vouches for nothing, since what damages files does
// not ask.
//
// Nothing is changed unless all is well; then what a crash left unfinished at the end
// of a log is cut off, as badger would do it, because badger trusts the lengths in it.
func checkTables(dir string) error {
	unlock, err := lockDir(dir)
	if err != nil || unlock == nil {
		return err
	}
	defer unlock()
	p := preflight{dir: dir}
	if err := p.list(); err != nil {
		return err
	}
	if err := p.small(); err != nil {
		return err
	}
	if err := p.checkTables(); err != nil {
		return err
	}
	logs, err := p.checkLogs(".mem")
	if err != nil {
		return err
	}
	if err := p.strays(logs); err != nil {
		return err
	}
	values, err := p.checkLogs(".vlog")
	if err != nil {
		return err
	}
	for _, l := range append(logs, values...) {
		if l.empty {
			if err := os.Remove(l.path); err != nil {
				return unreadable(l.path, err)
			}
		}
		if l.end < l.used {
			if err := os.Truncate(l.path, l.end); err != nil {
				return unreadable(l.path, err)
			}
		}
	}
	return nil
}

// lockDir takes badger's own lock, so that no other process writes what is being
// read. Without a directory there is nothing to lock: unlock is nil.
func lockDir(dir string) (unlock func(), err error) {
	f, err := os.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, unreadable(dir, err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, contracts.Errorf(contracts.Busy, "another process has the store in %s; stop it first", filepath.Dir(dir))
		}
		return nil, unreadable(dir, err)
	}
	return func() { _ = f.Close() }, nil
}

// damaged is the error of every check.
func damaged(path, why string) error {
	return contracts.Errorf(contracts.StorageCorrupt, "%s is damaged: %s; restore the store from a backup, or start a new home", path, why)
}

// unreadable says that a file could not be read: for want of permission, which is
// somebody's mistake, or because the disk lost it.
func unreadable(path string, err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return contracts.Errorf(contracts.Unavailable, "store: %w", err)
	}
	return damaged(path, err.Error())
}

// preflight is one check of a directory.
type preflight struct {
	dir      string
	names    []string            // of all files, in order
	tables   map[uint64]struct{} // that the manifest names
	deleted  map[uint64]struct{} // that it says were deleted
	leftover []stray             // intact tables that it does not name
}

type stray struct {
	id   uint64
	path string
}

func (p *preflight) path(name string) string { return filepath.Join(p.dir, name) }

// list reads the directory and the manifest, which says what tables there must be.
func (p *preflight) list() error {
	entries, err := os.ReadDir(p.dir)
	if err != nil {
		return unreadable(p.dir, err)
	}
	for _, e := range entries {
		p.names = append(p.names, e.Name())
	}
	p.tables = map[uint64]struct{}{}
	f, err := os.Open(p.path(manifestFile))
	if errors.Is(err, fs.ErrNotExist) {
		// Badger would begin a new one and delete the tables as belonging to nobody.
		for _, n := range p.names {
			if strings.HasSuffix(n, ".sst") || strings.HasSuffix(n, ".mem") {
				return damaged(p.path(manifestFile), "it is missing, and "+n+" is not")
			}
		}
		return nil
	}
	if err != nil {
		return unreadable(p.path(manifestFile), err)
	}
	defer f.Close() //nolint:errcheck // read only
	m, _, err := badger.ReplayManifestFile(f, 0, badger.Options{})
	if err != nil {
		return damaged(f.Name(), err.Error())
	}
	for id := range m.Tables {
		p.tables[id] = struct{}{}
	}
	raw, err := os.ReadFile(f.Name())
	if err != nil {
		return unreadable(f.Name(), err)
	}
	p.deleted = deletedIn(raw)
	return nil
}

// small checks the files of a fixed form: the registry of keys, which in a store
// without badger's encryption (rows are sealed above it) is 16 bytes of no meaning and
// a text, and the statistics of garbage, slots of 16 bytes from 1 MiB on.
func (p *preflight) small() error {
	path := p.path(registryFile)
	b, err := readSmall(path)
	if err != nil {
		return err
	}
	if b != nil && (len(b) != 28 || string(b[16:]) != "Hello Badger") {
		return damaged(path, "it is not the registry of a store without keys")
	}
	path = p.path(discardFile)
	st, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return unreadable(path, err)
	case st.Size() != 0 && (st.Size() < 1<<20 || st.Size()%16 != 0):
		return damaged(path, "it has another length than it was given")
	}
	return nil
}

// readSmall reads the beginning of a file, nil if there is none.
func readSmall(path string) ([]byte, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, unreadable(path, err)
	}
	defer f.Close() //nolint:errcheck // read only
	b, err := io.ReadAll(io.LimitReader(f, 4096))
	if err != nil {
		return nil, unreadable(path, err)
	}
	return b, nil
}

// checkTables reads all tables, a few at once. One that the manifest does not name
// may be what a crash left half written: badger deletes it.
func (p *preflight) checkTables() error {
	var g errgroup.Group
	g.SetLimit(min(4, runtime.GOMAXPROCS(0)))
	for id := range p.tables {
		g.Go(func() error { return checkTable(table.NewFilename(id, p.dir)) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for _, n := range p.names {
		id, ok := tableID(n)
		if _, named := p.tables[id]; ok && !named && checkTable(p.path(n)) == nil {
			p.leftover = append(p.leftover, stray{id, p.path(n)})
		}
	}
	return nil
}

// tableID reads the number in a table's name, as badger does.
func tableID(name string) (uint64, bool) {
	if strings.HasPrefix(name, "-") {
		return 0, false // badger's reader would panic
	}
	return table.ParseFileID(name)
}
