package node

import (
	"crypto/rand"
	"fmt"
	"time"

	"github.com/talosprotocol/talos/anchor/chain"
	"github.com/talosprotocol/talos/anchor/chain/ethereum"
	"github.com/talosprotocol/talos/anchor/chain/evm"
	"github.com/talosprotocol/talos/anchor/chain/opentimestamps"
	"github.com/talosprotocol/talos/contracts"
)

// keyChain begins the names of the keys that pay for transactions.
const keyChain = "chain/"

// ChainAccount gives the account that pays on an Ethereum chain. Its key is made when it
// is first asked for, and is nowhere but in the keystore.
func (h *Home) ChainAccount(chainID uint64) (evm.Key, error) {
	name := keyChain + ethereum.ChainName(chainID)
	b := h.keys.Get(name)
	for b == nil {
		b = make([]byte, 32)
		_, _ = rand.Read(b) // never fails
		if _, err := evm.NewKey(b); err != nil {
			b = nil // one in 2^128
			continue
		}
		if err := h.keys.Put(map[string][]byte{name: b}); err != nil {
			return evm.Key{}, err
		}
	}
	return evm.NewKey(b)
}

// chains makes the drivers of an anchor's configuration.
func (n *Node) chains() ([]chain.Driver, error) {
	var out []chain.Driver
	if !n.home.Has("anchor") {
		if len(n.home.Config.AnchorChains) > 0 {
			return nil, contracts.Errorf(contracts.ConfigInvalid, "anchor_chains are for the role anchor")
		}
		return nil, nil
	}
	seen := map[string]bool{}
	for i := range n.home.Config.AnchorChains {
		d, err := n.chain(&n.home.Config.AnchorChains[i])
		if err != nil {
			return nil, err
		}
		if name := d.Name() + " " + d.Chain(); seen[name] {
			return nil, contracts.Errorf(contracts.ConfigInvalid, "anchor_chains: %s is there twice", name)
		} else {
			seen[name] = true
		}
		out = append(out, d)
	}
	return out, nil
}

func (n *Node) chain(c *contracts.AnchorChain) (chain.Driver, error) {
	every := time.Duration(orZero(c.EverySeconds)) * time.Second
	if c.Driver == opentimestamps.Name {
		o := opentimestamps.Config{Calendars: c.Urls, Every: every}
		if c.Rpc != "" {
			o.Node = &opentimestamps.Node{URL: c.Rpc}
		}
		return opentimestamps.New(o)
	}
	id := uint64(orZero(c.ChainID))
	if id == 0 {
		return nil, contracts.Errorf(contracts.ConfigInvalid, "anchor_chains: ethereum needs chain_id")
	}
	key, err := n.home.ChainAccount(id)
	if err != nil {
		return nil, err
	}
	d, err := ethereum.New(ethereum.Config{
		URLs: c.Urls, ChainID: id, Key: key, Confirmations: uint64(orZero(c.Confirmations)), Every: every, MaxFee: uint64(orZero(c.MaxFeeGwei)) * 1e9,
	})
	if err != nil {
		return nil, err
	}
	n.log.Info("the anchor's log goes onto a chain", "chain", d.Chain(), "account", fmt.Sprintf("0x%x", d.Account()))
	return d, nil
}
