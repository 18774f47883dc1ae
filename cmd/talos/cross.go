package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/talosprotocol/talos/anchor"
	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/node/api"
)

func (a *app) auditCrossCmd() *cobra.Command {
	return &cobra.Command{
		Use: "cross <file> <file>", Short: "Compare two agents' logs: messages that only one of them has, without any node", Args: cobra.ExactArgs(2),
		Long: `Compares what two agents have logged of the messages between them. Each file is what
"audit list --json" printed on one side, a page or several one after the other. The
files are believed: "audit prove" and "audit verify" show that an event is in a log.`,
		RunE: func(_ *cobra.Command, args []string) error {
			var logs [2]anchor.LogEvents
			for i, path := range args {
				f, err := os.Open(path)
				if err != nil {
					return contracts.Errorf(contracts.NotFound, "%w", err)
				}
				logs[i], err = readEvents(f)
				_ = f.Close()
				if err != nil {
					return contracts.Errorf(contracts.CodeOf(err), "%s: %w", path, err)
				}
			}
			found := anchor.Cross(logs[0], logs[1])
			err := a.print(found, func() { a.printMismatches(found) })
			if err == nil && len(found) > 0 {
				err = contracts.Errorf(contracts.Conflict, "%d messages are in one of the two logs alone", len(found))
			}
			return err
		},
	}
}

func (a *app) printMismatches(found []anchor.Mismatch) {
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	defer w.Flush() //nolint:errcheck // to the terminal
	for _, m := range found {
		what := "sent, and not in the other log: on its way, or left out"
		if m.Denied {
			what = "received, and not in the other log: left out there, or one of the two lies"
		}
		seq := int64(0)
		if m.Event.SenderSeq != nil {
			seq = *m.Event.SenderSeq
		}
		fmt.Fprintf(w, "%s\t%d\t%s\t#%d\t%s\n", m.Owner, m.Index, m.Event.Time, seq, what)
	}
}

// readEvents reads pages of "audit list --json" of one log.
func readEvents(r io.Reader) (l anchor.LogEvents, err error) {
	origin := ""
	for d := json.NewDecoder(r); ; {
		var page api.Events
		if err := d.Decode(&page); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return l, contracts.Errorf(contracts.Malformed, "it is not what talos audit list --json prints: %w", err)
		}
		if _, err := anchor.ParseOrigin(page.Origin); err != nil || origin != "" && origin != page.Origin {
			return l, contracts.Errorf(contracts.Malformed, "pages of one log are wanted, not of %.80q and %.80q", origin, page.Origin)
		}
		origin = page.Origin
		for _, e := range page.Events {
			if len(e.Event) == 0 || string(e.Event) == "null" {
				continue // erased
			}
			var b bytes.Buffer // as it was before it was printed for people
			if err := json.Compact(&b, e.Event); err != nil {
				return l, contracts.Errorf(contracts.Malformed, "event %d: %w", e.Index, err)
			}
			ev, err := anchor.DecodeEvent(b.Bytes())
			if err != nil {
				return l, contracts.Errorf(contracts.CodeOf(err), "event %d: %w", e.Index, err)
			}
			l.Events = append(l.Events, anchor.IndexedEvent{Index: e.Index, Event: ev})
		}
	}
	if origin == "" {
		return l, contracts.Errorf(contracts.Malformed, "it is empty")
	}
	l.Owner, _, _ = strings.Cut(origin, "/")
	return l, nil
}
