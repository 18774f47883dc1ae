package main

import (
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/talosprotocol/talos/anchor"
	"github.com/talosprotocol/talos/anchor/chain/ethereum"
	"github.com/talosprotocol/talos/anchor/chain/evm"
	"github.com/talosprotocol/talos/anchor/chain/opentimestamps"
	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/node/evidence"
)

func (a *app) anchorCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "anchor", Short: "An anchor's epochs, and the chains that its log goes to",
		Long: `Shows what an anchor does with the heads that it has cosigned: it takes them into an
epoch once a minute, which is an entry of its own log, and puts that log before the
other anchors and onto the chains of "anchor_chains" in its config.json.`,
	}
	c.AddCommand(
		a.anchorView("status", "Where each chain stands", 1, func(w *tabwriter.Writer, s *evidence.AnchorStatus) {
			fmt.Fprintln(w, "DRIVER\tCHAIN\tRECEIPT FOR SIZE\tUNDER WAY\tSINCE\tHOW IT STANDS")
			for _, i := range s.Chains {
				since, note := "", i.Note
				if !i.Since.IsZero() {
					since = i.Since.Local().Format(time.DateTime)
				}
				if i.Failing != "" {
					note = "failing, and tried again: " + i.Failing
				}
				fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%s\t%s\n", i.Driver, i.Chain, i.Newest, i.Pending, since, note)
			}
		}),
		a.anchorView("epochs", "The newest epochs", 20, func(w *tabwriter.Writer, s *evidence.AnchorStatus) {
			fmt.Fprintln(w, "EPOCH\tTIME\tLOGS\tENTRY\tROOT")
			for _, e := range s.Epochs {
				fmt.Fprintf(w, "%d\t%s\t%d\t%d\t%s\n", e.Number, e.Time.Format(time.RFC3339), e.Count, e.Entry, e.Root)
			}
		}),
		a.anchorView("receipts", "The newest receipts of each chain", 20, func(w *tabwriter.Writer, s *evidence.AnchorStatus) {
			fmt.Fprintln(w, "DRIVER\tCHAIN\tSIZE\tROOT\tBYTES")
			for _, r := range s.Receipts {
				fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%d\n", r.Driver, r.Chain, r.Size, r.Root, r.Bytes)
			}
		}),
	)
	return c
}

func (a *app) anchorView(use, short string, limit int, show func(*tabwriter.Writer, *evidence.AnchorStatus)) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
		var s evidence.AnchorStatus
		if err := a.client().Anchoring(c.Context(), limit, &s); err != nil {
			return err
		}
		return a.print(s, func() {
			w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
			show(w, &s)
			_ = w.Flush()
		})
	}}
	c.Flags().IntVar(&limit, "limit", limit, "at most this many")
	return c
}

// chainTrust is what an auditor brings of chains, as flags.
type chainTrust struct {
	blocks, rpc   []string
	confirmations uint64
}

func (t *chainTrust) flags(c *cobra.Command) {
	f := c.Flags()
	f.StringArrayVar(&t.blocks, "block", nil, "a block that you trust: eip155:<chain id>/<height>=0x<hash>, or bitcoin/<height>=<header in hexadecimal>")
	f.StringArrayVar(&t.rpc, "rpc", nil, "an endpoint to ask for blocks: eip155:<chain id>=<url> or bitcoin=<url>; several of one chain must agree")
	f.Uint64Var(&t.confirmations, "confirmations", 0, "how many blocks above make a block final (default: what the endpoint calls final)")
}

// verifiers makes the judges of receipts.
func (t *chainTrust) verifiers() (map[string]anchor.ReceiptVerifier, error) {
	eth := &ethereum.Verifier{Blocks: map[string]map[uint64]evm.Hash{}, Endpoints: map[string][]*ethereum.Client{}, Confirmations: t.confirmations}
	ots := &opentimestamps.Verifier{Headers: map[uint64]opentimestamps.Header{}}
	for _, text := range t.blocks {
		where, hash, _ := strings.Cut(text, "=")
		name, height, _ := strings.Cut(where, "/")
		if name == opentimestamps.Chain {
			n, h, err := opentimestamps.ParseTrusted(height, hash)
			if err != nil {
				return nil, err
			}
			ots.Headers[n] = h
			continue
		}
		if err := trustBlock(eth, name, height, hash); err != nil {
			return nil, err
		}
	}
	for _, text := range t.rpc {
		name, url, ok := strings.Cut(text, "=")
		if name == opentimestamps.Chain && ok {
			ots.Node = &opentimestamps.Node{URL: url}
			continue
		}
		if _, err := ethereum.ParseChain(name); err != nil || !ok {
			return nil, contracts.Errorf(contracts.Malformed, "--rpc %.80q: want eip155:<chain id>=<url> or bitcoin=<url>", text)
		}
		eth.Endpoints[name] = append(eth.Endpoints[name], ethereum.NewClient([]string{url}, nil))
	}
	return map[string]anchor.ReceiptVerifier{ethereum.Name: eth, opentimestamps.Name: ots}, nil
}

func trustBlock(v *ethereum.Verifier, name, height, hash string) error {
	var n uint64
	var h []byte
	_, err := ethereum.ParseChain(name)
	if err == nil {
		_, err = fmt.Sscanf(height, "%d", &n)
	}
	if err == nil {
		_, err = fmt.Sscanf(strings.TrimPrefix(hash, "0x"), "%x", &h)
	}
	if err != nil || len(h) != 32 {
		return contracts.Errorf(contracts.Malformed, "--block %.40s/%.20s: want eip155:<chain id>/<height>=0x<hash>", name, height)
	}
	if v.Blocks[name] == nil {
		v.Blocks[name] = map[uint64]evm.Hash{}
	}
	v.Blocks[name][n] = evm.Hash(h)
	return nil
}
