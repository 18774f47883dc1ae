// Package directory answers "who and where is this DID", and says it of its own node.
//
// A DID's truth is its signed state record (package identity). The directory gets
// it by a ladder: a did:key is its own record; then the memory, while it is fresh;
// then the peer itself over an open connection; then the DHT. Whatever comes is
// verified, and compared with the highest version ever seen of that DID, which is
// kept on disk: nothing lower is believed again, however validly signed. Two
// contradicting key logs flag the DID as duplicitous for good.
//
// The DHT stores and does not judge: a put that every peer refused returns no error
// and nothing is republished by itself. So Publish speaks to each of the closest
// peers, counts their acknowledgements and reads back, and Run republishes before
// the record ages.
//
// Hello binds a connection to a DID: both sides show their state, and the key of
// the transport handshake must be the one that the state lists. What is bound to
// the connection is the proof of who calls. The normative text is
// contracts/spec/directory.md.
package directory
