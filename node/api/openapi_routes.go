package api

import (
	"encoding/json"
	"reflect"

	"github.com/talosprotocol/talos/contracts"
)

// described says of a route what the registry of surfaces does not: what may stand in its
// query, and what its bodies are.
type described struct {
	query []param
	in    reflect.Type // of the body; nil: none
	out   reflect.Type // of the answer; nil: see as
	// as says what an answer is that is no JSON of ours; inAs what such a body is.
	as, inAs string
}

type param struct{ name, kind, why string }

// none is an answer that says nothing but that it was done.
type none struct{}

func of[T any]() reflect.Type { return reflect.TypeFor[T]() }

const (
	protocolMCP = "a JSON-RPC message of MCP; also as server-sent events"
	protocolA2A = "a JSON-RPC message of A2A; also as server-sent events"
)

var (
	qAfter    = param{"after", "integer", "only what is behind this cursor"}
	qLimit    = param{"limit", "integer", "how many at most"}
	qBefore   = param{"before", "string", "only of calls before this id"}
	qWait     = param{"wait", "integer", "seconds to wait, up to 60"}
	qWhy      = param{"why", "string", "what the other side is told"}
	qRecovery = param{"recovery", "string", "folder of the recovery key"}
	qApprove  = param{"approve", "boolean", "yes or no"}
)

func ofProvider(name string) described {
	return described{inAs: "a request as " + name + " defines it", as: "an answer as " + name + " defines it; with \"stream\": true as server-sent events"}
}

// descriptions has every route; a test says which are missing.
var descriptions = map[string]described{
	"GET /health/live":                                  {out: of[map[string]bool]()},
	"GET /health/ready":                                 {out: of[map[string]any]()},
	"GET /openapi.json":                                 {out: of[map[string]any]()},
	"GET /v1/status":                                    {out: of[Status]()},
	"GET /v1/peers":                                     {out: of[[]Peer]()},
	"GET /1.0/identifiers/{did}":                        {query: []param{{"fresh", "boolean", "ask the network, whatever is remembered"}}, out: of[Resolution]()},
	"GET /v1/states/{did}":                              {out: of[contracts.SignedState]()},
	"POST /a2a/messages":                                {query: []param{qWait}, in: of[contracts.SendRequest](), out: of[Sent]()},
	"POST /a2a/frames":                                  {query: []param{qWait}, in: of[contracts.SendRequest](), out: of[Sent]()},
	"GET /a2a/messages":                                 {query: []param{qAfter, qLimit, qWait}, out: of[[]Message]()},
	"GET /a2a/frames":                                   {query: []param{qAfter, qLimit, qWait}, out: of[[]Message]()},
	"POST /a2a/messages/acknowledge":                    {query: []param{{"up_to", "integer", "the index of the last message that was read"}}, out: of[none]()},
	"GET /a2a/sessions":                                 {out: of[[]Session]()},
	"POST /a2a/sessions/{did}/rotate":                   {out: of[none]()},
	"DELETE /a2a/sessions/{did}":                        {out: of[none]()},
	"GET /v1/audit/events":                              {query: []param{qAfter, qLimit, {"last", "boolean", "the last ones, not the first"}}, out: of[Events]()},
	"GET /v1/audit/events/{index}/proof":                {query: []param{{"sealed", "boolean", "without the event itself"}}, out: of[contracts.ProofBundle]()},
	"GET /v1/audit/evidence":                            {out: of[map[string]json.RawMessage]()},
	"GET /v1/anchor":                                    {query: []param{qLimit}, out: of[map[string]any]()},
	"POST /v1/keys/rotate":                              {query: []param{qRecovery, {"compromised", "boolean", "the keys in use were stolen"}}, out: of[Status]()},
	"POST /v1/keys/deactivate":                          {query: []param{qRecovery}, out: of[Status]()},
	"GET /v1/capabilities":                              {out: of[Capabilities]()},
	"POST /v1/capabilities":                             {in: of[contracts.GrantRequest](), out: of[Granted]()},
	"POST /v1/capabilities/{id}/delegations":            {in: of[contracts.GrantRequest](), out: of[Granted]()},
	"POST /v1/capabilities/held":                        {inAs: "a capability chain", out: of[Capability]()},
	"DELETE /v1/capabilities/held/{id}":                 {out: of[none]()},
	"DELETE /v1/capabilities/{id}":                      {query: []param{qWhy}, out: of[none]()},
	"POST /v1/capabilities/explanations":                {in: of[contracts.ExplainRequest](), out: of[Explanation]()},
	"GET /v1/capability-requests":                       {out: of[[]CapabilityRequest]()},
	"POST /v1/capability-requests":                      {in: of[contracts.CapabilityRequest](), out: of[none]()},
	"POST /v1/capability-requests/{id}":                 {query: []param{qApprove}, out: of[Granted]()},
	"GET /v1/policy":                                    {out: of[contracts.Policy]()},
	"PUT /v1/policy":                                    {in: of[contracts.Policy](), out: of[none]()},
	"GET /v1/budgets":                                   {out: of[[]Budget]()},
	"GET /v1/limits":                                    {out: of[[]Limit]()},
	"GET /v1/approvals":                                 {out: of[[]Approval]()},
	"GET /v1/approvals/{id}":                            {out: of[Approval]()},
	"POST /v1/approvals/{id}":                           {query: []param{qApprove, qWhy}, out: of[Approval]()},
	"GET /v1/executions":                                {query: []param{{"state", "string", "only those: completed, failed, executing or unknown"}, qBefore, qLimit}, out: of[[]contracts.Execution]()},
	"GET /v1/executions/{id}":                           {out: of[contracts.Execution]()},
	"POST /v1/executions/{id}":                          {query: []param{{"done", "boolean", "what the owner found out"}}, out: of[contracts.Execution]()},
	"GET /v1/receipts":                                  {query: []param{{"side", "string", "caller or executor"}, qBefore, qLimit}, out: of[[]contracts.KeptReceipt]()},
	"GET /v1/receipts/file":                             {query: []param{{"side", "string", "caller or executor"}, qBefore, qLimit}, out: of[contracts.ReceiptFile]()},
	"GET /v1/services":                                  {query: []param{{"kind", "string", "model, tool or agent"}, {"name", "string", "of the service, or of a tool or skill"}}, out: of[[]Service]()},
	"POST /v1/services/reload":                          {out: of[[]Service]()},
	"GET /v1/exposures/tools/{server}":                  {out: of[[]ExposedTool]()},
	"PUT /v1/secrets/{name}":                            {inAs: "the secret", out: of[none]()},
	"DELETE /v1/secrets/{name}":                         {out: of[none]()},
	"GET /v1/models":                                    {out: of[map[string]any]()},
	"POST /v1/chat/completions":                         ofProvider("OpenAI's chat completions"),
	"POST /v1/responses":                                ofProvider("OpenAI's responses"),
	"POST /v1/embeddings":                               ofProvider("OpenAI's embeddings"),
	"POST /v1/messages":                                 ofProvider("Anthropic's messages"),
	"POST /mcp":                                         {inAs: protocolMCP, as: protocolMCP},
	"POST /mcp/{gateway}/{server}":                      {inAs: protocolMCP, as: protocolMCP},
	"GET /v1/mcp/servers":                               {out: of[[]MCPServer]()},
	"GET /v1/mcp/servers/{gateway}/{server}/tools":      {out: of[map[string]any]()},
	"POST /v1/mcp/tools/{gateway}/{server}/{tool}/call": {in: of[toolArguments](), out: of[map[string]any]()},
	"GET /a2a/agents/{gateway}/{agent}/.well-known/agent-card.json": {as: "the agent's card, as A2A defines it, with the loopback address"},
	"GET /a2a/agents/{gateway}/{agent}/card.raw":                    {as: "the agent's card as its bytes are"},
	"POST /a2a/agents/{gateway}/{agent}":                            {inAs: protocolA2A, as: protocolA2A},
}
