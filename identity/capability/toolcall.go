package capability

import (
	"unicode/utf8"

	"github.com/talosprotocol/talos/contracts"
)

// ToolCall is what a JSON-RPC request of the form {jsonrpc, id, method, params: {name,
// arguments}} says, as far as a decision needs it: that of tools/call of MCP.
type ToolCall struct {
	ID     string // as it stands in the text, "" for a notification
	Method string
	Name   string // of the tool
	Args   *Args  // nil if there are no arguments
}

// ParseToolCall reads a request strictly and once: valid UTF-8, in no object a name
// twice, nothing after it. Other members may be there and are not looked at. It is
// MALFORMED otherwise.
func ParseToolCall(text []byte) (ToolCall, error) {
	var room struct { // as in ParseArgs
		ptr   [64]byte
		ptrs  [128]byte
		names [12]string
		ends  [8]int
	}
	p := argReader{s: string(text), ptr: room.ptr[:0], ptrs: room.ptrs[:0], names: room.names[:0], ends: room.ends[:0]}
	if len(text) > MaxArgsBytes || !utf8.ValidString(p.s) {
		return ToolCall{}, contracts.Errorf(contracts.Malformed, "a request of at most 1 MiB in UTF-8")
	}
	c, version, arguments := ToolCall{}, "", false
	word := func(to *string) (ok bool) { *to, ok = p.text(); return ok }
	params := func(name string) bool {
		switch name {
		case "name":
			return word(&c.Name)
		case "arguments":
			arguments = true
			return p.at('{') && p.value(0)
		}
		return p.value(maxPointer + 1) // deep enough to be noted nowhere
	}
	p.space()
	ok := p.members(func(name string) bool {
		switch name {
		case "jsonrpc":
			return word(&version)
		case "method":
			return word(&c.Method)
		case "params":
			return p.members(params)
		case "id":
			from, scalar := p.i, !p.at('{') && !p.at('[')
			if !scalar || !p.value(maxPointer+1) {
				return false
			}
			c.ID = p.s[from:p.i]
			return true
		}
		return p.value(maxPointer + 1)
	})
	if p.space(); !ok || p.i < len(p.s) || version != "2.0" || c.Method == "" {
		return ToolCall{}, contracts.Errorf(contracts.Malformed, "no JSON-RPC 2.0 request, strictly read")
	}
	if arguments {
		c.Args = &Args{items: p.sorted()}
	}
	return c, nil
}
