package testnet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/talosprotocol/talos/node"
	"github.com/talosprotocol/talos/node/api"
)

// Process is a node that runs as a process of the real binary.
type Process struct {
	*api.Client
	name string
	home string
	exe  string
	cmd  *exec.Cmd
	done chan error
}

// Name gives the member's name.
func (p *Process) Name() string { return p.name }

// Home gives the folder of its home.
func (p *Process) Home() string { return p.home }

// Start starts the process; its log goes to node.log in its home.
func (p *Process) Start() error {
	log, err := os.OpenFile(filepath.Join(p.home, "node.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	p.cmd = exec.Command(p.exe, "up", "--home", p.home)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	// Its own group: Ctrl-C reaches the testnet alone, which then stops the nodes.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := p.cmd.Start(); err != nil {
		return errors.Join(err, log.Close())
	}
	p.done = make(chan error, 1)
	go func() { p.done <- errors.Join(p.cmd.Wait(), log.Close()) }()
	return nil
}

// Stop asks the process to end and waits; after ten seconds it is killed.
func (p *Process) Stop() error {
	if p.cmd == nil {
		return nil
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case err := <-p.done:
		p.cmd = nil
		return err
	case <-time.After(10 * time.Second):
		_ = p.Kill()
		return fmt.Errorf("%s did not end within 10 s and was killed", p.name)
	}
}

// Kill ends the process at once, as a crash would.
func (p *Process) Kill() error {
	if p.cmd == nil {
		return nil
	}
	err := p.cmd.Process.Kill()
	<-p.done
	p.cmd = nil
	return err
}

// Dump ends the process with the stacks of its goroutines in its log, for a test that
// wants to know where it hangs.
func (p *Process) Dump() {
	if p.cmd == nil {
		return
	}
	_ = p.cmd.Process.Signal(syscall.SIGQUIT)
	select {
	case <-p.done:
		p.cmd = nil
	case <-time.After(5 * time.Second):
	}
}

// Ready waits until the node says that it is.
func (p *Process) Ready(ctx context.Context) error {
	var last error
	for {
		st, err := p.Status(ctx)
		if err == nil && st.Ready {
			return nil
		}
		if last = err; err == nil {
			last = errors.New(strings.Join(st.NotReady, "; "))
		}
		select {
		case err := <-p.done:
			p.done <- err
			tail, _ := os.ReadFile(filepath.Join(p.home, "node.log"))
			return fmt.Errorf("%s ended: %w: %s", p.name, err, tail[max(0, len(tail)-2000):])
		default:
		}
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return fmt.Errorf("%s is not ready: %w", p.name, last)
		}
	}
}

// Processes is a network of processes.
type Processes struct {
	Net
	list  []*Process
	chain *geth // nil: there is none
}

// Process gives the process behind a member.
func (p *Processes) Process(m Member) *Process { return m.(*Process) }

// StartProcesses makes homes in dir and starts the nodes of a plan with the binary
// exe, bootstraps first, and waits until all are ready. tell, if not nil, hears of
// the progress.
func StartProcesses(ctx context.Context, exe, dir string, plan Plan, tell Teller) (*Processes, error) {
	ps := &Processes{Net: Net{Strangers: plan.Strangers, Notes: []string{exe, "testnet", "notes"}}}
	var bootstrap, anchors []string
	add := func(name string, to *[]Member, o node.InitOptions) (*Process, error) {
		o.Network, o.Kind, o.Listen, o.Interval = "testnet", "local", []string{"/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1"}, 1
		if ps.chain != nil {
			o.Epochs = 1
		}
		h, err := node.Init(filepath.Join(dir, name), o)
		if err != nil {
			return nil, err
		}
		if len(o.Chains) > 0 {
			if err := ps.chain.fund(ctx, h); err != nil {
				return nil, err
			}
		}
		p := &Process{Client: api.Dial(filepath.Join(h.Dir, "api.sock")), name: name, home: h.Dir, exe: exe}
		if err := p.Start(); err != nil {
			return nil, err
		}
		ps.list = append(ps.list, p)
		*to = append(*to, p)
		if err := p.Ready(ctx); err != nil {
			return nil, err
		}
		if tell != nil {
			tell("  %s is up", name)
		}
		return p, nil
	}
	fail := func(err error) (*Processes, error) { return nil, errors.Join(err, ps.Stop()) }
	if plan.Geth != "" {
		var err error
		if ps.chain, err = startGeth(ctx, plan.Geth, filepath.Join(dir, "geth")); err != nil {
			return fail(err)
		}
		if tell != nil {
			tell("  a chain is up at %s", ps.chain.url)
		}
	}
	for i := range plan.Bootstraps {
		p, err := add(fmt.Sprintf("bootstrap%d", i+1), &ps.Bootstraps, node.InitOptions{Roles: []string{"bootstrap"}, Bootstrap: bootstrap})
		if err != nil {
			return fail(err)
		}
		st, err := p.Status(ctx)
		if err != nil {
			return fail(err)
		}
		bootstrap = append(bootstrap, st.Addresses...)
	}
	for i := range plan.Anchors {
		o := node.InitOptions{Roles: []string{"anchor"}, Bootstrap: bootstrap}
		if ps.chain != nil {
			o.Chains, o.Anchors = ps.chain.chainFor(), append([]string{}, anchors...)
		}
		p, err := add(fmt.Sprintf("anchor%d", i+1), &ps.Anchors, o)
		if err != nil {
			return fail(err)
		}
		st, err := p.Status(ctx)
		if err != nil {
			return fail(err)
		}
		anchors = append(anchors, st.DID)
	}
	for i := range plan.Agents {
		if _, err := add(agentName(i), &ps.Agents, node.InitOptions{Bootstrap: bootstrap, Anchors: anchors, Strangers: plan.Strangers}); err != nil {
			return fail(err)
		}
	}
	return ps, nil
}

var agentNames = []string{"alice", "bob", "carol", "dave", "erin", "frank", "grace", "heidi"}

func agentName(i int) string {
	if i < len(agentNames) {
		return agentNames[i]
	}
	return fmt.Sprintf("agent%d", i+1)
}

// Stop stops all processes, agents first.
func (p *Processes) Stop() error {
	var errs []error
	for i := len(p.list) - 1; i >= 0; i-- {
		if err := p.list[i].Stop(); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", p.list[i].name, err))
		}
	}
	if p.chain != nil {
		p.chain.stop()
	}
	return errors.Join(errs...)
}
