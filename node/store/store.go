package store

import (
	"bytes"
	"context"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
	"golang.org/x/crypto/chacha20poly1305"

	"github.com/talosprotocol/talos/contracts"
)

// schemaVersion is raised with every change of a table; an older program refuses a
// newer store.
const schemaVersion = 1

// Watermark is the free space below which the store takes no more writes: badger
// maps its files, and a full disk would kill the process.
const Watermark = 64 << 20

// Options say how to open a store.
type Options struct {
	// Key seals the rows that hold secrets: 32 bytes from the keystore.
	Key []byte
	// InMemory keeps all in memory, for tests and simulations.
	InMemory bool
	// FreeBytes overrides how free space is measured, for tests.
	FreeBytes func(dir string) (uint64, error)
}

// Store is an open store. It is safe for concurrent use.
type Store struct {
	db         *badger.DB
	dir        string
	aead       cipher.AEAD
	id         [16]byte
	generation uint64
	unclean    bool
	free       func(string) (uint64, error)

	jobs    chan *job
	stopped chan struct{}
	done    sync.WaitGroup
	closing sync.Once
	fatal   atomic.Pointer[error]
	failed  chan struct{}

	reading sync.RWMutex // held by each View; Close waits for them
	closed  bool         // guarded by reading
}

var (
	metaID         = []byte{0x01, 'i', 'd'}
	metaSchema     = []byte{0x01, 's', 'c', 'h', 'e', 'm', 'a'}
	metaGeneration = []byte{0x01, 'g', 'e', 'n'}
	metaClean      = []byte{0x01, 'c', 'l', 'e', 'a', 'n'}
)

// Open opens or makes the store in dir. Errors: Busy if another process has it,
// StorageCorrupt if it does not open as it was written, UnsupportedVersion if a
// newer program wrote it, StorageFull if there is no space to work in.
func Open(dir string, o Options) (*Store, error) {
	if o.FreeBytes == nil {
		o.FreeBytes = FreeBytes
	}
	if !o.InMemory {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, contracts.Errorf(contracts.Unavailable, "store: %w", err)
		}
		if n, err := o.FreeBytes(dir); err == nil && n < Watermark {
			return nil, contracts.Errorf(contracts.StorageFull, "%d MiB free in %s; the store needs %d", n>>20, dir, Watermark>>20)
		}
	}
	aead, err := chacha20poly1305.NewX(o.Key)
	if err != nil {
		return nil, contracts.Errorf(contracts.ConfigInvalid, "the store's key has 32 bytes, not %d", len(o.Key))
	}
	db, err := openBadger(dir, o)
	if err != nil {
		return nil, err
	}
	s := &Store{
		db: db, dir: dir, aead: aead, free: o.FreeBytes,
		jobs: make(chan *job, 1024), stopped: make(chan struct{}), failed: make(chan struct{}),
	}
	if o.InMemory {
		s.free = func(string) (uint64, error) { return 1 << 62, nil }
	}
	s.done.Go(s.commitLoop)
	if err := s.start(); err != nil {
		s.stop()
		_ = db.Close()
		return nil, err
	}
	return s, nil
}

func openBadger(dir string, o Options) (db *badger.DB, err error) {
	bo := badger.DefaultOptions(filepath.Join(dir, "badger")).
		WithLogger(nil).WithSyncWrites(true).WithDetectConflicts(false).
		WithMemTableSize(16 << 20).WithValueLogFileSize(64 << 20).WithNumMemtables(3).
		WithBlockCacheSize(8 << 20).WithNumCompactors(2).WithNumVersionsToKeep(1).
		WithCompression(options.None).WithChecksumVerificationMode(options.OnTableAndBlockRead).
		WithMetricsEnabled(false)
	if o.InMemory {
		bo = bo.WithDir("").WithValueDir("").WithInMemory(true).WithSyncWrites(false)
	}
	defer func() {
		// badger panics on some damaged tables.
		if r := recover(); r != nil {
			db, err = nil, contracts.Errorf(contracts.StorageCorrupt, "store %s does not open (%v); restore it from a backup, or start a new home", dir, r)
		}
	}()
	if err := checkTables(bo.Dir); err != nil {
		return nil, err
	}
	db, err = badger.Open(bo)
	switch {
	case err == nil:
		return db, nil
	case strings.Contains(err.Error(), "Cannot acquire directory lock"):
		return nil, contracts.Errorf(contracts.Busy, "another process has the store in %s; stop it first", dir)
	case errors.Is(err, os.ErrPermission):
		return nil, contracts.Errorf(contracts.Unavailable, "store: %w", err)
	}
	return nil, contracts.Errorf(contracts.StorageCorrupt, "store %s does not open: %w; restore it from a backup, or start a new home", dir, err)
}

// start reads the meta table, refuses a newer schema, raises the generation and
// marks the store as in use, so that the next start knows of a crash.
func (s *Store) start() error {
	return s.Update(context.Background(), func(tx *Tx) error {
		if v := tx.Get(metaSchema); v != nil && binary.BigEndian.Uint32(v) > schemaVersion {
			return contracts.Errorf(contracts.UnsupportedVersion, "the store in %s has schema %d, this program knows %d; use the newer program", s.dir, binary.BigEndian.Uint32(v), schemaVersion)
		}
		if id := tx.Get(metaID); id != nil {
			copy(s.id[:], id)
			s.unclean = tx.Get(metaClean) == nil
		} else {
			_, _ = rand.Read(s.id[:]) // never fails
			tx.Put(metaID, s.id[:])
		}
		if g := tx.Get(metaGeneration); g != nil {
			s.generation = binary.BigEndian.Uint64(g)
		}
		s.generation++
		tx.Put(metaSchema, binary.BigEndian.AppendUint32(nil, schemaVersion))
		tx.Put(metaGeneration, binary.BigEndian.AppendUint64(nil, s.generation))
		tx.Delete(metaClean)
		return nil
	})
}

// Unclean reports whether the last program to use the store ended without Close.
func (s *Store) Unclean() bool { return s.unclean }

// Generation counts the openings of the store; it starts at 1.
func (s *Store) Generation() uint64 { return s.generation }

// ID gives the random id that the store was made with.
func (s *Store) ID() [16]byte { return s.id }

// Failed is closed when the store failed for good; Fatal then says why.
func (s *Store) Failed() <-chan struct{} { return s.failed }

// Fatal gives the error that ended the store, nil while it works.
func (s *Store) Fatal() error {
	if e := s.fatal.Load(); e != nil {
		return *e
	}
	return nil
}

func (s *Store) fail(err error) {
	if s.fatal.CompareAndSwap(nil, &err) {
		close(s.failed)
	}
}

// Close finishes waiting writes, marks the store clean and closes it.
func (s *Store) Close() error {
	var err error
	s.closing.Do(func() {
		if s.Fatal() == nil {
			err = s.Update(context.Background(), func(tx *Tx) error { tx.Put(metaClean, []byte{1}); return nil })
		}
		s.stop()
		s.reading.Lock()
		s.closed = true
		s.reading.Unlock()
		err = errors.Join(err, s.db.Close())
	})
	return err
}

func (s *Store) stop() {
	close(s.stopped)
	s.done.Wait()
}

// sealOverhead is what sealing adds to a value: nonce and tag.
const sealOverhead = chacha20poly1305.NonceSizeX + chacha20poly1305.Overhead

// seal encrypts a value for the row key.
func (s *Store) seal(key, value []byte) []byte {
	return s.appendSeal(make([]byte, 0, len(value)+sealOverhead), key, value)
}

// appendSeal appends the encrypted value of the row key to out.
func (s *Store) appendSeal(out, key, value []byte) []byte {
	var nonce [chacha20poly1305.NonceSizeX]byte
	_, _ = rand.Read(nonce[:]) // never fails
	var ad [64]byte
	return s.aead.Seal(append(out, nonce[:]...), nonce[:], value, append(append(ad[:0], s.id[:]...), key...))
}

// open decrypts the value of the row key.
func (s *Store) open(key, sealed []byte) ([]byte, error) {
	n := s.aead.NonceSize()
	if len(sealed) < n {
		return nil, contracts.Errorf(contracts.StorageCorrupt, "row %x is cut short", key)
	}
	// Not nil even for an empty value: nil says that there is no row.
	v, err := s.aead.Open([]byte{}, sealed[:n], sealed[n:], append(s.id[:], key...))
	if err != nil {
		return nil, contracts.Errorf(contracts.StorageCorrupt, "row %x does not open: it was changed, moved, or sealed under another key", key)
	}
	return v, nil
}

// View gives f a snapshot to read from.
func (s *Store) View(f func(r *Reader) error) error {
	s.reading.RLock()
	defer s.reading.RUnlock()
	if s.closed {
		return contracts.Errorf(contracts.Unavailable, "the store is closed")
	}
	if err := s.Fatal(); err != nil {
		return err
	}
	txn := s.db.NewTransaction(false)
	defer txn.Discard()
	return f(&Reader{s: s, txn: txn})
}

// Reader reads from one snapshot. It is not safe for concurrent use.
type Reader struct {
	s   *Store
	txn *badger.Txn
	err error
}

// Get gives a copy of a row, nil where there is none.
func (r *Reader) Get(key []byte) []byte {
	v, err := get(r.txn, key)
	if err != nil {
		r.err = errors.Join(r.err, err)
	}
	return v
}

// GetSealed gives the plain value of a sealed row, nil where there is none.
func (r *Reader) GetSealed(key []byte) ([]byte, error) {
	v := r.Get(key)
	if v == nil || r.err != nil {
		return nil, r.err
	}
	return r.s.open(key, v)
}

// Err gives the first failed read.
func (r *Reader) Err() error { return r.err }

// Scan calls f with each row whose key has the prefix and is after the key after
// (nil: from the first), in order, until f returns false. The slices are f's to keep.
func (r *Reader) Scan(prefix, after []byte, f func(key, value []byte) bool) error {
	return scan(r.txn, prefix, after, f)
}

// Last gives the last row with the prefix whose key is not above upTo, nil if there is
// none. The slices are the caller's.
func (r *Reader) Last(prefix, upTo []byte) (key, value []byte) {
	o := badger.DefaultIteratorOptions
	o.Prefix, o.Reverse, o.PrefetchValues = prefix, true, false
	it := r.txn.NewIterator(o)
	defer it.Close()
	it.Seek(upTo)
	if !it.Valid() {
		return nil, nil
	}
	v, err := it.Item().ValueCopy(nil)
	if err != nil {
		r.err = errors.Join(r.err, contracts.Errorf(contracts.StorageCorrupt, "reading row %x: %w", it.Item().Key(), err))
		return nil, nil
	}
	return it.Item().KeyCopy(nil), v
}

func get(txn *badger.Txn, key []byte) ([]byte, error) {
	item, err := txn.Get(key)
	if errors.Is(err, badger.ErrKeyNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, contracts.Errorf(contracts.StorageCorrupt, "reading row %x: %w", key, err)
	}
	v, err := item.ValueCopy(nil)
	if err != nil {
		return nil, contracts.Errorf(contracts.StorageCorrupt, "reading row %x: %w", key, err)
	}
	if v == nil {
		v = []byte{}
	}
	return v, nil
}

func scan(txn *badger.Txn, prefix, after []byte, f func(key, value []byte) bool) error {
	o := badger.DefaultIteratorOptions
	o.Prefix, o.PrefetchSize = prefix, 64
	it := txn.NewIterator(o)
	defer it.Close()
	start := prefix
	if after != nil {
		start = append(bytes.Clone(after), 0)
	}
	for it.Seek(start); it.Valid(); it.Next() {
		v, err := it.Item().ValueCopy(nil)
		if err != nil {
			return contracts.Errorf(contracts.StorageCorrupt, "reading row %x: %w", it.Item().Key(), err)
		}
		if !f(it.Item().KeyCopy(nil), v) {
			return nil
		}
	}
	return nil
}

func (s *Store) checkSpace() error {
	n, err := s.free(s.dir)
	if err != nil {
		return fmt.Errorf("measuring free space: %w", err)
	}
	if n < Watermark {
		return contracts.Errorf(contracts.StorageFull, "%d MiB free in %s; below %d nothing more is accepted", n>>20, s.dir, Watermark>>20)
	}
	return nil
}
