package llm

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/node/gate"
	"github.com/talosprotocol/talos/node/gateway"
	"github.com/talosprotocol/talos/node/gateway/outbound"
	"github.com/talosprotocol/talos/node/gateway/rawjson"
)

const defaultLimit = 4096

// Limits are the times that an upstream has. Zero fields mean their defaults.
type Limits struct {
	First time.Duration // until a stream begins; 0: 60 s
	Idle  time.Duration // between two parts of a stream; 0: 30 s
	Whole time.Duration // of an answer that is not streamed; 0: 10 min
}

// Driver exposes models. It does not change; a new configuration makes a new one.
type Driver struct {
	models map[string]*model
	limits Limits
	secret func(name string) []byte
}

type model struct {
	contracts.ModelExposure
	price   price
	limit   int64
	private bool
	client  *http.Client
}

// New makes a driver of models. secret gives a secret of the keystore, nil if there is
// none of that name. The code of an error is CONFIG_INVALID.
func New(models []contracts.ModelExposure, secret func(name string) []byte, limits Limits) (*Driver, error) {
	if limits.First == 0 {
		limits.First = 60 * time.Second
	}
	if limits.Idle == 0 {
		limits.Idle = 30 * time.Second
	}
	if limits.Whole == 0 {
		limits.Whole = 10 * time.Minute
	}
	d := &Driver{models: map[string]*model{}, limits: limits, secret: secret}
	clients := map[bool]*http.Client{true: outbound.Client(true), false: outbound.Client(false)}
	for _, e := range models {
		if d.models[e.Name] != nil {
			return nil, contracts.Errorf(contracts.ConfigInvalid, "the model %s is exposed twice", e.Name)
		}
		m := &model{ModelExposure: e, limit: defaultLimit, private: e.Private != nil && *e.Private}
		m.client = clients[m.private]
		m.price = price{orZero(e.PriceIn), orZero(e.PriceOut)}
		if e.MaxOutput != nil {
			m.limit = *e.MaxOutput
		}
		if len(m.Operations) == 0 {
			m.Operations = map[string][]string{"openai": {Chat, Embeddings, Responses}, "anthropic": {Messages}}[e.API]
		}
		m.URL = strings.TrimRight(m.URL, "/")
		d.models[e.Name] = m
	}
	return d, nil
}

func orZero(n *int64) int64 {
	if n == nil {
		return 0
	}
	return *n
}

// Services gives what is exposed.
func (d *Driver) Services() []contracts.ServiceEntry {
	out := make([]contracts.ServiceEntry, 0, len(d.models))
	for _, m := range d.models {
		e := contracts.ServiceEntry{Kind: gateway.Model, Name: m.Name, PriceIn: m.PriceIn, PriceOut: m.PriceOut}
		for _, op := range slices.Sorted(slices.Values(m.Operations)) {
			e.Operations = append(e.Operations, contracts.ServiceOperation{Name: op})
		}
		out = append(out, e)
	}
	return out
}

// Plan reads a request.
func (d *Driver) Plan(_ context.Context, a *gateway.Asked) (*gateway.Plan, error) {
	m, err := d.find(a.Service, a.Method)
	if err != nil {
		return nil, err
	}
	r, err := read(a.Method, a.Body)
	if err != nil {
		return nil, err
	}
	key, err := d.key(m)
	if err != nil {
		return nil, err
	}
	limit := r.limit
	if limit == 0 {
		limit = m.limit
	}
	args, err := json.Marshal(map[string]any{"choices": r.choices, "max_tokens": limit, "stream": r.stream})
	if err != nil {
		return nil, err
	}
	c := &upstreamCall{d: d, m: m, r: r, asked: a, key: key, body: r.Set(m.changes(r))}
	return &gateway.Plan{
		Surface: "model.use", Params: map[string]string{"model": a.Service, "operation": a.Method}, Args: args,
		Cost: bound(r, m.price, limit),
		Do: func(ctx context.Context, p *gate.Pass, w *gateway.Reply) (gateway.Usage, error) {
			return c.do(ctx, p, w)
		},
	}, nil
}

func (d *Driver) find(name, op string) (*model, error) {
	m := d.models[name]
	if m == nil {
		names := make([]string, 0, len(d.models))
		for n := range d.models {
			names = append(names, n)
		}
		return nil, contracts.Errorf(contracts.UnknownTool, "there is no model %.64q here%s", name, gateway.Nearest(name, names))
	}
	if !slices.Contains(m.Operations, op) {
		return nil, contracts.Errorf(contracts.UnknownTool, "the model %s has no %.32q; it has %s", name, op, strings.Join(m.Operations, ", "))
	}
	return m, nil
}

// key gives the upstream's key. One that is missing is an error, before anything else
// happens.
func (d *Driver) key(m *model) ([]byte, error) {
	if m.Key == "" {
		return nil, nil
	}
	k := d.secret(m.Key)
	if len(k) == 0 {
		return nil, contracts.Errorf(contracts.Unavailable, "the gateway has no key for the model %s; its owner stores it with: talos secret set %s", m.Name, m.Key)
	}
	return k, nil
}

// changes gives the members that the gateway sets itself: the model's name upstream, a
// bound where the client sets none, and that usage is said.
func (m *model) changes(r *request) map[string]string {
	name := m.UpstreamModel
	if name == "" {
		name = m.Name
	}
	out := map[string]string{}
	if quoted, err := json.Marshal(name); err == nil && string(r.Get("model")) != string(quoted) {
		out["model"] = string(quoted)
	}
	if names := limitNames[r.op]; len(names) > 0 && r.limit == 0 {
		out[names[0]] = strconv.FormatInt(m.limit, 10)
	}
	if r.op == Chat && r.stream && !r.usage {
		o, err := rawjson.Parse(r.Get("stream_options"))
		if err != nil { // there is none
			o = &rawjson.Object{}
		}
		out["stream_options"] = string(o.Set(map[string]string{"include_usage": "true"}))
	}
	if r.op == Responses && string(r.Get("store")) != "false" {
		out["store"] = "false"
	}
	return out
}
