package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/node"
	"github.com/talosprotocol/talos/testnet"
	"github.com/talosprotocol/talos/testnet/fake"
)

func (a *app) initCmd() *cobra.Command {
	var o node.InitOptions
	var roots []string
	c := &cobra.Command{
		Use: "init", Short: "Make a home with new keys and a new DID", Args: cobra.NoArgs,
		Long: `Makes a home: a configuration, keys sealed at rest, a DID of its own, and a recovery
key. Whoever has the recovery key can take the DID back after a theft; keep the
files recovery.sealed and recovery.kek somewhere else than on this machine.

--root names another DID, say that of an organisation's node, whose capabilities count
here: --root did:talos:z…=tool,model for those of tools and models. In the config.json
of a home that exists: "roots":[{"did":"did:talos:z…","kinds":["tool","model"]}].`,
		RunE: func(*cobra.Command, []string) error {
			var err error
			if o.Roots, err = rootsArg(roots); err != nil {
				return err
			}
			h, err := node.Init(a.home, o)
			if err != nil {
				return err
			}
			return a.print(map[string]any{"did": h.DID(), "home": h.Dir, "roles": h.Config.Roles}, func() {
				fmt.Fprintf(a.out, "%s\n\nhome      %s\nroles     %s\nrecovery  move recovery.sealed and recovery.kek to a safe place\nnext      talos up%s\n",
					h.DID(), h.Dir, strings.Join(h.Config.Roles, ", "), a.homeFlag())
			})
		},
	}
	f := c.Flags()
	f.StringVar(&o.Network, "network", "talos", "name of the network")
	f.StringVar(&o.Kind, "kind", "private", "public, private or local")
	f.StringSliceVar(&o.Roles, "role", []string{"agent"}, "agent, gateway, bootstrap, anchor; more than one may be given")
	f.StringVar(&o.Strangers, "strangers", "", "what agents without a capability may do: ask for one, or also message; message on a local network, else ask")
	f.StringSliceVar(&o.Listen, "listen", nil, "multiaddrs to listen on (default: any port, TCP and QUIC)")
	f.StringSliceVar(&o.Announce, "announce", nil, "multiaddrs to publish instead of those found")
	f.StringSliceVar(&o.Bootstrap, "bootstrap", nil, "multiaddrs with /p2p/ of peers to begin with")
	f.StringSliceVar(&o.Anchors, "anchor", nil, "DIDs of the anchors that cosign this node's audit log")
	f.StringArrayVar(&roots, "root", nil, "another DID whose capabilities count here, as did=kind,kind; may be given several times")
	f.StringVar(&o.API, "api", "127.0.0.1:0", "loopback address of the API")
	f.Int64Var(&o.Interval, "checkpoint-seconds", 0, "seconds between checkpoints (default 60)")
	return c
}

// rootsArg reads what --root takes: a DID and the kinds of scopes that it may give.
func rootsArg(list []string) ([]contracts.Root, error) {
	var out []contracts.Root
	for _, text := range list {
		did, kinds, ok := strings.Cut(text, "=")
		if !ok {
			return nil, contracts.Errorf(contracts.ConfigInvalid, "--root %.80q: want did=kind,kind with the kinds agent, model, node, tool, topic", text)
		}
		out = append(out, contracts.Root{DID: did, Kinds: strings.Split(kinds, ",")})
	}
	return out, nil
}

// homeFlag repeats --home where it is not the default.
func (a *app) homeFlag() string {
	if a.home == defaultHome() {
		return ""
	}
	return " --home " + a.home
}

func (a *app) upCmd() *cobra.Command {
	var o node.InitOptions
	var roots []string
	c := &cobra.Command{
		Use: "up", Short: "Run the node of this home until Ctrl-C", Args: cobra.NoArgs,
		Long: `Runs the node. A home that does not exist yet is made first, with --bootstrap, --role
and --root as given; talos init has more to choose.`,
		RunE: func(c *cobra.Command, _ []string) (err error) {
			if o.Roots, err = rootsArg(roots); err != nil {
				return err
			}
			h, err := node.OpenHome(a.home)
			if contracts.CodeOf(err) == contracts.NotFound {
				h, err = node.Init(a.home, o)
			}
			if err != nil {
				return err
			}
			level := slog.LevelInfo
			_ = level.UnmarshalText([]byte(h.Config.LogLevel)) // checked with the configuration; empty: info
			log := slog.New(slog.NewTextHandler(a.err, &slog.HandlerOptions{Level: level}))
			n, err := node.New(c.Context(), h, log)
			if err != nil {
				return err
			}
			st := n.Status()
			if err := a.print(st, func() {
				fmt.Fprintf(a.out, "did      %s\nroles    %s\n", st.DID, strings.Join(st.Roles, ", "))
				for _, ad := range st.Addresses {
					fmt.Fprintf(a.out, "address  %s\n", ad)
				}
				fmt.Fprintf(a.out, "running; Ctrl-C ends it\n")
			}); err != nil {
				return err
			}
			return n.Run(c.Context())
		},
	}
	f := c.Flags()
	f.StringVar(&o.Network, "network", "talos", "for a new home: name of the network")
	f.StringVar(&o.Kind, "kind", "private", "for a new home: public, private or local")
	f.StringSliceVar(&o.Roles, "role", []string{"agent"}, "for a new home: its roles")
	f.StringSliceVar(&o.Bootstrap, "bootstrap", nil, "for a new home: multiaddrs of peers to begin with")
	f.StringSliceVar(&o.Anchors, "anchor", nil, "for a new home: DIDs of its anchors")
	f.StringArrayVar(&roots, "root", nil, "for a new home: another DID whose capabilities count here, as did=kind,kind")
	f.StringSliceVar(&o.Listen, "listen", nil, "for a new home: multiaddrs to listen on")
	return c
}

func (a *app) testnetCmd() *cobra.Command {
	plan := testnet.Plan{Strangers: "ask"}
	var once bool
	var dir, chain, geth string
	var timeout time.Duration
	up := &cobra.Command{
		Use: "up", Short: "Start a network of real processes on loopback and play a conversation", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			switch chain {
			case "":
			case "ethereum":
				plan.Geth = geth
			default:
				return contracts.Errorf(contracts.ConfigInvalid, "--chain %.40q: there is ethereum", chain)
			}
			return a.testnetUp(c.Context(), plan, dir, once, timeout)
		},
	}
	f := up.Flags()
	f.IntVar(&plan.Bootstraps, "bootstraps", 1, "number of bootstraps")
	f.IntVar(&plan.Anchors, "anchors", 2, "number of anchors")
	f.IntVar(&plan.Agents, "agents", 3, "number of agents")
	f.BoolVar(&once, "once", false, "end after the story; exit code 0 only if it held")
	f.StringVar(&chain, "chain", "", "ethereum: the anchors put their logs onto a development chain of geth")
	f.StringVar(&geth, "geth", "geth", "with --chain ethereum: the geth to run")
	f.StringVar(&dir, "dir", "", "folder for the homes (default: a temporary one, removed afterwards)")
	f.DurationVar(&timeout, "timeout", 2*time.Minute, "for start and story")
	c := &cobra.Command{Use: "testnet", Short: "A network on this machine"}
	c.AddCommand(up, &cobra.Command{
		Use: "notes", Short: "An MCP server on standard streams, for the story and for trying things out", Args: cobra.NoArgs,
		Run: func(*cobra.Command, []string) { fake.ServeNotes(node.Version) },
	})
	return c
}

func (a *app) testnetUp(ctx context.Context, plan testnet.Plan, dir string, once bool, timeout time.Duration) (err error) {
	if plan.Bootstraps < 1 || plan.Anchors < 1 || plan.Agents < 2 {
		return contracts.Errorf(contracts.ConfigInvalid, "the story needs at least 1 bootstrap, 1 anchor and 2 agents")
	}
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	if dir == "" {
		if dir, err = os.MkdirTemp("", "talos-testnet-"); err != nil {
			return err
		}
		defer os.RemoveAll(dir) //nolint:errcheck // temporary
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return err
	}
	tell := func(format string, args ...any) {
		if !a.json {
			fmt.Fprintf(a.out, format+"\n", args...)
		}
	}
	start := time.Now()
	story, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	tell("Starting %d nodes", plan.Bootstraps+plan.Anchors+plan.Agents)
	ps, err := testnet.StartProcesses(story, exe, dir, plan, tell)
	if err != nil {
		return fmt.Errorf("testnet: %w", err)
	}
	defer func() { err = errors.Join(err, ps.Stop()) }()
	bundle, err := testnet.Story(story, &ps.Net, tell)
	if err != nil {
		return fmt.Errorf("testnet: the story did not hold: %w", err)
	}
	if plan.Geth != "" {
		if bundle, err = ps.AnchoredProof(story, bundle, tell); err != nil {
			return fmt.Errorf("testnet: the story did not hold: %w", err)
		}
	}
	file := filepath.Join(dir, "proof.json")
	if once {
		// The homes go; the proof stays, since it needs none of them.
		file = filepath.Join(os.TempDir(), fmt.Sprintf("talos-proof-%d.json", os.Getpid()))
	}
	if err := os.WriteFile(file, bundle, 0o600); err != nil {
		return err
	}
	command := "talos"
	if strings.Contains(exe, "go-build") {
		command = "go run ./cmd/talos"
	}
	tell("Verify it yourself, without any node:\n  %s audit verify %s", command, file)
	if err := a.print(map[string]any{"ok": true, "seconds": time.Since(start).Seconds(), "proof": file}, func() {
		fmt.Fprintf(a.out, "The story held, in %s.\n", time.Since(start).Round(100*time.Millisecond))
	}); err != nil || once {
		return err
	}
	tell("\nThe network stays up. Speak to a member:")
	for _, m := range ps.All() {
		tell("  %s status --home %s", command, m.Home())
	}
	tell("Ctrl-C ends it.")
	end, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	<-end.Done()
	return nil
}
