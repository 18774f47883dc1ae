package gate_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/node/gate"
)

// GATE-4, GATE-5: where a result is recorded later, the intent still comes first and is
// waited for, the call does not wait for the result, and the node does when it stops.
// When too much waits already, calls wait for theirs.
func TestResultsLater(t *testing.T) {
	g, b := door(t, all, surface("a", func(s *contracts.Surface) { s.Record = "intent-later" }), surface("b", func(s *contracts.Surface) { s.Record = "later" }))
	call := func(id string) error {
		return g.Do(t.Context(), &gate.Request{Surface: id, Who: who}, func(context.Context, *gate.Pass) (gate.Result, error) {
			if id == "a" && !slices.Contains(b.types(), "intent ") {
				t.Error("no intent before the work")
			}
			b.mu.Lock() // the disk is busy from now on
			return gate.Result{}, nil
		})
	}
	for _, id := range []string{"a", "b"} {
		if err := call(id); err != nil {
			t.Fatal(err)
		}
		b.mu.Unlock()
		g.Wait()
	}
	if got := b.types(); !slices.Equal(got, []string{"intent ", "result ok", "result ok"}) {
		t.Errorf("recorded %q", got)
	}
	// Results pile up: none is lost, and what a call waits for it learns of.
	const calls = 1000
	b.mu.Lock()
	done := make(chan error, calls)
	for range calls {
		go func() { done <- g.Do(t.Context(), &gate.Request{Surface: "b", Who: who}, nothing) }()
	}
	for range 100 { // at least those do not wait
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	b.mu.Unlock()
	for range calls - 100 {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	g.Wait()
	if n := len(b.types()); n != calls+3 {
		t.Errorf("%d events, want %d", n, calls+3)
	}
	b.mu.Lock()
	b.fail = errors.New("full")
	b.mu.Unlock()
	if err := g.Do(t.Context(), &gate.Request{Surface: "a", Who: who}, nothing); err == nil {
		t.Error("a call without an intent")
	}
	if err := g.Do(t.Context(), &gate.Request{Surface: "b", Who: who}, nothing); err != nil {
		t.Errorf("a result that nobody waits for: %v", err)
	}
	g.Wait()
}
