package anchor_test

import (
	"crypto/ed25519"
	"testing"
	"time"

	"github.com/talosprotocol/talos/anchor"
)

// BenchmarkEncodeEvent is validation and canonical bytes of an event.
func BenchmarkEncodeEvent(b *testing.B) {
	ev := newLog("a").grow(1).events[0]
	b.ReportAllocs()
	for b.Loop() {
		if _, err := anchor.EncodeEvent(ev); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkLeafAppend is what an entry costs the tree: commitment, leaf hash,
// append.
func BenchmarkLeafAppend(b *testing.B) {
	event, _ := anchor.EncodeEvent(newLog("a").grow(1).events[0])
	var f anchor.Frontier
	var salt anchor.Salt
	nodes := make([]anchor.Hash, 0, 64)
	b.ReportAllocs()
	for b.Loop() {
		leaf := anchor.Commit(2, f.Size(), &salt, event)
		nodes = f.Append(nodes[:0], leaf.Hash())
	}
}

// BenchmarkCheckpointSign is a signed head; the floor is one Ed25519 signature.
func BenchmarkCheckpointSign(b *testing.B) {
	c := newLog("a").grow(100).note(100).Checkpoint
	k := seed("log")
	s := anchor.Key(k)
	text := c.Append(nil)
	start := time.Now()
	const floor = 200
	for range floor {
		ed25519.Sign(k, text)
	}
	bare := float64(time.Since(start).Nanoseconds()) / floor
	b.ReportAllocs()
	for b.Loop() {
		if _, err := anchor.Sign(c, s); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(bare*float64(b.N)/float64(b.Elapsed().Nanoseconds()), "of-bare")
}

// BenchmarkVerifyBundle is a verdict over 4 cosignatures and a proof of 10 hashes.
func BenchmarkVerifyBundle(b *testing.B) {
	k, p := world()
	l := newLog("a").grow(1000)
	text, err := anchor.NewBundle(l.parts(500, l.head(1000, epoch, orgs[:4]...)))
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		if v := anchor.Verify(text, k, p, later); !v.QuorumMet() {
			b.Fatal(v)
		}
	}
}
