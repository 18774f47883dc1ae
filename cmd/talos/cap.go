package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
	"github.com/talosprotocol/talos/identity/capability"
	"github.com/talosprotocol/talos/node/api"
	"github.com/talosprotocol/talos/node/authority"
)

func (a *app) capCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "cap", Short: "Capabilities: who may do what here, and what this node may do elsewhere",
		Long: `A capability is a signed token: it lets one DID do some things at one node, for a time.
It is of no use to whoever finds it, only to the DID that it names.

  talos cap grant <did> --scope agent:<did of this node>/method:send --for 24h
  talos cap request <did> --scope agent:<that did>/method:send      ask another's owner
  talos cap requests, talos cap approve 1                          answer those who ask
  talos cap revoke <id>                                            take it back
  talos cap verify <capability>                                    check what somebody shows

A scope says kind:name[/method:name[/resource:path]]; * stands for any name or method, a
path may end in * (one more segment) or ** (all below).`,
	}
	c.AddCommand(a.capGrantCmd(), a.capDelegateCmd(), a.capListCmd(), a.capInspectCmd(), a.capVerifyCmd(), a.capExportCmd(), a.capImportCmd(), a.capForgetCmd(), a.capRevokeCmd(),
		a.capRequestCmd(), a.capRequestsCmd(), a.capSettleCmd("approve", true), a.capSettleCmd("decline", false), a.capExplainCmd())
	return c
}

// encodeScope lets people write a DID in a scope as it is: the colons of a name are
// percent-encoded in a scope.
func encodeScope(s string) (string, error) {
	kind, rest, ok := strings.Cut(s, ":")
	if !ok {
		return "", contracts.Errorf(contracts.Malformed, "scope %.80q: want kind:name[/method:name[/resource:path]]", s)
	}
	name, tail := rest, ""
	if i := strings.Index(rest, "/method:"); i >= 0 {
		name, tail = rest[:i], rest[i:]
	}
	if strings.HasPrefix(name, "did:") {
		name = strings.ReplaceAll(name, ":", "%3A")
	}
	out := kind + ":" + name + tail
	_, err := capability.ParseScope(out)
	return out, err
}

func (a *app) printGranted(v api.Granted) error {
	return a.print(v, func() {
		fmt.Fprintf(a.out, "capability  %s\nsubject     %s\nscopes      %s\nuntil       %s\n", v.ID, v.Subject, strings.Join(v.Scopes, " "), v.Until.Local().Format(time.DateTime))
		if v.Delivered {
			fmt.Fprintln(a.out, "its node has it")
			return
		}
		fmt.Fprintf(a.out, "its node was not reached; pass this on, for `talos cap import`:\n\n%s\n", v.Chain)
	})
}

func (a *app) capGrantCmd() *cobra.Command {
	var g grantFlags
	var at []string
	c := &cobra.Command{Use: "grant <did>", Short: "Let a DID do something at this node", Args: cobra.ExactArgs(1), Long: grantHelp + `

--at names another node, for use there: its configuration must name this one as a root.
With several, each gets a capability of its own and the budget, the number of calls and the
rate are split among them: what they allow together is what is said here, though they share
nothing and need not reach each other.`, RunE: func(c *cobra.Command, args []string) error {
		r, err := g.request(args[0])
		if err != nil {
			return err
		}
		if len(at) < 2 {
			r.Executor = strings.Join(at, "")
			v, err := a.client().Grant(c.Context(), r, "")
			if err != nil {
				return err
			}
			return a.printGranted(v)
		}
		return a.grantSplit(c.Context(), r, at)
	}}
	g.add(c)
	c.Flags().StringArrayVar(&at, "at", nil, "the DID of another node, for use there; may be given several times, see above")
	return c
}

// grantSplit gives a capability for each of several nodes, whose limits together are those
// of the request.
func (a *app) grantSplit(ctx context.Context, r *contracts.GrantRequest, at []string) error {
	parts, err := split(r, at)
	if err != nil {
		return err
	}
	all := []api.Granted{}
	for i := range parts {
		v, err := a.client().Grant(ctx, &parts[i], "")
		if err != nil {
			return contracts.Errorf(contracts.CodeOf(err), "%d of %d are given (talos cap list), the one for %s is not: %w", i, len(parts), parts[i].Executor, err)
		}
		all = append(all, v)
	}
	return a.print(all, func() {
		w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "CAPABILITY\tAT\tCALLS\tBUDGET\tDELIVERED")
		for i, v := range all {
			budget := "-"
			if parts[i].BudgetMax != nil {
				budget = fmt.Sprint(*parts[i].BudgetMax, " ", parts[i].BudgetUnit)
			}
			calls := "-"
			if parts[i].MaxCalls != nil {
				calls = fmt.Sprint(*parts[i].MaxCalls)
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%v\n", v.ID, identity.DID(parts[i].Executor).Short(), calls, budget, v.Delivered)
		}
		_ = w.Flush()
	})
}

// split divides the limits of a request among executors; what does not divide goes to the
// first ones.
func split(r *contracts.GrantRequest, at []string) ([]contracts.GrantRequest, error) {
	for _, c := range r.Constraints {
		if c.Op == "budget" || c.Op == "calls" || c.Op == "rate" {
			return nil, contracts.Errorf(contracts.Malformed, "the condition %s of --constraint would count at each node alone; say it with --budget, --max-calls or --rate, which are split", c.Op)
		}
	}
	n := int64(len(at))
	out := make([]contracts.GrantRequest, n)
	seen := map[string]bool{}
	for i, executor := range at {
		if seen[executor] {
			return nil, contracts.Errorf(contracts.Malformed, "--at names %s twice", executor)
		}
		seen[executor] = true
		out[i] = *r
		out[i].Executor = executor
		for _, limit := range []**int64{&out[i].BudgetMax, &out[i].MaxCalls, &out[i].RateCalls} {
			if *limit == nil {
				continue
			}
			part := **limit / n
			if int64(i) < **limit%n {
				part++
			}
			if part == 0 {
				return nil, contracts.Errorf(contracts.Malformed, "a limit of %d cannot be split among %d nodes", **limit, n)
			}
			*limit = &part
		}
	}
	return out, nil
}

func (a *app) capDelegateCmd() *cobra.Command {
	var g grantFlags
	c := &cobra.Command{Use: "delegate <id> <did>", Short: "Give part of a capability on", Long: grantHelp, Args: cobra.ExactArgs(2), RunE: func(c *cobra.Command, args []string) error {
		r, err := g.request(args[1])
		if err != nil {
			return err
		}
		v, err := a.client().Grant(c.Context(), r, args[0])
		if err != nil {
			return err
		}
		return a.printGranted(v)
	}}
	g.add(c)
	return c
}

func (a *app) capListCmd() *cobra.Command {
	return &cobra.Command{Use: "list", Short: "List what this node holds and has given", Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
		v, err := a.client().Capabilities(c.Context())
		if err != nil {
			return err
		}
		return a.print(v, func() {
			if len(v.Held)+len(v.Given) == 0 {
				fmt.Fprintln(a.out, "none; `talos cap grant` gives one, `talos cap request` asks for one")
				return
			}
			w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "\tID\tOTHER SIDE\tSCOPES\tUNTIL")
			for _, t := range v.Held {
				fmt.Fprintf(w, "held\t%s\tat %s\t%s\t%s\n", t.ID, t.Executor, strings.Join(t.Scopes, " "), t.Until.Local().Format(time.DateTime))
			}
			for _, t := range v.Given {
				fmt.Fprintf(w, "given\t%s\tto %s\t%s\t%s\n", t.ID, t.Subject, strings.Join(t.Scopes, " "), t.Until.Local().Format(time.DateTime))
			}
			_ = w.Flush()
		})
	}}
}

// chainArg reads a chain: the text itself, that of a QR code, a file, or "-" for standard
// input.
func chainArg(arg string) (string, error) {
	text := arg
	switch {
	case arg == "-":
		b, err := io.ReadAll(io.LimitReader(os.Stdin, 2*capability.MaxChainBytes))
		if err != nil {
			return "", err
		}
		text = string(b)
	case strings.HasPrefix(arg, "eyJ") || capability.IsChainURI(arg): // the beginning of every token
	default:
		b, err := os.ReadFile(arg)
		if err != nil {
			return "", contracts.Errorf(contracts.NotFound, "%.80q is neither a capability nor a file: %w", arg, err)
		}
		text = string(b)
	}
	if text = strings.TrimSpace(text); capability.IsChainURI(text) {
		return capability.ParseChainURI(text)
	}
	return text, nil
}

func (a *app) capInspectCmd() *cobra.Command {
	return &cobra.Command{
		Use: "inspect <capability | file | ->", Short: "Show what a capability says, without believing it", Args: cobra.ExactArgs(1),
		Long: "Shows what a capability says. It needs no node, and checks form only: signatures and\nrevocation are for the executing node to judge (talos cap explain).",
		RunE: func(_ *cobra.Command, args []string) error {
			text, err := chainArg(args[0])
			if err != nil {
				return err
			}
			ch, err := authority.ParseChain(text)
			if err != nil {
				return err
			}
			return a.print(ch.Tokens, func() {
				for i, t := range ch.Tokens {
					fmt.Fprintf(a.out, "token %d of %d  cap:%s\n", i+1, len(ch.Tokens), t.ID)
					fmt.Fprintf(a.out, "  issuer     %s\n  subject    %s\n  executor   %s\n", t.Iss, t.Sub, t.Aud)
					for _, s := range t.Scopes {
						fmt.Fprintf(a.out, "  scope      %s\n", s)
					}
					for j := range t.Cst {
						fmt.Fprintf(a.out, "  condition  %s\n", t.Cst[j].AppendCanonical(nil))
					}
					fmt.Fprintf(a.out, "  valid      %s to %s\n  delegable  %d more\n", time.Unix(t.Nbf, 0).Local().Format(time.DateTime), time.Unix(t.Exp, 0).Local().Format(time.DateTime), t.Dlg)
				}
			})
		},
	}
}

func (a *app) capImportCmd() *cobra.Command {
	return &cobra.Command{Use: "import <capability | file | ->", Short: "Put a capability into this node's wallet", Args: cobra.ExactArgs(1), RunE: func(c *cobra.Command, args []string) error {
		text, err := chainArg(args[0])
		if err != nil {
			return err
		}
		v, err := a.client().ImportCapability(c.Context(), text)
		if err != nil {
			return err
		}
		return a.print(v, func() { fmt.Fprintf(a.out, "held: %s, for use at %s\n", v.ID, v.Executor) })
	}}
}

func (a *app) capForgetCmd() *cobra.Command {
	return &cobra.Command{Use: "forget <id>", Short: "Take a capability out of this node's wallet", Args: cobra.ExactArgs(1), RunE: func(c *cobra.Command, args []string) error {
		if err := a.client().ForgetCapability(c.Context(), args[0]); err != nil {
			return err
		}
		return a.print(map[string]bool{"ok": true}, func() { fmt.Fprintln(a.out, "forgotten here; its issuer alone can revoke it") })
	}}
}

func (a *app) capRevokeCmd() *cobra.Command {
	var why string
	c := &cobra.Command{Use: "revoke <id>", Short: "Take back a capability that this node has given, and all below it", Args: cobra.ExactArgs(1), RunE: func(c *cobra.Command, args []string) error {
		if err := a.client().RevokeCapability(c.Context(), args[0], why); err != nil {
			return err
		}
		return a.print(map[string]bool{"ok": true}, func() { fmt.Fprintln(a.out, "revoked: denied here from now on, and elsewhere as soon as it is heard") })
	}}
	c.Flags().StringVar(&why, "why", "ceased", "the reason: ceased, compromise, misuse, returned, superseded or unspecified")
	return c
}

func (a *app) capRequestCmd() *cobra.Command {
	var scopes []string
	var life time.Duration
	var why string
	c := &cobra.Command{Use: "request <did>", Short: "Ask another node's owner for a capability", Args: cobra.ExactArgs(1), RunE: func(c *cobra.Command, args []string) error {
		r := &contracts.CapabilityRequest{To: args[0], Hours: max(1, int64(life/time.Hour)), Reason: why}
		for _, s := range scopes {
			s, err := encodeScope(s)
			if err != nil {
				return err
			}
			r.Scopes = append(r.Scopes, s)
		}
		if err := a.client().RequestCapability(c.Context(), r); err != nil {
			return err
		}
		return a.print(map[string]bool{"ok": true}, func() {
			fmt.Fprintln(a.out, "asked; what is approved comes into the wallet by itself (talos cap list)")
		})
	}}
	c.Flags().StringArrayVar(&scopes, "scope", nil, "what is asked for; may be given several times")
	c.Flags().DurationVar(&life, "for", 24*time.Hour, "for how long, in hours")
	c.Flags().StringVar(&why, "why", "", "a reason for the owner to read")
	_ = c.MarkFlagRequired("scope")
	return c
}

func (a *app) capRequestsCmd() *cobra.Command {
	return &cobra.Command{Use: "requests", Short: "List who asks for what", Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
		list, err := a.client().CapabilityRequests(c.Context())
		if err != nil {
			return err
		}
		return a.print(list, func() {
			if len(list) == 0 {
				fmt.Fprintln(a.out, "nobody asks")
				return
			}
			w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "NO\tFROM\tSCOPES\tFOR\tREASON")
			for _, r := range list {
				fmt.Fprintf(w, "%s\t%s\t%s\t%d h\t%q\n", r.ID, r.From, strings.Join(r.Scopes, " "), r.Hours, r.Reason)
			}
			_ = w.Flush()
		})
	}}
}

func (a *app) capSettleCmd(word string, approve bool) *cobra.Command {
	short := map[bool]string{true: "Give what a request asks for", false: "Decline a request"}[approve]
	return &cobra.Command{Use: word + " <no>", Short: short, Args: cobra.ExactArgs(1), RunE: func(c *cobra.Command, args []string) error {
		v, err := a.client().SettleRequest(c.Context(), args[0], approve)
		if err != nil {
			return err
		}
		if approve {
			return a.printGranted(v)
		}
		return a.print(map[string]bool{"ok": true}, func() { fmt.Fprintln(a.out, "declined") })
	}}
}

func (a *app) capExplainCmd() *cobra.Command {
	var token, call, by, access, args string
	c := &cobra.Command{
		Use: "explain", Short: "Say step by step why a call is allowed or denied, and what to change", Args: cobra.NoArgs,
		Long: "Asks this node how it would decide if the DID (that of the capability, unless --by says\nanother) made the call, written as a scope: --call agent:<did>/method:send.",
		RunE: func(c *cobra.Command, _ []string) error {
			return a.explain(c.Context(), token, call, by, access, args)
		},
	}
	c.Flags().StringVar(&token, "token", "", "the capability, a file, or -")
	c.Flags().StringVar(&call, "call", "", "kind:name[/method:name[/resource:path]]")
	c.Flags().StringVar(&by, "by", "", "the DID that calls")
	c.Flags().StringVar(&access, "access", "write", "read, write or destructive, as the node's registry would say")
	c.Flags().StringVar(&args, "args", "", "the call's arguments, a JSON object, for the conditions of --arg")
	_ = c.MarkFlagRequired("token")
	_ = c.MarkFlagRequired("call")
	return c
}

func (a *app) explain(ctx context.Context, token, call, by, access, args string) error {
	text, err := chainArg(token)
	if err != nil {
		return err
	}
	kind, rest, ok := strings.Cut(call, ":")
	if !ok {
		return contracts.Errorf(contracts.Malformed, "--call: want kind:name[/method:name[/resource:path]]")
	}
	r := &contracts.ExplainRequest{Chain: text, By: by, Kind: kind, Access: access, Args: args}
	r.Name, rest, _ = strings.Cut(rest, "/method:")
	r.Method, rest, ok = strings.Cut(rest, "/resource:")
	if ok {
		r.Resource = strings.Split(rest, "/")
	}
	if r.By == "" {
		ch, err := authority.ParseChain(text)
		if err != nil {
			return err
		}
		r.By = ch.Leaf().Sub
	}
	if _, err := identity.ParseDID(r.By); err != nil {
		return err
	}
	v, err := a.client().ExplainCapability(ctx, r)
	if err != nil {
		return err
	}
	if err := a.print(v, func() { fmt.Fprintln(a.out, v.Text) }); err != nil {
		return err
	}
	if !v.Allowed {
		return silent{}
	}
	return nil
}
