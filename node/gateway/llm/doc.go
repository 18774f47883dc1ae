// Package llm exposes models that stand behind an HTTP API: OpenAI's (chat completions,
// responses, embeddings) and Anthropic's (messages). It is a driver of node/gateway.
//
//	llm.go      what is exposed; from a call to a plan
//	request.go  of a request what policy needs; the few members that are changed in it
//	usage.go    tokens and money: bounds before, counts while it runs, the provider's word
//	upstream.go one HTTP call, with its time limits
//	stream.go   server-sent events: copied, counted, cut at the limit of a budget
//
// Bodies pass byte for byte but for members that the gateway must set itself: the model's
// name upstream, the request for usage, a bound on what is generated. The upstream's key is
// taken from the keystore for each call and is in no error and no log.
package llm
