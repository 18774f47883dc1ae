package compare_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/MetaMask/go-did-it"
	didkeyctl "github.com/MetaMask/go-did-it/controller/did-key"
	"github.com/MetaMask/go-did-it/crypto/ed25519"
	"github.com/ipfs/go-cid"
	"github.com/ucan-wg/go-ucan/pkg/command"
	"github.com/ucan-wg/go-ucan/pkg/policy"
	"github.com/ucan-wg/go-ucan/pkg/policy/literal"
	"github.com/ucan-wg/go-ucan/token/delegation"
	"github.com/ucan-wg/go-ucan/token/invocation"
)

// ucanChain is the same question in UCAN: alice has a root delegation, narrows it for
// bob, who signs an invocation. The invocation is a third signature: UCAN has no other
// proof of the holder.
type ucanChain struct {
	sealed [2][]byte
	ids    [2]cid.Cid
	call   []byte
}

func newUCAN(b *testing.B) *ucanChain {
	type party struct {
		did did.DID
		key ed25519.PrivateKey
	}
	var p [3]party
	for i := range p {
		pub, priv, err := ed25519.GenerateKeyPair()
		if err != nil {
			b.Fatal(err)
		}
		p[i] = party{didkeyctl.FromPublicKey(pub), priv}
	}
	u := &ucanChain{}
	cmd := command.MustParse("/fs/read")
	first := must(delegation.Root(p[0].did, p[1].did, command.MustParse("/fs"), policy.MustConstruct(policy.Like(".path", "data/*")), delegation.WithExpirationIn(time.Hour)))
	second := must(delegation.New(p[1].did, p[2].did, cmd, policy.MustConstruct(policy.LessThanOrEqual(".limit", literal.Int(1000)), policy.Like(".path", "data/public/*")), p[0].did, delegation.WithExpirationIn(time.Hour)))
	var err error
	for i, t := range []*delegation.Token{first, second} {
		if u.sealed[i], u.ids[i], err = t.ToSealed(p[i].key); err != nil {
			b.Fatal(err)
		}
	}
	inv := must(invocation.New(p[2].did, cmd, p[0].did, []cid.Cid{u.ids[1], u.ids[0]}, invocation.WithArgument("path", "data/public/report"), invocation.WithArgument("limit", 10)))
	if u.call, _, err = inv.ToSealed(p[2].key); err != nil {
		b.Fatal(err)
	}
	return u
}

// known is a loader of delegations that were read.
type known map[cid.Cid]*delegation.Token

func (k known) GetDelegation(id cid.Cid) (*delegation.Token, error) {
	if t := k[id]; t != nil {
		return t, nil
	}
	return nil, fmt.Errorf("no delegation %s", id)
}

func (u *ucanChain) read(b *testing.B) known {
	k := known{}
	for _, raw := range u.sealed {
		t, id, err := delegation.FromSealed(raw)
		if err != nil {
			b.Fatal(err)
		}
		k[id] = t
	}
	return k
}

// BenchmarkUCAN: cold is all three tokens from bytes; warm has the delegations read;
// decided has all read, and asks the policies alone.
func BenchmarkUCAN(b *testing.B) {
	u := newUCAN(b)
	answer := func(b *testing.B, k known, inv *invocation.Token) {
		if err := inv.ExecutionAllowed(k); err != nil {
			b.Fatal(err)
		}
	}
	invoked := func(b *testing.B) *invocation.Token {
		inv, _, err := invocation.FromSealed(u.call)
		if err != nil {
			b.Fatal(err)
		}
		return inv
	}
	b.Run("cold", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			answer(b, u.read(b), invoked(b))
		}
	})
	b.Run("warm", func(b *testing.B) {
		k := u.read(b)
		b.ReportAllocs()
		for b.Loop() {
			answer(b, k, invoked(b))
		}
	})
	b.Run("decided", func(b *testing.B) {
		k, inv := u.read(b), invoked(b)
		b.ReportAllocs()
		for b.Loop() {
			answer(b, k, inv)
		}
	})
}
