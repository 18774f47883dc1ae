module github.com/talosprotocol/talos/ratchet/compare

go 1.26.6

require (
	github.com/status-im/doubleratchet v3.0.0+incompatible
	github.com/talosprotocol/talos v0.0.0
	maunium.net/go/mautrix v0.30.0
)

require (
	filippo.io/edwards25519 v1.2.0 // indirect
	github.com/go-json-experiment/json v1.27.2 // indirect
	go.mau.fi/util v0.10.0 // indirect
	golang.org/x/crypto v0.58.0 // indirect
	golang.org/x/sys v0.49.0 // indirect
	golang.org/x/text v0.43.0 // indirect
)

replace github.com/talosprotocol/talos => ../..
