package node_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/a2aproject/a2a-go/v2/a2a"
	"github.com/a2aproject/a2a-go/v2/a2aclient"
	"github.com/a2aproject/a2a-go/v2/a2aclient/agentcard"
	"github.com/a2aproject/a2a-go/v2/a2acompat/a2av0"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/node"
	"github.com/talosprotocol/talos/node/api"
	"github.com/talosprotocol/talos/node/authority"
	"github.com/talosprotocol/talos/testnet/fake/agent"
)

// a2aClient is the official SDK's client at a program's loopback address.
func a2aClient(t *testing.T, p *program, g *running) (*a2aclient.Client, *a2a.AgentCard, error) {
	t.Helper()
	hc := &http.Client{Transport: withToken(p.token)}
	card, err := agentcard.NewResolver(hc).Resolve(t.Context(), p.url+"/a2a/agents/"+string(g.DID())+"/echo")
	if err != nil {
		return nil, nil, err
	}
	c, err := a2aclient.NewFromCard(t.Context(), card, a2aclient.WithJSONRPCTransport(hc))
	return c, card, err
}

func say(text string) *a2a.SendMessageRequest {
	return &a2a.SendMessageRequest{Message: a2a.NewMessage(a2a.MessageRoleUser, a2a.NewTextPart(text))}
}

// The official SDK's client uses the official SDK's agent on another node as if it were
// here: cards, messages, streams, tasks, each under a capability and in both logs; callers
// do not see each other's tasks. GW-1, GW-3, GW-20, GW-21, GW-22, GW-24.
func TestA2AAcrossNodes(t *testing.T) {
	boot, anchors, _ := mesh(t, 1, 0)
	o := node.InitOptions{Bootstrap: addrs(boot), Anchors: []string{string(anchors[0].DID())}, Interval: 1, Strangers: "ask"}
	echo := agent.New()
	echo.Key = "agent-secret"
	up := httptest.NewServer(echo)
	t.Cleanup(up.Close)
	gh, ah, bh := initHome(t, o), initHome(t, o), initHome(t, o)
	if err := gh.SetSecret("echo", []byte(echo.Key)); err != nil {
		t.Fatal(err)
	}
	yes := true
	if err := gh.SetGateway(&contracts.GatewayConfig{V: "talos-gateway/1", Agents: []contracts.AgentExposure{{Name: "echo", URL: up.URL, Key: "echo", Private: &yes}}}); err != nil {
		t.Fatal(err)
	}
	g, a, b := start(t, gh), start(t, ah), start(t, bh)
	for _, r := range []*running{g, a, b} {
		wait(t, "readiness", func() bool { return r.Status().Ready })
	}
	p := programOf(t, ah)
	if _, _, err := a2aClient(t, p, g); err == nil {
		t.Fatal("a card without a capability")
	}
	for _, r := range []*running{a, b} {
		if _, _, err := g.Powers().Grant(t.Context(), authority.Terms{To: r.DID(), Scopes: []string{"agent:echo"}, Life: time.Hour}); err != nil {
			t.Fatal(err)
		}
	}
	c, card, err := a2aClient(t, p, g)
	if err != nil {
		t.Fatal(err)
	}
	endpoint := p.url + "/a2a/agents/" + string(g.DID()) + "/echo"
	if len(card.SupportedInterfaces) != 2 || card.SupportedInterfaces[0].URL != endpoint || len(card.Signatures)+len(card.SecuritySchemes) != 0 || card.Capabilities.PushNotifications || !card.Capabilities.Streaming {
		t.Errorf("the card says %+v", card)
	}
	if raw := get(t, p, "/a2a/agents/"+string(g.DID())+"/echo/card.raw"); raw != agent.Card(up.URL) {
		t.Errorf("the card of the agent: %s", raw)
	}
	id := useAgent(t, c)
	givenUp(t, c, echo)
	theirs, _, err := a2aClient(t, programOf(t, bh), g)
	if err != nil {
		t.Fatal(err)
	}
	apart(t, theirs, id)
	older(t, p, endpoint)
	found, err := api.Dial(filepath.Join(ah.Dir, "api.sock")).FindServices(t.Context(), "agent", "say-back")
	if err != nil || len(found) != 1 || found[0].Name != "echo" || len(found[0].Operations) != 1 {
		t.Errorf("found %+v, %v", found, err)
	}
	recorded(t, []*running{g, a}, "agent.use intent", "agent.use result", "agent.read result", "local.agent.use result", "local.agent.read result")
}

// recorded wants events of some surfaces and types in logs.
func recorded(t *testing.T, of []*running, want ...string) {
	t.Helper()
	seen := map[string]int{}
	for _, r := range of {
		for _, e := range events(t, r) {
			seen[fmt.Sprint(e.Surface, " ", e.Type)]++
		}
	}
	for _, what := range want {
		if seen[what] == 0 {
			t.Errorf("not recorded: %s; %v", what, seen)
		}
	}
}

// useAgent does with an agent all that a client can, and gives the id of a task that is
// over.
func useAgent(t *testing.T, c *a2aclient.Client) a2a.TaskID {
	t.Helper()
	res, err := c.SendMessage(t.Context(), say("hello"))
	if m, ok := res.(*a2a.Message); err != nil || !ok || m.Parts[0].Text() != "hello" {
		t.Fatalf("a message: %+v, %v", res, err)
	}
	var id a2a.TaskID
	var states []string
	for e, err := range c.SendStreamingMessage(t.Context(), say("task one")) {
		if err != nil {
			t.Fatal(err)
		}
		id = e.TaskInfo().TaskID
		if s, ok := e.(*a2a.TaskStatusUpdateEvent); ok {
			states = append(states, string(s.Status.State))
		}
	}
	if id == "" || len(states) != 2 || states[1] != string(a2a.TaskStateCompleted) {
		t.Errorf("a stream: task %s, %v", id, states)
	}
	if task, err := c.GetTask(t.Context(), &a2a.GetTaskRequest{ID: id}); err != nil || task.Status.State != a2a.TaskStateCompleted {
		t.Errorf("the task: %+v, %v", task, err)
	}
	if all, err := c.ListTasks(t.Context(), &a2a.ListTasksRequest{}); err != nil || len(all.Tasks) != 1 || all.TotalSize != 1 {
		t.Errorf("the tasks: %+v, %v", all, err)
	}
	followed(t, c)
	if card, err := c.GetExtendedAgentCard(t.Context(), &a2a.GetExtendedAgentCardRequest{}); err != nil || card.Name != "echo, extended" {
		t.Errorf("the extended card: %+v, %v", card, err)
	}
	return id
}

// followed has a task run: it is followed by another stream, and ended by a third call.
func followed(t *testing.T, c *a2aclient.Client) {
	t.Helper()
	started, ended := make(chan a2a.TaskID, 1), make(chan error, 1)
	go func() {
		for e, err := range c.SendStreamingMessage(context.WithoutCancel(t.Context()), say("wait")) {
			if err != nil {
				ended <- err
				return
			}
			select {
			case started <- e.TaskInfo().TaskID:
			default:
			}
		}
		ended <- nil
	}()
	running := <-started
	seen := false
	for e, err := range c.SubscribeToTask(t.Context(), &a2a.SubscribeToTaskRequest{ID: running}) {
		if err != nil || e.TaskInfo().TaskID != running {
			t.Fatalf("following: %+v, %v", e, err)
		}
		seen = true
		break
	}
	if task, err := c.CancelTask(t.Context(), &a2a.CancelTaskRequest{ID: running}); err != nil || task.Status.State != a2a.TaskStateCanceled || !seen {
		t.Errorf("cancelled: %+v, %v", task, err)
	}
	if err := <-ended; err != nil {
		t.Errorf("the stream of a cancelled task: %v", err)
	}
}

// givenUp is a stream whose reader goes away: over there it ends too.
func givenUp(t *testing.T, c *a2aclient.Client, echo *agent.Agent) {
	t.Helper()
	wait(t, "end of what went before", func() bool { return echo.Open() == 0 })
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for e, err := range c.SendStreamingMessage(ctx, say("wait")) {
		if err != nil || echo.Open() != 1 {
			t.Fatalf("a stream: %+v, %v, %d open", e, err, echo.Open())
		}
		break
	}
	began := time.Now()
	cancel()
	wait(t, "end of the agent's request", func() bool { return echo.Open() == 0 })
	t.Logf("the agent's request ended %s after its caller had gone", time.Since(began).Round(time.Millisecond))
}

// apart shows that another caller does not see a task.
func apart(t *testing.T, c *a2aclient.Client, id a2a.TaskID) {
	t.Helper()
	if task, err := c.GetTask(t.Context(), &a2a.GetTaskRequest{ID: id}); !errors.Is(err, a2a.ErrTaskNotFound) {
		t.Errorf("another's task: %+v, %v", task, err)
	}
	if all, err := c.ListTasks(t.Context(), &a2a.ListTasksRequest{}); err != nil || len(all.Tasks) != 0 {
		t.Errorf("another's tasks: %+v, %v", all, err)
	}
	for _, err := range c.SubscribeToTask(t.Context(), &a2a.SubscribeToTaskRequest{ID: id}) {
		if !errors.Is(err, a2a.ErrTaskNotFound) {
			t.Errorf("following another's task: %v", err)
		}
	}
}

// older is a client of A2A 0.3, and one that is none.
func older(t *testing.T, p *program, endpoint string) {
	t.Helper()
	c, err := a2aclient.NewFromEndpoints(t.Context(), []*a2a.AgentInterface{{URL: endpoint, ProtocolBinding: a2a.TransportProtocolJSONRPC, ProtocolVersion: "0.3"}},
		a2av0.WithJSONRPCTransport(a2av0.JSONRPCTransportConfig{Client: &http.Client{Transport: withToken(p.token)}}))
	if err != nil {
		t.Fatal(err)
	}
	res, err := c.SendMessage(t.Context(), say("hello"))
	if m, ok := res.(*a2a.Message); err != nil || !ok || m.Parts[0].Text() != "hello" {
		t.Errorf("a message of 0.3: %+v, %v", res, err)
	}
	path := strings.TrimPrefix(endpoint, p.url)
	for body, want := range map[string][2]string{
		`{`: {`-32600`, `null`}, `{"jsonrpc":"2.0","method":"x"}`: {`-32600`, `null`}, `{"jsonrpc":"2.0","id":7,"method":"x"}`: {`-32601`, `7`},
		`{"jsonrpc":"2.0","id":7,"method":"CreateTaskPushNotificationConfig"}`: {`-32000`, `7`}, `{"jsonrpc":"2.0","id":7,"method":"GetTask","params":{"id":5}}`: {`-32602`, `7`},
	} {
		_, text, _, err := p.post(t.Context(), path, body)
		var m struct {
			ID    json.RawMessage
			Error struct{ Code json.Number }
		}
		if err != nil || json.Unmarshal([]byte(text), &m) != nil || m.Error.Code.String() != want[0] || string(m.ID) != want[1] {
			t.Errorf("%s: %s, %v", body, text, err)
		}
	}
}

func get(t *testing.T, p *program, path string) string {
	t.Helper()
	resp, err := (&http.Client{Transport: withToken(p.token)}).Get(p.url + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close() //nolint:errcheck // read
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
