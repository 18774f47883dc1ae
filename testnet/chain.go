package testnet

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/talosprotocol/talos/anchor"
	"github.com/talosprotocol/talos/anchor/chain/ethereum"
	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/node"
	"github.com/talosprotocol/talos/node/evidence"
)

// gethChain is the id of geth's development chain.
const gethChain = 1337

// geth is a real Ethereum chain of one node, which makes a block a second.
type geth struct {
	url string
	cmd *exec.Cmd
}

var gethListens = regexp.MustCompile(`HTTP server started\s+endpoint=(127\.0\.0\.1:[0-9]+)`)

// startGeth starts a development chain in a folder.
func startGeth(ctx context.Context, path, dir string) (*geth, error) {
	g := &geth{cmd: exec.Command(path, "--dev", "--dev.period", "1", "--datadir", dir, "--ipcdisable", "--nodiscover", "--maxpeers", "0", "--port", "0",
		"--http", "--http.addr", "127.0.0.1", "--http.port", "0", "--http.api", "eth", "--authrpc.port", "0")}
	g.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := g.cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := g.cmd.Start(); err != nil {
		return nil, contracts.Errorf(contracts.NotFound, "geth: %w", err)
	}
	at := make(chan string, 1)
	go func() {
		defer close(at)
		for in := bufio.NewScanner(out); in.Scan(); {
			if m := gethListens.FindSubmatch(in.Bytes()); m != nil {
				at <- string(m[1])
				break
			}
		}
		_, _ = io.Copy(io.Discard, out)
	}()
	select {
	case host := <-at:
		if host == "" {
			return nil, contracts.Errorf(contracts.Unavailable, "geth ended: %w", g.cmd.Wait())
		}
		g.url = "http://" + host
		return g, nil
	case <-ctx.Done():
		g.stop()
		return nil, ctx.Err()
	}
}

func (g *geth) stop() {
	_ = g.cmd.Process.Kill()
	_ = g.cmd.Wait()
}

func (g *geth) call(ctx context.Context, out any, method string, params ...any) error {
	body, err := json.Marshal(map[string]any{"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, g.url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close() //nolint:errcheck // read only
	var a struct {
		Result json.RawMessage
		Error  *struct{ Message string }
	}
	if err := json.NewDecoder(resp.Body).Decode(&a); err != nil {
		return err
	}
	if a.Error != nil {
		return contracts.Errorf(contracts.Unavailable, "geth: %s: %s", method, a.Error.Message)
	}
	return json.Unmarshal(a.Result, out)
}

// chainFor gives what an anchor's configuration says of the chain.
func (g *geth) chainFor() []contracts.AnchorChain {
	id, every, above := int64(gethChain), int64(2), int64(1)
	return []contracts.AnchorChain{{Driver: ethereum.Name, Urls: []string{g.url}, ChainID: &id, EverySeconds: &every, Confirmations: &above}}
}

// fund gives the account of an anchor's home a coin.
func (g *geth) fund(ctx context.Context, h *node.Home) error {
	k, err := h.ChainAccount(gethChain)
	if err != nil {
		return err
	}
	var accounts []string
	if err := g.call(ctx, &accounts, "eth_accounts"); err != nil {
		return err
	}
	if len(accounts) == 0 {
		return contracts.Errorf(contracts.Unavailable, "geth has no account to pay from")
	}
	var hash string
	return g.call(ctx, &hash, "eth_sendTransaction", map[string]any{"from": accounts[0], "to": fmt.Sprintf("0x%x", k.Address()), "value": "0xde0b6b3a7640000"})
}

// AnchoredProof waits until the event of a bundle is on the network's chain, and has a
// stranger verify the new bundle: offline, and by asking the chain.
func (p *Processes) AnchoredProof(ctx context.Context, bundle []byte, tell Teller) ([]byte, error) {
	parts, err := anchor.ReadBundle(bundle)
	if err != nil {
		return nil, err
	}
	did, _, _ := strings.Cut(parts.Head.Note.Origin, "/")
	tell("On a chain\n  the event is under a head, the head in an epoch of an anchor, the anchor's log in a transaction")
	for {
		for _, m := range p.Agents {
			if st, err := m.Status(ctx); err != nil || st.DID != did {
				continue
			}
			if bundle, err = m.Prove(ctx, parts.Leaf.Index(), false); err != nil {
				return nil, err
			}
		}
		if bytes.Contains(bundle, []byte(`"driver":"ethereum"`)) {
			return bundle, p.judgeAnchored(bundle, tell)
		}
		if err := pause(ctx, 200*time.Millisecond); err != nil {
			return nil, contracts.Errorf(contracts.Unavailable, "no receipt of the chain came: %w", err)
		}
	}
}

func (p *Processes) judgeAnchored(bundle []byte, tell Teller) error {
	for _, online := range []bool{false, true} {
		v := &ethereum.Verifier{Confirmations: 1}
		want := anchor.CannotTell
		if online {
			want = anchor.Valid
			v.Endpoints = map[string][]*ethereum.Client{ethereum.ChainName(gethChain): {ethereum.NewClient([]string{p.chain.url}, nil)}}
		}
		verdict, _ := evidence.VerifyBundleWith(bundle, anchor.Policy{}, time.Now(), map[string]anchor.ReceiptVerifier{ethereum.Name: v})
		for _, r := range verdict.Anchorings {
			if r.Driver != ethereum.Name {
				continue
			}
			if r.Outcome != want || online && verdict.Level != anchor.Chained {
				return contracts.Errorf(contracts.ProofInvalid, "the proof on the chain: %s", verdict)
			}
			tell("  %s, because %s", r.Outcome, r.Why)
		}
	}
	tell("  verify it against the chain: --rpc %s=%s --confirmations 1", ethereum.ChainName(gethChain), p.chain.url)
	return nil
}
