package ratchettest

import (
	"testing"

	"github.com/talosprotocol/talos/ratchet"
)

func TestMemory(t *testing.T) {
	TestStore(t, func() ratchet.Store { return &Memory{} })
}

// Shows RAT-21, RAT-26, RAT-28, RAT-36: the six invariants in a lossy world with crashes
// and commits that fail.
func TestA7_LossyWorld(t *testing.T) {
	for seed := range seeds() {
		Run(t, seed, 2000, Lossy)
	}
}

// Shows RAT-18: rollbacks repeat no nonce and deliver nothing that was not sent.
func TestA7_HarshWorld(t *testing.T) {
	for seed := range seeds() {
		Run(t, 1000+seed, 2000, Harsh)
	}
}

func FuzzSchedule(f *testing.F) {
	f.Add(int64(1), uint16(300), false)
	f.Add(int64(2), uint16(300), true)
	f.Fuzz(func(t *testing.T, seed int64, steps uint16, harsh bool) {
		w := Lossy
		if harsh {
			w = Harsh
		}
		Run(t, seed, int(steps)%3000, w)
	})
}

func seeds() int64 {
	if testing.Short() {
		return 2
	}
	return 8
}
