package node

import (
	"context"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
	"github.com/talosprotocol/talos/node/directory"
)

// keepState signs a new state when the addresses change, and before it ages.
func (n *Node) keepState(ctx context.Context) error {
	sub, err := n.host.EventBus().Subscribe(new(event.EvtLocalAddressesUpdated))
	if err != nil {
		return err
	}
	defer sub.Close() //nolint:errcheck // ends with the host
	tick := time.NewTicker(10 * time.Minute)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-sub.Out():
		case <-tick.C:
		case newer := <-n.dir.Overtaken():
			if err := n.overtaken(newer); err != nil {
				return err
			}
			continue
		}
		n.mu.Lock()
		addrs, st := directory.Addrs(n.host), n.home.State
		old := time.Now().After(st.IssuedAt.Add(stateValid / 2))
		if !st.Deactivated() && (old || strings.Join(addrs, " ") != strings.Join(st.Doc.Addrs, " ")) {
			if err := n.home.Resign(addrs, time.Now()); err != nil {
				n.log.Error("signing the state", "err", err)
			} else {
				n.dir.SetSelf(n.home.State)
			}
		}
		n.mu.Unlock()
	}
}

// overtaken deals with a state of this DID that the network holds and this home does
// not: the home was restored from an older copy. One of the same keys is passed by a
// higher number; one of later keys ends the node, since these were given up.
func (n *Node) overtaken(newer *identity.State) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	st := n.home.State
	switch {
	case identity.Compare(newer, st) <= 0:
		return nil
	case newer.SN != st.SN || newer.Keys.Last != st.Keys.Last:
		return contracts.Errorf(contracts.Rollback, "%s is an older copy: the keys of %s were rotated since (the network has version %s, this home %s); use the home with the new keys, or recover the DID with its recovery key", n.home.Dir, st.DID, newer.Version(), st.Version())
	}
	n.log.Warn("this home is an older copy: its next state passes the one that the network holds", "here", st.Version(), "network", newer.Version())
	if err := n.home.ResignAbove(newer.Seq, directory.Addrs(n.host), time.Now()); err != nil {
		return err
	}
	n.dir.SetSelf(n.home.State)
	return nil
}

var rowPeers = []byte("p/peers")

// savedPeers gives the peers that the last run was connected with: when all
// bootstraps are gone, they still lead back into the network.
func (n *Node) savedPeers() []peer.AddrInfo {
	b, err := n.store.Table().Get(rowPeers)
	if err != nil || len(b) == 0 {
		return nil
	}
	infos, err := parsePeers(strings.Fields(string(b)))
	if err != nil {
		return nil
	}
	return infos
}

// keepPeers brings the anchors into the peering and remembers good peers.
func (n *Node) keepPeers(ctx context.Context) error {
	tick := time.NewTicker(30 * time.Second)
	defer tick.Stop()
	for {
		for _, a := range n.home.Config.Anchors {
			if r, err := n.dir.Resolve(ctx, identity.DID(a), directory.Options{}); err == nil && r.State.Doc != nil && r.State.DID != n.home.DID() {
				if info, err := directory.AddrInfo(r.State.Doc, n.host.Kind); err == nil {
					n.peering.Keep(info)
				}
			}
		}
		var good []string
		for _, id := range n.host.Host.Network().Peers() {
			for _, c := range n.host.Host.Network().ConnsToPeer(id) {
				if len(good) < 64 && c.Stat().Direction == network.DirOutbound { // outbound: an address that can be dialled
					good = append(good, c.RemoteMultiaddr().String()+"/p2p/"+id.String())
				}
			}
		}
		if len(good) > 0 {
			if err := n.store.Table().Put(ctx, rowPeers, []byte(strings.Join(good, " "))); err != nil && ctx.Err() == nil {
				n.log.Debug("remembering peers", "err", err)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
