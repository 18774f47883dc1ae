package gate

import (
	"math"
	"math/bits"
	"slices"
	"sync"

	"github.com/talosprotocol/talos/contracts"
)

// Mode says what a budget does when it is spent.
type Mode string

// The modes of budgets.
const (
	Off  Mode = "off"  // not counted
	Warn Mode = "warn" // counted; going over is noted, and allowed
	Hard Mode = "hard" // going over is refused
)

// Payer is one of those who pay for a call: its subject, its capability, and each
// delegator up to the root (spec/gate.md §5).
type Payer struct {
	Account string // who, and of what: "did…", "cap:<token id>"
	Unit    string // what is counted: "tokens", "usd_micro", "calls" …
	Max     int64  // in units, whole numbers
	Mode    Mode
}

// Spent is an account's row.
type Spent struct {
	Account, Unit string
	Used          int64 // settled
	Held          int64 // reserved by calls that run
}

// Ledger counts what is spent. What it holds must survive a restart: Rows gives the
// rows that changed, to be stored with the audit event that they belong to, and Load
// takes them back. It is safe for concurrent use.
type Ledger struct {
	mu       sync.Mutex
	accounts map[accountKey]*account
}

type accountKey struct{ account, unit string }

type account struct {
	used, held int64
	adaptive   adaptive
}

// NewLedger makes an empty ledger.
func NewLedger() *Ledger { return &Ledger{accounts: map[accountKey]*account{}} }

// Load takes rows of an earlier run. What was held then was by calls that are no more:
// how much they used is not known, so all of it counts as used.
func (l *Ledger) Load(rows []Spent) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range rows {
		l.account(r.Account, r.Unit).used = add(r.Used, r.Held)
	}
}

func (l *Ledger) account(name, unit string) *account {
	k := accountKey{name, unit}
	a := l.accounts[k]
	if a == nil {
		a = &account{adaptive: adaptive{factor: whole}}
		l.accounts[k] = a
	}
	return a
}

// add is a + b without overflow: budgets only ever grow.
func add(a, b int64) int64 {
	if a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}

// Units that the parts of a node count in. Others may be used in budgets; nothing is
// spent of them.
const (
	Calls  = "calls"
	Tokens = "tokens"    // of models, in and out
	Micro  = "usd_micro" // millionths of a dollar
)

// Amounts is what a call costs: how much of each unit, from 0. What is absent is 0.
type Amounts map[string]int64

// Reservation is what a running call holds of its payers' budgets.
type Reservation struct {
	l      *Ledger
	payers []Payer
	held   Amounts
	over   []string // accounts in mode Warn that went over
	done   bool
}

// Over names the accounts in mode warn that are over their budget.
func (r *Reservation) Over() []string { return slices.Clone(r.over) }

// Reserve holds cost of every payer's budget, each in its own unit, or of none: with an
// error of code BUDGET_EXHAUSTED that names the account. The caller settles or the budget
// stays held.
func (l *Ledger) Reserve(payers []Payer, cost Amounts) (*Reservation, error) {
	r := &Reservation{l: l}
	for _, p := range payers {
		if p.Mode == Warn || p.Mode == Hard {
			r.payers = append(r.payers, p)
		} else if p.Mode != Off {
			return nil, contracts.Errorf(contracts.ConfigInvalid, "the budget of %s has the mode %.20q; it is off, warn or hard", p.Account, p.Mode)
		}
	}
	return r, r.TopUp(cost)
}

// TopUp holds more, as Reserve does: a stream asks for a slice at a time, and is cut
// when there is no more.
func (r *Reservation) TopUp(cost Amounts) error {
	for unit, n := range cost {
		if n < 0 {
			return contracts.Errorf(contracts.Malformed, "a budget is reserved in amounts from 0, not %d %s", n, unit)
		}
	}
	r.l.mu.Lock()
	defer r.l.mu.Unlock()
	if r.done {
		return contracts.Errorf(contracts.Internal, "the reservation is settled already")
	}
	var over []string
	for _, p := range r.payers {
		a := r.l.account(p.Account, p.Unit)
		ceiling, amount := a.adaptive.of(p.Max), cost[p.Unit]
		if add(add(a.used, a.held), amount) <= ceiling {
			continue
		}
		if p.Mode == Hard {
			return contracts.Errorf(contracts.BudgetExhausted, "%s has %d of %d %s left, and %d are asked for", p.Account, max(ceiling-add(a.used, a.held), 0), p.Max, p.Unit, amount)
		}
		over = append(over, p.Account)
	}
	for _, p := range r.payers {
		a := r.l.account(p.Account, p.Unit)
		a.held = add(a.held, cost[p.Unit])
	}
	if r.held == nil && len(r.payers) > 0 {
		r.held = Amounts{}
	}
	if len(r.payers) > 0 {
		for unit, n := range cost {
			r.held[unit] = add(r.held[unit], n)
		}
	}
	r.over = over
	return nil
}

// Settle ends the reservation: used is what the call really cost, which may be more
// than was held, and counts all the same. It gives the rows that changed.
func (r *Reservation) Settle(used Amounts) []Spent {
	r.l.mu.Lock()
	defer r.l.mu.Unlock()
	if r.done {
		return nil
	}
	r.done = true
	for _, p := range r.payers {
		a := r.l.account(p.Account, p.Unit)
		a.held -= r.held[p.Unit]
		a.used = add(a.used, max(used[p.Unit], 0))
	}
	return r.rows()
}

// Rows gives the payers' rows as they are now.
func (r *Reservation) Rows() []Spent {
	r.l.mu.Lock()
	defer r.l.mu.Unlock()
	return r.rows()
}

func (r *Reservation) rows() []Spent {
	out := make([]Spent, len(r.payers))
	for i, p := range r.payers {
		a := r.l.account(p.Account, p.Unit)
		out[i] = Spent{p.Account, p.Unit, a.used, a.held}
	}
	return out
}

// Spent gives what an account has used and holds.
func (l *Ledger) Spent(name, unit string) Spent {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := Spent{Account: name, Unit: unit}
	if a := l.accounts[accountKey{name, unit}]; a != nil {
		s.Used, s.Held = a.used, a.held
	}
	return s
}

// Ceiling gives what an account may use at all now, of a budget of limit.
func (l *Ledger) Ceiling(name, unit string, limit int64) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if a := l.accounts[accountKey{name, unit}]; a != nil {
		return a.adaptive.of(limit)
	}
	return limit
}

// Outcome tells the accounts of a call how it ended, which moves their ceilings.
func (l *Ledger) Outcome(payers []Payer, failed bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range payers {
		if p.Mode == Warn || p.Mode == Hard {
			l.account(p.Account, p.Unit).adaptive.note(failed)
		}
	}
}

// adaptive is the factor of a ceiling, by the rule of spec/gate.md §5: of the last 32
// outcomes more than half failed or denied → the factor is halved, down to an eighth,
// and the counting begins anew; 16 good ones in a row → an eighth is given back.
type adaptive struct {
	factor int64 // in eighths
	last   uint32
	n      int
	good   int
}

const (
	whole  = 8
	window = 32
)

func (a *adaptive) of(limit int64) int64 {
	if a.factor == whole {
		return limit
	}
	return limit/whole*a.factor + limit%whole*a.factor/whole
}

func (a *adaptive) note(failed bool) {
	a.last <<= 1
	a.n = min(a.n+1, window)
	if failed {
		a.last |= 1
		a.good = 0
	} else if a.good++; a.good == 16 {
		a.good, a.factor = 0, min(a.factor+1, whole)
	}
	if a.n == window && bits.OnesCount32(a.last) > window/2 {
		a.factor, a.last, a.n = max(a.factor/2, 1), 0, 0
	}
}
