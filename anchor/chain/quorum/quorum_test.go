package quorum_test

import (
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/talosprotocol/talos/anchor"
	"github.com/talosprotocol/talos/anchor/chain"
	"github.com/talosprotocol/talos/anchor/chain/quorum"
	"github.com/talosprotocol/talos/contracts"
)

func key(name string) anchor.Signer {
	s := sha256.Sum256([]byte("quorum test key " + name))
	return anchor.Key(ed25519.NewKeyFromSeed(s[:]))
}

// head is a head of the anchor's log with so many cosignatures.
func head(t *testing.T, size uint64, by int) *anchor.Note {
	t.Helper()
	n, err := anchor.Sign(anchor.Checkpoint{Origin: "did:talos:zQmbWqxBEKC3P8tqsKc98xmWNzrzDtRLMiMPL8wBuTGsMnR/audit/1", Size: size, Root: sha256.Sum256(fmt.Append(nil, size))}, key("log"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range by {
		name := fmt.Sprintf("w%d.example/w", i)
		s, err := anchor.Cosign(n.Checkpoint, name, time.Now(), key(name))
		if err != nil {
			t.Fatal(err)
		}
		n.Signatures = append(n.Signatures, s)
	}
	return n
}

// CHAIN-12: all others are waited for, then more than half of all will do, with the own
// one; a newer head that has them serves as well.
func TestQuorum(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var best *anchor.Note
		d := quorum.New(quorum.Config{Cosigned: func(size uint64) (*anchor.Note, error) {
			if best == nil || best.Size < size {
				return nil, nil
			}
			return best, nil
		}, Others: 4})
		var _ chain.Driver = d
		h, ctx := head(t, 5, 0), t.Context()
		state, err := d.Prepare(ctx, h)
		if err != nil || d.Submit(ctx, h, state) != nil {
			t.Fatal(err)
		}
		phase := func(want chain.Phase) chain.Status {
			t.Helper()
			st, err := d.Status(ctx, h, state)
			if err != nil || st.Phase != want {
				t.Errorf("%+v, %v", st, err)
			}
			return st
		}
		phase(chain.Pending)
		best = head(t, 5, 3)
		phase(chain.Pending) // the fourth may be on its way
		time.Sleep(3 * time.Minute)
		st := phase(chain.Final)
		r := &anchor.Receipt{Driver: d.Name(), Chain: d.Chain(), Head: h.Checkpoint, Body: st.Body}
		if err := d.Check(r); err != nil {
			t.Error(err)
		}
		r.Head.Size++
		if err := d.Check(r); contracts.CodeOf(err) != contracts.ProofInvalid {
			t.Errorf("another head: %v", err)
		}
		best = head(t, 5, 1)
		phase(chain.Pending)
		best = head(t, 9, 4)
		if st := phase(chain.Final); st.Head.Size != 9 {
			t.Errorf("the head is of size %d", st.Head.Size)
		}
	})
}

// An anchor that is alone has its own signature.
func TestAlone(t *testing.T) {
	d := quorum.New(quorum.Config{Cosigned: func(uint64) (*anchor.Note, error) { return nil, nil }})
	h := head(t, 5, 0)
	st, err := d.Status(t.Context(), h, nil)
	if err != nil || st.Phase != chain.Final || len(st.Body) == 0 {
		t.Errorf("%+v, %v", st, err)
	}
}
