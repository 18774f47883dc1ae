package auditlog_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"testing"
	"time"

	"github.com/talosprotocol/talos/anchor"
	"github.com/talosprotocol/talos/anchor/anchortest"
	"github.com/talosprotocol/talos/anchor/auditlog"
)

type clk struct{}

func (clk) Now() time.Time                         { return time.Unix(1e9, 0) }
func (clk) After(d time.Duration) <-chan time.Time { return time.After(d) }

func TestSmoke(t *testing.T) {
	_, priv, _ := ed25519.GenerateKey(nil)
	o := anchor.Origin{DID: "did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK", Incarnation: 1}
	l, err := auditlog.Open(t.Context(), auditlog.Options{Origin: o, Signer: anchor.Key(priv), Backend: anchortest.NewDisk(t).Open(), HeadFile: new(anchortest.HeadCell), Clock: clk{}, Rand: rand.Reader})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- l.Run(ctx) }()
	for i := range 10 {
		ix, err := l.Append(ctx, anchor.NewEvent("noop", o.DID, time.Now(), [10]byte{}))
		if err != nil || ix != uint64(i) {
			t.Fatal(ix, err)
		}
	}
	n, err := l.Checkpoint(ctx)
	if err != nil || n.Size != 10 {
		t.Fatal(n, err)
	}
	b, err := l.Bundle(ctx, 3, auditlog.BundleOptions{Head: anchor.Head{Note: n}})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s\n%s", n.Append(nil), b)
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}
