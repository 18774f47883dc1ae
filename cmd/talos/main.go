// Command talos is the one binary: it runs a node in any of its roles, speaks to a
// running one over its loopback API, verifies evidence without any node, and plays a
// whole network on one machine.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/node"
	"github.com/talosprotocol/talos/node/api"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// app is what the commands share.
type app struct {
	home string
	json bool
	out  io.Writer
	err  io.Writer
}

// run is main without its side effects, for tests.
func run(ctx context.Context, args []string, out, errOut io.Writer) int {
	a := &app{out: out, err: errOut}
	root := a.root()
	root.SetArgs(args)
	root.SetOut(out)
	root.SetErr(errOut)
	if err := root.ExecuteContext(ctx); err != nil {
		a.fail(err)
		return 1
	}
	return 0
}

// fail prints an error for a person, or as JSON.
func (a *app) fail(err error) {
	var quiet silent
	if errors.As(err, &quiet) {
		return
	}
	if a.json {
		_ = json.NewEncoder(a.err).Encode(api.Failure{Code: string(contracts.CodeOf(err)), Message: contracts.Message(err), Retryable: contracts.CodeOf(err).Retryable()})
		return
	}
	fmt.Fprintln(a.err, "talos:", err)
}

// silent ends a command with exit code 1 after it has said all itself.
type silent struct{}

func (silent) Error() string { return "" }

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "talos",
		Short: "A peer-to-peer agent node: who did what, under what authority, with what evidence",
		Long: `Talos lets agents of different organisations find each other by DID, talk in
end-to-end encrypted sessions, and prove later what happened, without a server.

Start here:
  talos testnet up --once       a whole network on this machine, and its story
  talos init && talos up        a node of your own
  talos send <did> hello        a message to another agent
  talos find model              who offers models; talos find tool, MCP servers
  talos expose --help           offer yours
  talos audit prove 3 > b.json  the proof of an event, and
  talos audit verify b.json     its verification by a stranger`,
		SilenceUsage: true, SilenceErrors: true, Version: node.Version,
	}
	root.PersistentFlags().StringVar(&a.home, "home", defaultHome(), "folder of the node's keys, identity and store (or TALOS_HOME)")
	root.PersistentFlags().BoolVar(&a.json, "json", false, "print JSON, for programs")
	root.AddGroup(&cobra.Group{ID: "node", Title: "Run a node:"}, &cobra.Group{ID: "use", Title: "Use a running node:"}, &cobra.Group{ID: "proof", Title: "Evidence, keys and authority:"})
	for group, cmds := range map[string][]*cobra.Command{
		"node":  {a.initCmd(), a.upCmd(), a.testnetCmd(), a.doctorCmd(), a.exposeCmd(), a.secretCmd()},
		"use":   {a.statusCmd(), a.idCmd(), a.resolveCmd(), a.peersCmd(), a.sendCmd(), a.listenCmd(), a.sessionCmd(), a.findCmd(), a.trustCmd(), a.askCmd(), a.mcpCmd()},
		"proof": {a.auditCmd(), a.anchorCmd(), a.keyCmd(), a.capCmd(), a.rbacCmd(), a.approvalCmd(), a.executionCmd(), a.receiptCmd(), a.budgetCmd(), a.limitsCmd()},
	} {
		for _, c := range cmds {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	root.AddCommand(&cobra.Command{Use: "version", Short: "Print the version", Args: cobra.NoArgs, RunE: func(*cobra.Command, []string) error {
		return a.print(map[string]string{"version": node.Version}, func() { fmt.Fprintln(a.out, "talos", node.Version) })
	}})
	return root
}

func defaultHome() string {
	if h := os.Getenv("TALOS_HOME"); h != "" {
		return h
	}
	if h, err := os.UserHomeDir(); err == nil {
		return filepath.Join(h, ".talos")
	}
	return ".talos"
}

// client speaks to the node of the home.
func (a *app) client() *api.Client { return api.Dial(filepath.Join(a.home, "api.sock")) }

// print prints v as JSON, or calls people.
func (a *app) print(v any, people func()) error {
	if !a.json {
		people()
		return nil
	}
	e := json.NewEncoder(a.out)
	e.SetIndent("", "  ")
	return e.Encode(v)
}
