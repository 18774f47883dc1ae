package auditlog_test

import (
	"errors"
	"testing"

	"github.com/talosprotocol/talos/anchor"
	"github.com/talosprotocol/talos/anchor/auditlog"
	"github.com/talosprotocol/talos/contracts"
)

// TestReading: cursors exclude what was read, proofs join any sizes, Wait wakes.
func TestReading(t *testing.T) {
	inBubble(t, func(t *testing.T, s *site) {
		l, stop := s.run()
		woken := make(chan error, 1)
		go func() { woken <- l.Wait(t.Context(), 24) }()
		s.append(l, 25)
		if err := <-woken; err != nil {
			t.Error(err)
		}
		var at auditlog.Cursor
		for want := uint64(0); ; {
			got, next, err := l.List(t.Context(), at, 7)
			if err != nil {
				t.Fatal(err)
			}
			if len(got) == 0 {
				if want != 25 {
					t.Errorf("listed %d", want)
				}
				break
			}
			for i := range got {
				if got[i].Leaf.Index() != want {
					t.Fatalf("index %d, want %d", got[i].Leaf.Index(), want)
				}
				want++
			}
			at = next
		}
		if got, _, _ := l.List(t.Context(), l.Tail(3), 100); len(got) != 3 || got[0].Leaf.Index() != 22 {
			t.Errorf("tail: %d entries", len(got))
		}
		n, err := l.Checkpoint(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for from := range uint64(26) {
			p, err := l.Consistency(t.Context(), from, 25)
			old, err2 := l.Root(t.Context(), from)
			if err := errors.Join(err, err2, anchor.VerifyConsistency(from, 25, old, n.Root, p)); err != nil {
				t.Errorf("from %d: %v", from, err)
			}
		}
		_, err = l.Entry(t.Context(), 25)
		wantCode(t, err, contracts.NotFound)
		_, err = l.Inclusion(t.Context(), 3, 26)
		wantCode(t, err, contracts.NotFound)
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}

// TestErase: event and salt are gone, the erasure is logged, other bundles stay.
// AUD-14.
func TestErase(t *testing.T) {
	inBubble(t, func(t *testing.T, s *site) {
		l, stop := s.run()
		s.append(l, 10)
		n, err := l.Checkpoint(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		o := auditlog.BundleOptions{Head: anchor.Head{Note: n}}
		before, err := l.Bundle(t.Context(), 3, o)
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Erase(t.Context(), 4, "requested"); err != nil {
			t.Fatal(err)
		}
		after, err := l.Bundle(t.Context(), 3, o)
		if err != nil || string(after) != string(before) {
			t.Errorf("another bundle has changed: %v", err)
		}
		sealed, err := l.Bundle(t.Context(), 4, o)
		if err != nil {
			t.Fatal(err)
		}
		if p, err := anchor.ReadBundle(sealed); err != nil || p.Event != nil || p.Salt != nil {
			t.Errorf("the erased event is shown: %v", err)
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
		if faults, err := l.Check(t.Context()); err != nil || len(faults) > 0 {
			t.Errorf("check: %v, %v", faults, err)
		}
	})
}
