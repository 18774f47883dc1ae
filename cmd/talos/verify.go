package main

import (
	"context"
	"fmt"
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

func (a *app) capVerifyCmd() *cobra.Command {
	var states, roots []string
	c := &cobra.Command{
		Use: "verify <capability | file | ->", Short: "Check who signed a capability, and that no link gives more than the one before it", Args: cobra.ExactArgs(1),
		Long: `Checks form, times, signatures and delegation of a capability. The keys of its issuers
are those of --state files (a node's identity.json, or what "talos resolve --state" has
printed); for issuers that no file names the running node is asked. With files for all
of them, and for did:key issuers, no node is needed.

The first issuer must be the node where the capability counts, or a --root. Whether it
was taken back since, only that node knows: ask it with "talos cap explain".`,
		RunE: func(c *cobra.Command, args []string) error {
			text, err := chainArg(args[0])
			if err != nil {
				return err
			}
			return a.verifyChain(c.Context(), text, states, roots)
		},
	}
	c.Flags().StringArrayVar(&states, "state", nil, "a file with the signed state record of an issuer; may be given several times")
	c.Flags().StringArrayVar(&roots, "root", nil, "a DID that is believed as a first issuer, beside the executing node; may be given several times")
	return c
}

// verifyChain verifies with states of files, and of the node for those that are missing.
func (a *app) verifyChain(ctx context.Context, text string, states, roots []string) error {
	issuers, err := readIssuers(states)
	if err != nil {
		return err
	}
	ch, err := authority.ParseChain(text)
	if err != nil {
		return err
	}
	v := &capability.Verifier{Executor: identity.DID(ch.Leaf().Aud), Roots: map[identity.DID][]capability.Kind{}, Resolve: func(did identity.DID) (*capability.Issuer, error) {
		if i := issuers[did]; i != nil {
			return i, nil
		}
		raw, err := a.client().State(ctx, string(did))
		if err != nil {
			return nil, err
		}
		s, err := identity.VerifyState(raw)
		if err != nil {
			return nil, err
		}
		return capability.NewIssuer(s)
	}}
	for _, r := range roots {
		did, err := identity.ParseDID(r)
		if err != nil {
			return err
		}
		v.Roots[did] = []capability.Kind{capability.Agent, capability.Model, capability.Node, capability.Tool, capability.Topic}
	}
	holder, err := capability.NewHolder(identity.DID(ch.Leaf().Sub), capability.Channel)
	if err != nil {
		return err
	}
	// Revocation is the last check of a chain, and is not asked here: that it comes to
	// it means that all others have passed.
	if _, err = v.Verify([]byte(text), holder, time.Now()); contracts.CodeOf(err) != contracts.RevocationStale {
		return err
	}
	leaf := ch.Leaf()
	return a.print(map[string]any{"ok": true, "id": "cap:" + leaf.ID.String(), "subject": leaf.Sub, "executor": leaf.Aud, "scopes": leaf.Scp, "revocation": "not asked"}, func() {
		fmt.Fprintf(a.out, "verified: %d of %d signatures, and no link gives more than the one before it\n", len(ch.Tokens), len(ch.Tokens))
		fmt.Fprintf(a.out, "%s may, at %s, until %s:\n", leaf.Sub, leaf.Aud, time.Unix(leaf.Exp, 0).Local().Format(time.DateTime))
		for _, s := range leaf.Scp {
			fmt.Fprintf(a.out, "  %s\n", s)
		}
		fmt.Fprintln(a.out, "not asked: whether it was taken back; the executing node knows (talos cap explain)")
	})
}

// readIssuers reads the files of --state.
func readIssuers(files []string) (map[identity.DID]*capability.Issuer, error) {
	issuers := map[identity.DID]*capability.Issuer{}
	for _, path := range files {
		b, err := os.ReadFile(path)
		if err != nil {
			return nil, contracts.Errorf(contracts.NotFound, "%w", err)
		}
		s, err := identity.VerifyState([]byte(strings.TrimSpace(string(b))))
		if err != nil {
			return nil, contracts.Errorf(contracts.CodeOf(err), "%s: %w", path, err)
		}
		if issuers[s.DID], err = capability.NewIssuer(s); err != nil {
			return nil, err
		}
	}
	return issuers, nil
}

func (a *app) capExportCmd() *cobra.Command {
	var qr bool
	c := &cobra.Command{
		Use: "export <id>", Short: "Print a capability that this node holds or has given, to pass on", Args: cobra.ExactArgs(1),
		Long: `Prints the text of a capability: for a file, a message, or with --qr for a QR code
(talos cap export --qr <id> | qrencode -t ansiutf8). It is no secret; only the DID
that it names can use it. "talos cap import" takes both forms.`,
		RunE: func(c *cobra.Command, args []string) error {
			v, err := a.client().Capabilities(c.Context())
			if err != nil {
				return err
			}
			for _, t := range append(v.Held, v.Given...) {
				if t.ID != args[0] && strings.TrimPrefix(t.ID, "cap:") != args[0] {
					continue
				}
				text := t.Chain
				if qr {
					if text, err = capability.ChainURI(text); err != nil {
						return err
					}
				}
				return a.print(map[string]string{"id": t.ID, "text": text}, func() { fmt.Fprintln(a.out, text) })
			}
			return contracts.Errorf(contracts.NotFound, "this node neither holds nor has given %.60q; talos cap list", args[0])
		},
	}
	c.Flags().BoolVar(&qr, "qr", false, "in upper-case letters and digits, which QR codes hold best")
	return c
}

func (a *app) limitsCmd() *cobra.Command {
	var all bool
	c := &cobra.Command{
		Use: "limits", Short: "How often what may be done here, and who is near a limit", Args: cobra.NoArgs,
		Long: `Shows the surfaces that have a limit for each caller: so many at once, and then one
each so often; and the callers who have used some of it lately. What a capability may
still do is counted for it alone: talos budget, talos cap explain.`,
		RunE: func(c *cobra.Command, _ []string) error {
			list, err := a.client().Limits(c.Context())
			if err != nil {
				return err
			}
			return a.print(list, func() { a.printLimits(list, all) })
		},
	}
	c.Flags().BoolVar(&all, "all", false, "also surfaces that nobody has used lately")
	return c
}

func (a *app) printLimits(list []api.Limit, all bool) {
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	defer w.Flush() //nolint:errcheck // to the terminal
	fmt.Fprintln(w, "SURFACE\tAT ONCE\tTHEN ONE EVERY\tCALLER\tLEFT")
	quiet := 0
	for _, l := range list {
		every := time.Duration(l.EveryMS) * time.Millisecond
		for _, c := range l.Callers {
			fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%d\n", l.Surface, l.Burst, every, c.Subject, c.Left)
		}
		if len(l.Callers) == 0 {
			if quiet++; all {
				fmt.Fprintf(w, "%s\t%d\t%s\t–\t%d\n", l.Surface, l.Burst, every, l.Burst)
			}
		}
	}
	if quiet > 0 && !all {
		fmt.Fprintf(w, "%d more, of which nobody has used any lately (--all)\t\t\t\t\n", quiet)
	}
}
