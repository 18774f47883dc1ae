package anchor_test

import (
	"fmt"
	"testing"

	"github.com/talosprotocol/talos/anchor"
)

// Row 42: what one side has logged of a message and the other has not is listed, and
// nothing else.
func TestRow42_CounterpartyMismatch(t *testing.T) {
	a, b := anchor.LogEvents{Owner: talosDID}, anchor.LogEvents{Owner: keyDID}
	third := "did:key:z6MkpTHR8VNsBxYAAWHut2Geadd9jSwuBV8xRoAnwWsdvktH"
	add := func(l *anchor.LogEvents, typ, peer string, n int) {
		seq := int64(n)
		ev := anchor.NewEvent(typ, l.Owner, epoch, [10]byte{byte(n)})
		ev.Peer, ev.SenderSeq, ev.CiphertextHash = peer, &seq, fmt.Sprintf("hash %d", n)
		l.Events = append(l.Events, anchor.IndexedEvent{Index: uint64(len(l.Events)), Event: ev})
	}
	for i := range 5 { // on both sides
		add(&a, "message_out", b.Owner, i)
		add(&b, "message_in", a.Owner, i)
		add(&b, "message_out", a.Owner, 100+i)
		add(&a, "message_in", b.Owner, 100+i)
	}
	add(&a, "message_out", third, 200) // of no interest here
	add(&b, "message_in", third, 201)
	add(&a, "node_start", "", 202)
	if got := anchor.Cross(a, b); len(got) != 0 {
		t.Fatalf("two logs that agree: %+v", got)
	}
	add(&b, "message_in", a.Owner, 7)  // which a does not log
	add(&a, "message_out", b.Owner, 8) // which b does not log
	add(&b, "message_out", a.Owner, 9) // a has logged it as its own instead
	add(&a, "message_out", b.Owner, 9)
	got := anchor.Cross(a, b)
	want := []struct {
		owner  string
		seq    int64
		denied bool
	}{{a.Owner, 8, false}, {a.Owner, 9, false}, {b.Owner, 7, true}, {b.Owner, 9, false}}
	if len(got) != len(want) {
		t.Fatalf("%d mismatches, want %d: %+v", len(got), len(want), got)
	}
	for i, w := range want {
		if g := got[i]; g.Owner != w.owner || *g.Event.SenderSeq != w.seq || g.Denied != w.denied {
			t.Errorf("mismatch %d: %s #%d %v, want %+v", i, g.Owner, *g.Event.SenderSeq, g.Denied, w)
		}
	}
}
