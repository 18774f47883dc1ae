// Package store keeps every durable byte of a node, in one badger database, and is
// the only package that knows badger. The packages that need storage declare what
// they need as an interface of their own; here stand the implementations.
//
// All writes pass one committer goroutine, which groups the waiting callers into
// one transaction and one sync of the disk (badger itself would sync for each). So
// a caller's function runs alone, needs no locks, sees what was committed before
// it, and is durable when Update returns nil. A group that fails to commit fails
// the whole store: disk and memory may disagree, and the node must stop (Fatal).
//
// Keys are a table's prefix byte and what the table says:
//
//	prefix  owner      key                         value                deletable
//	0x01    store      name                        meta: id, schema     no
//	0x02    p2p        datastore key               DHT record           yes
//	0x03    directory  DID                         high-water state     no
//	0x10    session    …                           see session.go       by its owner
//	0x20    auditlog   …                           see audit.go         no
//	0x30    witness    …                           see witness.go       no
//
// Tables that hold secrets seal their values (XChaCha20-Poly1305; the store's id
// and the row's key are the associated data, so rows cannot be swapped).
package store
