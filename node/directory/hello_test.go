package directory_test

import (
	"context"
	"testing"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/talosprotocol/talos/node/directory"
)

// What a hello has shown is known for whoever asks with a context that has ended: the
// answer needs no network.
func TestAHelloIsKnownWithoutTheNetwork(t *testing.T) {
	ms := mesh(t, 5)
	over, cancel := context.WithCancel(t.Context())
	cancel()
	told := 0
	for _, a := range ms {
		a.OnBound(func(peer.ID) { told++ })
		for _, b := range ms {
			if a == b || a.Bound(b.h.ID()) != nil {
				continue
			}
			if err := a.h.Connect(t.Context(), peer.AddrInfo{ID: b.h.ID(), Addrs: b.h.Addrs()}); err != nil {
				t.Fatal(err)
			}
			if _, err := a.Bind(t.Context(), b.h.ID()); err != nil {
				t.Fatal(err)
			}
			for _, m := range [][2]*member{{a, b}, {b, a}} {
				if r, err := m[0].Resolve(over, m[1].did, directory.Options{}); err != nil || r.State == nil {
					t.Errorf("after a hello: %v", err)
				}
			}
		}
	}
	if told != 10 { // of each pair the one that asked
		t.Errorf("%d bindings were told of", told)
	}
}
