package fake

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// Notes is an MCP server of the official SDK, for its standard streams (Serve) or for
// HTTP. It keeps notes in its memory, one server's apart from another's.
func Notes(version string) *mcp.Server {
	s := mcp.NewServer(&mcp.Implementation{Name: "notes", Version: version}, &mcp.ServerOptions{Instructions: "keeps notes"})
	n := &notes{}
	type word struct {
		Text string `json:"text"`
	}
	type number struct {
		N int `json:"n"`
	}
	text := func(s string) *mcp.CallToolResult {
		return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: s}}}
	}
	mcp.AddTool(s, &mcp.Tool{Name: "echo", Description: "Gives back what it gets."}, func(_ context.Context, _ *mcp.CallToolRequest, in word) (*mcp.CallToolResult, any, error) {
		return text(in.Text), nil, nil
	})
	mcp.AddTool(s, &mcp.Tool{Name: "add_note", Description: "Keeps a note."}, func(_ context.Context, _ *mcp.CallToolRequest, in word) (*mcp.CallToolResult, any, error) {
		return text(n.add(in.Text)), nil, nil
	})
	mcp.AddTool(s, &mcp.Tool{Name: "count", Description: "Counts, and says how far it is."}, func(ctx context.Context, req *mcp.CallToolRequest, in number) (*mcp.CallToolResult, any, error) {
		for i := range in.N {
			if token := req.Params.GetProgressToken(); token != nil {
				_ = req.Session.NotifyProgress(ctx, &mcp.ProgressNotificationParams{ProgressToken: token, Progress: float64(i + 1), Total: float64(in.N)})
			}
		}
		return text(fmt.Sprint(in.N)), nil, nil
	})
	mcp.AddTool(s, &mcp.Tool{Name: "wait", Description: "Waits until nobody wants its answer; then it makes a file."}, func(ctx context.Context, _ *mcp.CallToolRequest, in word) (*mcp.CallToolResult, any, error) {
		_ = os.WriteFile(in.Text+".began", nil, 0o600)
		<-ctx.Done()
		return nil, nil, os.WriteFile(in.Text, []byte("cancelled"), 0o600)
	})
	mcp.AddTool(s, &mcp.Tool{Name: "big", Description: "Gives n bytes."}, func(_ context.Context, _ *mcp.CallToolRequest, in number) (*mcp.CallToolResult, any, error) {
		return text(strings.Repeat("x", in.N)), nil, nil
	})
	mcp.AddTool(s, &mcp.Tool{Name: "environment", Description: "Shows the environment and the folder of its process."}, func(context.Context, *mcp.CallToolRequest, struct{}) (*mcp.CallToolResult, any, error) {
		dir, _ := os.Getwd()
		b, err := json.Marshal(map[string]any{"env": os.Environ(), "dir": dir, "pid": os.Getpid()})
		return text(string(b)), nil, err
	})
	mcp.AddTool(s, &mcp.Tool{Name: "fork", Description: "Leaves a child behind that does not end by itself."}, func(context.Context, *mcp.CallToolRequest, struct{}) (*mcp.CallToolResult, any, error) {
		c := exec.Command("/bin/sleep", "3600")
		if err := c.Start(); err != nil {
			return nil, nil, err
		}
		return text(fmt.Sprint(c.Process.Pid)), nil, nil
	})
	mcp.AddTool(s, &mcp.Tool{Name: "exit", Description: "Ends the process."}, func(context.Context, *mcp.CallToolRequest, struct{}) (*mcp.CallToolResult, any, error) {
		os.Exit(3)
		return nil, nil, nil
	})
	mcp.AddTool(s, &mcp.Tool{Name: "grow", Description: "Adds a tool, which the list of tools then has."}, func(_ context.Context, _ *mcp.CallToolRequest, in word) (*mcp.CallToolResult, any, error) {
		mcp.AddTool(s, &mcp.Tool{Name: "grown", Description: in.Text}, func(context.Context, *mcp.CallToolRequest, struct{}) (*mcp.CallToolResult, any, error) {
			return text("grown"), nil, nil
		})
		return text("ok"), nil, nil
	})
	s.AddResource(&mcp.Resource{Name: "readme", URI: "note://readme", MIMEType: "text/plain"}, func(context.Context, *mcp.ReadResourceRequest) (*mcp.ReadResourceResult, error) {
		return &mcp.ReadResourceResult{Contents: []*mcp.ResourceContents{{URI: "note://readme", MIMEType: "text/plain", Text: "read me"}}}, nil
	})
	return s
}

// ServeNotes serves Notes on the standard streams of the process until they end.
func ServeNotes(version string) {
	if err := Notes(version).Run(context.Background(), &mcp.StdioTransport{}); err != nil {
		time.Sleep(time.Millisecond) // what was written is out
		os.Exit(1)
	}
}

type notes struct {
	mu  sync.Mutex
	all []string
}

func (n *notes) add(s string) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.all = append(n.all, s)
	return strings.Join(n.all, ",")
}
