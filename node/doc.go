// Package node is a running Talos node and the API to embed one.
//
// A node lives in a home: a folder with its configuration, its sealed keys, its
// identity (the newest signed state of its DID) and its store. Init makes one:
//
//	home, err := node.Init(dir, node.InitOptions{Network: "demo"})
//	n, err := node.New(ctx, home, slog.Default())
//	err = n.Run(ctx) // until ctx ends, or something fails for good
//
// New builds the node from the lowest floor to the highest, in one function; Run
// runs its services under one errgroup. Roles are sets of services: an agent talks,
// a bootstrap relays and introduces, an anchor cosigns. What embeds a node calls
// Send, Inbox, Resolve, Prove and the like directly; others use the loopback API.
package node
