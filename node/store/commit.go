package store

import (
	"context"
	"errors"
	"fmt"
	"runtime"

	"github.com/dgraph-io/badger/v4"

	"github.com/talosprotocol/talos/contracts"
)

// maxGroup bounds the callers that share one sync, and so how long each waits.
const maxGroup = 1024

// job is one caller's function on its way through the committer.
type job struct {
	f    func(*Tx) error
	done chan error
}

// Tx is what a function given to Update reads and writes. It sees the writes of
// the functions before it. It must not be kept or used by another goroutine.
type Tx struct {
	s     *Store
	txn   *badger.Txn
	group map[string][]byte // writes of the group so far; nil value: deleted
	under map[string][]byte // writes of the function that this one is a part of
	own   map[string][]byte
	err   error
}

// Update runs f in the committer and returns once its writes are durable, or with
// f's error and none of them. f must be quick and must not call the store. A
// context that ends before f began withdraws it; after that the outcome is waited
// for, so that a caller always knows.
func (s *Store) Update(ctx context.Context, f func(*Tx) error) error {
	if err := s.Fatal(); err != nil {
		return err
	}
	j := &job{f: f, done: make(chan error, 1)}
	select {
	case s.jobs <- j:
	case <-ctx.Done():
		return ctx.Err()
	case <-s.stopped:
		return contracts.Errorf(contracts.Unavailable, "the store is closed")
	}
	select {
	case err := <-j.done:
		return err
	case <-s.stopped:
		select {
		case err := <-j.done:
			return err
		default:
			return contracts.Errorf(contracts.Unavailable, "the store is closed")
		}
	}
}

func (s *Store) commitLoop() {
	for {
		select {
		case j := <-s.jobs:
			s.commitGroup(s.gather(j))
		case <-s.stopped:
			return
		}
	}
}

// gather takes the jobs that wait already.
func (s *Store) gather(first *job) []*job {
	group := []*job{first}
	for yields := 0; len(group) < maxGroup; {
		select {
		case j := <-s.jobs:
			group = append(group, j)
		default:
			// Those whom the last commit has woken are about to come back.
			if yields++; yields > 2 {
				return group
			}
			runtime.Gosched()
		}
	}
	return group
}

// commitGroup runs the jobs in order and commits what they wrote in as few
// transactions as badger's size limit allows; a job is never split, and one that
// fails leaves nothing.
func (s *Store) commitGroup(group []*job) {
	if err := errors.Join(s.Fatal(), s.checkSpace()); err != nil {
		finish(group, err)
		return
	}
	b := batch{s: s, txn: s.db.NewTransaction(true)}
	defer func() { b.txn.Discard() }()
	writes := map[string][]byte{}
	for i, j := range group {
		tx := &Tx{s: s, txn: b.txn, group: writes, own: map[string][]byte{}}
		err := tx.run(j.f)
		if err != nil || len(tx.own) == 0 {
			j.done <- err
			continue
		}
		if err := b.add(j, tx.own); err != nil {
			s.broken(append(b.waiting, group[i:]...), err)
			return
		}
		for k, v := range tx.own {
			writes[k] = v
		}
	}
	if err := b.commit(); err != nil {
		s.broken(b.waiting, err)
	}
}

// batch is a transaction being filled, with the jobs that wait for it.
type batch struct {
	s       *Store
	txn     *badger.Txn
	waiting []*job
	count   int64
	size    int64
}

// rowOverhead is what badger adds to a row when it counts a transaction's size,
// rounded up.
const rowOverhead = 64

// add puts a job's rows into the transaction, after committing the one before if
// they do not fit.
func (b *batch) add(j *job, rows map[string][]byte) error {
	count, size := int64(len(rows)), int64(0)
	for k, v := range rows {
		size += int64(len(k) + len(v) + rowOverhead)
	}
	maxCount, maxSize := b.s.db.MaxBatchCount()-1, b.s.db.MaxBatchSize()-1
	if count > maxCount || size > maxSize {
		j.done <- contracts.Errorf(contracts.TooLarge, "%d rows of %d bytes in one transaction, at most %d and %d", count, size, maxCount, maxSize)
		return nil
	}
	if b.count+count > maxCount || b.size+size > maxSize {
		if err := b.commit(); err != nil {
			b.waiting = append(b.waiting, j)
			return err
		}
		b.txn = b.s.db.NewTransaction(true)
	}
	for k, v := range rows {
		var err error
		if v == nil {
			err = b.txn.Delete([]byte(k))
		} else {
			err = b.txn.Set([]byte(k), v)
		}
		if err != nil {
			return fmt.Errorf("row %x: %w", k, err)
		}
	}
	b.waiting, b.count, b.size = append(b.waiting, j), b.count+count, b.size+size
	return nil
}

func (b *batch) commit() error {
	if len(b.waiting) == 0 {
		return nil
	}
	if err := b.txn.Commit(); err != nil {
		return err
	}
	finish(b.waiting, nil)
	b.waiting, b.count, b.size = nil, 0, 0
	return nil
}

func finish(group []*job, err error) {
	for _, j := range group {
		j.done <- err
	}
}

// broken ends the store: the group may or may not be on the disk.
func (s *Store) broken(group []*job, err error) {
	err = contracts.Errorf(contracts.StorageCorrupt, "the store failed to commit and must be reopened: %w", err)
	s.fail(err)
	finish(group, err)
}

func (tx *Tx) run(f func(*Tx) error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = contracts.Errorf(contracts.Internal, "a store function panicked: %v", r)
		}
	}()
	return errors.Join(f(tx), tx.err)
}

// try runs f as a part: its writes count only if it gives no error.
func (tx *Tx) try(f func(*Tx) error) error {
	part := &Tx{s: tx.s, txn: tx.txn, group: tx.group, under: tx.own, own: map[string][]byte{}}
	if err := part.run(f); err != nil {
		return err
	}
	for k, v := range part.own {
		tx.own[k] = v
	}
	return nil
}

// Get gives a row, nil where there is none. The slice must not be changed.
func (tx *Tx) Get(key []byte) []byte {
	if v, ok := tx.own[string(key)]; ok {
		return v
	}
	if v, ok := tx.under[string(key)]; ok {
		return v
	}
	if v, ok := tx.group[string(key)]; ok {
		return v
	}
	v, err := get(tx.txn, key)
	if err != nil {
		tx.err = errors.Join(tx.err, err)
	}
	return v
}

// GetSealed gives the plain value of a sealed row, nil where there is none.
func (tx *Tx) GetSealed(key []byte) ([]byte, error) {
	v := tx.Get(key)
	if v == nil || tx.err != nil {
		return nil, tx.err
	}
	return tx.s.open(key, v)
}

// Put sets a row. value must not be changed afterwards; nil counts as empty.
func (tx *Tx) Put(key, value []byte) {
	if value == nil {
		value = []byte{}
	}
	tx.own[string(key)] = value
}

// PutSealed sets a row to the sealed value.
func (tx *Tx) PutSealed(key, value []byte) { tx.Put(key, tx.s.seal(key, value)) }

// Delete removes a row.
func (tx *Tx) Delete(key []byte) { tx.own[string(key)] = nil }
