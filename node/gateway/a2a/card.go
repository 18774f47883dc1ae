package a2a

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/node/gateway/rawjson"
)

const (
	maxCard    = 256 << 10
	cardFresh  = time.Minute
	cardWithin = 15 * time.Second
	maxSkills  = 1024 // of a card that are told
	maxAbout   = 200  // bytes

	jsonRPC = "JSONRPC"
)

// agent is one exposed agent.
type agent struct {
	contracts.AgentExposure
	d      *Driver
	base   *url.URL // as it is exposed
	client *http.Client

	mu   sync.Mutex
	last *card
}

// card is an agent's card as it was read.
type card struct {
	raw    []byte
	at     time.Time
	about  string
	skills []contracts.ServiceOperation
	offers []offer // by JSON-RPC, in the card's order
}

type offer struct {
	url     *url.URL
	version string
}

// members are of a card what is looked at; those of A2A 0.3 too.
type members struct {
	Description         string `json:"description"`
	SupportedInterfaces []struct {
		URL             string `json:"url"`
		ProtocolBinding string `json:"protocolBinding"`
		ProtocolVersion string `json:"protocolVersion"`
	} `json:"supportedInterfaces"`
	Skills []struct {
		ID string `json:"id"`
	} `json:"skills"`

	URL                  string `json:"url"`
	ProtocolVersion      string `json:"protocolVersion"`
	PreferredTransport   string `json:"preferredTransport"`
	AdditionalInterfaces []struct {
		URL       string `json:"url"`
		Transport string `json:"transport"`
	} `json:"additionalInterfaces"`
}

func (a *agent) key(kind, id string) key { return key{a.Name + " " + a.URL, kind, id} }

// known gives the card that was last read, nil if none was.
func (a *agent) known() *card {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.last
}

// card gives the agent's card, a minute old at most.
func (a *agent) card(ctx context.Context) (*card, error) {
	if c := a.known(); c != nil && time.Since(c.at) < cardFresh {
		return c, nil
	}
	raw, err := a.fetch(ctx)
	if err != nil {
		return nil, err
	}
	c, err := readCard(raw)
	if err != nil {
		return nil, contracts.Errorf(contracts.Unavailable, "the card of the agent %s: %s", a.Name, contracts.Message(err))
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.last = c
	return c, nil
}

// cardURL gives where the card is.
func (a *agent) cardURL() string {
	if strings.HasSuffix(a.base.Path, ".json") {
		return a.base.String()
	}
	return a.base.JoinPath(".well-known", "agent-card.json").String()
}

func (a *agent) fetch(ctx context.Context) ([]byte, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, cardWithin, contracts.Errorf(contracts.Unavailable, "the agent %s does not show its card in time", a.Name))
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, a.cardURL(), nil)
	if err != nil {
		return nil, contracts.Errorf(contracts.ConfigInvalid, "the address of the agent %s is not right", a.Name)
	}
	if err := a.authorize(req); err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	resp, err := a.client.Do(req)
	if err != nil {
		return nil, a.gone(ctx, err)
	}
	defer resp.Body.Close() //nolint:errcheck // read, or of no use
	if resp.StatusCode != http.StatusOK {
		return nil, contracts.Errorf(contracts.Unavailable, "the agent %s shows no card (status %d)", a.Name, resp.StatusCode)
	}
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxCard+1))
	if err != nil {
		return nil, a.gone(ctx, err)
	}
	if len(raw) > maxCard {
		return nil, contracts.Errorf(contracts.TooLarge, "the card of the agent %s has more than %d bytes", a.Name, maxCard)
	}
	return raw, nil
}

func readCard(raw []byte) (*card, error) {
	if _, err := rawjson.Parse(raw); err != nil {
		return nil, err
	}
	var m members
	if err := json.Unmarshal(raw, &m); err != nil {
		return nil, contracts.Errorf(contracts.Malformed, "it is not as A2A says")
	}
	c := &card{raw: raw, at: time.Now(), about: brief(m.Description)}
	seen := map[string]bool{}
	for _, s := range m.Skills {
		if s.ID == "" || len(s.ID) > 128 || brief(s.ID) != s.ID || seen[s.ID] || len(c.skills) == maxSkills {
			continue
		}
		seen[s.ID] = true
		c.skills = append(c.skills, contracts.ServiceOperation{Name: s.ID})
	}
	for _, i := range m.SupportedInterfaces {
		c.offer(i.URL, i.ProtocolBinding, i.ProtocolVersion)
	}
	if m.URL != "" {
		version := m.ProtocolVersion
		if version == "" {
			version = "0.3"
		}
		transport := m.PreferredTransport
		if transport == "" {
			transport = jsonRPC
		}
		c.offer(m.URL, transport, version)
		for _, i := range m.AdditionalInterfaces {
			c.offer(i.URL, i.Transport, version)
		}
	}
	return c, nil
}

func (c *card) offer(text, binding, version string) {
	if u, err := url.Parse(text); err == nil && binding == jsonRPC {
		c.offers = append(c.offers, offer{u, version})
	}
}

// brief gives the beginning of a text, without what does not print.
func brief(s string) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, ""))
	if len(s) > maxAbout {
		s = strings.ToValidUTF8(s[:maxAbout], "")
	}
	return s
}

// endpoint gives where the agent is asked by JSON-RPC: of what its card offers at the
// origin that is exposed, what speaks the caller's version, or else the first.
func (a *agent) endpoint(c *card, version string) (string, error) {
	if len(c.offers) == 0 {
		return "", contracts.Errorf(contracts.Unavailable, "the agent %s does not speak JSON-RPC, says its card", a.Name)
	}
	first := ""
	for _, o := range c.offers {
		if origin(o.url) != origin(a.base) || o.url.User != nil {
			continue
		}
		if minor(o.version) == minor(version) {
			return o.url.String(), nil
		}
		if first == "" {
			first = o.url.String()
		}
	}
	if first == "" {
		return "", contracts.Errorf(contracts.Unavailable, "the card of the agent %s names another address than the one that is exposed; its owner exposes the address that the card names", a.Name)
	}
	return first, nil
}

// origin gives scheme, host and port of an address.
func origin(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[strings.ToLower(u.Scheme)]
	}
	return strings.ToLower(u.Scheme + "://" + u.Hostname() + ":" + port)
}

// minor gives the first two numbers of a version: a third makes no difference to peers.
func minor(version string) string {
	p := strings.SplitN(version, ".", 3)
	return strings.Join(p[:min(len(p), 2)], ".")
}
