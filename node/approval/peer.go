package approval

import (
	"context"
	"crypto/sha256"
	"time"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
	"github.com/talosprotocol/talos/node/execution"
	"github.com/talosprotocol/talos/node/gate"
)

const (
	askVersion = "talos-action-ask/1"
	reserve    = 500 * time.Millisecond // for the answer to come back
)

// ofPeer asks the governance peer of an item. What it does not answer is not approved.
func (d *Desk) ofPeer(ctx context.Context, it *item, wait time.Duration) (*gate.Approval, error) {
	d.mu.Lock()
	no := it.Decision // a denial: it stands, and nobody is asked again
	d.mu.Unlock()
	if no != nil {
		return nil, denied(no)
	}
	ask := &contracts.ActionAsk{
		V: askVersion, Action: it.Action, Salt: b64.EncodeToString(it.salt), Body: b64.EncodeToString(it.Body), WaitMs: max(wait-reserve, 0).Milliseconds(),
	}
	dec, key, err := d.cfg.Ask(ctx, it.By, ask)
	if err != nil {
		if code := contracts.CodeOf(err); code == contracts.ApprovalRequired || code == contracts.ApprovalDenied {
			return nil, err
		}
		return nil, contracts.Errorf(contracts.ApprovalRequired, "%s has to approve this and does not answer: %w", it.By.Short(), err)
	}
	if identity.DID(dec.By) != it.By {
		return nil, contracts.Errorf(contracts.SignatureInvalid, "%s answered with a decision of somebody else", it.By.Short())
	}
	err = Verify(dec, &it.Action, key, d.cfg.Now())
	d.mu.Lock()
	defer d.mu.Unlock()
	if contracts.CodeOf(err) == contracts.ApprovalDenied {
		it.Decision = dec
	}
	if err != nil {
		return nil, err
	}
	if d.byID[it.Action.ID] != it { // two calls of the same content, one approval
		return nil, contracts.Errorf(contracts.ApprovalRequired, "the approval of %s was used by another call of the same content; make the call again to ask anew", it.Action.ID)
	}
	d.forget(it)
	return &gate.Approval{Action: &it.Action, Decision: dec}, nil
}

// Serve decides an action of another node: it waits for this node's owner. asker is who
// asks, as the connection proved. The decision is a denial too; nobody's is
// APPROVAL_REQUIRED.
func (d *Desk) Serve(ctx context.Context, asker identity.DID, ask *contracts.ActionAsk) (*contracts.ActionDecision, error) {
	salt, err := b64.Strict().DecodeString(ask.Salt)
	if err != nil {
		return nil, contracts.Errorf(contracts.Malformed, "the salt is not in canonical base64url")
	}
	body, err := b64.Strict().DecodeString(ask.Body)
	if err != nil {
		return nil, contracts.Errorf(contracts.Malformed, "the body is not in canonical base64url")
	}
	if ask.Action.Executor != string(asker) {
		return nil, contracts.Errorf(contracts.Forbidden, "a node asks for approval of what it does itself, not of what another does")
	}
	if execution.Commit(salt, body) != ask.Action.Request {
		return nil, contracts.Errorf(contracts.Malformed, "the action does not commit to the body that is shown")
	}
	it := &item{Item: Item{Action: ask.Action, Asker: asker, By: d.cfg.DID, Body: body, At: d.cfg.Now()}, salt: salt, decided: make(chan struct{})}
	it.content = sha256.Sum256(append([]byte("of a peer\n"+string(asker)+"\n"), ask.Action.AppendCanonical(nil)...))
	if it, err = d.enqueue(it); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Duration(ask.WaitMs)*time.Millisecond)
	defer cancel()
	select {
	case <-it.decided: // it stays until it expires: the asker may not have heard it
		d.mu.Lock()
		defer d.mu.Unlock()
		return it.Decision, nil
	case <-ctx.Done():
		return nil, contracts.Errorf(contracts.ApprovalRequired, "%s has not decided this yet; make the same call again later", d.cfg.DID.Short())
	}
}
