// Package gossip carries small signed statements to everybody who cares, over
// gossipsub topics of one Talos network.
//
// A message's author is whoever signed its payload, never the peer that sent it on:
// messages carry no libp2p signature and no sender, and each topic's validator
// decides by the payload alone. Accept relays; Ignore drops without blame (old,
// repeated, not known yet); Reject also counts against the peer that sent it. Equal
// payloads are one message, whoever publishes them.
//
// Nothing may depend on a message arriving: gossip tells sooner what can be asked
// for anyway. Nodes find the peers of a topic through the DHT, since a bootstrap as
// the only neighbour does not make a mesh; bootstraps also hand out peers when they
// prune. The normative text is contracts/spec/network.md.
package gossip
