package witness

import "context"

// Store keeps one small record a key, for ever. Keys are origins, and one of the
// witness's own that no origin can be.
//
// Durability: what Swap stored when it returned nil survives a crash and a power
// cut. Atomicity: of all Swaps on one key with the same old record, in any goroutine
// or process, at most one succeeds, and Load never gives a part of a record.
// Concurrency: all methods at once from many goroutines; a store may group the
// syncs of many Swaps.
//
// Errors: CONFLICT from Swap promises that nothing was written. After any other
// error the record is the old or the new one; the witness answers UNAVAILABLE and
// has signed nothing. There is no deletion: forgetting a head is how a witness
// comes to cosign two histories. The promises are tested by
// anchor/anchortest.TestWitnessStore.
type Store interface {
	// Load gives the record of a key, nil if it never had one.
	Load(ctx context.Context, key string) ([]byte, error)
	// Swap stores record if the key's is still old (nil: none yet).
	Swap(ctx context.Context, key string, old, record []byte) error
	// Scan calls f with each key and its record, in any order, until f returns false. What
	// changes meanwhile may be seen as it was or as it is. The slices are f's to keep.
	Scan(ctx context.Context, f func(key string, record []byte) bool) error
	// Count gives how many keys have a record.
	Count(ctx context.Context) (int, error)
}
