package testnet

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/talosprotocol/talos/anchor"
	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/node/api"
	"github.com/talosprotocol/talos/node/evidence"
)

// Member is a node that a scenario speaks to.
type Member interface {
	Name() string
	Home() string
	Status(ctx context.Context) (api.Status, error)
	Send(ctx context.Context, to, text string) (api.Sent, error)
	Inbox(ctx context.Context, after uint64, wait time.Duration) ([]api.Message, error)
	Resolve(ctx context.Context, did string, fresh bool) (api.Resolution, error)
	Events(ctx context.Context, after uint64, limit int, last bool) (api.Events, error)
	Prove(ctx context.Context, index uint64, sealed bool) ([]byte, error)
	SendWait(ctx context.Context, to, text string, wait time.Duration) (api.Sent, error)
	RequestCapability(ctx context.Context, r *contracts.CapabilityRequest) error
	CapabilityRequests(ctx context.Context) ([]api.CapabilityRequest, error)
	SettleRequest(ctx context.Context, id string, approve bool) (api.Granted, error)
	RevokeCapability(ctx context.Context, id, why string) error
	Grant(ctx context.Context, r *contracts.GrantRequest, parent string) (api.Granted, error)
	Open(ctx context.Context, method, path string, body []byte) (*http.Response, error)
	SetSecret(ctx context.Context, name string, value []byte) error
	ReloadServices(ctx context.Context) ([]api.Service, error)
	SetPolicy(ctx context.Context, p *contracts.Policy) error
	Approvals(ctx context.Context) ([]api.Approval, error)
	Decide(ctx context.Context, id string, approve bool, why string) (api.Approval, error)
}

// Net is a running network.
type Net struct {
	Bootstraps, Anchors, Agents []Member
	Strangers                   string // as in the plan
	// Notes is the command of an MCP server (fake.ServeNotes); empty: the story has none.
	Notes []string
}

// All gives every member.
func (n *Net) All() []Member {
	return append(append(append([]Member{}, n.Bootstraps...), n.Anchors...), n.Agents...)
}

// Plan says how many of each.
type Plan struct {
	Bootstraps, Anchors, Agents int
	// Strangers is what agents let others do that have shown no capability: "ask", or
	// "message", which is also meant by "".
	Strangers string
	// Geth is the path of a geth: the network then has a development chain, onto which the
	// anchors put their logs. Processes only.
	Geth string
}

// Teller gets the story as it happens, a line at a time.
type Teller func(format string, args ...any)

// Story is the conversation that the demo plays: agents resolve each other, talk, and
// an event of it is proved and verified. It returns the bundle.
func Story(ctx context.Context, net *Net, tell Teller) ([]byte, error) {
	if len(net.Agents) < 2 {
		return nil, fmt.Errorf("a conversation needs two agents, there are %d", len(net.Agents))
	}
	dids := map[string]string{}
	tell("Who is there")
	for _, m := range net.All() {
		st, err := m.Status(ctx)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", m.Name(), err)
		}
		dids[m.Name()] = st.DID
		tell("  %-12s %-10s %s", m.Name(), strings.Join(st.Roles, ","), st.DID)
	}
	if err := resolveAll(ctx, net, dids, tell); err != nil {
		return nil, err
	}
	alice := net.Agents[0]
	given := api.Granted{}
	if net.Strangers == "ask" {
		var err error
		if given, err = authorise(ctx, net, dids, tell); err != nil {
			return nil, err
		}
	}
	if err := converse(ctx, net, dids, tell); err != nil {
		return nil, err
	}
	if net.Strangers == "ask" {
		if err := takeBack(ctx, net, dids, given, tell); err != nil {
			return nil, err
		}
	}
	if err := useGateways(ctx, net, dids, tell); err != nil {
		return nil, err
	}
	return proveFirst(ctx, net, alice, dids, tell)
}

// resolveAll has every agent resolve every other through the DHT.
func resolveAll(ctx context.Context, net *Net, dids map[string]string, tell Teller) error {
	start, n := time.Now(), 0
	for _, a := range net.Agents {
		for _, b := range net.All() {
			if a == b {
				continue
			}
			if _, err := a.Resolve(ctx, dids[b.Name()], true); err != nil {
				return fmt.Errorf("%s resolves %s: %w", a.Name(), b.Name(), err)
			}
			n++
		}
	}
	tell("Finding each other\n  %d DIDs resolved afresh through the DHT in %s", n, time.Since(start).Round(time.Millisecond))
	return nil
}

// converse sends messages between all neighbours and checks what arrives.
func converse(ctx context.Context, net *Net, dids map[string]string, tell Teller) error {
	tell("A conversation")
	for i, from := range net.Agents {
		to := net.Agents[(i+1)%len(net.Agents)]
		for k, text := range []string{"hello " + to.Name() + ", this is " + from.Name(), "second message, same session"} {
			sent, err := from.Send(ctx, dids[to.Name()], text)
			if err != nil {
				return fmt.Errorf("%s writes to %s: %w", from.Name(), to.Name(), err)
			}
			if k == 0 {
				tell("  %s → %s  session %s", from.Name(), to.Name(), sent.SessionID)
			}
			tell("    frame %d  ciphertext %s", sent.SenderSeq, sent.CiphertextHash)
		}
	}
	for i, to := range net.Agents {
		from := net.Agents[(i+len(net.Agents)-1)%len(net.Agents)]
		if err := expect(ctx, to, dids[from.Name()], 2); err != nil {
			return err
		}
		tell("  %s has both messages of %s, in order, once", to.Name(), from.Name())
	}
	return nil
}

// expect waits until a member has n messages of a sender and checks their order.
func expect(ctx context.Context, m Member, from string, n int) error {
	var got []api.Message
	var cursor uint64
	for len(got) < n {
		msgs, err := m.Inbox(ctx, cursor, 2*time.Second)
		if err != nil {
			return fmt.Errorf("%s reads: %w", m.Name(), err)
		}
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("%s has %d of %d messages: %w", m.Name(), len(got), n, err)
		}
		for _, msg := range msgs {
			cursor = msg.Index
			if msg.SenderID == from {
				got = append(got, msg)
			}
		}
	}
	for i := 1; i < len(got); i++ {
		if got[i].SenderSeq <= got[i-1].SenderSeq {
			return fmt.Errorf("%s got message %d after %d", m.Name(), got[i].SenderSeq, got[i-1].SenderSeq)
		}
	}
	return nil
}

// proveFirst waits for cosignatures, proves the first message, and verifies it as a
// stranger would.
func proveFirst(ctx context.Context, net *Net, m Member, dids map[string]string, tell Teller) ([]byte, error) {
	tell("Evidence")
	var st api.Status
	for {
		var err error
		if st, err = m.Status(ctx); err != nil {
			return nil, err
		}
		if st.Cosigners >= len(net.Anchors) && st.Witnessed > 3 {
			break
		}
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return nil, fmt.Errorf("%s waits for %d cosignatures, has %d: %w", m.Name(), len(net.Anchors), st.Cosigners, err)
		}
	}
	tell("  log %s", st.AuditOrigin)
	tell("  checkpoint over %d events, cosigned by %d anchors", st.Witnessed, st.Cosigners)
	events, err := m.Events(ctx, 0, 100, false)
	if err != nil {
		return nil, err
	}
	for _, e := range events.Events {
		if !strings.Contains(string(e.Event), `"message_out"`) || e.Index >= st.Witnessed {
			continue
		}
		bundle, err := m.Prove(ctx, e.Index, false)
		if err != nil {
			return nil, err
		}
		return bundle, verify(net, bundle, dids, e.Index, tell)
	}
	return nil, fmt.Errorf("%s has no witnessed event of a message", m.Name())
}

// verify judges a bundle with the anchors of the network as the trusted witnesses.
func verify(net *Net, bundle []byte, dids map[string]string, index uint64, tell Teller) error {
	p := anchor.Policy{Quorum: len(net.Anchors)/2 + 1}
	for _, a := range net.Anchors {
		p.Witnesses = append(p.Witnesses, anchor.PolicyWitness{Name: dids[a.Name()], Organisation: a.Name()})
	}
	v, _ := evidence.VerifyBundle(bundle, p, time.Now())
	if v.Level < anchor.Witnessed || !v.QuorumMet() {
		return fmt.Errorf("the proof of event %d: %s %v", index, v, v.Problems)
	}
	tell("  event %d: %s", index, v)
	flipped := append([]byte{}, bundle...)
	flipped[len(flipped)/2] ^= 1
	if v, _ := evidence.VerifyBundle(flipped, p, time.Now()); v.Level != anchor.Invalid {
		return fmt.Errorf("a bundle with a flipped bit is %s", v)
	}
	tell("  the same file with one flipped bit: INVALID")
	return nil
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
