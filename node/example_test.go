package node_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"github.com/talosprotocol/talos/node"
)

// A program embeds a node of its own, and uses it without the loopback API.
func Example() {
	dir, err := os.MkdirTemp("", "talos")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	home, err := node.Init(dir, node.InitOptions{Network: "demo", Kind: "local"})
	if err != nil {
		panic(err)
	}
	n, err := node.New(context.Background(), home, slog.New(slog.DiscardHandler), node.WithoutAPI())
	if err != nil {
		panic(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- n.Run(ctx) }()
	fmt.Println(strings.HasPrefix(string(n.DID()), "did:talos:z"))
	stop()
	fmt.Println(<-done)
	// Output:
	// true
	// <nil>
}
