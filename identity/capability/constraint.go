package capability

import (
	"strconv"
	"strings"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
)

// op is a constraint's operation. The list is closed: what is not in it denies.
type op uint8

const (
	opUnknown op = iota
	opBool       // of an argument
	opInStr
	opInInt
	opPrefix
	opGlob
	opRange
	opReadOnly // of the call
	opAfter
	opPeers
	opGateways
	opProof
	opCalls // counted after all else
	opRate
	opBudget
)

// Limits of constraints.
const (
	MaxConstraints = 64 // of one token
	maxPointer     = 4  // segments
)

// rule is one compiled condition.
type rule struct {
	op       op
	arg      string   // JSON pointer, "" if the condition is not of an argument
	strs     []string // of opInStr, opPrefix, opGlob
	ints     []int64
	ids      []Principal
	lo, hi   int64
	unit     string
	describe string // what it asks, in words
}

// members that stand beside op.
const (
	mArg = 1 << iota
	mBool
	mInts
	mStrs
	mMin
	mMax
	mN
	mPer
	mUnit
)

func membersOf(c *contracts.Constraint) (m int) {
	for i, there := range []bool{c.Arg != "", c.Bool != nil, len(c.Ints) > 0, len(c.Strs) > 0, c.Min != nil, c.Max != nil, c.N != nil, c.Per != nil, c.Unit != ""} {
		if there {
			m |= 1 << i
		}
	}
	return m
}

// compile reads the conditions of one token. One that is not understood becomes a
// rule that denies, and the error says why, for issuers.
func compile(list []contracts.Constraint) (rules []rule, unknown error) {
	for i := range list {
		r, ok := compileOne(&list[i])
		if !ok {
			text := string(list[i].AppendCanonical(nil))
			r = rule{op: opUnknown, describe: "something that this program does not understand: " + clip(text, 120)}
			if unknown == nil {
				unknown = contracts.Errorf(contracts.ConstraintViolation, "no constraint of this program: %.200s", text)
			}
		}
		rules = append(rules, r)
	}
	return rules, unknown
}

// checkConstraints is for those who write constraints: what no verifier would
// understand is an error.
func checkConstraints(list []contracts.Constraint) error {
	if len(list) > MaxConstraints {
		return contracts.Errorf(contracts.TooLarge, "%d constraints, at most %d", len(list), MaxConstraints)
	}
	for i := range list {
		if err := list[i].Validate(); err != nil {
			return err
		}
		if n := len(list[i].AppendCanonical(nil)); n > MaxTokenBytes {
			return contracts.Errorf(contracts.TooLarge, "a constraint of %d bytes, at most %d", n, MaxTokenBytes)
		}
	}
	if _, err := compile(list); err != nil {
		return contracts.Errorf(contracts.Malformed, "%w", err)
	}
	return nil
}

func clip(s string, n int) string {
	if len(s) > n {
		return strings.ToValidUTF8(s[:n], "") + "…"
	}
	return s
}

func compileOne(c *contracts.Constraint) (rule, bool) {
	r := rule{arg: c.Arg, strs: c.Strs, ints: c.Ints, unit: c.Unit}
	m := membersOf(c)
	if m&mArg != 0 && !validPointer(c.Arg) {
		return r, false
	}
	switch c.Op {
	case "eq", "in":
		return compileValues(c, r, m)
	case "prefix", "glob":
		return compileTexts(c, r, m)
	case "range":
		r.op, r.lo, r.hi = opRange, -1<<53+1, 1<<53-1
		if m&^(mMin|mMax) != mArg || m == mArg {
			return r, false
		}
		if c.Min != nil {
			r.lo = *c.Min
		}
		if c.Max != nil {
			r.hi = *c.Max
		}
		r.describe = "argument " + c.Arg + " is a whole number from " + strconv.FormatInt(r.lo, 10) + " to " + strconv.FormatInt(r.hi, 10)
		return r, r.lo <= r.hi
	case "ro":
		r.op, r.describe = opReadOnly, "the call only reads, as the executor's registry says"
		return r, m == 0
	case "peers", "gateways":
		return compilePrincipals(c, r, m)
	case "proof":
		return compileProof(c, r, m)
	case "after":
		if m != mN {
			return r, false
		}
		r.op, r.lo, r.describe = opAfter, *c.N, "not before "+clock(*c.N)
		return r, true
	}
	return compileCounts(c, r, m)
}

func compileValues(c *contracts.Constraint, r rule, m int) (rule, bool) {
	switch m {
	case mArg | mBool:
		r.op = opBool
		if *c.Bool {
			r.lo = 1
		}
		r.describe = "argument " + c.Arg + " is " + strconv.FormatBool(*c.Bool)
		return r, c.Op == "eq"
	case mArg | mStrs:
		r.op, r.describe = opInStr, "argument "+c.Arg+" is one of the texts "+list(c.Strs)
	case mArg | mInts:
		texts := make([]string, len(c.Ints))
		for i, n := range c.Ints {
			texts[i] = strconv.FormatInt(n, 10)
		}
		r.op, r.describe = opInInt, "argument "+c.Arg+" is one of the numbers "+list(texts)
	default:
		return r, false
	}
	if c.Op == "in" {
		return r, true
	}
	return r, len(c.Strs)+len(c.Ints) == 1 // eq is in with one value
}

func list(texts []string) string {
	q := make([]string, len(texts))
	for i, t := range texts {
		q[i] = strconv.Quote(t)
	}
	return clip(strings.Join(q, ", "), 200)
}

func compileTexts(c *contracts.Constraint, r rule, m int) (rule, bool) {
	if m != mArg|mStrs {
		return r, false
	}
	if c.Op == "prefix" {
		r.op, r.describe = opPrefix, "argument "+c.Arg+" begins with one of "+list(c.Strs)
		return r, true
	}
	r.op, r.describe = opGlob, "argument "+c.Arg+" is a path that one of "+list(c.Strs)+" covers"
	for _, p := range c.Strs {
		if !validGlob(p) {
			return r, false
		}
	}
	return r, true
}

func compilePrincipals(c *contracts.Constraint, r rule, m int) (rule, bool) {
	if m != mStrs {
		return r, false
	}
	r.strs, r.op, r.describe = nil, opPeers, "the call is handed in by one of "+list(c.Strs)
	if c.Op == "gateways" {
		r.op, r.describe = opGateways, "the call is served by one of "+list(c.Strs)
	}
	for _, s := range c.Strs {
		p, err := NewPrincipal(identity.DID(s))
		if err != nil {
			return r, false
		}
		r.ids = append(r.ids, p)
	}
	return r, true
}

func compileProof(c *contracts.Constraint, r rule, m int) (rule, bool) {
	if m != mStrs {
		return r, false
	}
	r.strs, r.op, r.describe = nil, opProof, "the caller proves who it is by one of "+list(c.Strs)
	for _, s := range c.Strs {
		p, ok := parseProof(s)
		if !ok {
			return r, false
		}
		r.lo |= 1 << p
	}
	return r, true
}

func compileCounts(c *contracts.Constraint, r rule, m int) (rule, bool) {
	switch {
	case c.Op == "calls" && m == mN:
		r.op, r.lo, r.describe = opCalls, *c.N, "at most "+strconv.FormatInt(*c.N, 10)+" calls"
		return r, true
	case c.Op == "rate" && m == mN|mPer:
		r.op, r.lo, r.hi = opRate, *c.N, *c.Per
		r.describe = "at most " + strconv.FormatInt(*c.N, 10) + " calls in " + strconv.FormatInt(*c.Per, 10) + " s"
		return r, *c.N >= 1 && *c.N <= 1_000_000_000
	case c.Op == "budget" && m == mN|mUnit:
		r.op, r.lo, r.describe = opBudget, *c.N, "at most "+strconv.FormatInt(*c.N, 10)+" "+c.Unit
		return r, true
	}
	return r, false
}
