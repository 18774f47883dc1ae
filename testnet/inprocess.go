package testnet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"time"

	"github.com/talosprotocol/talos/node"
	"github.com/talosprotocol/talos/node/api"
)

const pollEvery = 20 * time.Millisecond

// Inside is a member that runs in this process. It is spoken to over its socket, as
// a process is; the node itself is at hand.
type Inside struct {
	*api.Client
	Node       *node.Node
	name, home string
	cancel     context.CancelFunc
	done       chan error
}

// Name gives the member's name.
func (m *Inside) Name() string { return m.name }

// Home gives the folder of its home.
func (m *Inside) Home() string { return m.home }

// StartInProcess makes homes in dir and runs the nodes of a plan in this process,
// bootstraps first, until stop is called; all are ready when it returns. dir has to
// be short, for the sockets. With an error nothing runs any more.
func StartInProcess(ctx context.Context, dir string, plan Plan, opts ...node.Option) (*Net, func() error, error) {
	s := &starter{dir: dir, opts: opts}
	net, err := s.plan(ctx, plan)
	if err != nil {
		return nil, nil, errors.Join(err, s.stop())
	}
	return net, s.stop, nil
}

// starter starts nodes and remembers them in order.
type starter struct {
	dir  string
	opts []node.Option
	list []*Inside
}

func (s *starter) plan(ctx context.Context, plan Plan) (*Net, error) {
	net := &Net{Strangers: plan.Strangers}
	var bootstrap, anchors []string
	for i := range plan.Bootstraps {
		m, err := s.start(ctx, fmt.Sprintf("bootstrap%d", i+1), node.InitOptions{Roles: []string{"bootstrap"}, Bootstrap: bootstrap})
		if err != nil {
			return nil, err
		}
		net.Bootstraps = append(net.Bootstraps, m)
		bootstrap = append(bootstrap, m.Node.Status().Addresses...)
	}
	for i := range plan.Anchors {
		m, err := s.start(ctx, fmt.Sprintf("anchor%d", i+1), node.InitOptions{Roles: []string{"anchor"}, Bootstrap: bootstrap})
		if err != nil {
			return nil, err
		}
		net.Anchors = append(net.Anchors, m)
		anchors = append(anchors, string(m.Node.DID()))
	}
	for i := range plan.Agents {
		m, err := s.start(ctx, agentName(i), node.InitOptions{Bootstrap: bootstrap, Anchors: anchors, Strangers: plan.Strangers})
		if err != nil {
			return nil, err
		}
		net.Agents = append(net.Agents, m)
	}
	return net, nil
}

func (s *starter) start(ctx context.Context, name string, o node.InitOptions) (*Inside, error) {
	o.Network, o.Kind, o.Listen, o.Interval = "testnet", "local", []string{"/ip4/127.0.0.1/tcp/0"}, 1
	h, err := node.Init(filepath.Join(s.dir, name), o)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	n, err := node.New(ctx, h, slog.New(slog.DiscardHandler), s.opts...)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	m := &Inside{Client: api.Dial(filepath.Join(h.Dir, "api.sock")), Node: n, name: name, home: h.Dir, cancel: cancel, done: make(chan error, 1)}
	go func() { m.done <- n.Run(run) }()
	s.list = append(s.list, m)
	return m, m.ready(ctx)
}

// ready waits until the node says that it is.
func (m *Inside) ready(ctx context.Context) error {
	for {
		st := m.Node.Status()
		if st.Ready {
			return nil
		}
		select {
		case err := <-m.done:
			m.done <- err
			return fmt.Errorf("%s ended: %w", m.name, err)
		default:
		}
		if err := pause(ctx, pollEvery); err != nil {
			return fmt.Errorf("%s is not ready (%s): %w", m.name, strings.Join(st.NotReady, "; "), err)
		}
	}
}

// stop stops the nodes, the last one first.
func (s *starter) stop() error {
	var errs []error
	for i := len(s.list) - 1; i >= 0; i-- {
		m := s.list[i]
		m.cancel()
		if err := <-m.done; err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", m.name, err))
		}
	}
	return errors.Join(errs...)
}
