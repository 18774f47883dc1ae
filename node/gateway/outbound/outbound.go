// Package outbound makes the HTTP clients that gateways speak upstream with. What they
// connect to is decided on the resolved address of every connection, so that no name, no
// redirect and no answer of a name server leads into the gateway's own network.
package outbound

import (
	"errors"
	"net"
	"net/http"
	"net/netip"
	"syscall"
	"time"

	"github.com/talosprotocol/talos/contracts"
)

// Client makes an HTTP client. Without private it connects to public addresses only; with
// it, to any: for upstreams that the gateway's owner has named and means. Redirects are
// not followed: a credential must not go elsewhere. Proxies of the environment are not
// used, and answers are not decompressed.
func Client(private bool) *http.Client {
	d := &net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}
	if !private {
		d.Control = guard
	}
	return &http.Client{
		Transport: &http.Transport{
			DialContext: d.DialContext, TLSHandshakeTimeout: 10 * time.Second, DisableCompression: true, ForceAttemptHTTP2: true,
			MaxIdleConns: 512, MaxIdleConnsPerHost: 128, IdleConnTimeout: 90 * time.Second, MaxResponseHeaderBytes: 64 << 10,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

var errPrivate = errors.New("the address is not a public one")

// guard refuses connections to addresses that are not public.
func guard(_, address string, _ syscall.RawConn) error {
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return errPrivate
	}
	if !Public(ap.Addr()) {
		return contracts.Errorf(contracts.Forbidden, "%s is no public address; if it is meant, expose the service with --private", ap.Addr())
	}
	return nil
}

// special are the networks that are global by form and not meant for this.
var special = func() (out []netip.Prefix) {
	for _, p := range []string{
		"0.0.0.0/8", "100.64.0.0/10", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "240.0.0.0/4",
		"64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20", "5f00::/16", "fec0::/10",
	} {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}()

// Public reports whether an address is one of the public Internet (IANA's registries of
// special-purpose addresses, RFC 6890).
func Public(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	if !a.IsGlobalUnicast() || a.IsPrivate() {
		return false
	}
	for _, p := range special {
		if p.Contains(a) {
			return false
		}
	}
	return true
}
