package a2a

import (
	"encoding/json"
	"slices"
	"testing"

	"github.com/talosprotocol/talos/node/gateway"
)

// What is read of a request is what a reader that ignores case reads of it: no task is
// asked for that was not judged. GW-20.
func FuzzRequest(f *testing.F) {
	for _, s := range []string{
		`{"jsonrpc":"2.0","id":1,"method":"GetTask","params":{"id":"a"}}`, `{"jsonrpc":"2.0","id":1,"method":"GetTask","params":{"id":"a","ID":"b"}}`,
		`{"jsonrpc":"2.0","id":"x","method":"message/send","params":{"message":{"taskId":"a","contextId":"c","referenceTaskIds":["d"]}}}`,
		`{"jsonrpc":"2.0","id":"x","method":"SendMessage","params":{"message":{"task_id":"a"},"configuration":{"TaskPushNotificationConfig":{}}}}`,
		`{"jsonrpc":"2.0","id":"x","method":"SendMessage","params":{"message":{"tas\u212aId":"a"}}}`, `{"jsonrpc":"2.0","id":1,"method":"ListTasks"}`,
	} {
		f.Add([]byte(s))
	}
	type seen struct {
		Method string
		Params struct {
			ID      string
			Message struct {
				TaskID, ContextID string
				ReferenceTaskIDs  []string
			}
			Configuration struct{ TaskPushNotificationConfig, PushNotificationConfig any }
		}
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var m struct{ Method string }
		if json.Unmarshal(body, &m) != nil {
			return
		}
		r, err := readRequest(&gateway.Asked{Method: m.Method, Body: body})
		if err != nil {
			return
		}
		var s seen
		if json.Unmarshal(body, &s) != nil {
			return // an agent that cannot read it does nothing
		}
		var want []string
		switch r.op {
		case getTask, cancelTask, subscribe:
			want = []string{s.Params.ID}
		case sendMessage, sendStreaming:
			msg := s.Params.Message
			if want = slices.Clone(msg.ReferenceTaskIDs); msg.TaskID != "" {
				want = append(want, msg.TaskID)
			}
			if got := append([]string{""}, r.contexts...); got[len(got)-1] != msg.ContextID {
				t.Errorf("context %q, judged %q: %s", msg.ContextID, r.contexts, body)
			}
			if c := s.Params.Configuration; c.TaskPushNotificationConfig != nil || c.PushNotificationConfig != nil {
				t.Errorf("push passes: %s", body)
			}
		}
		if s.Method != r.asked.Method || !slices.Equal(want, r.tasks) {
			t.Errorf("tasks %q, judged %q: %s", want, r.tasks, body)
		}
	})
}
