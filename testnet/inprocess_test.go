package testnet_test

import (
	"context"
	"os"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/talosprotocol/talos/node/directory"
	"github.com/talosprotocol/talos/testnet"
	"github.com/talosprotocol/talos/testnet/fake"
)

// TestMain is also the MCP server of the story.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "serve-notes" {
		fake.ServeNotes("1.0")
		return
	}
	os.Exit(m.Run())
}

func inProcess(t *testing.T, plan testnet.Plan) (context.Context, *testnet.Net) {
	t.Helper()
	dir, err := os.MkdirTemp("", "tn") // short, for the sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	net, stop, err := testnet.StartInProcess(ctx, dir, plan)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Errorf("stopping: %v", err)
		}
	})
	return ctx, net
}

// The demo's story holds for nodes in one process as for processes.
func TestStoryInProcess(t *testing.T) {
	ctx, net := inProcess(t, testnet.Plan{Bootstraps: 1, Anchors: 2, Agents: 3, Strangers: "ask"})
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	net.Notes = []string{self, "serve-notes"}
	if _, err := testnet.Story(ctx, net, t.Logf); err != nil {
		t.Fatal(err)
	}
}

// Twenty nodes on real TCP: every DID resolves from every node, through the DHT.
func TestTwentyRealNodes(t *testing.T) {
	ctx, net := inProcess(t, testnet.Plan{Bootstraps: 2, Anchors: 3, Agents: 15})
	begin, all := time.Now(), net.All()
	var g errgroup.Group
	g.SetLimit(8)
	for _, a := range all {
		for _, b := range all {
			g.Go(func() error {
				did := b.(*testnet.Inside).Node.DID()
				_, err := a.(*testnet.Inside).Node.Directory().Resolve(ctx, did, directory.Options{Fresh: a != b})
				return err
			})
		}
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d resolutions in %s", len(all)*len(all), time.Since(begin).Round(time.Millisecond))
}
