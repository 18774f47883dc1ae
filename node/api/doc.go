// Package api is the door for programs of the same machine: HTTP on a unix socket
// that only the owner may open, and on a loopback address with a bearer token from
// a file. Handlers decode strictly, call the Node interface, and encode; they know
// no network and no storage. Client is the other side, for the command line.
//
// Requests from a browser are refused by their Host and Origin, so that a page that
// the user visits cannot speak to the node. The normative text is
// contracts/spec/local-api.md.
package api
