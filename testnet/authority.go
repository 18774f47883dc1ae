package testnet

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/node/api"
)

// sendScope is the scope of sending messages to a DID.
func sendScope(did string) string {
	return "agent:" + strings.ReplaceAll(did, ":", "%3A") + "/method:send"
}

// authorise lets each agent write to its neighbour: refused as a stranger, it asks, and
// the neighbour's owner approves. It gives the first capability.
func authorise(ctx context.Context, net *Net, dids map[string]string, tell Teller) (first api.Granted, err error) {
	tell("Authority")
	for i, from := range net.Agents {
		to := net.Agents[(i+1)%len(net.Agents)]
		did := dids[to.Name()]
		if _, err := from.Send(ctx, did, "hello, stranger"); contracts.CodeOf(err) != contracts.NoCapability {
			return first, fmt.Errorf("%s writes to %s without a capability: %w", from.Name(), to.Name(), err)
		}
		if err := from.RequestCapability(ctx, &contracts.CapabilityRequest{To: did, Hours: 1, Scopes: []string{sendScope(did)}, Reason: "to say hello"}); err != nil {
			return first, fmt.Errorf("%s asks %s: %w", from.Name(), to.Name(), err)
		}
		list, err := to.CapabilityRequests(ctx)
		if err != nil || len(list) != 1 || list[0].From != dids[from.Name()] {
			return first, fmt.Errorf("%s has the requests %+v: %w", to.Name(), list, err)
		}
		g, err := to.SettleRequest(ctx, list[0].ID, true)
		if err != nil || !g.Delivered {
			return first, fmt.Errorf("%s approves, delivered %v: %w", to.Name(), g.Delivered, err)
		}
		if i == 0 {
			first = g
		}
		tell("  %s may not write to %s (NO_CAPABILITY), asks, and gets %s", from.Name(), to.Name(), g.ID)
	}
	return first, nil
}

// takeBack revokes the first agent's capability: what it sends then is not delivered.
func takeBack(ctx context.Context, net *Net, dids map[string]string, given api.Granted, tell Teller) error {
	from, to := net.Agents[0], net.Agents[1]
	if err := to.RevokeCapability(ctx, given.ID, "ceased"); err != nil {
		return fmt.Errorf("%s revokes: %w", to.Name(), err)
	}
	sent, err := from.SendWait(ctx, dids[to.Name()], "one more", time.Second)
	if err == nil && sent.Delivered {
		return fmt.Errorf("%s writes to %s with a capability that was taken back", from.Name(), to.Name())
	}
	tell("  %s takes %s's capability back: the next message is not let in", to.Name(), from.Name())
	return nil
}
