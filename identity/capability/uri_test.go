package capability_test

import (
	"bytes"
	"compress/flate"
	"encoding/base32"
	"regexp"
	"strings"
	"testing"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity/capability"
)

// CAP-24: the form for QR codes gives the same chain back, in characters that they hold
// cheaply, and is no way around the limits.
func TestChainURI(t *testing.T) {
	w := newWorld()
	for n := 1; n <= 4; n++ {
		chain := string(join(w.chain(n)...))
		uri := must(capability.ChainURI(chain))
		if !regexp.MustCompile(`^[0-9A-Z $%*+./:-]+$`).MatchString(uri) || !capability.IsChainURI(uri) {
			t.Errorf("%s is not of the alphanumeric alphabet", uri)
		}
		if got := must(capability.ParseChainURI(uri)); got != chain {
			t.Errorf("%d tokens: another chain", n)
		}
		t.Logf("%d tokens: %d bytes, %d characters", n, len(chain), len(uri))
		if len(uri) > 4296 { // what a QR code of the largest size holds
			t.Errorf("%d tokens do not fit into a QR code", n)
		}
	}
	if _, err := w.v.Verify([]byte(must(capability.ParseChainURI(must(capability.ChainURI(w.chain(1)[0]))))), holder(w.alice.did), now); err != nil {
		t.Error(err)
	}
	pack := func(b []byte) string {
		var small bytes.Buffer
		f := must(flate.NewWriter(&small, flate.BestCompression))
		_, _ = f.Write(b)
		_ = f.Close()
		return "TALOS:CAP1:" + base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(small.Bytes())
	}
	good := must(capability.ChainURI(w.chain(1)[0]))
	for name, bad := range map[string]string{
		"empty": "", "prefix alone": "TALOS:CAP1:", "lower case": strings.ToLower(good), "version 2": strings.Replace(good, "CAP1", "CAP2", 1), "cut": good[:len(good)/2],
		"nothing": pack(nil), "a bomb": pack(make([]byte, 64<<20)), "a length without end": pack(bytes.Repeat([]byte{0xff}, 20)), "longer than the text": pack([]byte{200, 1, 2, 3}),
		"two parts": pack([]byte{1, 'a', 1, 'b'}), "no base32": "TALOS:CAP1:!!!!", "long": "TALOS:CAP1:" + strings.Repeat("A", 1<<20),
	} {
		_, err := capability.ParseChainURI(bad)
		wantCode(t, name, err, contracts.Malformed)
	}
	_, err := capability.ChainURI("a.b")
	wantCode(t, "no chain", err, contracts.Malformed)
	_, err = capability.ChainURI(strings.Repeat("a", 16<<10+1))
	wantCode(t, "long", err, contracts.TooLarge)
}
