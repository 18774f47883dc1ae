package api_test

import (
	"testing"

	"github.com/talosprotocol/talos/node/api"
)

// What a card says to programs of this machine: the endpoint, and nothing that does not
// hold there; all other bytes stay. GW-24.
func TestLocalCard(t *testing.T) {
	for raw, want := range map[string]string{
		`{}`: `{}`,
		`{ "name" : "a", "x":1.0, "signatures":[{}],"supportedInterfaces":[{"url":"https://a","protocolBinding":"JSONRPC","tenant":"t"},{"url":"https://b","protocolBinding":"GRPC"}]}`: `{"name" : "a","x":1.0,"supportedInterfaces":[{"url":"http://here","protocolBinding":"JSONRPC","tenant":"t"}]}`,
		`{"url":"https://a","preferredTransport":"GRPC","additionalInterfaces":[{"url":"https://b","transport":"JSONRPC"}],"security":[],"securitySchemes":{}}`:                         `{"url":"http://here","preferredTransport":"JSONRPC"}`,
		`{"capabilities":{"streaming":false,"pushNotifications":true}}`: `{"capabilities":{"streaming":false,"pushNotifications":false}}`,
	} {
		got, err := api.LocalCard([]byte(raw), "http://here")
		if err != nil || string(got) != want {
			t.Errorf("%s\nbecame %s, %v", raw, got, err)
		}
	}
	for _, raw := range []string{``, `[]`, `{"a":1,"a":2}`, `{"supportedInterfaces":{}}`, `{"supportedInterfaces":[5]}`} {
		if got, err := api.LocalCard([]byte(raw), "http://here"); err == nil {
			t.Errorf("%s became %s", raw, got)
		}
	}
	for raw, want := range map[string]string{
		`{"id":1,"result":{"url":"https://a"}}`: `{"id":1,"result":{"url":"http://here","preferredTransport":"JSONRPC"}}`, `{"id":1,"error":{"code":1}}`: `{"id":1,"error":{"code":1}}`,
	} {
		if got, err := api.LocalResult([]byte(raw), "http://here"); err != nil || string(got) != want {
			t.Errorf("%s became %s, %v", raw, got, err)
		}
	}
}
