package evidence

import (
	"crypto/ed25519"
	"strings"
)

// LogKey gives the key of a log that this node can resolve.
func (k liveKeys) LogKey(origin string) (ed25519.PublicKey, error) {
	did, _, _ := strings.Cut(origin, "/")
	keys, err := k.keys(did)
	if err != nil {
		return nil, err
	}
	return keys.LogKey(origin)
}

// WitnessKey gives the key of an anchor that this node can resolve.
func (k liveKeys) WitnessKey(name string) (ed25519.PublicKey, error) {
	keys, err := k.keys(name)
	if err != nil {
		return nil, err
	}
	return keys.WitnessKey(name)
}
