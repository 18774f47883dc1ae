package handshake

import (
	"fmt"
	"io"
	"log/slog"
)

// quiet is embedded in types that hold secrets, so that they never print.
type quiet struct{}

const redacted = "handshake(redacted)"

// String gives a fixed text.
func (quiet) String() string { return redacted }

// Format writes a fixed text for every verb.
func (quiet) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// MarshalJSON writes a fixed text.
func (quiet) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }

// LogValue gives a fixed text.
func (quiet) LogValue() slog.Value { return slog.StringValue(redacted) }
