package testnet

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/node"
	"github.com/talosprotocol/talos/node/api"
	"github.com/talosprotocol/talos/testnet/fake"
)

const (
	demoModel  = "echo-1"
	demoServer = "notes"
	demoSecret = "demo-key"
)

// useGateways plays what gateways are for: an agent without any key of its own uses a
// model and an MCP server of others, as far as it may; and one of two gateways dies in the
// middle of an answer.
func useGateways(ctx context.Context, tn *Net, dids map[string]string, tell Teller) error {
	if len(tn.Agents) < 3 {
		return nil // an agent and two gateways
	}
	tell("Gateways")
	model := &fake.Model{Key: "sk-" + demoSecret, Pace: time.Millisecond}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: model, ReadHeaderTimeout: time.Minute}
	go srv.Serve(l)   //nolint:errcheck // until it is closed
	defer srv.Close() //nolint:errcheck // of the demo
	g := &gateways{tn: tn, dids: dids, tell: tell, alice: tn.Agents[0], bob: tn.Agents[1], carol: tn.Agents[2], url: "http://" + l.Addr().String() + "/v1", model: model}
	for _, step := range []func(context.Context) error{g.expose, g.chat, g.overspend, g.tools, g.approve, g.agree, g.kill} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

type gateways struct {
	tn                *Net
	dids              map[string]string
	tell              Teller
	alice, bob, carol Member
	url               string
	model             *fake.Model
}

// expose has bob and carol offer the model, and bob the MCP server too; alice's prompts
// may go to both.
func (g *gateways) expose(ctx context.Context) error {
	yes, in, out := true, int64(150_000), int64(600_000)
	model := contracts.ModelExposure{Name: demoModel, API: "openai", URL: g.url, Key: demoSecret, Private: &yes, PriceIn: &in, PriceOut: &out}
	configs := map[Member]*contracts.GatewayConfig{
		g.bob:   {V: "talos-gateway/1", Region: "here", Models: []contracts.ModelExposure{model}},
		g.carol: {V: "talos-gateway/1", Region: "elsewhere", Models: []contracts.ModelExposure{model}},
		g.alice: {V: "talos-gateway/1", Region: "here", PromptsTo: []string{g.dids[g.bob.Name()], g.dids[g.carol.Name()]}},
	}
	if len(g.tn.Notes) > 0 {
		configs[g.bob].Tools = []contracts.ToolExposure{{Name: demoServer, Command: g.tn.Notes, Read: []string{"echo", "count"}}}
	}
	for _, m := range []Member{g.bob, g.carol, g.alice} {
		h, err := node.OpenHome(m.Home())
		if err != nil {
			return err
		}
		if err := h.SetGateway(configs[m]); err != nil {
			return err
		}
		if m != g.alice {
			if err := m.SetSecret(ctx, demoSecret, []byte("sk-"+demoSecret)); err != nil {
				return fmt.Errorf("%s keeps a key: %w", m.Name(), err)
			}
		}
		if _, err := m.ReloadServices(ctx); err != nil {
			return fmt.Errorf("%s: %w", m.Name(), err)
		}
	}
	g.tell("  %s and %s expose the model %s, with a key that is in their keystores only", g.bob.Name(), g.carol.Name(), demoModel)
	return nil
}

// ask puts a question to the model, and gives the text that came and how it ended.
func (g *gateways) ask(ctx context.Context, question string) (text string, end error, err error) { //nolint:revive // the first error is the answer's
	body := fmt.Sprintf(`{"model":%q,"stream":true,"messages":[{"role":"user","content":%q}]}`, demoModel, question)
	resp, err := g.alice.Open(ctx, http.MethodPost, "/v1/chat/completions", []byte(body))
	if err != nil {
		return "", err, nil //nolint:nilerr // it is the answer's
	}
	defer resp.Body.Close() //nolint:errcheck // read
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", nil, err
	}
	for _, line := range strings.Split(string(b), "\n") {
		var c struct {
			Choices []struct{ Delta struct{ Content string } }
			Error   *struct{ Code, Message string }
		}
		if data, ok := strings.CutPrefix(line, "data: {"); !ok || json.Unmarshal([]byte("{"+data), &c) != nil {
			continue
		}
		if c.Error != nil {
			return text, contracts.Errorf(contracts.Code(c.Error.Code), "%s", c.Error.Message), nil
		}
		for _, ch := range c.Choices {
			text += ch.Delta.Content
		}
	}
	return text, nil, nil
}

func (g *gateways) grant(ctx context.Context, from Member, scopes []string, tokens int64) error {
	r := &contracts.GrantRequest{To: g.dids[g.alice.Name()], Scopes: scopes, Seconds: 3600}
	if tokens > 0 {
		r.BudgetMax, r.BudgetUnit = &tokens, "tokens"
	}
	if got, err := from.Grant(ctx, r, ""); err != nil || !got.Delivered {
		return fmt.Errorf("%s grants, delivered %v: %w", from.Name(), got.Delivered, err)
	}
	return nil
}

// otherwise reports whether a code is not one of those that say that there is no
// authority: none was given, or the one for messages was taken back before.
func otherwise(c contracts.Code) bool {
	return c != contracts.NoCapability && c != contracts.ScopeMismatch && c != contracts.Revoked
}

func (g *gateways) chat(ctx context.Context) error {
	_, refused, err := g.ask(ctx, "hello")
	if err != nil || otherwise(contracts.CodeOf(refused)) {
		return fmt.Errorf("%s asks without a capability: %w, %w", g.alice.Name(), refused, err)
	}
	if n := g.model.Answers.Load(); n != 0 {
		return fmt.Errorf("%d questions went upstream without a capability", n)
	}
	if err := g.grant(ctx, g.bob, []string{"model:" + demoModel}, 400); err != nil {
		return err
	}
	text, end, err := g.ask(ctx, "who is there?")
	if err != nil || end != nil || text != "echo: who is there?" {
		return fmt.Errorf("%s asks with a capability: %q, %w, %w", g.alice.Name(), text, end, err)
	}
	g.tell("  %s asks: %s; gets a capability for 400 tokens from %s, asks again, streamed: %q", g.alice.Name(), contracts.CodeOf(refused), g.bob.Name(), text)
	return nil
}

// overspend asks for more than the budget has left: the answer ends in the middle.
func (g *gateways) overspend(ctx context.Context) error {
	text, end, err := g.ask(ctx, "count 2000")
	if err != nil || contracts.CodeOf(end) != contracts.BudgetExhausted || text == "" {
		return fmt.Errorf("an answer above the budget: %d bytes, %w, %w", len(text), end, err)
	}
	if _, end, err := g.ask(ctx, "more"); err != nil || contracts.CodeOf(end) != contracts.BudgetExhausted {
		return fmt.Errorf("a question without a budget: %w, %w", end, err)
	}
	g.tell("  a long answer is cut at its budget after %d words; the next question: BUDGET_EXHAUSTED", len(strings.Fields(text)))
	return nil
}

// tools uses the MCP server: what is granted, and what is not.
func (g *gateways) tools(ctx context.Context) error {
	if len(g.tn.Notes) == 0 {
		return nil
	}
	if err := g.grant(ctx, g.bob, []string{"tool:" + demoServer + "/method:echo"}, 0); err != nil {
		return err
	}
	yes, err := g.call(ctx, "echo", "across the mesh")
	if err != nil || !strings.Contains(yes, `"text":"across the mesh"`) {
		return fmt.Errorf("%s calls a tool: %s %w", g.alice.Name(), yes, err)
	}
	no, err := g.call(ctx, "add_note", "across the mesh")
	if err != nil || !strings.Contains(no, "talos cap request") {
		return fmt.Errorf("%s calls a tool that it may not: %s %w", g.alice.Name(), no, err)
	}
	g.tell("  %s calls the tool echo of %s's MCP server %s; add_note, which it was not given, is refused", g.alice.Name(), g.bob.Name(), demoServer)
	return nil
}

// call has alice call a tool of bob's MCP server.
func (g *gateways) call(ctx context.Context, tool, text string) (string, error) {
	body := fmt.Sprintf(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":%q,"arguments":{"text":%q}}}`, tool, text)
	resp, err := g.alice.Open(ctx, http.MethodPost, "/mcp/"+g.dids[g.bob.Name()]+"/"+demoServer, []byte(body))
	if err != nil {
		return "", err
	}
	defer resp.Body.Close() //nolint:errcheck // read
	b, err := io.ReadAll(resp.Body)
	return string(b), err
}

// approve has bob asked before a tool that writes is run for alice.
func (g *gateways) approve(ctx context.Context) error {
	if len(g.tn.Notes) == 0 {
		return nil
	}
	if err := g.bob.SetPolicy(ctx, &contracts.Policy{V: "talos-policy/1", Approvals: []contracts.ApprovalRule{{ID: "writes", Surfaces: []string{"tool.write"}, Scope: "tool:" + demoServer}}}); err != nil {
		return err
	}
	if err := g.grant(ctx, g.bob, []string{"tool:" + demoServer + "/method:add_note"}, 0); err != nil {
		return err
	}
	type answer struct {
		text string
		err  error
	}
	done := make(chan answer, 1)
	go func() {
		text, err := g.call(ctx, "add_note", "remember the milk")
		done <- answer{text, err}
	}()
	var waits []api.Approval
	for len(waits) == 0 {
		var err error
		if waits, err = g.bob.Approvals(ctx); err == nil {
			err = pause(ctx, pollEvery)
		}
		if err != nil {
			return fmt.Errorf("%s is not asked: %w", g.bob.Name(), err)
		}
	}
	if len(done) > 0 || !strings.Contains(waits[0].Text, "remember the milk") {
		return fmt.Errorf("%s is asked too late, or about something else: %q", g.bob.Name(), waits[0].Text)
	}
	if _, err := g.bob.Decide(ctx, waits[0].ID, true, ""); err != nil {
		return err
	}
	if a := <-done; a.err != nil || !strings.Contains(a.text, `"text":"remember the milk"`) {
		return fmt.Errorf("what %s has approved: %s %w", g.bob.Name(), a.text, a.err)
	}
	g.tell("  add_note changes something: it waits until %s has read the request and approved it, and is run once", g.bob.Name())
	return nil
}

// agree compares what the two logs say of each call.
func (g *gateways) agree(ctx context.Context) error {
	for {
		n, err := g.compare(ctx)
		if err != nil {
			return err
		}
		if n > 0 {
			g.tell("  the logs of both say the same of %d calls: digests of what was asked and answered, salted, and what was used", n)
			return nil
		}
		if err := pause(ctx, pollEvery); err != nil { // results are recorded beside the calls
			return fmt.Errorf("the logs of %s and %s agree on no call: %w", g.alice.Name(), g.bob.Name(), err)
		}
	}
}

// compare counts the calls of which both logs say the same.
func (g *gateways) compare(ctx context.Context) (n int, err error) {
	results := func(m Member, prefix ...string) (map[string]string, error) {
		page, err := m.Events(ctx, 0, 1000, false)
		if err != nil {
			return nil, err
		}
		out := map[string]string{}
		for _, e := range page.Events {
			var ev contracts.AuditEvent
			if err := json.Unmarshal(e.Event, &ev); err != nil {
				return nil, err
			}
			for _, p := range prefix {
				if ev.Type == "result" && strings.HasPrefix(ev.Surface, p) && ev.ResultDigest != "" && ev.Outcome == "ok" {
					out[ev.RequestDigest] = ev.ResultDigest
				}
			}
		}
		return out, nil
	}
	ours, err := results(g.alice, "local.model.use", "local.tool.use")
	if err != nil {
		return 0, err
	}
	theirs, err := results(g.bob, "model.use", "tool.")
	if err != nil {
		return 0, err
	}
	for request, result := range ours {
		if theirs[request] == result {
			n++
		}
	}
	return n, nil
}

// killer is a member that can be ended as by a crash.
type killer interface{ Kill() error }

// kill ends bob while he answers; carol does.
func (g *gateways) kill(ctx context.Context) error {
	for _, m := range []Member{g.bob, g.carol} {
		if err := g.grant(ctx, m, []string{"model:*"}, 0); err != nil {
			return err
		}
	}
	k, ok := g.bob.(killer)
	if !ok {
		return nil
	}
	g.model.Hold()
	type answer struct {
		text     string
		end, err error
	}
	done := make(chan answer, 1)
	go func() {
		text, end, err := g.ask(ctx, "are you there?")
		done <- answer{text, end, err}
	}()
	for g.model.Running.Load() == 0 {
		if err := pause(ctx, time.Millisecond); err != nil {
			return fmt.Errorf("%s is not asked: %w", g.bob.Name(), err)
		}
	}
	begin := time.Now()
	if err := k.Kill(); err != nil {
		return fmt.Errorf("killing %s: %w", g.bob.Name(), err)
	}
	g.model.Release()
	a := <-done
	if a.err != nil || a.end != nil || a.text != "echo: are you there?" {
		return fmt.Errorf("%s is killed: %q, %w, %w", g.bob.Name(), a.text, a.end, a.err)
	}
	g.tell("  kill -9 %s, in the middle of a call: %s answers %s later", g.bob.Name(), g.carol.Name(), time.Since(begin).Round(time.Millisecond))
	return nil
}
