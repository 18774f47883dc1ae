// Package mcp exposes MCP servers: programs that speak on their standard streams, and
// streamable HTTP servers. It is a driver of node/gateway.
//
//	mcp.go      what is exposed; from a call to a plan
//	edge.go     what the gateway answers itself: initialize, discover, ping
//	tools.go    the tools of a server: what they are, whether they read, what was approved
//	server.go   one server: its upstreams, one for each caller unless they may be shared
//	session.go  one upstream: the handshake, requests and what comes meanwhile
//	child.go    a program as upstream: its process group, its environment, its end
//	remote.go   a URL as upstream
//	message.go  JSON-RPC messages, read strictly and passed on as they are
//
// Each call of the mesh is one JSON-RPC request, complete in itself as MCP 2026-07-28
// wants it; which revision the server behind speaks (2025-11-25 and before: sessions) is
// hidden here. A program is named by the gateway's owner in its configuration and in no
// other way; its environment has what is written there and nothing else.
package mcp
