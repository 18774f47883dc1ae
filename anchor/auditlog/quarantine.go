package auditlog

import (
	"fmt"

	"github.com/talosprotocol/talos/contracts"
)

// Quarantine says that the log may not take events or sign, because what is stored
// is not what was signed. It is an error of code AUDIT_QUARANTINED. Its owner
// decides: restore the store, or begin the next incarnation with a [Succession].
type Quarantine struct {
	Reason string // a reason of the audit event: truncated, corrupt or rollback
	Detail string
	// Signed is the size that is known to be signed, Stored how many entries the
	// store has.
	Signed, Stored uint64
}

// Error gives reason, sizes and what the owner can do.
func (q *Quarantine) Error() string {
	return fmt.Sprintf("audit log in quarantine (%s): %s; signed up to size %d, stored %d; restore the store or begin a new incarnation",
		q.Reason, q.Detail, q.Signed, q.Stored)
}

// Unwrap gives the code.
func (q *Quarantine) Unwrap() error {
	return &contracts.Error{Code: contracts.AuditQuarantined, Msg: q.Reason}
}
