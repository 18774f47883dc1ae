package store

import (
	"context"
	"encoding/binary"

	"github.com/talosprotocol/talos/anchor/auditlog"
	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/node/execution"
	"github.com/talosprotocol/talos/node/gate"
)

const tableBudget = 0x40

// Budgets is the table of what is spent.
type Budgets struct{ s *Store }

// Budgets gives the table.
func (s *Store) Budgets() Budgets { return Budgets{s} }

// Keys: account, 0x00, unit. Values: used (8), held (8).
func budgetKey(s gate.Spent) []byte {
	return append(append(append([]byte{tableBudget}, s.Account...), 0), s.Unit...)
}

func budgetRow(s gate.Spent) []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, uint64(s.Used)), uint64(s.Held))
}

// With makes rows a companion of audit events: durable with them, or not at all. more are
// rows of the plain table; a nil value removes one.
func (s *Store) With(spent []gate.Spent, more []execution.Row) auditlog.Companion {
	if len(spent)+len(more) == 0 {
		return nil
	}
	size := 64 * len(spent)
	for _, r := range more {
		size += 64 + len(r.Value)
	}
	return &companion{bytes: size, f: func(tx *Tx) error {
		for _, r := range spent {
			tx.Put(budgetKey(r), budgetRow(r))
		}
		for _, r := range more {
			if r.Value == nil {
				tx.Delete(rowsKey(r.Key))
			} else {
				tx.Put(rowsKey(r.Key), r.Value)
			}
		}
		return nil
	}}
}

// Put stores rows that no event belongs to.
func (b Budgets) Put(ctx context.Context, rows []gate.Spent) error {
	return b.s.Update(ctx, func(tx *Tx) error {
		for _, r := range rows {
			tx.Put(budgetKey(r), budgetRow(r))
		}
		return nil
	})
}

// All gives the rows.
func (b Budgets) All() (out []gate.Spent, err error) {
	var failed error
	err = b.s.View(func(r *Reader) error {
		return r.Scan([]byte{tableBudget}, nil, func(k, v []byte) bool {
			zero := len(k) - 1
			for zero > 0 && k[zero] != 0 {
				zero--
			}
			if zero == 0 || len(v) != 16 {
				failed = contracts.Errorf(contracts.StorageCorrupt, "a row of a budget is not as it was written")
				return false
			}
			out = append(out, gate.Spent{
				Account: string(k[1:zero]), Unit: string(k[zero+1:]),
				Used: int64(binary.BigEndian.Uint64(v)), Held: int64(binary.BigEndian.Uint64(v[8:])),
			})
			return true
		})
	})
	if err == nil {
		err = failed
	}
	return out, err
}
