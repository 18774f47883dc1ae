package a2a

import (
	"context"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/node/call"
	"github.com/talosprotocol/talos/node/gate"
	"github.com/talosprotocol/talos/node/gateway"
	"github.com/talosprotocol/talos/node/gateway/outbound"
)

// Card is the method of a call that asks for an agent's card.
const Card = "card"

// maxRequest bounds a JSON-RPC request, in bytes.
const maxRequest = 4 << 20

// Limits are the times that an agent has. Zero fields mean their defaults.
type Limits struct {
	First time.Duration // until a stream begins; 0: 60 s
	Idle  time.Duration // between two parts of a stream; 0: 5 min
	Whole time.Duration // of an answer that is not streamed; 0: 10 min
}

// Config of a driver.
type Config struct {
	Agents []contracts.AgentExposure
	Secret func(name string) []byte // of the keystore, nil if there is none of that name
	Tasks  *Tasks                   // outlive a driver; nil: none so far
	Limits Limits
}

// Driver exposes A2A agents. It does not change; a new configuration makes a new one.
type Driver struct {
	agents map[string]*agent
	secret func(name string) []byte
	tasks  *Tasks
	limits Limits
}

// New makes a driver. No agent is asked before it is used. The code of an error is
// CONFIG_INVALID.
func New(cfg Config) (*Driver, error) {
	d := &Driver{agents: map[string]*agent{}, secret: cfg.Secret, tasks: cfg.Tasks, limits: cfg.Limits}
	if d.tasks == nil {
		d.tasks = NewTasks()
	}
	if d.limits.First == 0 {
		d.limits.First = 60 * time.Second
	}
	if d.limits.Idle == 0 {
		d.limits.Idle = 5 * time.Minute
	}
	if d.limits.Whole == 0 {
		d.limits.Whole = 10 * time.Minute
	}
	clients := map[bool]*http.Client{true: outbound.Client(true), false: outbound.Client(false)}
	for _, e := range cfg.Agents {
		if d.agents[e.Name] != nil {
			return nil, contracts.Errorf(contracts.ConfigInvalid, "the agent %s is exposed twice", e.Name)
		}
		base, err := url.Parse(e.URL)
		if err != nil || base.Host == "" || base.User != nil {
			return nil, contracts.Errorf(contracts.ConfigInvalid, "the address of the agent %s is not right", e.Name)
		}
		d.agents[e.Name] = &agent{AgentExposure: e, d: d, base: base, client: clients[e.Private != nil && *e.Private]}
	}
	return d, nil
}

// Services gives the agents with the skills that their cards had when they were last read.
func (d *Driver) Services() []contracts.ServiceEntry {
	out := make([]contracts.ServiceEntry, 0, len(d.agents))
	for _, a := range d.agents {
		e := contracts.ServiceEntry{Kind: gateway.Agent, Name: a.Name, PriceCall: a.PriceCall}
		if c := a.known(); c != nil {
			e.About, e.Operations = c.about, slices.Clone(c.skills)
		}
		out = append(out, e)
	}
	return out
}

// Warm reads each agent's card, so that what it offers can be told. It gives the names of
// those that fail, and why.
func (d *Driver) Warm(ctx context.Context) map[string]error {
	failed := map[string]error{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for name, a := range d.agents {
		wg.Go(func() {
			if _, err := a.card(ctx); err != nil {
				mu.Lock()
				defer mu.Unlock()
				failed[name] = err
			}
		})
	}
	wg.Wait()
	return failed
}

// Plan reads a call. The body decides what it is; the header must say the same.
func (d *Driver) Plan(_ context.Context, asked *gateway.Asked) (*gateway.Plan, error) {
	a := d.agents[asked.Service]
	if a == nil {
		return nil, contracts.Errorf(contracts.UnknownTool, "there is no A2A agent %.64q here%s", asked.Service, gateway.Nearest(asked.Service, slices.Collect(maps.Keys(d.agents))))
	}
	if asked.Method == Card {
		return a.planCard(asked)
	}
	r, err := readRequest(asked)
	if err != nil {
		return nil, err
	}
	r.a = a
	p := &gateway.Plan{Surface: "agent.use", Params: params(a, r.op), Args: r.params.Raw(), Cost: gate.Amounts{gate.Calls: 1}}
	if r.op == getTask || r.op == listTasks {
		p.Surface = "agent.read"
	}
	p.Cost[gate.Micro] = r.price()
	p.Do = func(ctx context.Context, _ *gate.Pass, w *gateway.Reply) (gateway.Usage, error) {
		used, err := r.forward(ctx, w)
		used.In, used.Out = int64(len(asked.Body)), w.Sent()
		return used, err
	}
	return p, nil
}

func params(a *agent, operation string) map[string]string {
	return map[string]string{"agent": a.Name, "operation": operation}
}

func (a *agent) planCard(asked *gateway.Asked) (*gateway.Plan, error) {
	if len(asked.Body) > 0 {
		return nil, contracts.Errorf(contracts.Malformed, "a call for a card has no body")
	}
	return &gateway.Plan{
		Surface: "agent.read", Params: params(a, Card), Cost: gate.Amounts{gate.Calls: 1},
		Do: func(ctx context.Context, _ *gate.Pass, w *gateway.Reply) (gateway.Usage, error) {
			c, err := a.card(ctx)
			if err != nil {
				return gateway.Usage{}, call.NotBegun(err)
			}
			u := gateway.Usage{Out: int64(len(c.raw))}
			if err := w.Header(http.StatusOK, "application/json", u.Out); err != nil {
				return u, err
			}
			_, err = w.Write(c.raw)
			return u, err
		},
	}, nil
}
