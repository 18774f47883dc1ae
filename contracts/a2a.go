package contracts

// operations are the names of A2A 0.3 for the operations of A2A 1.0.
var operations = map[string]string{
	"message/send": "SendMessage", "message/stream": "SendStreamingMessage", "tasks/get": "GetTask", "tasks/list": "ListTasks", "tasks/cancel": "CancelTask",
	"tasks/resubscribe": "SubscribeToTask", "agent/getAuthenticatedExtendedCard": "GetExtendedAgentCard",
}

// A2AOperation gives the name that an operation has in A2A 1.0, and in scopes: methods of
// 0.3 have others. What it does not know stays as it is.
func A2AOperation(method string) string {
	if op, ok := operations[method]; ok {
		return op
	}
	return method
}
