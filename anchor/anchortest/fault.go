package anchortest

import (
	"errors"
	"sync"

	"github.com/talosprotocol/talos/contracts"
)

// Fault is what goes wrong in one operation.
type Fault int

// The faults.
const (
	None         Fault = iota
	Error              // an error, nothing written
	ErrorWritten       // an error, although it was written
	Full               // STORAGE_FULL, nothing written
	Torn               // a crash in the middle of the write: the handle is dead afterwards
	Stale              // a read is answered from before the last write
	Short              // a read gives less than there is, without an error
)

// Op is an operation of a store.
type Op string

// The operations.
const (
	OpState   Op = "state"
	OpAppend  Op = "append"
	OpEntries Op = "entries"
	OpNodes   Op = "nodes"
	OpSetHead Op = "set head"
	OpErase   Op = "erase"
	OpLoad    Op = "load"
	OpStore   Op = "store"
)

// ErrInjected is the error of an injected fault.
var ErrInjected = errors.New("injected fault")

// errDead is what a handle says after a crash or after another was opened.
var errDead = errors.New("this handle is closed")

func fullError() error { return contracts.Errorf(contracts.StorageFull, "injected: no space") }

// hook is the injection point that all memory stores share.
type hook struct {
	mu sync.Mutex
	f  func(Op) Fault
}

// Inject sets what is asked before each operation; nil asks nobody. f may be called
// from several goroutines and must not use the store.
func (h *hook) Inject(f func(Op) Fault) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.f = f
}

func (h *hook) ask(op Op) Fault {
	h.mu.Lock()
	f := h.f
	h.mu.Unlock()
	if f == nil {
		return None
	}
	return f(op)
}

// Nth gives a hook that answers fault the nth time (from 1) that op comes.
func Nth(op Op, n int, fault Fault) func(Op) Fault {
	var mu sync.Mutex
	seen := 0
	return func(o Op) Fault {
		mu.Lock()
		defer mu.Unlock()
		if o == op {
			if seen++; seen == n {
				return fault
			}
		}
		return None
	}
}
