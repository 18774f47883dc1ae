package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/talosprotocol/talos/contracts"
)

func (a *app) rbacCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "rbac", Short: "Roles and budgets of the organisation's own principals",
		Long: `Roles are sets of scopes; bindings give them to DIDs or teams; budgets say what a DID may
spend. Programs with a role sign their HTTP requests (contracts/spec/gate.md §6). A policy
is one JSON file (contracts/schemas/policy.json):

  {"v":"talos-policy/1",
   "roles":[{"id":"auditor","scopes":["node:audit"],"read_only":true}],
   "bindings":[{"id":"carol-audits","role":"auditor","to":"did:key:z6Mk…"}],
   "budgets":[{"to":"did:key:z6Mk…","unit":"tokens","max":100000,"mode":"hard"}]}`,
	}
	c.AddCommand(
		&cobra.Command{Use: "show", Short: "Show the policy in force", Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
			p, err := a.client().Policy(c.Context())
			if err != nil {
				return err
			}
			return a.print(p, func() {
				if len(p.Roles)+len(p.Bindings)+len(p.Budgets) == 0 {
					fmt.Fprintln(a.out, "nobody but the owner has a role; `talos rbac set policy.json` gives some (see talos rbac --help)")
					return
				}
				w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
				for _, r := range p.Roles {
					fmt.Fprintf(w, "role\t%s\t%s\t%s\n", r.ID, strings.Join(r.Scopes, " "), map[bool]string{true: "read only"}[r.ReadOnly != nil && *r.ReadOnly])
				}
				for _, t := range p.Teams {
					fmt.Fprintf(w, "team\t%s\t%s\t\n", t.ID, strings.Join(t.Members, " "))
				}
				for _, b := range p.Bindings {
					fmt.Fprintf(w, "binding\t%s\t%s → %s\t%s\n", b.ID, b.To, b.Role, b.Until)
				}
				for _, b := range p.Budgets {
					fmt.Fprintf(w, "budget\t%s\t%d %s\t%s\n", b.To, b.Max, b.Unit, b.Mode)
				}
				_ = w.Flush()
			})
		}},
		&cobra.Command{Use: "set <file | ->", Short: "Put a policy in force, at once and as a whole", Args: cobra.ExactArgs(1), RunE: func(c *cobra.Command, args []string) error {
			in := io.Reader(os.Stdin)
			if args[0] != "-" {
				f, err := os.Open(args[0])
				if err != nil {
					return contracts.Errorf(contracts.NotFound, "%w", err)
				}
				defer f.Close() //nolint:errcheck // read only
				in = f
			}
			b, err := io.ReadAll(io.LimitReader(in, 1<<20+1))
			if err != nil {
				return err
			}
			p, err := contracts.ParsePolicy(b)
			if err != nil {
				return err
			}
			if err := a.client().SetPolicy(c.Context(), p); err != nil {
				return err
			}
			return a.print(map[string]bool{"ok": true}, func() {
				fmt.Fprintf(a.out, "in force: %d roles, %d bindings, %d budgets\n", len(p.Roles), len(p.Bindings), len(p.Budgets))
			})
		}},
	)
	return c
}

func (a *app) budgetCmd() *cobra.Command {
	return &cobra.Command{Use: "budget", Short: "What was spent of budgets", Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
		list, err := a.client().Budgets(c.Context())
		if err != nil {
			return err
		}
		return a.print(list, func() {
			if len(list) == 0 {
				fmt.Fprintln(a.out, "nothing was spent of any budget")
				return
			}
			w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "ACCOUNT\tUNIT\tUSED\tHELD")
			for _, b := range list {
				fmt.Fprintf(w, "%s\t%s\t%d\t%d\n", b.Account, b.Unit, b.Used, b.Held)
			}
			_ = w.Flush()
		})
	}}
}
