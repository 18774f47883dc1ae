package anchor_test

import (
	"bytes"
	"testing"

	"github.com/talosprotocol/talos/anchor"
	"github.com/talosprotocol/talos/contracts"
)

// FuzzNote hunts for a note with two encodings.
func FuzzNote(f *testing.F) {
	n := newLog("a").grow(7).note(7)
	f.Add(n.Append(nil))
	n.Signatures = append(n.Signatures, cosign(n, "acme", epoch))
	f.Add(n.Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if n, err := anchor.ParseNote(b); err == nil && !bytes.Equal(n.Append(nil), b) {
			t.Errorf("%q is read, and written as %q", b, n.Append(nil))
		}
	})
}

// FuzzDigest hunts for a digest with two encodings.
func FuzzDigest(f *testing.F) {
	d, _ := newLog("a").grow(7).note(7).Digest(public("log"))
	b, _ := d.Append(nil)
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		if d, err := anchor.ParseDigest(b); err == nil {
			if again, err := d.Append(nil); err != nil || !bytes.Equal(again, b) {
				t.Errorf("%x is read, and written as %x: %v", b, again, err)
			}
		}
	})
}

// FuzzEvent hunts for an event with two encodings.
func FuzzEvent(f *testing.F) {
	b, _ := anchor.EncodeEvent(newLog("a").grow(1).events[0])
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		if ev, err := anchor.DecodeEvent(b); err == nil {
			if again, err := anchor.EncodeEvent(ev); err != nil || !bytes.Equal(again, b) {
				t.Errorf("%s is read, and written as %s: %v", b, again, err)
			}
		}
	})
}

// FuzzEvidence hunts for evidence that convicts and is not what we wrote.
func FuzzEvidence(f *testing.F) {
	k, _ := world()
	a := newLog("a").grow(20)
	b := a.fork(12, "b").grow(8)
	f.Add(anchor.ForkOfSize(a.note(20), b.note(20)).AppendCanonical(nil))
	f.Add(anchor.ForkAtIndex(13, a.branch(13, 20), b.branch(13, 19)).AppendCanonical(nil))
	f.Fuzz(func(t *testing.T, text []byte) {
		if _, err := anchor.VerifyEvidence(text, k); err == nil {
			e, err := contracts.DecodeEvidence(text)
			if err != nil || !bytes.Equal(e.AppendCanonical(nil), text) {
				t.Errorf("%s convicts and has another form", text)
			}
		}
	})
}

// FuzzBundle hunts for a bundle that is read and, made again of its parts, differs.
func FuzzBundle(f *testing.F) {
	l := newLog("a").grow(20)
	p := l.parts(5, l.head(20, epoch, orgs...))
	p.States = [][]byte{{1, 2, 3}}
	b, err := anchor.NewBundle(p)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, text []byte) {
		if p, err := anchor.ReadBundle(text); err == nil {
			if again, err := anchor.NewBundle(*p); err != nil || !bytes.Equal(again, text) {
				t.Errorf("%s is read, and written as %s: %v", text, again, err)
			}
		}
	})
}
