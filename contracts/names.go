package contracts

// Names on the wire. A network's name is part of each protocol id and topic, so
// that two networks can never mix (spec/network.md).

// Protocol gives the id of a stream protocol: /talos/<net>/<name>/<version>.
func Protocol(network, name, version string) string {
	return "/talos/" + network + "/" + name + "/" + version
}

// Topic gives the name of a gossip topic: /talos/<net>/<name>/<major>.
func Topic(network, name, major string) string {
	return "/talos/" + network + "/" + name + "/" + major
}

// Context strings of signatures: each signature covers its context, a newline,
// then the message, so that a signature of one kind never passes as another.
const (
	ContextKeyEvent     = "talos/key-event/v1"
	ContextState        = "talos/did-state/v1"
	ContextPrekeyBundle = "talos/prekey-bundle/v1"
	ContextHandshake    = "talos/handshake/v1"
	ContextHello        = "talos/hello/v1"
	ContextEvidence     = "talos/evidence/v1"
)

// Signed gives the bytes that a signature of the given context covers.
func Signed(context string, message []byte) []byte {
	b := make([]byte, 0, len(context)+1+len(message))
	b = append(b, context...)
	b = append(b, '\n')
	return append(b, message...)
}
