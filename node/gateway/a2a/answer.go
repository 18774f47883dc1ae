package a2a

import (
	"encoding/json"
	"strconv"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/node/gateway/rawjson"
)

// named are the ids that a result has, in its own members (A2A 0.3, and tasks) or in those
// of the one member that says what it is (1.0).
type named struct {
	ID        string `json:"id"` // of a task
	TaskID    string `json:"taskId"`
	ContextID string `json:"contextId"`
}

type result struct {
	named
	Task           *named `json:"task"`
	Message        *named `json:"message"`
	StatusUpdate   *named `json:"statusUpdate"`
	ArtifactUpdate *named `json:"artifactUpdate"`
}

// take reads of a response what it says of tasks: they are the caller's from now on, unless
// they are another's already; then the response must not be passed on.
func (r *request) take(b []byte) error {
	o, err := rawjson.Parse(b)
	if err != nil {
		return r.a.wrong("what came is no JSON-RPC response")
	}
	if !o.Has("result") {
		return nil
	}
	if r.op == extendedCard {
		return nil // has no tasks; its members may have any form
	}
	var res result
	if json.Unmarshal(o.Get("result"), &res) != nil {
		return r.a.wrong("the result is nothing that A2A has")
	}
	for _, n := range []*named{&res.named, res.Task, res.Message, res.StatusUpdate, res.ArtifactUpdate} {
		if n == nil {
			continue
		}
		for _, id := range []string{n.ID, n.TaskID} {
			if id != "" && !r.a.d.tasks.claim(r.asked.Caller, r.a.key(ofTasks, id)) {
				return contracts.Errorf(contracts.Conflict, "the agent %s answered with a task of somebody else", r.a.Name)
			}
		}
		if n.ContextID != "" {
			r.a.d.tasks.claim(r.asked.Caller, r.a.key(ofContexts, n.ContextID)) // if it is another's it stays so
		}
	}
	return nil
}

// own leaves of a list of tasks those of the caller; their bytes, and all others, stay.
func (r *request) own(b []byte) ([]byte, error) {
	o, err := rawjson.Parse(b)
	if err != nil {
		return nil, r.a.wrong("what came is no JSON-RPC response")
	}
	if !o.Has("result") {
		return b, nil
	}
	res, err := rawjson.Parse(o.Get("result"))
	if err != nil {
		return nil, r.a.wrong("the result is no list of tasks")
	}
	var tasks []json.RawMessage
	if res.Has("tasks") && json.Unmarshal(res.Get("tasks"), &tasks) != nil {
		return nil, r.a.wrong("the result is no list of tasks")
	}
	list, n := []byte{'['}, 0
	for _, t := range tasks {
		task, err := rawjson.Parse(t)
		if err != nil {
			return nil, r.a.wrong("the result is no list of tasks")
		}
		id, err := task.Text("id")
		if err != nil || !r.a.d.tasks.owns(r.asked.Caller, r.a.key(ofTasks, id)) {
			continue
		}
		if n++; n > 1 {
			list = append(list, ',')
		}
		list = append(list, t...)
	}
	set := map[string]string{"tasks": string(append(list, ']'))}
	if res.Has("totalSize") {
		set["totalSize"] = strconv.Itoa(n)
	}
	return o.Set(map[string]string{"result": string(res.Set(set))}), nil
}
