package main

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
	"github.com/talosprotocol/talos/node"
	"github.com/talosprotocol/talos/node/api"
)

func (a *app) exposeCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "expose", Short: "Offer models, MCP servers and A2A agents to others",
		Long: `What a node exposes, others use by its DID, end to end encrypted, under a capability:

  talos secret set openai                       the key, from standard input
  talos expose llm gpt-4o --url https://api.openai.com/v1 --key openai
  talos expose llm local --url http://127.0.0.1:11434/v1 --upstream-model llama3
  talos cap grant <did> --scope model:gpt-4o --budget tokens=100000

  talos expose mcp files --read read_file -- /usr/bin/node /opt/server.js /data
  talos cap grant <did> --scope tool:files/method:read_file

  talos expose a2a planner --url http://127.0.0.1:9000
  talos cap grant <did> --scope agent:planner

It is kept in gateway.json of the home; a running node takes it over at once.`,
	}
	c.AddCommand(a.exposeLLMCmd(), a.exposeMCPCmd(), a.exposeA2ACmd(), a.exposeListCmd(), a.exposeToolsCmd(), a.exposeApproveCmd(), a.exposeRemoveCmd())
	return c
}

// changeGateway edits what the home exposes and trusts, and tells a running node.
func (a *app) changeGateway(ctx context.Context, change func(*contracts.GatewayConfig) error) (running bool, err error) {
	h, err := node.OpenHome(a.home)
	if err != nil {
		return false, err
	}
	c, err := h.Gateway()
	if err != nil {
		return false, err
	}
	if err := change(c); err != nil {
		return false, err
	}
	if err := h.SetGateway(c); err != nil {
		return false, err
	}
	_, err = a.client().ReloadServices(ctx)
	if contracts.CodeOf(err) == contracts.Unavailable {
		return false, nil
	}
	return err == nil, err
}

// when says when a change is in force.
func when(running bool) string {
	if running {
		return "in force"
	}
	return "in force when the node runs: talos up"
}

func (a *app) exposeLLMCmd() *cobra.Command {
	e := contracts.ModelExposure{}
	var priceIn, priceOut, most int64
	var private bool
	c := &cobra.Command{Use: "llm <name>", Short: "Offer a model behind an HTTP API", Args: cobra.ExactArgs(1), RunE: func(c *cobra.Command, args []string) error {
		e.Name = args[0]
		for _, f := range []struct {
			name string
			to   **int64
			from *int64
		}{{"price-in", &e.PriceIn, &priceIn}, {"price-out", &e.PriceOut, &priceOut}, {"max-output", &e.MaxOutput, &most}} {
			if c.Flags().Changed(f.name) {
				*f.to = f.from
			}
		}
		if private = private || inside(e.URL); private {
			e.Private = &private
		}
		running, err := a.changeGateway(c.Context(), func(g *contracts.GatewayConfig) error {
			g.Models = slices.DeleteFunc(g.Models, func(m contracts.ModelExposure) bool { return m.Name == e.Name })
			g.Models = append(g.Models, e)
			return nil
		})
		if err != nil {
			return err
		}
		return a.print(map[string]any{"name": e.Name, "running": running}, func() {
			fmt.Fprintf(a.out, "the model %s is exposed, %s\nlet somebody use it: talos cap grant <did> --scope model:%s --budget tokens=100000\n", e.Name, when(running), e.Name)
		})
	}}
	c.Flags().StringVar(&e.URL, "url", "", "of the API, without the path of a request: https://host/v1")
	c.Flags().StringVar(&e.API, "api", "openai", "whose API it is: openai or anthropic")
	c.Flags().StringVar(&e.Key, "key", "", "name of the secret that is the API's key")
	c.Flags().StringVar(&e.UpstreamModel, "upstream-model", "", "how the API calls the model, if otherwise")
	c.Flags().StringSliceVar(&e.Operations, "operations", nil, "chat, responses, embeddings or messages; all that the API has if none is given")
	c.Flags().Int64Var(&most, "max-output", 4096, "tokens of an answer at most, where a request sets no limit")
	c.Flags().Int64Var(&priceIn, "price-in", 0, "millionths of a dollar for a million tokens of a request")
	c.Flags().Int64Var(&priceOut, "price-out", 0, "and of an answer")
	c.Flags().BoolVar(&private, "private", false, "the address is in a private network, and meant; not needed for an address that says so itself")
	_ = c.MarkFlagRequired("url")
	return c
}

// inside reports whether a URL itself names an address of this machine or of a private
// network, so that nobody can have meant another.
func inside(text string) bool {
	u, err := url.Parse(text)
	if err != nil {
		return false
	}
	if u.Hostname() == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(u.Hostname())
	return err == nil && (ip.IsLoopback() || ip.IsPrivate())
}

func (a *app) exposeListCmd() *cobra.Command {
	return &cobra.Command{Use: "list", Short: "What this node exposes", Args: cobra.NoArgs, RunE: func(*cobra.Command, []string) error {
		h, err := node.OpenHome(a.home)
		if err != nil {
			return err
		}
		g, err := h.Gateway()
		if err != nil {
			return err
		}
		return a.print(g, func() {
			w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
			for _, m := range g.Models {
				fmt.Fprintf(w, "model\t%s\t%s\t%s\n", m.Name, m.URL, strings.Join(m.Operations, " "))
			}
			for _, t := range g.Tools {
				fmt.Fprintf(w, "mcp\t%s\t%s\t%s\n", t.Name, strings.Join(append(t.Command, t.URL), " "), strings.Join(t.Read, " "))
			}
			for _, e := range g.Agents {
				fmt.Fprintf(w, "a2a\t%s\t%s\t\n", e.Name, e.URL)
			}
			_ = w.Flush()
			if len(g.Models)+len(g.Tools)+len(g.Agents) == 0 {
				fmt.Fprintln(a.out, "nothing; see talos expose --help")
			}
		})
	}}
}

func (a *app) exposeRemoveCmd() *cobra.Command {
	return &cobra.Command{Use: "remove llm|mcp|a2a <name>", Short: "Stop offering something", Args: cobra.ExactArgs(2), RunE: func(c *cobra.Command, args []string) error {
		running, err := a.changeGateway(c.Context(), func(g *contracts.GatewayConfig) error {
			before := len(g.Models) + len(g.Tools) + len(g.Agents)
			switch args[0] {
			case "llm":
				g.Models = slices.DeleteFunc(g.Models, func(m contracts.ModelExposure) bool { return m.Name == args[1] })
			case "mcp":
				g.Tools = slices.DeleteFunc(g.Tools, func(t contracts.ToolExposure) bool { return t.Name == args[1] })
			case "a2a":
				g.Agents = slices.DeleteFunc(g.Agents, func(e contracts.AgentExposure) bool { return e.Name == args[1] })
			}
			if len(g.Models)+len(g.Tools)+len(g.Agents) == before {
				return contracts.Errorf(contracts.NotFound, "no %.32q of the name %.64q is exposed; see talos expose list", args[0], args[1])
			}
			return nil
		})
		if err != nil {
			return err
		}
		return a.print(map[string]bool{"running": running}, func() { fmt.Fprintf(a.out, "removed, %s\n", when(running)) })
	}}
}

func (a *app) trustCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "trust", Short: "The gateways that prompts may go to",
		Long: `A gateway reads the prompts that it answers, and so may its operator. Prompts of this
node's programs go only to gateways that are named here.

  talos find model gpt-4o        who offers it
  talos trust add <did>          use it there`,
	}
	edit := func(use, short, said string, change func(list []string, did string) []string) *cobra.Command {
		return &cobra.Command{Use: use, Short: short, Args: cobra.ExactArgs(1), RunE: func(c *cobra.Command, args []string) error {
			did, err := identity.ParseDID(args[0])
			if err != nil {
				return err
			}
			running, err := a.changeGateway(c.Context(), func(g *contracts.GatewayConfig) error {
				g.PromptsTo = change(g.PromptsTo, string(did))
				return nil
			})
			if err != nil {
				return err
			}
			return a.print(map[string]bool{"running": running}, func() { fmt.Fprintf(a.out, said+", %s\n", did.Short(), when(running)) })
		}}
	}
	c.AddCommand(
		edit("add <did>", "Let prompts go to a gateway", "prompts may go to %s", func(list []string, did string) []string {
			if slices.Contains(list, did) {
				return list
			}
			return append(list, did)
		}),
		edit("remove <did>", "No longer let them", "prompts no longer go to %s", func(list []string, did string) []string {
			return slices.DeleteFunc(list, func(d string) bool { return d == did })
		}),
		&cobra.Command{Use: "list", Short: "List them", Args: cobra.NoArgs, RunE: func(*cobra.Command, []string) error {
			h, err := node.OpenHome(a.home)
			if err != nil {
				return err
			}
			g, err := h.Gateway()
			if err != nil {
				return err
			}
			return a.print(g.PromptsTo, func() {
				for _, d := range g.PromptsTo {
					fmt.Fprintln(a.out, d)
				}
				if len(g.PromptsTo) == 0 {
					fmt.Fprintln(a.out, "nobody; talos trust add <did>")
				}
			})
		}})
	return c
}

func (a *app) secretCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "secret", Short: "Keys of upstreams, sealed in the keystore",
		Long: `A secret is read from standard input, so that it is in no history and no list of
processes:

  talos secret set openai < key.txt`,
	}
	set := func(ctx context.Context, name string, value []byte) error {
		err := a.client().SetSecret(ctx, name, value)
		if contracts.CodeOf(err) != contracts.Unavailable {
			return err
		}
		h, err := node.OpenHome(a.home) // the node does not run
		if err != nil {
			return err
		}
		if len(value) == 0 {
			value = nil
		}
		return h.SetSecret(name, value)
	}
	c.AddCommand(
		&cobra.Command{Use: "set <name>", Short: "Keep a secret", Args: cobra.ExactArgs(1), RunE: func(c *cobra.Command, args []string) error {
			if st, err := os.Stdin.Stat(); err == nil && st.Mode()&os.ModeCharDevice != 0 {
				fmt.Fprintln(a.err, "type the secret, then Enter and Ctrl-D")
			}
			b, err := io.ReadAll(io.LimitReader(c.InOrStdin(), 16<<10+1))
			if err != nil {
				return err
			}
			value := strings.TrimRight(string(b), "\r\n")
			if value == "" {
				return contracts.Errorf(contracts.Malformed, "nothing came on standard input; write: talos secret set %s < file", args[0])
			}
			if err := set(c.Context(), args[0], []byte(value)); err != nil {
				return err
			}
			return a.print(map[string]bool{"ok": true}, func() { fmt.Fprintf(a.out, "kept as %s\n", args[0]) })
		}},
		&cobra.Command{Use: "delete <name>", Short: "Delete a secret", Args: cobra.ExactArgs(1), RunE: func(c *cobra.Command, args []string) error {
			if err := set(c.Context(), args[0], nil); err != nil {
				return err
			}
			return a.print(map[string]bool{"ok": true}, func() { fmt.Fprintln(a.out, "deleted") })
		}},
		&cobra.Command{Use: "list", Short: "List the names of the secrets", Args: cobra.NoArgs, RunE: func(*cobra.Command, []string) error {
			h, err := node.OpenHome(a.home)
			if err != nil {
				return err
			}
			names := h.Secrets()
			return a.print(names, func() {
				for _, n := range names {
					fmt.Fprintln(a.out, n)
				}
			})
		}})
	return c
}

func (a *app) findCmd() *cobra.Command {
	return &cobra.Command{
		Use: "find model|tool|agent [name]", Short: "Look up who offers something", Args: cobra.RangeArgs(1, 2),
		RunE: func(c *cobra.Command, args []string) error {
			name := ""
			if len(args) == 2 {
				name = args[1]
			}
			found, err := a.client().FindServices(c.Context(), args[0], name)
			if err != nil {
				return err
			}
			return a.print(found, func() { a.printServices(found) })
		},
	}
}

func (a *app) printServices(found []api.Service) {
	if len(found) == 0 {
		fmt.Fprintln(a.out, "nobody that this node can find offers that")
		return
	}
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tGATEWAY\tREGION\tPROMPTS\tOFFERS\tPRICE")
	for _, f := range found {
		var ops []string
		for _, op := range f.Operations {
			ops = append(ops, op.Name)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", f.Name, f.Gateway, f.Region, map[bool]string{true: "trusted", false: "not trusted"}[f.Trusted], strings.Join(ops, " "), priceOf(f))
	}
	_ = w.Flush()
}

// priceOf gives a price in dollars, empty if there is none.
func priceOf(f api.Service) string {
	switch {
	case f.PriceIn > 0 || f.PriceOut > 0:
		return fmt.Sprintf("$%.2f in, $%.2f out, a million tokens", float64(f.PriceIn)/1e6, float64(f.PriceOut)/1e6)
	case f.PriceCall > 0:
		return fmt.Sprintf("$%.4f a call", float64(f.PriceCall)/1e6)
	}
	return ""
}
