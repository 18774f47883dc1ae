package mcp

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
	"github.com/talosprotocol/talos/node/call"
	"github.com/talosprotocol/talos/node/gate"
	"github.com/talosprotocol/talos/node/gateway"
	"github.com/talosprotocol/talos/node/gateway/rawjson"
)

// maxRequest bounds a JSON-RPC request, in bytes.
const maxRequest = 4 << 20

// Driver exposes MCP servers. A new configuration makes a new one; Close ends all that
// the old one has started.
type Driver struct {
	servers map[string]*server
	secret  func(name string) []byte
	dir     string
	log     *slog.Logger

	ctx    context.Context
	cancel context.CancelFunc
	work   sync.WaitGroup
}

// Config of a driver.
type Config struct {
	Servers []contracts.ToolExposure
	Secret  func(name string) []byte // of the keystore, nil if there is none of that name
	Dir     string                   // folders of programs that are given none are in it
	Log     *slog.Logger
}

// New makes a driver. Nothing is started before it is used. The code of an error is
// CONFIG_INVALID.
func New(cfg Config) (*Driver, error) {
	d := &Driver{servers: map[string]*server{}, secret: cfg.Secret, dir: cfg.Dir, log: cfg.Log}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	for _, e := range cfg.Servers {
		if d.servers[e.Name] != nil {
			return nil, contracts.Errorf(contracts.ConfigInvalid, "the MCP server %s is exposed twice", e.Name)
		}
		if (len(e.Command) == 0) == (e.URL == "") {
			return nil, contracts.Errorf(contracts.ConfigInvalid, "the MCP server %s has a command or a URL, one of them", e.Name)
		}
		if len(e.Command) > 0 && !strings.HasPrefix(e.Command[0], "/") {
			return nil, contracts.Errorf(contracts.ConfigInvalid, "the program of the MCP server %s is %.128q; write its absolute path", e.Name, e.Command[0])
		}
		d.servers[e.Name] = &server{ToolExposure: e, d: d, shared: e.Shared != nil && *e.Shared, limit: limitOf(&e), upstreams: map[identity.DID]*upstream{}}
	}
	d.work.Go(d.sweep)
	return d, nil
}

// sweep ends what is idle, until the driver is closed.
func (d *Driver) sweep() {
	tick := time.NewTicker(sweepUpstreams)
	defer tick.Stop()
	for {
		select {
		case <-d.ctx.Done():
			return
		case now := <-tick.C:
			for _, s := range d.servers {
				s.sweep(now, false)
			}
		}
	}
}

// Close ends all programs that the driver has started, and returns when they are gone.
func (d *Driver) Close() error {
	d.cancel()
	for _, s := range d.servers {
		s.sweep(time.Now(), true)
	}
	d.work.Wait()
	return nil
}

// Services gives the servers with the tools that they had when they were last asked.
func (d *Driver) Services() []contracts.ServiceEntry {
	out := make([]contracts.ServiceEntry, 0, len(d.servers))
	for _, s := range d.servers {
		e := contracts.ServiceEntry{Kind: gateway.Tool, Name: s.Name, PriceCall: s.PriceCall}
		for _, t := range s.tools.last() {
			if t.held != "" {
				continue
			}
			op := contracts.ServiceOperation{Name: t.name, Digest: t.digest}
			if t.read {
				op.Read = &t.read
			}
			e.Operations = append(e.Operations, op)
		}
		out = append(out, e)
	}
	return out
}

// Warm starts each server once, so that what it offers can be told. It gives the names of
// those that fail, and why.
func (d *Driver) Warm(ctx context.Context) map[string]error {
	failed := map[string]error{}
	for name, s := range d.servers {
		err := s.with(ctx, owner, func(up *session) error {
			_, err := s.list(ctx, up)
			return err
		})
		if err != nil {
			failed[name] = err
		}
	}
	if d.ctx.Err() != nil {
		return nil // it was closed meanwhile
	}
	return failed
}

// Tool is a tool as the gateway's owner sees it.
type Tool struct {
	Server, Name, Digest string
	Read                 bool
	Held                 string // why it is held back, empty if it is not
	Raw                  []byte // its description
}

// Tools gives the tools of a server, asked for anew.
func (d *Driver) Tools(ctx context.Context, name string) ([]Tool, error) {
	s := d.servers[name]
	if s == nil {
		return nil, d.unknown(name)
	}
	var out []Tool
	err := s.with(ctx, owner, func(up *session) error {
		s.tools.forget()
		tools, err := s.list(ctx, up)
		for _, t := range tools {
			out = append(out, Tool{Server: name, Name: t.name, Digest: t.digest, Read: t.read, Held: t.held, Raw: t.raw})
		}
		return err
	})
	return out, err
}

func (d *Driver) unknown(name string) error {
	var names []string
	for n := range d.servers {
		names = append(names, n)
	}
	return contracts.Errorf(contracts.UnknownTool, "there is no MCP server %.64q here%s", name, gateway.Nearest(name, names))
}

// request is a call that was read.
type request struct {
	s       *server
	m       *message
	params  *rawjson.Object
	modern  bool // the caller speaks 2026-07-28
	asked   *gateway.Asked
	service string
}

// Plan reads a JSON-RPC request. What it does to the world is what the gateway's owner
// says of its tools: those that are not named as reading write.
func (d *Driver) Plan(ctx context.Context, a *gateway.Asked) (*gateway.Plan, error) {
	s := d.servers[a.Service]
	if s == nil {
		return nil, d.unknown(a.Service)
	}
	if len(a.Body) > maxRequest {
		return nil, contracts.Errorf(contracts.TooLarge, "a request of %d bytes, at most %d", len(a.Body), maxRequest)
	}
	m, err := readRequest(a.Body)
	if err != nil {
		return nil, err
	}
	if a.Method != m.method {
		return nil, contracts.Errorf(contracts.Malformed, "the call names the method %.64q, its body %.64q", a.Method, m.method)
	}
	r := &request{s: s, m: m, asked: a, service: a.Service}
	if r.params, err = m.params(); err != nil {
		return nil, err
	}
	v, err := revision(r.params)
	if err != nil {
		return nil, err
	}
	r.modern = v != ""
	return r.plan(ctx)
}

func (r *request) plan(ctx context.Context) (*gateway.Plan, error) {
	switch method := r.m.method; method {
	case "initialize", "server/discover", "ping":
		return r.listing(r.edge), nil
	case "tools/list":
		return r.listing(r.tools), nil
	case "tools/call":
		return r.call(ctx)
	case "resources/list", "resources/templates/list", "resources/read", "prompts/list", "prompts/get", "completion/complete":
		return &gateway.Plan{
			Surface: "tool.read", Params: map[string]string{"server": r.service, "tool": "mcp:" + method}, Cost: r.cost(),
			Do: func(ctx context.Context, _ *gate.Pass, w *gateway.Reply) (gateway.Usage, error) {
				return r.forward(ctx, w)
			},
		}, nil
	}
	return &gateway.Plan{Surface: "tool.list", Do: func(_ context.Context, _ *gate.Pass, w *gateway.Reply) (gateway.Usage, error) {
		return r.reply(w, failure(r.m.id, codeMethodNotFound, "a gateway has no "+r.m.method))
	}}, nil
}

// listing is a call that whoever may use something of the server may make: it says what
// that is.
func (r *request) listing(f func(context.Context, *session) ([]byte, error)) *gateway.Plan {
	return &gateway.Plan{Surface: "tool.list", Do: func(ctx context.Context, _ *gate.Pass, w *gateway.Reply) (gateway.Usage, error) {
		var out []byte
		err := r.s.with(ctx, owner, func(up *session) error { // nobody has one of his own for asking
			tools, err := r.s.list(ctx, up)
			if err != nil {
				return err
			}
			if !slices.ContainsFunc(tools, r.may) && r.asked.May("tool.read", map[string]string{"server": r.service, "tool": "mcp:resources/list"}) != nil {
				return contracts.Errorf(contracts.NoCapability, "nothing of the server %s is for you; ask its owner: talos cap request <did> --scope tool:%s", r.service, r.service)
			}
			out, err = f(ctx, up)
			return err
		})
		if err != nil {
			return gateway.Usage{}, call.NotBegun(err)
		}
		return r.reply(w, out)
	}}
}

// may reports whether the caller may use a tool that is not held back.
func (r *request) may(t tool) bool {
	return t.held == "" && r.asked.May(surfaceOf(t.read), map[string]string{"server": r.service, "tool": t.name}) == nil
}

func surfaceOf(read bool) string {
	if read {
		return "tool.read"
	}
	return "tool.write"
}

func (r *request) edge(_ context.Context, up *session) ([]byte, error) {
	switch r.m.method {
	case "initialize":
		return initialize(r.m.id, r.params, &up.hello, r.service), nil
	case "server/discover":
		return discover(r.m.id, &up.hello, r.service), nil
	}
	return answer(r.m.id, []byte("{}")), nil
}

// tools lists the tools that the caller may use, as their server describes them.
func (r *request) tools(ctx context.Context, up *session) ([]byte, error) {
	all, err := r.s.list(ctx, up)
	if err != nil {
		return nil, err
	}
	out := []byte(`{"tools":[`)
	first := true
	for _, t := range all {
		if !r.may(t) {
			continue
		}
		if !first {
			out = append(out, ',')
		}
		first = false
		out = append(out, t.raw...)
	}
	res := answer(r.m.id, append(out, "]}"...))
	if r.modern {
		res = complete(res, r.m.method)
	}
	return res, nil
}

// cost of a call, which is known before.
func (r *request) cost() gate.Amounts {
	return gate.Amounts{gate.Calls: 1, gate.Micro: orZero(r.s.PriceCall)}
}

func orZero(n *int64) int64 {
	if n == nil {
		return 0
	}
	return *n
}

// call plans a call of a tool.
func (r *request) call(ctx context.Context) (*gateway.Plan, error) {
	name, err := r.params.Text("name")
	if err != nil {
		return nil, err
	}
	if !validName(name) {
		return nil, contracts.Errorf(contracts.Malformed, "%.128q is no name of a tool", name)
	}
	t, err := r.find(ctx, name)
	if err != nil {
		return nil, err
	}
	args, err := readObject(r.params.Get("arguments"))
	if err != nil {
		return nil, contracts.Errorf(contracts.Malformed, "the arguments of %s: %s", name, contracts.Message(err))
	}
	raw := args.Raw()
	if len(raw) == 0 {
		raw = []byte("{}")
	}
	return &gateway.Plan{
		Surface: surfaceOf(t.read), Params: map[string]string{"server": r.service, "tool": name}, Args: raw, Cost: r.cost(),
		Do: func(ctx context.Context, _ *gate.Pass, w *gateway.Reply) (gateway.Usage, error) {
			return r.forward(ctx, w)
		},
	}, nil
}

// find gives a tool that may be used. A caller who may use nothing of the server learns
// nothing of what it has.
func (r *request) find(ctx context.Context, name string) (tool, error) {
	var tools []tool
	err := r.s.with(ctx, owner, func(up *session) (err error) {
		tools, err = r.s.list(ctx, up)
		return err
	})
	if err != nil {
		return tool{}, err
	}
	var names []string
	for _, t := range tools {
		if t.name == name && t.held != "" && (r.asked.May(surfaceOf(t.read), map[string]string{"server": r.service, "tool": name}) == nil) {
			return t, contracts.Errorf(contracts.ConstraintViolation, "the tool %s is held back: %s", name, t.held)
		}
		if t.name == name {
			return t, nil
		}
		if r.may(t) {
			names = append(names, t.name)
		}
	}
	if len(names) == 0 {
		return tool{}, contracts.Errorf(contracts.NoCapability, "nothing of the server %s is for you", r.service)
	}
	return tool{}, contracts.Errorf(contracts.UnknownTool, "the server %s has no tool %.64q for you%s", r.service, name, gateway.Nearest(name, names))
}

// forward makes the request upstream. What comes before the response is passed on as
// events, and the response then too.
func (r *request) forward(ctx context.Context, w *gateway.Reply) (gateway.Usage, error) {
	used := gateway.Usage{In: int64(len(r.m.Raw()))}
	err := r.s.with(ctx, r.asked.Caller, func(up *session) error {
		raw, err := up.do(ctx, r.m.id, r.m.method, r.params, speak(r.params, up.version), func(note []byte) error { return r.event(w, note) })
		if err != nil {
			return err
		}
		if len(raw) > r.s.limit {
			return contracts.Errorf(contracts.TooLarge, "the answer has more than %d bytes", r.s.limit)
		}
		if r.modern && up.version != modern {
			raw = complete(raw, r.m.method)
		}
		used.CostMicro = orZero(r.s.PriceCall)
		if w.Headed() {
			return r.event(w, raw)
		}
		_, err = r.reply(w, raw)
		return err
	})
	used.Out = w.Sent()
	return used, err
}

// event sends a message of a stream.
func (r *request) event(w *gateway.Reply, m []byte) error {
	if !w.Headed() {
		if err := w.Header(200, "text/event-stream", 0); err != nil {
			return err
		}
	}
	if _, err := w.Write(slices.Concat([]byte("event: message\ndata: "), oneLine(m), []byte("\n\n"))); err != nil {
		return err
	}
	return w.Flush()
}

// oneLine takes line ends out of JSON, where they stand between members.
func oneLine(m []byte) []byte {
	return []byte(strings.NewReplacer("\n", " ", "\r", " ").Replace(string(m)))
}

func (r *request) reply(w *gateway.Reply, b []byte) (gateway.Usage, error) {
	u := gateway.Usage{In: int64(len(r.m.Raw())), Out: int64(len(b))}
	if err := w.Header(200, "application/json", int64(len(b))); err != nil {
		return u, err
	}
	_, err := w.Write(b)
	return u, err
}
