package a2a

import (
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
)

// What is remembered has a bound, and nobody makes others' tasks be forgotten by having
// many. GW-21.
func TestTasksAreBounded(t *testing.T) {
	m := NewTasks()
	of := func(who string, i int) key { return key{"agent", ofTasks, fmt.Sprint(who, i)} }
	m.claim("careful", of("careful", 0))
	for i := range 2 * maxOwned {
		m.claim("greedy", of("greedy", i))
	}
	if m.owns("greedy", of("greedy", 0)) || !m.owns("greedy", of("greedy", 2*maxOwned-1)) || !m.owns("careful", of("careful", 0)) || len(m.all) != maxOwned+1 {
		t.Errorf("%d are known", len(m.all))
	}
	for c := range 2 * maxKnown / maxOwned {
		for i := range maxOwned {
			m.claim(identity.DID(fmt.Sprint(c)), of(fmt.Sprint(c, " "), i))
		}
	}
	if len(m.all) != maxKnown || !m.owns("careful", of("careful", 0)) {
		t.Errorf("%d are known", len(m.all))
	}
	if m.claim("other", of("careful", 0)) || m.owns("other", of("careful", 0)) {
		t.Error("a task changed hands")
	}
	long := key{"agent", ofTasks, strings.Repeat("x", maxID+1)}
	if !m.claim("careful", long) || m.owns("careful", long) {
		t.Error("an id that is too long is remembered")
	}
}

// Which of the addresses of a card is asked. GW-23.
func TestEndpoint(t *testing.T) {
	two := `{"supportedInterfaces":[{"url":"https://a.example/g","protocolBinding":"GRPC","protocolVersion":"1.0"},{"url":"https://a.example/one","protocolBinding":"JSONRPC","protocolVersion":"1.0"},` +
		`{"url":"https://a.example:443/old","protocolBinding":"JSONRPC","protocolVersion":"0.3.0"}]}`
	for _, c := range []struct{ card, version, want string }{
		{two, "1.0", "https://a.example/one"}, {two, "0.3", "https://a.example:443/old"}, {two, "1.0.1", "https://a.example/one"}, {two, "7", "https://a.example/one"},
		{`{"url":"https://A.example/x"}`, "1.0", "https://A.example/x"}, {`{"url":"https://a.example/x","preferredTransport":"GRPC"}`, "0.3", ""},
		{`{"url":"https://a.example/x","preferredTransport":"GRPC","additionalInterfaces":[{"url":"https://a.example/y","transport":"JSONRPC"}]}`, "0.3", "https://a.example/y"},
		{`{"url":"http://a.example/x"}`, "1.0", ""}, {`{"url":"https://a.example:444/x"}`, "1.0", ""}, {`{"url":"https://b.example/x"}`, "1.0", ""}, {`{"url":"https://u:p@a.example/x"}`, "1.0", ""},
		{`{"url":"/x"}`, "1.0", ""}, {`{}`, "1.0", ""},
	} {
		base, err := url.Parse("https://a.example/agent")
		if err != nil {
			t.Fatal(err)
		}
		card, err := readCard([]byte(c.card))
		if err != nil {
			t.Fatal(err)
		}
		got, err := (&agent{AgentExposure: contracts.AgentExposure{Name: "x"}, base: base}).endpoint(card, c.version)
		if got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%s, %s: %q, %v", c.card, c.version, got, err)
		}
	}
}

// What of a card is told to everybody is what a list of services may have.
func TestWhatIsTold(t *testing.T) {
	long := strings.Repeat("ä", 300)
	skills := []string{`{"id":""}`, `{"id":"a"}`, `{"id":"a"}`, `{"id":"line\nend"}`, `{"id":"` + long + `"}`}
	for i := range 2000 {
		skills = append(skills, fmt.Sprintf(`{"id":"s%d"}`, i))
	}
	c, err := readCard([]byte(`{"description":"x\n\u0000` + long + `","skills":[` + strings.Join(skills, ",") + `]}`))
	if err != nil {
		t.Fatal(err)
	}
	e := contracts.ServiceEntry{Kind: "agent", Name: "a", About: c.about, Operations: c.skills}
	if err := e.Validate(); err != nil || len(c.skills) != maxSkills || c.skills[0].Name != "a" || c.skills[1].Name != "s0" || !strings.HasPrefix(c.about, "xä") {
		t.Errorf("%v: %d skills, %q", err, len(c.skills), c.about)
	}
}
