package ethereum_test

import (
	"bytes"
	"encoding/hex"
	"os"
	"testing"

	"github.com/talosprotocol/talos/anchor/chain/ethereum"
)

// Transactions of every kind that there is, as go-ethereum v1.17.5 has written them: the
// JSON of an endpoint, and below it the bytes. CHAIN-15.
func TestKindsOfTransactions(t *testing.T) {
	text, err := os.ReadFile("testdata/transactions.txt")
	if err != nil {
		t.Fatal(err)
	}
	lines := bytes.Split(bytes.TrimSpace(text), []byte("\n"))
	kinds := map[byte]bool{}
	for i := 0; i+1 < len(lines); i += 2 {
		want, err := hex.DecodeString(string(lines[i+1]))
		if err != nil {
			t.Fatal(err)
		}
		got, err := ethereum.EncodeTransaction(lines[i])
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%.60s: %x, %v; want %x", lines[i], got, err, want)
		}
		kinds[want[0]] = true
	}
	if len(kinds) != 5 {
		t.Errorf("kinds %v", kinds)
	}
	for _, bad := range []string{`{"type":"0x7e"}`, `{"type":"x"}`, `{"type":"0x2","nonce":1}`, `{"type":"0x2","nonce":"1"}`, `{"type":"0x1","accessList":1}`, `{"type":"0x3","blobVersionedHashes":["x"]}`} {
		if b, err := ethereum.EncodeTransaction([]byte(bad)); err == nil {
			t.Errorf("%s is encoded as %x", bad, b)
		}
	}
}
