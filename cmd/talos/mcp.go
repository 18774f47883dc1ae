package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/node/api"
)

func (a *app) mcpCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "mcp", Short: "Use MCP servers of other nodes",
		Long: `An MCP client on this machine uses a server on another node, through this one:

  talos find tool                          who offers which servers and tools
  talos mcp connect <did>/<server>         as a program on standard streams, for clients
                                           that start their servers themselves
  talos mcp connect                        the same for all servers together
  http://127.0.0.1:…/mcp/<did>/<server>    as streamable HTTP, with the token of api.token;
                                           /mcp alone is all servers together`,
	}
	c.AddCommand(a.mcpConnectCmd())
	return c
}

// mcpConnectCmd is an MCP server on standard streams, whose requests go to another node.
func (a *app) mcpConnectCmd() *cobra.Command {
	return &cobra.Command{
		Use: "connect [<did>/<server>]", Short: "Be an MCP server on standard streams that stands for one of another node, or for all", Args: cobra.MaximumNArgs(1),
		Long: `Stands for one server of another node, or without an argument for all that this node was
given capabilities for: their tools are then called <server>__<tool>.`,
		RunE: func(c *cobra.Command, args []string) error {
			path := "/mcp"
			if len(args) == 1 {
				did, server, ok := strings.Cut(args[0], "/")
				if !ok || server == "" {
					return contracts.Errorf(contracts.Malformed, "%q is not <did>/<server>; talos find tool lists them", args[0])
				}
				path += "/" + url.PathEscape(did) + "/" + url.PathEscape(server)
			}
			b := &bridge{path: path, client: a.client(), out: a.out, running: map[string]context.CancelFunc{}}
			return b.run(c.Context(), c.InOrStdin())
		},
	}
}

// bridge carries JSON-RPC lines to the node's endpoint and back.
type bridge struct {
	path   string
	client *api.Client

	mu      sync.Mutex // of out and running
	out     io.Writer
	running map[string]context.CancelFunc // by the text of the id
	work    sync.WaitGroup
}

const maxLine = 4 << 20

func (b *bridge) run(ctx context.Context, in io.Reader) error {
	ctx, cancel := context.WithCancel(ctx)
	defer b.end(cancel)
	lines := bufio.NewScanner(in)
	lines.Buffer(make([]byte, 64<<10), maxLine)
	for lines.Scan() {
		if line := bytes.TrimSpace(lines.Bytes()); len(line) > 0 {
			b.take(ctx, bytes.Clone(line))
		}
	}
	return lines.Err()
}

// endWithin is how long requests that run may go on when the input has ended.
const endWithin = 10 * time.Second

// end lets the requests that run come to their end, for a while: what was piped in is
// answered, and a client that is gone keeps nothing alive.
func (b *bridge) end(cancel context.CancelFunc) {
	t := time.AfterFunc(endWithin, cancel)
	defer t.Stop()
	b.work.Wait()
	cancel()
}

// take begins a request, or ends one that nobody wants any more.
func (b *bridge) take(ctx context.Context, line []byte) {
	var m struct {
		ID     json.RawMessage `json:"id"`
		Method string          `json:"method"`
		Params struct {
			RequestID json.RawMessage `json:"requestId"`
		} `json:"params"`
	}
	if err := json.Unmarshal(line, &m); err != nil {
		b.write([]byte(`{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"a line is one JSON-RPC message"}}`))
		return
	}
	if m.Method == "notifications/cancelled" {
		b.mu.Lock()
		defer b.mu.Unlock()
		if cancel := b.running[string(m.Params.RequestID)]; cancel != nil {
			cancel()
		}
		return
	}
	if len(m.ID) == 0 || m.Method == "" {
		return // a notification says nothing to a server that keeps nothing; a response, nobody has asked for
	}
	ctx, cancel := context.WithCancel(ctx)
	b.mu.Lock()
	b.running[string(m.ID)] = cancel
	b.mu.Unlock()
	b.work.Go(func() {
		defer func() {
			cancel()
			b.mu.Lock()
			defer b.mu.Unlock()
			delete(b.running, string(m.ID))
		}()
		if err := b.forward(ctx, line); err != nil && ctx.Err() == nil {
			text, _ := json.Marshal(contracts.Message(err)) // a text: cannot fail
			b.write([]byte(fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"error":{"code":-32000,"message":%s,"data":{"code":%q}}}`, m.ID, text, contracts.CodeOf(err))))
		}
	})
}

func (b *bridge) forward(ctx context.Context, line []byte) error {
	resp, err := b.client.Open(ctx, http.MethodPost, b.path, line)
	if err != nil {
		return err
	}
	defer resp.Body.Close() //nolint:errcheck // read
	if !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/event-stream") {
		out, err := io.ReadAll(resp.Body)
		if err == nil && len(out) > 0 {
			b.write(out)
		}
		return err
	}
	events := bufio.NewReader(resp.Body)
	for {
		l, err := events.ReadBytes('\n')
		if data, ok := bytes.CutPrefix(l, []byte("data: ")); ok {
			b.write(data)
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return contracts.Errorf(contracts.Unavailable, "the node went away: %w", err)
		}
	}
}

// write writes a message as one line.
func (b *bridge) write(m []byte) {
	m = bytes.TrimSpace(bytes.ReplaceAll(bytes.ReplaceAll(m, []byte("\r"), []byte(" ")), []byte("\n"), []byte(" ")))
	b.mu.Lock()
	defer b.mu.Unlock()
	_, _ = b.out.Write(append(m, '\n')) // the client may be gone; then its input ends too
}

func (a *app) exposeMCPCmd() *cobra.Command {
	e := contracts.ToolExposure{}
	var private, shared bool
	var env []string
	c := &cobra.Command{Use: "mcp <name> [-- command args…]", Short: "Offer an MCP server: a program, or a URL", Args: cobra.MinimumNArgs(1),
		Long: `A program is started when it is used, with the environment that is given here and no
other, in a folder of its own; --env NAME=secret:x takes a secret of the keystore.

  talos expose mcp files --read read_file,list_directory -- /usr/bin/node /opt/server.js /data
  talos expose mcp search --url https://mcp.example.org/mcp --key search-token

Tools write, for all that anybody knows, unless they are named as reading.`,
		RunE: func(c *cobra.Command, args []string) error {
			e.Name = args[0]
			if err := commandOf(&e, args[1:], env); err != nil {
				return err
			}
			if private = private || inside(e.URL); private {
				e.Private = &private
			}
			if shared {
				e.Shared = &shared
			}
			running, err := a.changeGateway(c.Context(), func(g *contracts.GatewayConfig) error {
				g.Tools = slices.DeleteFunc(g.Tools, func(t contracts.ToolExposure) bool { return t.Name == e.Name })
				g.Tools = append(g.Tools, e)
				return nil
			})
			if err != nil {
				return err
			}
			return a.print(map[string]any{"name": e.Name, "running": running}, func() {
				fmt.Fprintf(a.out, "the MCP server %s is exposed, %s\nlet somebody use it: talos cap grant <did> --scope tool:%s\n", e.Name, when(running), e.Name)
			})
		}}
	c.Flags().StringVar(&e.URL, "url", "", "of a streamable HTTP server")
	c.Flags().StringVar(&e.Key, "key", "", "name of the secret that is its bearer token")
	c.Flags().StringVar(&e.Dir, "dir", "", "working directory of the program; a folder of its own if none is given")
	c.Flags().StringArrayVar(&env, "env", nil, "NAME=value or NAME=secret:name; may be given several times")
	c.Flags().StringSliceVar(&e.Read, "read", nil, "names of the tools that change nothing")
	c.Flags().BoolVar(&shared, "shared", false, "one program serves all callers: it keeps nothing of a call")
	c.Flags().BoolVar(&private, "private", false, "the address is in a private network, and meant; not needed for an address that says so itself")
	return c
}

// commandOf reads a program with its arguments and environment. A name without a path is
// looked up now, by its owner, and never again.
func commandOf(e *contracts.ToolExposure, argv, env []string) error {
	if (len(argv) == 0) == (e.URL == "") {
		return contracts.Errorf(contracts.Malformed, "give a program after --, or --url")
	}
	if len(argv) > 0 {
		path, err := exec.LookPath(argv[0])
		if err == nil {
			path, err = filepath.Abs(path)
		}
		if err != nil {
			return contracts.Errorf(contracts.NotFound, "the program %q: %w", argv[0], err)
		}
		e.Command = append([]string{path}, argv[1:]...)
	}
	for _, v := range env {
		name, value, ok := strings.Cut(v, "=")
		if !ok {
			return contracts.Errorf(contracts.Malformed, "--env %q is not NAME=value", v)
		}
		s := contracts.EnvSecret{Name: name, Value: value}
		if secret, ok := strings.CutPrefix(value, "secret:"); ok {
			s.Secret, s.Value = secret, ""
		}
		e.Env = append(e.Env, s)
	}
	return nil
}

func (a *app) exposeToolsCmd() *cobra.Command {
	return &cobra.Command{Use: "tools <server>", Short: "Show the tools of an exposed MCP server, as their server describes them now", Args: cobra.ExactArgs(1), RunE: func(c *cobra.Command, args []string) error {
		tools, err := a.client().ExposedTools(c.Context(), args[0])
		if err != nil {
			return err
		}
		return a.print(tools, func() { a.printTools(tools) })
	}}
}

func (a *app) printTools(tools []api.ExposedTool) {
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "TOOL\tDOES\tAPPROVED\tDIGEST\tHELD BACK")
	for _, t := range tools {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", t.Name, map[bool]string{true: "read", false: "write"}[t.Read], map[bool]string{true: "yes", false: "no"}[t.Pinned], t.Digest, t.Held)
	}
	_ = w.Flush()
}

func (a *app) exposeApproveCmd() *cobra.Command {
	return &cobra.Command{
		Use: "approve <server> [tool…]", Short: "Approve the tools of an exposed MCP server as they are now", Args: cobra.MinimumNArgs(1),
		Long: `Pins the descriptions of all tools, or of those that are named: one whose description
changes later is held back until it is approved again. Read them first: talos expose tools.`,
		RunE: func(c *cobra.Command, args []string) error {
			tools, err := a.client().ExposedTools(c.Context(), args[0])
			if err != nil {
				return err
			}
			for _, name := range args[1:] {
				if !slices.ContainsFunc(tools, func(t api.ExposedTool) bool { return t.Name == name }) {
					return contracts.Errorf(contracts.UnknownTool, "the server %s has no tool %.64q", args[0], name)
				}
			}
			n := 0
			_, err = a.changeGateway(c.Context(), func(g *contracts.GatewayConfig) error {
				for i := range g.Tools {
					if g.Tools[i].Name == args[0] {
						n = pin(&g.Tools[i], tools, args[1:])
					}
				}
				return nil
			})
			if err != nil {
				return err
			}
			return a.print(map[string]int{"approved": n}, func() { fmt.Fprintf(a.out, "%d tools of %s are approved as they are\n", n, args[0]) })
		},
	}
}

// pin pins the tools that are named, or all.
func pin(e *contracts.ToolExposure, tools []api.ExposedTool, names []string) (n int) {
	for _, t := range tools {
		if t.Digest == "" || len(names) > 0 && !slices.Contains(names, t.Name) {
			continue
		}
		e.Pins = slices.DeleteFunc(e.Pins, func(p contracts.ToolPin) bool { return p.Tool == t.Name })
		e.Pins = append(e.Pins, contracts.ToolPin{Tool: t.Name, Digest: t.Digest})
		n++
	}
	return n
}
