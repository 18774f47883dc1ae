package main

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/talosprotocol/talos/contracts"
)

const grantHelp = `Conditions on the arguments of calls, each of which holds (--arg, several times):

  --arg mode=text           the argument is that text, number, true or false
  --arg 'mode=text|json'    it is one of them
  --arg 'id="5"'            quotes make a text of what would be a number
  --arg path^=/data/        it is a text that begins so (| for one of several)
  --arg path~/data/**       it is a path that the pattern covers
  --arg limit:1..100        it is a whole number from 1 to 100; either end may be left out

A name stands for a member of the call's arguments; one that begins with / is a JSON
pointer: /options/deep. An argument that is missing denies. --constraint takes any
condition of contracts/spec/capability.md as JSON, as {"op":"proof","strs":["channel"]}.`

// grantFlags are what a grant and a delegation have in common.
type grantFlags struct {
	scopes      []string
	life        time.Duration
	delegations int64
	readOnly    bool
	calls       int64
	rate        string
	budget      string
	args        []string
	constraints []string
}

func (g *grantFlags) add(c *cobra.Command) {
	f := c.Flags()
	f.StringArrayVar(&g.scopes, "scope", nil, "what it allows; may be given several times")
	f.DurationVar(&g.life, "for", 24*time.Hour, "how long it is valid, up to 720h")
	f.Int64Var(&g.delegations, "delegations", 0, "how many further tokens may follow, up to 3")
	f.BoolVar(&g.readOnly, "read-only", false, "only for what the executing node calls reading")
	f.Int64Var(&g.calls, "max-calls", 0, "how many calls in all; 0 for any number")
	f.StringVar(&g.rate, "rate", "", "how many calls in how long, as 10/1m")
	f.StringVar(&g.budget, "budget", "", "what may be spent, as unit=number")
	f.StringArrayVar(&g.args, "arg", nil, "a condition on an argument of calls, see above")
	f.StringArrayVar(&g.constraints, "constraint", nil, "a condition as JSON")
	_ = c.MarkFlagRequired("scope")
}

func (g *grantFlags) request(to string) (*contracts.GrantRequest, error) {
	r := &contracts.GrantRequest{To: to, Seconds: int64(g.life / time.Second)}
	for _, s := range g.scopes {
		s, err := encodeScope(s)
		if err != nil {
			return nil, err
		}
		r.Scopes = append(r.Scopes, s)
	}
	if g.delegations > 0 {
		r.Delegations = &g.delegations
	}
	if g.readOnly {
		r.ReadOnly = &g.readOnly
	}
	if g.calls > 0 {
		r.MaxCalls = &g.calls
	}
	if err := g.counts(r); err != nil {
		return nil, err
	}
	for _, text := range g.args {
		c, err := argCondition(text)
		if err != nil {
			return nil, err
		}
		r.Constraints = append(r.Constraints, c)
	}
	for _, text := range g.constraints {
		var c contracts.Constraint
		d := json.NewDecoder(strings.NewReader(text))
		d.DisallowUnknownFields()
		if err := d.Decode(&c); err != nil || d.More() {
			return nil, contracts.Errorf(contracts.Malformed, "--constraint %.80q: want one JSON object, as {\"op\":\"proof\",\"strs\":[\"channel\"]}", text)
		}
		r.Constraints = append(r.Constraints, c)
	}
	return r, nil
}

// counts reads rate and budget.
func (g *grantFlags) counts(r *contracts.GrantRequest) error {
	if g.rate != "" {
		number, per, ok := strings.Cut(g.rate, "/")
		n, err := strconv.ParseInt(number, 10, 64)
		d, err2 := time.ParseDuration(per)
		if !ok || err != nil || err2 != nil || d < time.Second {
			return contracts.Errorf(contracts.Malformed, "--rate: want calls/time, as in 10/1m")
		}
		seconds := int64(d / time.Second)
		r.RateCalls, r.RateSeconds = &n, &seconds
	}
	if g.budget != "" {
		unit, number, ok := strings.Cut(g.budget, "=")
		var n int64
		if _, err := fmt.Sscan(number, &n); !ok || err != nil {
			return contracts.Errorf(contracts.Malformed, "--budget: want unit=number, as in tokens=50000")
		}
		r.BudgetUnit, r.BudgetMax = unit, &n
	}
	return nil
}

// argForm takes a condition apart: a name or pointer, an operator, the rest.
var argForm = regexp.MustCompile(`^((?:/(?:[^=~:^/]|~[01])+)+|[A-Za-z0-9_.-]+)(\^=|=|~|:)(.*)$`)

// argCondition reads what --arg takes.
func argCondition(text string) (contracts.Constraint, error) {
	m := argForm.FindStringSubmatch(text)
	if m == nil || m[3] == "" {
		return contracts.Constraint{}, contracts.Errorf(contracts.Malformed, "--arg %.80q: want name=value, name^=prefix, name~pattern or name:from..to", text)
	}
	c := contracts.Constraint{Arg: m[1]}
	if !strings.HasPrefix(c.Arg, "/") {
		c.Arg = "/" + c.Arg
	}
	values := strings.Split(m[3], "|")
	switch m[2] {
	case "^=":
		c.Op, c.Strs = "prefix", values
	case "~":
		c.Op, c.Strs = "glob", values
	case ":":
		return argRange(c, m[3])
	default:
		return argValues(c, values)
	}
	return c, nil
}

func argRange(c contracts.Constraint, text string) (contracts.Constraint, error) {
	from, to, ok := strings.Cut(text, "..")
	c.Op = "range"
	for _, end := range []struct {
		text string
		to   **int64
	}{{from, &c.Min}, {to, &c.Max}} {
		if end.text == "" {
			continue
		}
		n, err := strconv.ParseInt(end.text, 10, 64)
		ok = ok && err == nil
		*end.to = &n
	}
	if !ok || c.Min == nil && c.Max == nil {
		return c, contracts.Errorf(contracts.Malformed, "--arg %s: want from..to, as in limit:1..100", c.Arg)
	}
	return c, nil
}

// argValues reads equality and lists: all numbers, or all texts, or one truth value.
func argValues(c contracts.Constraint, values []string) (contracts.Constraint, error) {
	c.Op = "in"
	if len(values) == 1 {
		c.Op = "eq"
		if b := values[0] == "true"; b || values[0] == "false" {
			c.Bool = &b
			return c, nil
		}
	}
	for _, v := range values {
		if n, err := strconv.ParseInt(v, 10, 64); err == nil {
			c.Ints = append(c.Ints, n)
			continue
		}
		if strings.HasPrefix(v, `"`) {
			var s string
			if err := json.Unmarshal([]byte(v), &s); err != nil {
				return c, contracts.Errorf(contracts.Malformed, "--arg %s: %.80s is no text in quotes", c.Arg, v)
			}
			v = s
		}
		c.Strs = append(c.Strs, v)
	}
	if len(c.Ints) > 0 && len(c.Strs) > 0 {
		return c, contracts.Errorf(contracts.Malformed, "--arg %s: a list has numbers or texts, not both; quotes make a text of a number", c.Arg)
	}
	return c, nil
}
