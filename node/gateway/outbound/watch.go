package outbound

import (
	"context"
	"time"

	"github.com/talosprotocol/talos/contracts"
)

var errSilent error = contracts.Errorf(contracts.Unavailable, "the upstream was silent for too long")

// Watchdog ends a context when nothing happens for a time.
type Watchdog struct {
	timer *time.Timer
}

// Watch gives a context that ends if the upstream is silent for as long as first; its cause
// is then UNAVAILABLE. Whoever gets it calls the function when all is over.
func Watch(ctx context.Context, first time.Duration) (context.Context, *Watchdog, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	w := &Watchdog{timer: time.AfterFunc(first, func() { cancel(errSilent) })}
	return ctx, w, func() { w.timer.Stop(); cancel(nil) }
}

// Alive begins the time anew, d long from now on.
func (w *Watchdog) Alive(d time.Duration) { w.timer.Reset(d) }
