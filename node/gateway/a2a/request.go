package a2a

import (
	"encoding/json"
	"slices"
	"strings"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/node/gateway"
	"github.com/talosprotocol/talos/node/gateway/rawjson"
)

// Operations, by their names in A2A 1.0.
const (
	sendMessage   = "SendMessage"
	sendStreaming = "SendStreamingMessage"
	getTask       = "GetTask"
	listTasks     = "ListTasks"
	cancelTask    = "CancelTask"
	subscribe     = "SubscribeToTask"
	extendedCard  = "GetExtendedAgentCard"
)

var operations = []string{sendMessage, sendStreaming, getTask, listTasks, cancelTask, subscribe, extendedCard}

// judged are the members that a decision depends on.
var judged = []string{
	"jsonrpc", "id", "method", "params", "message", "configuration", "taskId", "contextId", "referenceTaskIds", "taskPushNotificationConfig", "pushNotificationConfig",
}

// ofTask are the members that parameters about one task may have.
var ofTask = []string{"id", "tenant", "historyLength", "metadata"}

// request is a call that was read.
type request struct {
	a      *agent
	asked  *gateway.Asked
	op     string // of A2A 1.0
	older  bool   // it came by a name of 0.3
	params *rawjson.Object

	tasks    []string // that it names
	contexts []string
}

// readRequest reads the body of a call.
func readRequest(asked *gateway.Asked) (*request, error) {
	if len(asked.Body) > maxRequest {
		return nil, contracts.Errorf(contracts.TooLarge, "the JSON-RPC request has more than %d bytes", maxRequest)
	}
	o, err := read("request", asked.Body)
	if err != nil {
		return nil, err
	}
	if v, err := o.Text("jsonrpc"); err != nil || v != "2.0" {
		return nil, contracts.Errorf(contracts.Malformed, "the JSON-RPC request: jsonrpc is \"2.0\"")
	}
	if id := o.Get("id"); len(id) == 0 || id[0] != '"' && id[0] != '-' && (id[0] < '0' || id[0] > '9') || len(id) > 256 {
		return nil, contracts.Errorf(contracts.Malformed, "the JSON-RPC request: id is a text or a number, of at most 256 bytes")
	}
	method, err := o.Text("method")
	if err != nil {
		return nil, err
	}
	if method != asked.Method {
		return nil, contracts.Errorf(contracts.Malformed, "the call is for %.64q, its body for %.64q", asked.Method, method)
	}
	r := &request{asked: asked, op: contracts.A2AOperation(method), params: &rawjson.Object{}}
	r.older = r.op != method
	if strings.Contains(method, "ushNotification") {
		return nil, contracts.Errorf(contracts.Forbidden, "push notifications are refused; follow a task with %s", subscribe)
	}
	if !slices.Contains(operations, r.op) {
		return nil, contracts.Errorf(contracts.UnknownTool, "an A2A agent has no method %.64q%s", method, gateway.Nearest(method, operations))
	}
	if o.Has("params") {
		if r.params, err = read("parameters", o.Get("params")); err != nil {
			return nil, err
		}
	}
	return r, r.look()
}

// read reads an object, and refuses members that some reader takes for one that a decision
// depends on: Go's ignores case, that of Protobuf knows the names with underscores too.
func read(what string, b []byte) (*rawjson.Object, error) {
	o, err := rawjson.Parse(b)
	if err != nil {
		return nil, contracts.Errorf(contracts.Malformed, "the JSON-RPC %s: %s", what, contracts.Message(err))
	}
	for _, name := range o.Names() {
		plain := strings.ReplaceAll(name, "_", "")
		for _, j := range judged {
			if name != j && strings.EqualFold(plain, j) {
				return nil, contracts.Errorf(contracts.Malformed, "the JSON-RPC %s has the member %.64q; it is written %s", what, name, j)
			}
		}
	}
	return o, nil
}

// look finds what a request names: tasks and contexts, and what is refused.
func (r *request) look() error {
	switch r.op {
	case getTask, cancelTask, subscribe:
		for _, name := range r.params.Names() {
			if !slices.Contains(ofTask, name) {
				return contracts.Errorf(contracts.Malformed, "the parameters of %s have the member %.64q; they may have %s", r.op, name, strings.Join(ofTask, ", "))
			}
		}
		id, err := r.params.Text("id")
		if err == nil && id == "" {
			err = contracts.Errorf(contracts.Malformed, "the parameters of %s name no task by id", r.op)
		}
		r.tasks = []string{id}
		return err
	case sendMessage, sendStreaming:
		return r.lookMessage()
	}
	return nil
}

func (r *request) lookMessage() error {
	m, err := read("message", r.params.Get("message"))
	if err != nil {
		return err
	}
	task, err := m.Text("taskId")
	if err != nil {
		return err
	}
	within, err := m.Text("contextId")
	if err != nil {
		return err
	}
	if m.Has("referenceTaskIds") {
		if err := json.Unmarshal(m.Get("referenceTaskIds"), &r.tasks); err != nil {
			return contracts.Errorf(contracts.Malformed, "referenceTaskIds is no list of texts")
		}
	}
	if task != "" {
		r.tasks = append(r.tasks, task)
	}
	if within != "" {
		r.contexts = []string{within}
	}
	if !r.params.Has("configuration") {
		return nil
	}
	c, err := read("configuration", r.params.Get("configuration"))
	if err != nil {
		return err
	}
	if c.Has("taskPushNotificationConfig") || c.Has("pushNotificationConfig") {
		return contracts.Errorf(contracts.Forbidden, "push notifications are refused; follow a task with %s", subscribe)
	}
	return nil
}

func (r *request) streamed() bool { return r.op == sendStreaming || r.op == subscribe }

// price gives what the call costs.
func (r *request) price() int64 {
	if r.a.PriceCall == nil || r.op != sendMessage && r.op != sendStreaming {
		return 0
	}
	return *r.a.PriceCall
}

// version gives the version of A2A that the caller speaks.
func (r *request) version() string {
	if v := r.asked.Header(headerVersion); v != "" {
		return v
	}
	if r.older {
		return "0.3"
	}
	return "1.0"
}

// mine refuses tasks and contexts that are not the caller's. Those of others and those that
// are not there look the same.
func (r *request) mine() error {
	for _, id := range r.tasks {
		if !r.a.d.tasks.owns(r.asked.Caller, r.a.key(ofTasks, id)) {
			return contracts.Errorf(contracts.NotFound, "there is no task %.128q of yours at the agent %s", id, r.a.Name)
		}
	}
	for _, id := range r.contexts {
		if !r.a.d.tasks.owns(r.asked.Caller, r.a.key(ofContexts, id)) {
			return contracts.Errorf(contracts.NotFound, "there is no context %.128q of yours at the agent %s; leave contextId out, the agent gives one", id, r.a.Name)
		}
	}
	return nil
}
