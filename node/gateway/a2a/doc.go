// Package a2a exposes A2A agents behind URLs, by the JSON-RPC binding of A2A 1.0 and its
// older names. It is a driver of node/gateway.
//
//	a2a.go       what is exposed; from a call to a plan
//	request.go   requests, read strictly and passed on as they are
//	tasks.go     whose task is whose
//	card.go      the card of an agent: where it is asked, what it can do
//	upstream.go  asking the agent: headers, answers, streams, refusals
//	answer.go    what an answer says of tasks
//
// An agent knows one client, the gateway, and would show it all tasks; callers are kept
// apart here. What is kept of a task is its id and its caller, in memory: after a restart
// of the gateway nobody may ask about an older task.
package a2a
