package api

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/node/gateway/rawjson"
)

const (
	listWithin   = 8 * time.Second // of one server, when all are listed
	maxToolList  = 8 << 20
	nameSplit    = "__"
	mcpModern    = "2026-07-28"
	mcpLegacy    = "2025-11-25"
	keyMCPServer = "io.modelcontextprotocol/serverInfo"
)

// aggregate is one MCP server of all tools that this node may use: each is called
// <server>__<tool>. A server that does not answer is left out, and the others are there.
func (s *Server) aggregate(w http.ResponseWriter, r *http.Request, b []byte, m *rpc) error {
	switch m.Method {
	case "initialize":
		return write(w, http.StatusOK, rpcResult(m.ID, map[string]any{
			"protocolVersion": legacyVersion(b), "capabilities": map[string]any{"tools": map[string]any{}},
			"serverInfo": mcpSelf, "instructions": mcpAbout,
		}))
	case "server/discover":
		return write(w, http.StatusOK, rpcResult(m.ID, map[string]any{
			"resultType": "complete", "supportedVersions": []string{mcpModern, mcpLegacy, "2025-06-18", "2025-03-26"}, "capabilities": map[string]any{"tools": map[string]any{}},
			"instructions": mcpAbout, "ttlMs": 0, "cacheScope": "private", "_meta": map[string]any{keyMCPServer: mcpSelf},
		}))
	case "ping":
		return write(w, http.StatusOK, rpcResult(m.ID, map[string]any{}))
	case "tools/list":
		tools, missing, err := s.allTools(r.Context(), b)
		if err != nil {
			return err
		}
		res := map[string]any{"resultType": "complete", "tools": tools, "ttlMs": 0, "cacheScope": "private"}
		if len(missing) > 0 {
			res["_meta"] = map[string]any{"talos/missing": missing}
		}
		return write(w, http.StatusOK, rpcResult(m.ID, res))
	case "tools/call":
		return s.callAny(w, r, b, m)
	}
	return write(w, http.StatusOK, rpcError(m.ID, -32601, contracts.Errorf(contracts.MethodUnsupported, "all servers together have tools and nothing else; connect to one of them for %s", m.Method)))
}

var (
	mcpSelf  = map[string]any{"name": "talos", "version": "1"}
	mcpAbout = "Tools of MCP servers on other nodes, as far as this node was given capabilities for them. A name is <server>" + nameSplit + "<tool>."
)

func rpcResult(id json.RawMessage, result any) map[string]any {
	return map[string]any{"jsonrpc": "2.0", "id": id, "result": result}
}

// legacyVersion gives the revision that a client with sessions asks for, if it is known.
func legacyVersion(b []byte) string {
	var m struct {
		Params struct {
			Version string `json:"protocolVersion"`
		} `json:"params"`
	}
	if json.Unmarshal(b, &m) == nil && slices.Contains([]string{"2025-06-18", "2025-03-26"}, m.Params.Version) {
		return m.Params.Version
	}
	return mcpLegacy
}

// prefixes gives what the tools of each server are called with: the server's name, and
// the end of its gateway's DID where two have the same.
func (s *Server) prefixes(ctx context.Context) (map[string]Service, error) {
	all, err := s.node.Known(ctx, "tool")
	if err != nil {
		return nil, err
	}
	count := map[string]int{}
	for _, f := range all {
		count[f.Name]++
	}
	out := map[string]Service{}
	for _, f := range all {
		name := f.Name
		if count[name] > 1 {
			name += "-" + f.Gateway[max(0, len(f.Gateway)-6):]
		}
		out[name] = f
	}
	return out, nil
}

// allTools asks every server for its tools, all at once.
func (s *Server) allTools(ctx context.Context, request []byte) (tools []json.RawMessage, missing []string, err error) {
	servers, err := s.prefixes(ctx)
	if err != nil {
		return nil, nil, err
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	byName := map[string]json.RawMessage{}
	for prefix, f := range servers {
		wg.Go(func() {
			list, err := s.toolsOf(ctx, f, request)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				missing = append(missing, fmt.Sprintf("%s: %s", prefix, contracts.CodeOf(err)))
				return
			}
			for _, t := range list {
				if name, raw := renamed(t, prefix); name != "" {
					byName[name] = raw
				}
			}
		})
	}
	wg.Wait()
	tools = []json.RawMessage{}
	for _, name := range slices.Sorted(maps.Keys(byName)) { // the same order each time
		tools = append(tools, byName[name])
	}
	slices.Sort(missing)
	return tools, missing, nil
}

// renamed gives a tool's description under its name among all, which is empty if it has
// none that fits.
func renamed(raw json.RawMessage, prefix string) (string, json.RawMessage) {
	o, err := rawjson.Parse(raw)
	if err != nil {
		return "", nil
	}
	name, err := o.Text("name")
	full := prefix + nameSplit + name
	if err != nil || name == "" || len(full) > 128 {
		return "", nil
	}
	quoted, err := json.Marshal(full)
	if err != nil {
		return "", nil
	}
	return full, o.Set(map[string]string{"name": string(quoted)})
}

// toolsOf asks one server, with the client's own request.
func (s *Server) toolsOf(ctx context.Context, f Service, request []byte) ([]json.RawMessage, error) {
	ctx, cancel := context.WithTimeout(ctx, listWithin)
	defer cancel()
	a, err := s.node.Use(ctx, &Use{Kind: "tool", Service: f.Gateway + "/" + f.Name, Method: "tools/list", ContentType: "application/json", Body: request, Repeatable: true})
	if err != nil {
		return nil, err
	}
	defer a.Body.Close() //nolint:errcheck // read
	b, err := io.ReadAll(io.LimitReader(a.Body, maxToolList))
	if err != nil {
		return nil, err
	}
	var res struct {
		Result struct {
			Tools []json.RawMessage `json:"tools"`
		} `json:"result"`
	}
	if err := json.Unmarshal(b, &res); err != nil {
		return nil, contracts.Errorf(contracts.Malformed, "the list of tools of %s: %w", f.Name, err)
	}
	return res.Result.Tools, nil
}

// callAny calls a tool by its name among all.
func (s *Server) callAny(w http.ResponseWriter, r *http.Request, b []byte, m *rpc) error {
	prefix, tool, ok := strings.Cut(m.Params.Name, nameSplit)
	servers, err := s.prefixes(r.Context())
	if err != nil {
		return err
	}
	f, known := servers[prefix]
	if !ok || !known || tool == "" {
		err := contracts.Errorf(contracts.UnknownTool, "there is no tool %.128q; tools/list has their names, <server>%s<tool>", m.Params.Name, nameSplit)
		return write(w, http.StatusOK, rpcError(m.ID, codeRefused, err))
	}
	body, err := withName(b, tool)
	if err != nil {
		return write(w, http.StatusOK, rpcError(m.ID, codeMalformed, err))
	}
	return s.useRPC(w, r, &Use{Kind: "tool", Service: f.Gateway + "/" + f.Name, Method: m.Method, ContentType: "application/json", Body: body}, func(err error) map[string]any { return rpcError(m.ID, codeRefused, err) })
}

// withName gives a request with another name of the tool; all other bytes stay.
func withName(b []byte, tool string) ([]byte, error) {
	o, err := rawjson.Parse(b)
	if err != nil {
		return nil, err
	}
	params, err := rawjson.Parse(o.Get("params"))
	if err != nil {
		return nil, err
	}
	quoted, err := json.Marshal(tool)
	if err != nil {
		return nil, contracts.Errorf(contracts.Malformed, "the name of the tool: %w", err)
	}
	return o.Set(map[string]string{"params": string(params.Set(map[string]string{"name": string(quoted)}))}), nil
}
