// Package witness is what an anchor does with the heads of other people's logs: it
// cosigns one history of each and no other, and proves it when a log shows two.
//
// [Witness.AddCheckpoint] is the add-checkpoint of C2SP tlog-witness as a function:
// a head, the size that the submitter believes was cosigned last, and the proof
// between the two. The head must be signed by the log's key and extend the last one;
// then it is stored, and only then cosigned. Check and store are one atomic step of
// the [Store], so two submissions can never both win, in whatever process.
//
// A head whose size was seen before with another root convicts the log: both
// signatures become [github.com/talosprotocol/talos/contracts.Evidence], the origin
// is frozen, and Options.Convicted hears of it once. [Witness.Observe] does the same
// for digests that gossip brings. A proof that does not verify convicts nobody:
// whoever carried it can have spoiled it.
//
// A witness that forgets would cosign a second history, so it never evicts, refuses
// new logs above a bound, and does not start without its database once its key has
// signed: losing the database retires the key.
//
// The streams' bodies are the text of C2SP ([AppendRequest], [ParseRequest]) and a
// status with a body ([Response]); length prefix, deadlines and limits of a
// connection are the transport's. The package has no clock, disk, network or
// logger. The norm is contracts/spec/witness.md.
package witness
