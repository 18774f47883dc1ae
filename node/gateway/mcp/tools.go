package mcp

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/contracts/jcs"
	"github.com/talosprotocol/talos/node/gateway/rawjson"
)

const (
	maxTools = 1024
	maxPages = 64
)

// tool is a tool as its server describes it.
type tool struct {
	name   string
	raw    []byte // the description as it came
	digest string // of what may be said of it to a model
	read   bool   // it changes nothing, says the gateway's owner
	held   string // why it may not be used, empty if it may
}

// toolset is the tools of a server, as they were listed last.
type toolset struct {
	mu    sync.Mutex
	tools []tool
	at    time.Time
}

// forget has the next question list the tools anew.
func (t *toolset) forget() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.at = time.Time{}
}

func (t *toolset) fresh() ([]tool, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.tools, time.Since(t.at) < toolsFresh
}

// last gives the tools as they were listed last, however long ago.
func (t *toolset) last() []tool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.tools
}

func (t *toolset) set(tools []tool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.tools, t.at = tools, time.Now()
}

// list gives the tools, asked for of an upstream if they are not known well enough.
func (s *server) list(ctx context.Context, up *session) ([]tool, error) {
	if tools, ok := s.tools.fresh(); ok {
		return tools, nil
	}
	var tools []tool
	cursor := ""
	for range maxPages {
		params := map[string]any{}
		if up.version == modern {
			params["_meta"] = ownMeta()
		}
		if cursor != "" {
			params["cursor"] = cursor
		}
		res, err := up.result(ctx, "tools/list", object(params))
		if contracts.CodeOf(err) == contracts.MethodUnsupported {
			break // a server without tools
		}
		if err != nil {
			return nil, err
		}
		var page struct {
			Tools []json.RawMessage `json:"tools"`
			Next  string            `json:"nextCursor"`
		}
		if err := json.Unmarshal(res, &page); err != nil {
			return nil, contracts.Errorf(contracts.Unavailable, "the list of tools of %s is not as MCP says", s.Name)
		}
		for _, raw := range page.Tools {
			tools = append(tools, s.describe(raw))
		}
		if len(tools) > maxTools {
			return nil, contracts.Errorf(contracts.TooLarge, "the server %s has more than %d tools", s.Name, maxTools)
		}
		if cursor = page.Next; cursor == "" {
			break
		}
	}
	judgeNames(tools)
	s.tools.set(tools)
	return tools, nil
}

func ownMeta() map[string]any {
	return map[string]any{keyVersion: modern, keyClientInfo: map[string]any{"name": "talos", "version": "1"}, keyCapabilities: map[string]any{}}
}

// pinned are the members of a description that a model or a person acts on. What the
// server says of itself beside them does not count.
var pinned = []string{"annotations", "description", "icons", "inputSchema", "name", "outputSchema", "title"}

// describe reads a description and judges the tool: against what was approved, and by what
// the owner says of it.
func (s *server) describe(raw []byte) tool {
	t := tool{raw: raw}
	o, err := rawjson.Parse(raw)
	if err == nil {
		t.name, err = o.Text("name")
	}
	if err != nil || !validName(t.name) {
		t.held = "its name is not as MCP says"
		return t
	}
	t.read = slices.Contains(s.Read, t.name)
	if t.digest, err = Digest(raw); err != nil {
		t.held = "its description is not what two readers would understand alike"
		return t
	}
	if hidden(raw) {
		t.held = "its description has characters that nobody sees"
		return t
	}
	for _, p := range s.Pins {
		if p.Tool == t.name && p.Digest != t.digest {
			t.held = "its description has changed since its owner approved it"
		}
	}
	return t
}

// Digest gives the SHA-256 of what is pinned of a tool's description, in canonical form
// (RFC 8785).
func Digest(raw []byte) (string, error) {
	o, err := rawjson.Parse(raw)
	if err != nil {
		return "", err
	}
	kept := &rawjson.Object{}
	members := map[string]string{}
	for _, name := range pinned {
		if v := o.Get(name); v != nil {
			members[name] = string(v)
		}
	}
	canonical, err := jcs.Canonicalize(kept.Set(members))
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(canonical)
	return base64.RawURLEncoding.EncodeToString(sum[:]), nil
}

func validName(s string) bool {
	return s != "" && len(s) <= 128 && !strings.ContainsFunc(s, func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && !strings.ContainsRune("_-./", c)
	})
}

// hidden reports whether a text has characters that are not shown and that a model reads:
// tags, and those that turn the direction of what follows.
func hidden(raw []byte) bool {
	var v any
	if json.Unmarshal(raw, &v) != nil {
		return true
	}
	return hiddenIn(v)
}

func hiddenIn(v any) bool {
	switch v := v.(type) {
	case string:
		return strings.ContainsFunc(v, func(c rune) bool {
			return c >= 0xe0000 && c <= 0xe007f || c >= 0x202a && c <= 0x202e || c >= 0x2066 && c <= 0x2069 || c >= 0x200b && c <= 0x200f || c == 0x2060 || c == 0xfeff
		})
	case []any:
		return slices.ContainsFunc(v, hiddenIn)
	case map[string]any:
		for k, m := range v {
			if hiddenIn(k) || hiddenIn(m) {
				return true
			}
		}
	}
	return false
}

// judgeNames holds tools back that are called as another one is.
func judgeNames(tools []tool) {
	seen := map[string]int{}
	for i := range tools {
		if tools[i].name == "" {
			continue
		}
		if j, ok := seen[tools[i].name]; ok {
			tools[i].held, tools[j].held = "two tools have its name", "two tools have its name"
		}
		seen[tools[i].name] = i
	}
}
