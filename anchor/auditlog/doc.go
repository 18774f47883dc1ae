// Package auditlog keeps one agent's log: append, make durable, checkpoint, in that
// order and no other.
//
// [Log.Append] encodes and salts an event in the caller's goroutine and waits. One
// committer goroutine, [Log.Run], takes all that wait, gives them indices, extends
// the tree, and writes them in one atomic [Backend.Append]: a hundred callers share
// one sync. Only then do they return. Every minute, at 256 events, and at once
// after an event of high risk, it makes a checkpoint: it reads the newly covered
// entries back and hashes them again, signs, stores the signed head in the backend
// and then in a [HeadFile] of its own, and only then hands it to Publish.
//
// The store is not the judge of how long the log is. [Open] recomputes the root at
// the last signed head from the stored leaves, and asks an anchor (Confirm) for the
// head that it saw, before the first signature. Whatever is missing or different is
// a [Quarantine]: the log can be read, it takes no events and signs nothing. The
// way out is to repair the store, or to begin a new incarnation on an empty backend
// with a [Succession], whose first entry names what was lost.
//
// There are two kinds of failure. Storage that says STORAGE_FULL has written
// nothing: the waiting callers are told, the log goes on, and a gap event counts
// what was refused. After any other failure to write, disk and memory may disagree:
// the log stops, Run returns the error, and the process starts again from the disk.
//
// The package has no clock, disk, network, logger or randomness of its own; they
// are in [Options]. The norm is contracts/spec/audit-log.md.
package auditlog
