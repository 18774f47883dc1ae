package mcp

import (
	"encoding/json"
	"slices"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/node/gateway/rawjson"
)

// Codes of errors beyond those of JSON-RPC.
const (
	codeUpstream    = -32603
	codeUnsupported = -32022 // protocol version (MCP 2026-07-28)
)

// versions are the revisions that a caller may speak, newest first.
var versions = []string{modern, legacy, "2025-06-18", "2025-03-26"}

func readObject(b []byte) (*rawjson.Object, error) {
	if len(b) == 0 || string(b) == "null" {
		return &rawjson.Object{}, nil
	}
	return rawjson.Parse(b)
}

// revision gives what a request says it speaks: empty for one of before 2026-07-28, whose
// revision its session has.
func revision(params *rawjson.Object) (string, error) {
	meta, err := readObject(params.Get("_meta"))
	if err != nil {
		return "", contracts.Errorf(contracts.Malformed, "_meta: %s", contracts.Message(err))
	}
	v, err := meta.Text(keyVersion)
	if err != nil || v < modern {
		return "", err
	}
	return v, nil
}

// capabilities gives what of a server's capabilities a caller can use through a gateway.
// Nothing is pushed, so nobody is promised that.
func capabilities(h *hello) map[string]any {
	out := map[string]any{}
	for _, name := range []string{"tools", "resources", "prompts", "completions"} {
		if _, ok := h.Capabilities[name]; ok {
			out[name] = map[string]any{}
		}
	}
	return out
}

// serverInfo gives how a server calls itself.
func serverInfo(h *hello, name string) json.RawMessage {
	if len(h.ServerInfo) > 0 {
		return h.ServerInfo
	}
	return object(map[string]any{"name": name, "version": "0"})
}

// initialize answers a client of before 2026-07-28. Nothing is kept of it.
func initialize(id []byte, params *rawjson.Object, h *hello, name string) []byte {
	version := legacy
	if v, err := params.Text("protocolVersion"); err == nil && v != modern && slices.Contains(versions, v) {
		version = v
	}
	res := map[string]any{"protocolVersion": version, "capabilities": capabilities(h), "serverInfo": serverInfo(h, name)}
	if h.Instructions != "" {
		res["instructions"] = h.Instructions
	}
	return answer(id, object(res))
}

// discover answers a client of 2026-07-28.
func discover(id []byte, h *hello, name string) []byte {
	res := map[string]any{
		"resultType": "complete", "supportedVersions": versions, "capabilities": capabilities(h), "ttlMs": 0, "cacheScope": "private",
		"_meta": map[string]any{keyServerInfo: serverInfo(h, name)},
	}
	if h.Instructions != "" {
		res["instructions"] = h.Instructions
	}
	return answer(id, object(res))
}

// complete adds to a response of an older server what a client of 2026-07-28 expects.
func complete(raw []byte, method string) []byte {
	o, err := rawjson.Parse(raw)
	if err != nil || !o.Has("result") {
		return raw
	}
	res, err := rawjson.Parse(o.Get("result"))
	if err != nil {
		return raw
	}
	more := map[string]string{}
	if !res.Has("resultType") {
		more["resultType"] = `"complete"`
	}
	if cacheable(method) && !res.Has("ttlMs") {
		more["ttlMs"], more["cacheScope"] = "0", `"private"`
	}
	return o.Set(map[string]string{"result": string(res.Set(more))})
}

func cacheable(method string) bool {
	switch method {
	case "tools/list", "prompts/list", "resources/list", "resources/templates/list", "resources/read":
		return true
	}
	return false
}

// speak gives a caller's parameters as an upstream of a revision reads them.
func speak(params *rawjson.Object, version string) []byte {
	meta, err := readObject(params.Get("_meta"))
	if err != nil || meta.Has(keyVersion) == (version == modern) {
		return params.Raw()
	}
	if version != modern {
		return params.Set(map[string]string{"_meta": string(meta.Without(keyVersion, keyClientInfo, keyCapabilities))})
	}
	own := map[string]string{}
	for k, v := range ownMeta() {
		own[k] = string(object(v))
	}
	return params.Set(map[string]string{"_meta": string(meta.Set(own))})
}
