package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/talosprotocol/talos/anchor"
	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/node"
	"github.com/talosprotocol/talos/node/api"
	"github.com/talosprotocol/talos/node/evidence"
)

func (a *app) auditCmd() *cobra.Command {
	c := &cobra.Command{Use: "audit", Short: "The audit log: list, prove, verify"}
	c.AddCommand(a.auditListCmd(), a.auditTailCmd(), a.auditProveCmd(), a.auditVerifyCmd(), a.auditCrossCmd(), a.auditEvidenceCmd())
	return c
}

func (a *app) printEvents(w io.Writer, es []api.Event) {
	for _, e := range es {
		var ev contracts.AuditEvent
		if json.Unmarshal(e.Event, &ev) != nil || ev.Type == "" {
			fmt.Fprintf(w, "%d\t(erased)\t\t\t\t\n", e.Index)
			continue
		}
		seq := ""
		if ev.SenderSeq != nil {
			seq = "#" + strconv.FormatInt(*ev.SenderSeq, 10)
		}
		fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\t%s\t%s\n", e.Index, ev.Time, ev.Type, ev.Surface, ev.Peer, seq, strings.TrimSpace(ev.Outcome+" "+ev.Code))
	}
}

func (a *app) auditListCmd() *cobra.Command {
	var after uint64
	var limit int
	c := &cobra.Command{Use: "list", Short: "List events", Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
		es, err := a.client().Events(c.Context(), after, limit, false)
		if err != nil {
			return err
		}
		return a.print(es, func() {
			w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "INDEX\tTIME\tTYPE\tSURFACE\tPEER\tFRAME\tOUTCOME")
			a.printEvents(w, es.Events)
			_ = w.Flush()
			if es.Next < es.Size {
				fmt.Fprintf(a.out, "%d more: talos audit list --after %d\n", es.Size-es.Next, es.Next)
			}
		})
	}}
	c.Flags().Uint64Var(&after, "after", 0, "begin after this many events")
	c.Flags().IntVar(&limit, "limit", 100, "at most this many")
	return c
}

func (a *app) auditTailCmd() *cobra.Command {
	var n int
	c := &cobra.Command{Use: "tail", Short: "Print the last events, and new ones as they come", Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
		cl := a.client()
		es, err := cl.Events(c.Context(), 0, n, true)
		for err == nil {
			if a.json {
				for _, e := range es.Events {
					_ = json.NewEncoder(a.out).Encode(e)
				}
			} else {
				w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
				a.printEvents(w, es.Events)
				_ = w.Flush()
			}
			select {
			case <-c.Context().Done():
				return nil
			case <-time.After(500 * time.Millisecond):
			}
			es, err = cl.Events(c.Context(), es.Next, 1000, false)
		}
		if c.Context().Err() != nil {
			return nil
		}
		return err
	}}
	c.Flags().IntVarP(&n, "lines", "n", 10, "begin with this many")
	return c
}

func (a *app) auditProveCmd() *cobra.Command {
	var sealed bool
	c := &cobra.Command{
		Use: "prove <index>", Short: "Print the proof bundle of an event", Args: cobra.ExactArgs(1),
		Long: `Prints one JSON file that proves, offline and to anybody, that the event is in this
node's log under a head that anchors have cosigned. With --sealed the event itself
stays hidden and only its commitment is shown.`,
		RunE: func(c *cobra.Command, args []string) error {
			i, err := strconv.ParseUint(args[0], 10, 62)
			if err != nil {
				return contracts.Errorf(contracts.Malformed, "%q is no index; talos audit list shows them", args[0])
			}
			b, err := a.client().Prove(c.Context(), i, sealed)
			if err != nil {
				return err
			}
			_, err = a.out.Write(b)
			return err
		},
	}
	c.Flags().BoolVar(&sealed, "sealed", false, "leave event and salt out")
	return c
}

func (a *app) auditVerifyCmd() *cobra.Command {
	var trust []string
	var quorum, faults int
	var chains chainTrust
	c := &cobra.Command{
		Use: "verify <file | ->", Short: "Verify a proof bundle or evidence, without any node", Args: cobra.ExactArgs(1),
		Long: `Verifies a bundle of "audit prove", or evidence of "audit evidence", offline. Name
the anchors that you trust with --trust did=organisation, once for each; without it
the anchors that the bundle itself names are counted, which proves no more than that
somebody runs them.

A bundle may show more: that the head is in epochs of anchors, and on chains. Of each
such receipt the answer is valid, invalid, or cannot tell, and why. For those of a
chain give the hash of the block that it names from where you trust it (--block), or
an endpoint to ask (--rpc).`,
		RunE: func(_ *cobra.Command, args []string) error {
			b, err := readInput(args[0])
			if err != nil {
				return err
			}
			if _, err := contracts.DecodeEvidenceMessage(b); err == nil {
				return a.verifyEvidence(b)
			}
			p := anchor.Policy{Quorum: quorum, Faults: faults}
			for _, t := range trust {
				did, org, _ := strings.Cut(t, "=")
				if org == "" {
					org = did
				}
				p.Witnesses = append(p.Witnesses, anchor.PolicyWitness{Name: did, Organisation: org})
			}
			if p.Quorum == 0 {
				p.Quorum = len(p.Witnesses)/2 + 1
			}
			judges, err := chains.verifiers()
			if err != nil {
				return err
			}
			v, own := evidence.VerifyBundleWith(b, p, time.Now(), judges)
			return a.printVerdict(v, own)
		},
	}
	c.Flags().StringSliceVar(&trust, "trust", nil, "an anchor that you trust: did=organisation")
	c.Flags().IntVar(&quorum, "quorum", 0, "how many organisations must have cosigned (default: more than half of those trusted)")
	c.Flags().IntVar(&faults, "faults", 0, "how many organisations may lie")
	chains.flags(c)
	return c
}

func readInput(name string) ([]byte, error) {
	var r io.Reader = os.Stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, contracts.Errorf(contracts.NotFound, "%w", err)
		}
		defer f.Close() //nolint:errcheck // read only
		r = f
	}
	b, err := io.ReadAll(io.LimitReader(r, 1<<20))
	if err != nil {
		return nil, contracts.Errorf(contracts.Unavailable, "%w", err)
	}
	return b, nil
}

func (a *app) verifyEvidence(b []byte) error {
	c, _, err := evidence.VerifyMessage(b)
	if err != nil {
		return contracts.Errorf(contracts.CodeOf(err), "the evidence does not convict: %w", err)
	}
	return a.print(c, func() {
		fmt.Fprintf(a.out, "CONVICTED (type %s)\nlog      %s\nit signed two histories; heads of at most %d events may be common to both\n", c.Type, c.Origin, c.Below)
	})
}

func (a *app) printVerdict(v *anchor.Verdict, own bool) error {
	valid := v.Level >= anchor.Signed
	out := map[string]any{
		"valid": valid, "outcome": v.Outcome(), "anchorings": receiptsOf(v), "level": v.Level.String(), "code": v.Code, "problems": v.Problems, "origin": v.Origin, "index": v.Index, "size": v.Size,
		"event": v.Event, "organisations_seen": v.Seen, "organisations": v.Organisations, "quorum": v.Quorum, "quorum_met": v.QuorumMet(),
		"not_before": v.NotBefore, "not_after": v.NotAfter, "anchors_from_bundle": own,
	}
	err := a.print(out, func() {
		if !valid {
			if v.Outcome() == anchor.CannotTell {
				fmt.Fprintf(a.out, "CANNOT TELL %s\n", v.Code)
			} else {
				fmt.Fprintf(a.out, "%s %s\n", v.Level, v.Code)
			}
			for _, p := range v.Problems {
				fmt.Fprintf(a.out, "  %s\n", p)
			}
			return
		}
		w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
		fmt.Fprintf(w, "valid\t%s\n", v)
		fmt.Fprintf(w, "log\t%s\nentry\t%d of %d\n", v.Origin, v.Index, v.Size)
		if v.Event != nil {
			fmt.Fprintf(w, "event\t%s at %s\n", v.Event.Type, v.Event.Time)
			if v.Event.Peer != "" {
				fmt.Fprintf(w, "peer\t%s\n", v.Event.Peer)
			}
			if v.Event.CiphertextHash != "" {
				fmt.Fprintf(w, "frame\t%d, ciphertext %s\n", *v.Event.SenderSeq, v.Event.CiphertextHash)
			}
		}
		if !v.NotBefore.IsZero() {
			fmt.Fprintf(w, "entered\tbetween %s and %s\n", v.NotBefore.Format(time.RFC3339), v.NotAfter.Format(time.RFC3339))
		} else {
			fmt.Fprintf(w, "entered\tbefore %s\n", v.NotAfter.Format(time.RFC3339))
		}
		for _, r := range v.Anchorings {
			fmt.Fprintf(w, "%s\t%s: %s; epoch %d of %s\n", r.Driver, r.Outcome, r.Why, r.Epoch, r.Anchor)
		}
		for _, p := range v.Problems {
			if !strings.HasPrefix(p, "receipt of ") {
				fmt.Fprintf(w, "note\t%s\n", p)
			}
		}
		if own {
			fmt.Fprintf(w, "trust\tthe anchors are those that the file names; choose your own with --trust\n")
		}
		_ = w.Flush()
	})
	if err == nil && !valid {
		return silent{}
	}
	return err
}

// receiptsOf gives what came of each receipt, for programs.
func receiptsOf(v *anchor.Verdict) []map[string]any {
	out := []map[string]any{}
	for _, r := range v.Anchorings {
		m := map[string]any{"anchor": r.Anchor, "epoch": r.Epoch, "size": r.Size, "driver": r.Driver, "chain": r.Chain, "outcome": r.Outcome, "because": r.Why}
		if !r.Existed.IsZero() {
			m["existed"] = r.Existed
		}
		out = append(out, m)
	}
	return out
}

func (a *app) auditEvidenceCmd() *cobra.Command {
	return &cobra.Command{Use: "evidence [origin]", Short: "Logs that were convicted of two histories; with an origin, the evidence itself", Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			m, err := a.client().Evidence(c.Context())
			if err != nil {
				return err
			}
			if len(args) == 1 {
				b, ok := m[args[0]]
				if !ok {
					return contracts.Errorf(contracts.NotFound, "no evidence against %s", args[0])
				}
				_, err := a.out.Write(b)
				return err
			}
			return a.print(m, func() {
				for origin := range m {
					fmt.Fprintln(a.out, origin)
				}
				if len(m) == 0 {
					fmt.Fprintln(a.out, "none: no log that this node knows of was caught with two histories")
				}
			})
		}}
}

func (a *app) keyCmd() *cobra.Command {
	var recovery string
	c := &cobra.Command{Use: "key", Short: "Rotate, recover or end the DID of this home"}
	c.PersistentFlags().StringVar(&recovery, "recovery", "", "folder with recovery.sealed and recovery.kek (default: the home)")
	change := func(use, short, long string, compromised, end bool) *cobra.Command {
		return &cobra.Command{Use: use, Short: short, Long: long, Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
			return a.changeKeys(c, recovery, compromised, end)
		}}
	}
	c.AddCommand(
		change("rotate", "Make the recovery key the control key, and a new recovery key", "Routine: what earlier keys signed stays valid. Sessions go on; new ones use new keys.", false, false),
		change("recover", "Rotate after a theft: voids what the stolen keys signed", "The control key, the host key and the log key are replaced; a new audit log begins. Stop the node first.", true, false),
		change("deactivate", "End the DID for ever", "The DID is reported as deactivated by everybody from then on. This cannot be undone.", false, true),
	)
	return c
}

// changeKeys goes through the running node; without one it changes the home, and the
// next start publishes.
func (a *app) changeKeys(c *cobra.Command, recovery string, compromised, end bool) error {
	cl := a.client()
	_, err := cl.Status(c.Context())
	running := err == nil
	if running && compromised {
		return contracts.Errorf(contracts.Conflict, "stop the node first: recovery replaces its host key and its audit log")
	}
	var version string
	if running {
		var st api.Status
		if end {
			st, err = cl.Deactivate(c.Context(), recovery)
		} else {
			st, err = cl.RotateKeys(c.Context(), recovery, false)
		}
		version = st.State
	} else {
		var h *node.Home
		if h, err = node.OpenHome(a.home); err != nil {
			return err
		}
		if end {
			err = h.Deactivate(recovery, time.Now())
		} else {
			err = h.Rotate(recovery, compromised, time.Now())
		}
		version = h.State.Version()
	}
	if err != nil {
		return err
	}
	return a.print(map[string]any{"version": version, "published": running}, func() {
		fmt.Fprintf(a.out, "state %s\n", version)
		if !running {
			fmt.Fprintf(a.out, "it is published when the node starts: talos up%s\n", a.homeFlag())
		}
		if !end {
			fmt.Fprintln(a.out, "there is a new recovery key: move recovery.sealed and recovery.kek to a safe place")
		}
	})
}
