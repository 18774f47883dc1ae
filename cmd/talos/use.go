package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/node"
	"github.com/talosprotocol/talos/node/api"
)

func (a *app) statusCmd() *cobra.Command {
	return &cobra.Command{Use: "status", Short: "How the node is", Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
		st, err := a.client().Status(c.Context())
		if err != nil {
			return err
		}
		return a.print(st, func() { a.printStatus(st) })
	}}
}

func (a *app) printStatus(st api.Status) {
	health := "ready"
	if !st.Ready {
		health = "not ready: " + strings.Join(st.NotReady, "; ")
	}
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	defer w.Flush() //nolint:errcheck // the terminal
	fmt.Fprintf(w, "health\t%s\ndid\t%s\nroles\t%s\nnetwork\t%s\nstate\t%s, published %s (%d acknowledgements)\n", health, st.DID, strings.Join(st.Roles, ", "), st.Network, st.State, none(st.Published), st.Acks)
	fmt.Fprintf(w, "strangers\tmay %s\n", map[bool]string{true: "send messages", false: "only ask for a capability"}[st.Strangers == "message"])
	fmt.Fprintf(w, "peers\t%d connected, %d in the routing table, %d of %d kept peers reached\n", st.Peers, st.Table, st.Reached, st.Bootstraps)
	fmt.Fprintf(w, "sessions\t%d\naudit log\t%d events, %d of them cosigned by %d anchors\n", st.Sessions, st.AuditSize, st.Witnessed, st.Cosigners)
	if st.Evidence > 0 {
		fmt.Fprintf(w, "evidence\t%d logs are convicted of two histories: talos audit evidence\n", st.Evidence)
	}
	fmt.Fprintf(w, "up\t%s, version %s\n", time.Since(st.Started).Round(time.Second), st.Version)
}

func none(s string) string {
	if s == "" {
		return "never"
	}
	return s
}

func (a *app) idCmd() *cobra.Command {
	return &cobra.Command{Use: "id", Short: "The DID of this home, and its document", Args: cobra.NoArgs, RunE: func(*cobra.Command, []string) error {
		h, err := node.OpenHome(a.home)
		if err != nil {
			return err
		}
		v := map[string]any{"did": h.DID(), "version": h.State.Version(), "deactivated": h.State.Deactivated()}
		if h.State.Doc != nil {
			v["document"] = json.RawMessage(h.State.Doc.Raw.AppendCanonical(nil))
		}
		return a.print(v, func() { fmt.Fprintln(a.out, h.DID()) })
	}}
}

func (a *app) resolveCmd() *cobra.Command {
	var fresh, state bool
	c := &cobra.Command{Use: "resolve <did>", Short: "Find the document of a DID", Args: cobra.ExactArgs(1), RunE: func(c *cobra.Command, args []string) error {
		if state {
			raw, err := a.client().State(c.Context(), args[0])
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(a.out, "%s\n", raw) // as it was signed, for people and programs
			return err
		}
		r, err := a.client().Resolve(c.Context(), args[0], fresh)
		if err != nil {
			return err
		}
		return a.print(r, func() {
			var pretty any
			_ = json.Unmarshal(r.Document, &pretty) // from our own node
			b, _ := json.MarshalIndent(pretty, "", "  ")
			fmt.Fprintf(a.out, "%s\n\nversion %s, from %s%s\n", b, none(r.Metadata.VersionID), r.Resolution.Source, map[bool]string{true: ", stale"}[r.Resolution.Stale])
		})
	}}
	c.Flags().BoolVar(&state, "state", false, "print the signed state record: key log and document, as talos cap verify --state takes it")
	c.Flags().BoolVar(&fresh, "fresh", false, "ask the network even if the answer is known")
	return c
}

func (a *app) peersCmd() *cobra.Command {
	return &cobra.Command{Use: "peers", Short: "The connected peers", Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
		ps, err := a.client().Peers(c.Context())
		if err != nil {
			return err
		}
		return a.print(ps, func() {
			w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "PEER\tDID\tDIRECTION\tLATENCY\tADDRESS")
			for _, p := range ps {
				fmt.Fprintf(w, "%s\t%s\t%s\t%d ms\t%s\n", p.ID, none(p.DID), p.Direction, p.LatencyMS, p.Address)
			}
			_ = w.Flush()
		})
	}}
}

func (a *app) sendCmd() *cobra.Command {
	var wait time.Duration
	cmd := &cobra.Command{
		Use: "send <did> <text | ->", Short: "Send a message to another agent", Args: cobra.ExactArgs(2),
		Long: `Sends a message. When it returns, the message is durable in this node and will be
delivered exactly once, in order. With --wait it also waits, up to that long, until the
other node has it. "-" reads the text from standard input.`,
		RunE: func(c *cobra.Command, args []string) error {
			text := args[1]
			if text == "-" {
				b, err := io.ReadAll(io.LimitReader(os.Stdin, 61441))
				if err != nil {
					return err
				}
				text = string(b)
			}
			s, err := a.client().SendWait(c.Context(), args[0], text, wait)
			if contracts.CodeOf(err) == contracts.NoCapability {
				return contracts.Errorf(contracts.NoCapability, "that agent takes messages with a capability only; ask its owner for one:\n  talos cap request%s %s --scope agent:%s/method:send --why \"…\"", a.homeFlag(), args[0], args[0])
			}
			if err != nil {
				return err
			}
			return a.print(s, func() {
				state := "accepted "
				if s.Delivered {
					state = "delivered"
				}
				fmt.Fprintf(a.out, "%s session %s  frame %d  ciphertext %s\n", state, s.SessionID, s.SenderSeq, s.CiphertextHash)
			})
		},
	}
	cmd.Flags().DurationVar(&wait, "wait", 0, "how long to wait for delivery, up to 60s")
	return cmd
}

func (a *app) listenCmd() *cobra.Command {
	var after uint64
	var n int
	var keep bool
	c := &cobra.Command{
		Use: "listen", Short: "Print messages as they arrive", Args: cobra.NoArgs,
		Long: `Prints messages and acknowledges them, so that each is shown once. With --keep they
stay in the inbox.`,
		RunE: func(c *cobra.Command, _ []string) error {
			cl, shown := a.client(), 0
			for c.Context().Err() == nil && (n == 0 || shown < n) {
				msgs, err := cl.Inbox(c.Context(), after, 30*time.Second)
				if err != nil {
					if errors.Is(c.Context().Err(), context.Canceled) {
						return nil
					}
					return err
				}
				for _, m := range msgs {
					if n > 0 && shown == n {
						break
					}
					if err := a.print(m, func() {
						fmt.Fprintf(a.out, "%s  %s  #%d  %s\n", m.Received.Local().Format("15:04:05"), m.SenderID, m.SenderSeq, printable(m))
					}); err != nil {
						return err
					}
					after, shown = m.Index, shown+1
				}
				if len(msgs) > 0 && !keep {
					if err := cl.Acknowledge(c.Context(), after); err != nil {
						return err
					}
				}
			}
			return nil
		},
	}
	c.Flags().Uint64Var(&after, "after", 0, "only messages after this index")
	c.Flags().IntVarP(&n, "count", "n", 0, "end after this many messages")
	c.Flags().BoolVar(&keep, "keep", false, "leave the messages in the inbox")
	return c
}

// printable keeps a peer's control characters from the terminal.
func printable(m api.Message) string {
	if m.Body != "" {
		return "(binary, base64url) " + m.Body
	}
	return strings.Map(func(r rune) rune {
		if r < 0x20 && r != '\t' || r == 0x7f || (r >= 0x80 && r < 0xa0) {
			return '\ufffd'
		}
		return r
	}, m.Text)
}

func (a *app) sessionCmd() *cobra.Command {
	c := &cobra.Command{Use: "session", Short: "The encrypted sessions with other agents"}
	c.AddCommand(
		&cobra.Command{Use: "list", Short: "List sessions", Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
			list, err := a.client().Sessions(c.Context())
			if err != nil {
				return err
			}
			return a.print(list, func() {
				w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
				fmt.Fprintln(w, "SESSION\tPEER\tSTATE\tSENT\tACKNOWLEDGED\tRECEIVED\tSINCE")
				for _, s := range list {
					state := "draining"
					if s.Active {
						state = map[bool]string{true: "active", false: "unconfirmed"}[s.Confirmed]
					}
					fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%d\t%d\t%s\n", s.ID, s.Peer, state, s.Sent, s.Acked, s.Received, s.Created.Local().Format(time.DateTime))
				}
				_ = w.Flush()
			})
		}},
		&cobra.Command{Use: "rotate <did>", Short: "Replace the session with a peer by a fresh handshake", Args: cobra.ExactArgs(1), RunE: func(c *cobra.Command, args []string) error {
			if err := a.client().RotateSession(c.Context(), args[0]); err != nil {
				return err
			}
			return a.print(map[string]bool{"ok": true}, func() { fmt.Fprintln(a.out, "a fresh session is made; the old one drains") })
		}},
		&cobra.Command{Use: "close <did>", Short: "Close the session with a peer", Args: cobra.ExactArgs(1), RunE: func(c *cobra.Command, args []string) error {
			if err := a.client().CloseSession(c.Context(), args[0]); err != nil {
				return err
			}
			return a.print(map[string]bool{"ok": true}, func() { fmt.Fprintln(a.out, "closed; the next message makes a new one") })
		}},
	)
	return c
}

func (a *app) doctorCmd() *cobra.Command {
	return &cobra.Command{
		Use: "doctor", Short: "Say in words what is wrong", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			finds := a.diagnose(c.Context())
			if err := a.print(finds, func() {
				for _, f := range finds {
					mark := map[bool]string{true: "ok ", false: "BAD"}[f.OK]
					fmt.Fprintf(a.out, "%s  %s\n", mark, f.Text)
				}
			}); err != nil {
				return err
			}
			for _, f := range finds {
				if !f.OK {
					return silent{}
				}
			}
			return nil
		},
	}
}

// finding is one line of the doctor.
type finding struct {
	OK   bool   `json:"ok"`
	Text string `json:"text"`
}

func (a *app) diagnose(ctx context.Context) (out []finding) {
	add := func(ok bool, format string, args ...any) {
		out = append(out, finding{ok, fmt.Sprintf(format, args...)})
	}
	h, err := node.OpenHome(a.home)
	if err != nil {
		add(false, "home: %v", err)
		return out
	}
	add(true, "home %s of %s", h.Dir, h.DID())
	if y := time.Now().Year(); y < 2026 || h.State.IssuedAt.After(time.Now().Add(time.Minute)) {
		add(false, "the clock says %s, and this home was signed at %s: set the clock", time.Now().Format(time.RFC3339), h.State.IssuedAt.Format(time.RFC3339))
	} else {
		add(true, "the clock is not behind this home's newest signature")
	}
	if h.State.Deactivated() {
		add(false, "the DID was deactivated; make a new home")
	}
	if len(h.Config.Bootstrap) == 0 && !h.Has("bootstrap") {
		add(false, "no bootstrap is configured: nobody will be found; put an address into config.json")
	}
	if len(h.Config.Anchors) == 0 && h.Has("agent") {
		add(false, "no anchor is configured: the audit log is signed by this node alone, and nobody else can vouch for it")
	}
	st, err := a.client().Status(ctx)
	if contracts.CodeOf(err) == contracts.Unavailable {
		add(false, "no node is running in this home: talos up%s", a.homeFlag())
		return out
	}
	if err != nil {
		add(false, "the node does not answer as it should: %v", err)
		return out
	}
	add(true, "the node runs, version %s", st.Version)
	add(st.Peers > 0 || h.Has("bootstrap"), "%d peers are connected; %d of %d kept peers are reached", st.Peers, st.Reached, st.Bootstraps)
	add(st.PublishErr == "", "state %s, published %s with %d acknowledgements %s", st.State, none(st.Published), st.Acks, st.PublishErr)
	add(st.AuditErr == "", "audit log of %d events, %d cosigned by %d anchors %s", st.AuditSize, st.Witnessed, st.Cosigners, st.AuditErr)
	for _, w := range st.NotReady {
		add(false, "not ready: %s", w)
	}
	return out
}
