package capability

import (
	"encoding/binary"
	"time"

	"github.com/talosprotocol/talos/contracts"
)

// Step is a check of a decision, in the one order in which every implementation makes
// them (spec/capability.md).
type Step uint8

// The steps, in order.
const (
	StepSize Step = iota
	StepForm
	StepVersion
	StepHeader
	StepCanonical
	StepTimes
	StepIssuer
	StepSignature
	StepChain
	StepAudience
	StepHolder
	StepRevocation
	StepScope
	StepConstraints
	StepReplay
	StepCounters
	numSteps
)

var stepNames = [numSteps]string{
	"size", "form", "version", "header", "canonical", "times", "issuer", "signature",
	"chain", "audience", "holder", "revocation", "scope", "constraints", "replay", "counters",
}

func (s Step) String() string {
	if s < numSteps {
		return stepNames[s]
	}
	return ""
}

// Decision is the answer to one call. It is a plain value: a denial costs no more
// than a grant.
type Decision struct {
	Code  contracts.Code // empty: allowed
	Grant *Grant         // the one that allowed, or that came furthest; nil if there was none
	Step  Step           // of a denial: the check that denied
	Index int            // allowed: the scope that covered, see Grant.Scope
	rule  int            // of a denial by a constraint: which of the grant's conditions
}

// Allowed reports whether the call may begin. What it counts is still to be taken: see
// Meter.
func (d Decision) Allowed() bool { return d.Code == "" && d.Grant != nil }

// Err gives the denial as an error that says what failed, nil if the call is allowed.
func (d Decision) Err() error {
	switch {
	case d.Allowed():
		return nil
	case d.Code == "":
		return contracts.Errorf(contracts.NoCapability, "no decision was made")
	case d.Grant == nil:
		return contracts.Errorf(d.Code, "%s", advice[d.Code])
	case d.Step == StepConstraints:
		return contracts.Errorf(d.Code, "the grant asks that %s", d.Grant.about.rules[d.rule].describe)
	}
	return contracts.Errorf(d.Code, "%s", advice[d.Code])
}

// verdict is a decision while it is made: four bytes, since copying a larger one
// costs more than making it.
type verdict struct {
	why  reason
	step Step
	n    uint16 // the scope that covered, or the condition that did not hold
}

// reason is a code by its place in reasons.
type reason uint8

const (
	allowed reason = iota
	notYet
	expired
	otherHolder
	outOfScope
	violated
	unknownSession
)

// reasons also has the codes with which Set answers.
var reasons = [...]contracts.Code{
	allowed: "", notYet: contracts.NotYetValid, expired: contracts.Expired, otherHolder: contracts.HolderMismatch,
	outOfScope: contracts.ScopeMismatch, violated: contracts.ConstraintViolation, unknownSession: contracts.NoCapability,
	7: contracts.IssuerDuplicitous, 8: contracts.Deactivated, 9: contracts.KeyStateVoid, 10: contracts.Revoked, 11: contracts.RevocationStale,
}

func (v verdict) decision(g *Grant) Decision {
	d := Decision{Code: reasons[v.why], Grant: g, Step: v.step}
	if v.why == violated {
		d.rule = int(v.n)
	} else {
		d.Index = int(v.n)
	}
	return d
}

// Decide answers whether g allows c to h at now. Revocation is not asked: that is the
// Cache's, or the caller's with Set.Check. It allocates nothing and may be called
// concurrently.
func (g *Grant) Decide(h *Holder, c *Call, now time.Time) Decision {
	v := g.standing(h, now.Unix())
	if v.why == allowed {
		v = g.decide(h, c, now.Unix())
	}
	return v.decision(g)
}

// standing checks times and holder.
func (g *Grant) standing(h *Holder, sec int64) verdict {
	switch {
	case sec+int64(ClockSkew/time.Second) < g.from:
		return verdict{why: notYet, step: StepTimes}
	case sec >= g.until:
		return verdict{why: expired, step: StepTimes}
	case h.proof == noProof || h.who != g.holder:
		return verdict{why: otherHolder, step: StepHolder}
	}
	return verdict{}
}

// decide checks scopes and conditions.
func (g *Grant) decide(h *Holder, c *Call, sec int64) verdict {
	code, i := g.code, 0
	for ; i < int(g.scopes); i++ {
		n := scopeHead + int(code[2]) + int(code[3]) + int(binary.LittleEndian.Uint16(code[4:]))
		if scopeCovers(code[:n], c) {
			break
		}
		code = code[n:]
	}
	if i == int(g.scopes) {
		return verdict{why: outOfScope, step: StepScope}
	}
	code = g.code[g.rulesAt:]
	for r := range g.rules {
		_ = code[ruleHead-1]
		at := ruleHead + int(code[1])
		end := at + int(binary.LittleEndian.Uint16(code[2:]))
		if !ruleHolds(op(code[0]), code[ruleHead:at], code[at:end], h, c, sec) {
			return verdict{why: violated, step: StepConstraints, n: r}
		}
		code = code[end:]
	}
	return verdict{n: uint16(i)}
}

func scopeCovers(b []byte, c *Call) bool {
	if Kind(b[0]) != c.kind || c.kind == noKind {
		return false
	}
	flags, name, method := b[1], b[scopeHead:scopeHead+int(b[2])], b[scopeHead+int(b[2]):]
	if flags&flagAnyName == 0 && string(name) != c.name {
		return false
	}
	if flags&flagMethod == 0 {
		return true
	}
	method, path := method[:b[3]], method[b[3]:]
	if c.method == "" || flags&flagAnyMethod == 0 && string(method) != c.method {
		return false
	}
	return coversPath(tail(flags&3), path, c.path, c.hasResource)
}

// ruleHolds checks one condition. Whatever is missing, of another type or not
// understood does not hold.
func ruleHolds(o op, ptr, body []byte, h *Holder, c *Call, sec int64) bool {
	switch o {
	case opReadOnly:
		return c.Access == Read
	case opAfter:
		return sec >= number(body)
	case opProof:
		return number(body)&(1<<h.proof) != 0
	case opPeers:
		return among(body, &c.Peer)
	case opGateways:
		return among(body, &c.Gateway)
	}
	v := c.Args.find(ptr)
	if v == nil {
		return false
	}
	switch o {
	case opBool:
		return v.kind == argBool && v.num == number(body)
	case opRange:
		return v.kind == argInt && number(body) <= v.num && v.num <= number(body[8:])
	case opInInt:
		return v.kind == argInt && amongInts(body, v.num)
	case opInStr:
		return v.kind == argString && amongTexts(body, v.str, false)
	case opPrefix:
		return v.kind == argString && amongTexts(body, v.str, true)
	case opGlob:
		return v.path != noPath && amongGlobs(body, v)
	}
	return false
}

func number(b []byte) int64 { return int64(binary.LittleEndian.Uint64(b)) }

func among(body []byte, p *Principal) bool {
	if *p == (Principal{}) {
		return false
	}
	for ; len(body) >= len(p.id); body = body[len(p.id):] {
		if string(body[:len(p.id)]) == string(p.id[:]) {
			return true
		}
	}
	return false
}

func amongInts(body []byte, n int64) bool {
	for ; len(body) >= 8; body = body[8:] {
		if number(body) == n {
			return true
		}
	}
	return false
}

func amongTexts(body []byte, s string, prefix bool) bool {
	for len(body) > 0 {
		n := 2 + int(binary.LittleEndian.Uint16(body))
		text := body[2:n]
		body = body[n:]
		if string(text) == s || prefix && len(s) > len(text) && s[:len(text)] == string(text) {
			return true
		}
	}
	return false
}

func amongGlobs(body []byte, v *arg) bool {
	s := v.str
	if v.path == rootedPath {
		s = s[1:]
	}
	for len(body) > 0 {
		flag, n := body[0], 3+int(binary.LittleEndian.Uint16(body[1:]))
		base := body[3:n]
		body = body[n:]
		if (flag&rootedFlag != 0) == (v.path == rootedPath) && coversPath(tail(flag&3), base, s, true) {
			return true
		}
	}
	return false
}
