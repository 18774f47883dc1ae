package main

import (
	"fmt"
	"io"
	"os"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
	"github.com/talosprotocol/talos/node/receipt"
)

func (a *app) receiptCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "receipt", Short: "The receipts of calls, signed by both sides",
		Long: `A gateway signs for each call what was asked, answered and used, as salted hashes; the
caller checks it and signs it too, and both keep it for 30 days. A file of receipts is all
that a stranger needs to check them.`,
		Example: `  talos receipt list
  talos receipt export --limit 1000 > receipts.json
  talos receipt verify receipts.json      needs no node`,
	}
	c.AddCommand(a.receiptListCmd(), a.receiptExportCmd(), a.receiptVerifyCmd())
	return c
}

type receiptFlags struct {
	side, before string
	limit        int
}

func (f *receiptFlags) on(c *cobra.Command, limit int) *cobra.Command {
	c.Flags().StringVar(&f.side, "side", "", "only those of calls that this node made (caller), or did for others (executor)")
	c.Flags().StringVar(&f.before, "before", "", "only those of calls before this id")
	c.Flags().IntVar(&f.limit, "limit", limit, "how many at most")
	return c
}

func (a *app) receiptListCmd() *cobra.Command {
	var f receiptFlags
	var disputed bool
	c := f.on(&cobra.Command{Use: "list", Short: "List receipts, the newest first", Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
		all, err := a.client().Receipts(c.Context(), f.side, f.before, f.limit)
		if err != nil {
			return err
		}
		if disputed {
			rest := []contracts.KeptReceipt{}
			for _, k := range all {
				if k.Disputed != "" {
					rest = append(rest, k)
				}
			}
			all = rest
		}
		return a.print(all, func() { a.printReceipts(all) })
	}}, 50)
	c.Flags().BoolVar(&disputed, "disputed", false, "of those only the ones that this node does not agree with")
	return c
}

func (a *app) printReceipts(all []contracts.KeptReceipt) {
	if len(all) == 0 {
		fmt.Fprintln(a.out, "no receipts: none of a call of another node, or by one, within 30 days")
		return
	}
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "CALL\tAT\tWITH\tWHAT\tOUTCOME\tIN\tOUT\tµUSD\tSIGNED BY")
	for _, k := range all {
		r := &k.Receipt
		with, signed := r.Executor, "executor"
		if k.Side == receipt.Executor {
			with = r.Caller
		}
		switch {
		case k.Disputed != "":
			signed = "executor; disputed: " + k.Disputed
		case k.Countersignature != "":
			signed = "both"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s %s\t%s\t%d\t%d\t%d\t%s\n", r.Call, r.At, identity.DID(with).Short(), r.Surface, r.Service, r.Outcome, orZero(r.UnitsIn), orZero(r.UnitsOut), orZero(r.CostMicro), signed)
	}
	_ = w.Flush()
}

func (a *app) receiptExportCmd() *cobra.Command {
	var f receiptFlags
	return f.on(&cobra.Command{Use: "export", Short: "Print receipts as a file that a stranger can check", Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
		b, err := a.client().ReceiptFile(c.Context(), f.side, f.before, f.limit)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(a.out, "%s\n", b)
		return err
	}}, 1000)
}

func (a *app) receiptVerifyCmd() *cobra.Command {
	return &cobra.Command{Use: "verify <file | ->", Short: "Check the signatures of a file of receipts; no node is needed", Args: cobra.ExactArgs(1), RunE: func(_ *cobra.Command, args []string) error {
		in := io.Reader(os.Stdin)
		if args[0] != "-" {
			file, err := os.Open(args[0])
			if err != nil {
				return contracts.Errorf(contracts.NotFound, "%w", err)
			}
			defer file.Close() //nolint:errcheck // read
			in = file
		}
		b, err := io.ReadAll(io.LimitReader(in, 256<<20))
		if err != nil {
			return contracts.Errorf(contracts.Unavailable, "%w", err)
		}
		f, err := contracts.ParseReceiptFile(b)
		if err != nil {
			return err
		}
		both, err := receipt.VerifyFile(f)
		if err != nil {
			return err
		}
		return a.print(map[string]int{"receipts": len(f.Receipts), "countersigned": both}, func() {
			fmt.Fprintf(a.out, "valid: %d receipts, %d of them signed by both sides\n", len(f.Receipts), both)
		})
	}}
}

func orZero(n *int64) int64 {
	if n == nil {
		return 0
	}
	return *n
}
