package main

import (
	"context"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
	"github.com/talosprotocol/talos/node/api"
)

func (a *app) approvalCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "approval", Short: "Decide calls that wait for somebody's approval",
		Long: `A policy may say that calls must be approved before they begin: by this node's owner, or
by a governance peer (talos rbac set, "approvals"). For instance, every tool of the MCP
server files that may change something:

  {"v":"talos-policy/1","approvals":[{"id":"writes","surfaces":["tool.write"],"scope":"tool:files"}]}

With "by":"did:talos:z…" another node's owner is asked, who has given this node a capability
for it: talos cap grant <this node> --scope agent:<that node>/method:govern

The call waits a while (wait_seconds, 50 if absent). Whoever makes the same call again
later finds what was decided meanwhile.`,
		Example: `  talos approval list
  talos approval show 019a…       the whole request
  talos approval approve 019a…
  talos approval deny 019a… --why "not on a Friday"`,
	}
	c.AddCommand(a.approvalListCmd(), a.approvalShowCmd(), a.approvalDecideCmd("approve", "Let a call begin", true), a.approvalDecideCmd("deny", "Refuse a call; the same one is refused for an hour", false))
	return c
}

func (a *app) approvalListCmd() *cobra.Command {
	return &cobra.Command{Use: "list", Short: "List what waits", Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
		all, err := a.client().Approvals(c.Context())
		if err != nil {
			return err
		}
		return a.print(all, func() {
			if len(all) == 0 {
				fmt.Fprintln(a.out, "nothing waits for an approval; which calls do, a policy says (talos approval --help)")
				return
			}
			w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "ID\tSINCE\tCALLER\tWHAT\tSTATE")
			for _, p := range all {
				state := "waits"
				if p.Verdict != "" {
					state = p.Verdict + ", not used yet"
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%s %s/%s\t%s\n", p.ID, time.Since(p.At).Round(time.Second), identity.DID(p.Caller).Short(), p.Surface, p.Service, p.Method, state)
			}
			_ = w.Flush()
		})
	}}
}

func (a *app) printApproval(p *api.Approval) {
	fmt.Fprintf(a.out, "id       %s\ncaller   %s\nat       %s\nwhat     %s (%s) of %s, %s\nwaits    until %s\n", p.ID, p.Caller, p.Asker, p.Surface, p.Access, p.Service, p.Method, p.Until.Local().Format(time.TimeOnly))
	if p.Verdict != "" {
		fmt.Fprintf(a.out, "decided  %s %s\n", p.Verdict, p.Why)
	}
	switch {
	case p.Text != "":
		fmt.Fprintf(a.out, "\n%s\n", showable(p.Text))
	case p.Body != "":
		fmt.Fprintf(a.out, "\nbytes that are no text, in base64url: %s\n", p.Body)
	}
}

// showable keeps a peer's text from writing to the terminal what the owner does not see.
func showable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' && r != '\t' || r >= 0x7f && r < 0xa0 || r >= 0x200b && r <= 0x200f || r >= 0x202a && r <= 0x202e || r >= 0x2060 && r <= 0x206f {
			return '�'
		}
		return r
	}, s)
}

func (a *app) approvalShowCmd() *cobra.Command {
	return &cobra.Command{Use: "show <id>", Short: "Show a call that waits, with its whole request", Args: cobra.ExactArgs(1), RunE: func(c *cobra.Command, args []string) error {
		p, err := a.client().Approval(c.Context(), args[0])
		if err != nil {
			return err
		}
		return a.print(p, func() { a.printApproval(&p) })
	}}
}

func (a *app) approvalDecideCmd(word, short string, yes bool) *cobra.Command {
	var why string
	c := &cobra.Command{Use: word + " <id>", Short: short, Args: cobra.ExactArgs(1), RunE: func(c *cobra.Command, args []string) error {
		p, err := a.client().Decide(c.Context(), args[0], yes, why)
		if err != nil {
			return err
		}
		return a.print(p, func() {
			fmt.Fprintf(a.out, "%s: %s %s/%s of %s\n", map[bool]string{true: "approved", false: "denied"}[yes], p.Surface, p.Service, p.Method, identity.DID(p.Caller).Short())
		})
	}}
	c.Flags().StringVar(&why, "why", "", "what the caller is told")
	return c
}

func (a *app) executionCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "execution", Short: "See what became of calls that change something",
		Long: `This node does a call that changes something at most once for its idempotency key, and
keeps a record of each for seven days: what was wanted, who approved it, that it ran, how
it ended. What ran when the node died is unknown: look at what it should have changed, and
say what you found, so that whoever asks again learns it.`,
		Example: `  talos execution list --state unknown
  talos execution show 019a…
  talos execution settle 019a… --done      or --not-done`,
	}
	c.AddCommand(a.executionListCmd(), a.executionShowCmd(), a.executionSettleCmd())
	return c
}

func (a *app) executionListCmd() *cobra.Command {
	var state, before string
	var limit int
	c := &cobra.Command{Use: "list", Short: "List executions, the newest first", Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
		all, err := a.client().Executions(c.Context(), state, before, limit)
		if err != nil {
			return err
		}
		return a.print(all, func() {
			if len(all) == 0 {
				fmt.Fprintln(a.out, "none")
				return
			}
			w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "ID\tBEGAN\tCALLER\tWHAT\tSTATE")
			for _, e := range all {
				act := e.Steps[0].Action
				fmt.Fprintf(w, "%s\t%s\t%s\t%s %s/%s\t%s\n", e.ID, act.At, identity.DID(act.Caller).Short(), act.Surface, act.Service, act.Method, e.Steps[len(e.Steps)-1].State)
			}
			_ = w.Flush()
		})
	}}
	f := c.Flags()
	f.StringVar(&state, "state", "", "only those: completed, failed, executing or unknown")
	f.StringVar(&before, "before", "", "only those before this id")
	f.IntVar(&limit, "limit", 50, "how many at most")
	return c
}

func (a *app) printExecution(e *contracts.Execution) {
	fmt.Fprintf(a.out, "%s\n", e.ID)
	for _, s := range e.Steps {
		fmt.Fprintf(a.out, "  %s  %-10s", s.At, s.State)
		switch {
		case s.Action != nil:
			fmt.Fprintf(a.out, "  %s wants %s %s/%s", identity.DID(s.Action.Caller).Short(), s.Action.Surface, s.Action.Service, s.Action.Method)
		case s.Decision != nil:
			fmt.Fprintf(a.out, "  approved by %s at %s", identity.DID(s.Decision.By).Short(), s.Decision.At)
		case s.Code != "" || s.By != "":
			fmt.Fprintf(a.out, "  %s", strings.TrimSpace(s.Code+" "+map[string]string{"owner": "as the owner says"}[s.By]))
		case s.Response != "":
			fmt.Fprintf(a.out, "  answer %s", s.Response)
		}
		fmt.Fprintln(a.out)
	}
}

func (a *app) executionShowCmd() *cobra.Command {
	return &cobra.Command{Use: "show <id>", Short: "Show an execution step by step", Args: cobra.ExactArgs(1), RunE: func(c *cobra.Command, args []string) error {
		e, err := a.client().Execution(c.Context(), args[0])
		if err != nil {
			return err
		}
		return a.print(e, func() { a.printExecution(&e) })
	}}
}

func (a *app) executionSettleCmd() *cobra.Command {
	var done, not bool
	c := &cobra.Command{Use: "settle <id>", Short: "Say what became of an execution whose outcome is unknown", Args: cobra.ExactArgs(1), RunE: func(c *cobra.Command, args []string) error {
		return a.settle(c.Context(), args[0], done)
	}}
	c.Flags().BoolVar(&done, "done", false, "it was done")
	c.Flags().BoolVar(&not, "not-done", false, "it was not done")
	c.MarkFlagsOneRequired("done", "not-done")
	c.MarkFlagsMutuallyExclusive("done", "not-done")
	return c
}

func (a *app) settle(ctx context.Context, id string, done bool) error {
	e, err := a.client().SettleExecution(ctx, id, done)
	if err != nil {
		return err
	}
	return a.print(e, func() { a.printExecution(&e) })
}
