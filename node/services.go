package node

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
	"github.com/talosprotocol/talos/identity/keystore"
	"github.com/talosprotocol/talos/node/api"
	"github.com/talosprotocol/talos/node/call"
	"github.com/talosprotocol/talos/node/gateway"
	"github.com/talosprotocol/talos/node/gateway/a2a"
	"github.com/talosprotocol/talos/node/gateway/llm"
	"github.com/talosprotocol/talos/node/gateway/mcp"
)

const (
	fileGateway = "gateway.json"

	secretPrefix = "secret/"
	maxSecret    = 16 << 10

	// drainWithin is how long calls may go on when the node stops.
	drainWithin = 20 * time.Second
)

// Gateway reads what the home exposes and trusts; nothing where there is no file.
func (h *Home) Gateway() (*contracts.GatewayConfig, error) {
	b, err := os.ReadFile(h.path(fileGateway))
	if errors.Is(err, fs.ErrNotExist) {
		return &contracts.GatewayConfig{V: "talos-gateway/1"}, nil
	}
	if err != nil {
		return nil, contracts.Errorf(contracts.Unavailable, "%s: %w", fileGateway, err)
	}
	c, err := contracts.ParseGatewayConfig(b)
	if err != nil {
		return nil, contracts.Errorf(contracts.ConfigInvalid, "%s: %w", h.path(fileGateway), err)
	}
	return c, nil
}

// SetGateway replaces what the home exposes and trusts. A running node reads it when it
// is told to.
func (h *Home) SetGateway(c *contracts.GatewayConfig) error {
	if err := c.Validate(); err != nil {
		return contracts.Errorf(contracts.ConfigInvalid, "%w", err)
	}
	return keystore.WriteFile(h.path(fileGateway), c.AppendCanonical(nil))
}

// SetSecret keeps a secret for upstreams in the keystore, sealed; nil deletes it. While
// the home's node runs only the node itself may do it.
func (h *Home) SetSecret(name string, value []byte) error {
	if name == "" || len(name) > 64 || len(value) > maxSecret {
		return contracts.Errorf(contracts.Malformed, "a secret has a name of 1 to 64 characters and at most %d bytes", maxSecret)
	}
	return h.keys.Put(map[string][]byte{secretPrefix + name: value})
}

// Secrets gives the names of the secrets for upstreams.
func (h *Home) Secrets() []string {
	out := []string{}
	for _, n := range h.keys.Names() {
		if name, ok := strings.CutPrefix(n, secretPrefix); ok {
			out = append(out, name)
		}
	}
	return out
}

// openServices makes the node's gateway, and its way to those of others.
func (n *Node) openServices() error {
	n.openReceipts()
	if err := n.openExecutions(); err != nil {
		return err
	}
	n.gateway = gateway.New(gateway.Config{DID: n.home.DID(), Key: n.signingKey, Gate: n.gate, Executions: n.executions, Receipts: n.receipts, Log: n.log, Now: time.Now})
	n.calls = call.New(n.host, n.dir, n.log, call.Limits{})
	n.router = gateway.NewRouter(gateway.RouterConfig{Calls: n.calls, Host: n.host, Dir: n.dir, Powers: n.powers, Own: n.gateway, Keeper: n.receipts, Log: n.log, Now: time.Now})
	n.agentTasks = a2a.NewTasks()
	if err := n.reload(); err != nil {
		return err
	}
	n.calls.Serve(n.answer)
	return nil
}

// signingKey gives the invocation key in use.
func (n *Node) signingKey() (identity.InvocationKey, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return keystore.Key[identity.Invocation](n.home.keys, keyInvocation)
}

// secret gives a secret for upstreams.
func (n *Node) secret(name string) []byte {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.home.keys.Get(secretPrefix + name)
}

// reload reads what the node exposes and trusts. One that does not add up changes nothing.
func (n *Node) reload() error {
	c, err := n.home.Gateway()
	if err != nil {
		return err
	}
	models, err := llm.New(c.Models, n.secret, llm.Limits{})
	if err != nil {
		return err
	}
	agents, err := a2a.New(a2a.Config{Agents: c.Agents, Secret: n.secret, Tasks: n.agentTasks})
	if err != nil {
		return err
	}
	if err := n.reloadTools(c.Tools); err != nil {
		return err
	}
	n.reloadAgents(agents, c.Agents)
	n.gateway.SetRegion(c.Region)
	n.gateway.Set(gateway.Model, models)
	trust := make([]identity.DID, len(c.PromptsTo))
	for i, d := range c.PromptsTo {
		trust[i] = identity.DID(d)
	}
	n.router.SetTrust(trust, c.Region)
	return nil
}

// reloadTools replaces the MCP servers if they are others now: those that run would end.
func (n *Node) reloadTools(servers []contracts.ToolExposure) error {
	n.mu.Lock()
	same := n.tools != nil && reflect.DeepEqual(servers, n.exposed)
	n.mu.Unlock()
	if same {
		return nil
	}
	tools, err := mcp.New(mcp.Config{Servers: servers, Secret: n.secret, Dir: n.home.path("mcp"), Log: n.log})
	if err != nil {
		return err
	}
	n.mu.Lock()
	old := n.tools
	n.tools, n.exposed = tools, servers
	n.mu.Unlock()
	n.gateway.Set(gateway.Tool, tools)
	if old != nil {
		go old.Close() //nolint:errcheck // there is none
	}
	go n.warm("an MCP server", tools)
	return nil
}

// reloadAgents replaces the A2A agents if they are others now: what their cards said is
// known still.
func (n *Node) reloadAgents(d *a2a.Driver, agents []contracts.AgentExposure) {
	n.mu.Lock()
	same := n.agents != nil && slices.EqualFunc(agents, n.agents, func(a, b contracts.AgentExposure) bool { return reflect.DeepEqual(a, b) })
	n.agents = append([]contracts.AgentExposure{}, agents...) // not nil: they were set
	n.mu.Unlock()
	if same {
		return
	}
	n.gateway.Set(gateway.Agent, d)
	go n.warm("an A2A agent", d)
}

// warm asks what services offer once, so that the node can say it.
func (n *Node) warm(what string, d interface {
	Warm(ctx context.Context) map[string]error
}) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for name, err := range d.Warm(ctx) {
		n.log.Warn(what+" that is exposed does not answer", "name", name, "err", err)
	}
	n.gateway.Changed()
}

// drain lets the calls that run end, and takes no new ones.
func (n *Node) drain(ctx context.Context) error {
	<-ctx.Done()
	n.gateway.Drain()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainWithin)
	defer cancel()
	if err := n.calls.Drain(ctx); err != nil {
		n.log.Warn("calls were cut off", "err", err)
	}
	return nil
}

func (l *local) Use(ctx context.Context, u *api.Use) (*api.Answer, error) {
	if l.n.router == nil {
		return nil, contracts.Errorf(contracts.Unavailable, "this node has neither the role agent nor gateway")
	}
	t, err := gateway.ParseTarget(u.Kind, u.Method, u.Service)
	if err != nil {
		return nil, err
	}
	use := &gateway.Use{Target: t, ContentType: u.ContentType, Body: u.Body, Repeatable: u.Repeatable, IdempotencyKey: u.Key}
	for _, name := range slices.Sorted(maps.Keys(u.Headers)) {
		use.Headers = append(use.Headers, contracts.CallHeader{Name: name, Value: u.Headers[name]})
	}
	a, err := l.n.router.Use(ctx, use)
	if err != nil {
		return nil, err
	}
	out := &api.Answer{Status: a.Status, ContentType: a.ContentType, Length: a.Length, Body: a.Body, Gateway: string(a.Gateway), Request: a.Request, Headers: map[string]string{}, Receipt: a.Receipt}
	for _, h := range a.Headers {
		out.Headers[h.Name] = h.Value
	}
	return out, nil
}

func (l *local) Find(ctx context.Context, kind, name string) ([]api.Service, error) {
	if l.n.router == nil {
		return nil, contracts.Errorf(contracts.Unavailable, "this node has neither the role agent nor gateway")
	}
	switch kind {
	case gateway.Model, gateway.Tool, gateway.Agent:
	default:
		return nil, contracts.Errorf(contracts.Malformed, "kind is model, tool or agent")
	}
	return services(l.n.router.Find(ctx, kind, name)), nil
}

func (l *local) Known(ctx context.Context, kind string) ([]api.Service, error) {
	if l.n.router == nil {
		return nil, contracts.Errorf(contracts.Unavailable, "this node has neither the role agent nor gateway")
	}
	return services(l.n.router.Known(ctx, kind)), nil
}

func services(found []gateway.Found) []api.Service {
	out := []api.Service{}
	for _, f := range found {
		out = append(out, service(&f.Service, f.Gateway, f.Region, f.Trusted))
	}
	return out
}

func service(e *contracts.ServiceEntry, of identity.DID, region string, trusted bool) api.Service {
	s := api.Service{
		Gateway: string(of), Region: region, Kind: e.Kind, Name: e.Name, About: e.About, Trusted: trusted,
		PriceIn: orZero(e.PriceIn), PriceOut: orZero(e.PriceOut), PriceCall: orZero(e.PriceCall),
	}
	for _, op := range e.Operations {
		s.Operations = append(s.Operations, api.Operation{Name: op.Name, Read: op.Read != nil && *op.Read, Digest: op.Digest})
	}
	return s
}

func (l *local) Reload(context.Context) ([]api.Service, error) {
	if l.n.router == nil {
		return nil, contracts.Errorf(contracts.Unavailable, "this node has neither the role agent nor gateway")
	}
	if err := l.n.reload(); err != nil {
		return nil, err
	}
	out := []api.Service{}
	for _, e := range l.n.gateway.Services() {
		out = append(out, service(&e, l.n.home.DID(), "", true))
	}
	return out, nil
}

func (l *local) SetSecret(_ context.Context, name string, value []byte) error {
	l.n.mu.Lock()
	defer l.n.mu.Unlock()
	return l.n.home.SetSecret(name, value)
}

func (l *local) ExposedTools(ctx context.Context, server string) ([]api.ExposedTool, error) {
	l.n.mu.Lock()
	d, exposed := l.n.tools, l.n.exposed
	l.n.mu.Unlock()
	if d == nil {
		return nil, contracts.Errorf(contracts.Unavailable, "this node has neither the role agent nor gateway")
	}
	tools, err := d.Tools(ctx, server)
	if err != nil {
		return nil, err
	}
	out := []api.ExposedTool{}
	for _, t := range tools {
		e := api.ExposedTool{Name: t.Name, Digest: t.Digest, Read: t.Read, Held: t.Held, Tool: t.Raw}
		for _, s := range exposed {
			e.Pinned = e.Pinned || s.Name == server && slices.ContainsFunc(s.Pins, func(p contracts.ToolPin) bool { return p.Tool == t.Name && p.Digest == t.Digest })
		}
		out = append(out, e)
	}
	return out, nil
}
